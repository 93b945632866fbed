"""What an issuer answered: a new value and how long it may be used, or a refusal.

An answer is read strictly: it decides what later goes into request heads. Its body is in no message.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from openshell.providers.records import MAX_VALUE_BYTES
from openshell.providers.refresh import RefreshReason, RefreshRefused

__all__ = ["MAX_ANSWER_BYTES", "Minted", "check_value", "read_token_answer"]

MAX_ANSWER_BYTES: Final = 65_536
"""Of a token answer; the largest value that may be kept fits in eight times."""

# What RFC 6750 lets a bearer token be is less; some issuers use more of visible ASCII.
_VALUE: Final = re.compile(r"[!-~]+")


@dataclass(frozen=True, slots=True)
class Minted:
    """New values by environment key, all with one end."""

    values: Mapping[str, str] = field(repr=False)
    expires_at_ms: int
    refresh_token: str = field(default="", repr=False)
    """The one to use from now on; "" when the old one stays."""


def read_token_answer(
    status: int, body: bytes, *, key: str, asked_at_ms: int, lifetime_seconds: int
) -> Minted:
    """`asked_at_ms` is when the request was made: a slow answer makes no value live longer."""
    if 300 <= status < 400:
        raise _refused(f"the token endpoint redirects (HTTP {status}); redirects are not followed")
    if not 200 <= status < 300:
        raise _refused(
            f"the token endpoint refused the request (HTTP {status}); "
            "check the configured material, or authorise the account again"
        )
    answer = _read_object(body)
    token = answer.get("access_token")
    if not isinstance(token, str) or not token:
        raise _refused("the token endpoint's answer holds no access token")
    seconds = _seconds(answer.get("expires_in"), lifetime_seconds)
    refresh_token = answer.get("refresh_token") or ""
    if not isinstance(refresh_token, str):
        raise _refused("the token endpoint's answer holds a refresh token that is no text")
    if refresh_token.strip():
        check_value("refresh token", refresh_token)
    return Minted(
        {key: check_value("access token", token)},
        asked_at_ms + seconds * 1000,
        refresh_token if refresh_token.strip() else "",
    )


def check_value(what: str, value: str) -> str:
    """A value that may be kept: of bounded size, and harmless in a request head."""
    if len(value) > MAX_VALUE_BYTES:
        raise _refused(f"the issued {what} is longer than {MAX_VALUE_BYTES} bytes")
    if not _VALUE.fullmatch(value):
        raise _refused(f"the issued {what} holds characters that no credential may hold")
    return value


def _read_object(body: bytes) -> dict[str, Any]:
    if len(body) > MAX_ANSWER_BYTES:
        raise _refused(f"the token endpoint's answer exceeds {MAX_ANSWER_BYTES} bytes")
    try:
        answer = json.loads(body.decode())
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise _refused("the token endpoint's answer is no JSON object")
    return answer


def _seconds(stated: Any, cap: int) -> int:
    """Some issuers write the number as text; anything that is no number of seconds is refused."""
    if stated is None:
        return cap
    if isinstance(stated, str) and stated.isascii() and stated.isdigit() and len(stated) <= 18:
        stated = int(stated)
    if isinstance(stated, bool) or not isinstance(stated, int | float):
        raise _refused("the token endpoint's answer says no valid lifetime")
    if not math.isfinite(stated) or stated < 1:
        raise _refused("the token endpoint's answer says no valid lifetime")
    return min(int(stated), cap)


def _refused(message: str) -> RefreshRefused:
    return RefreshRefused(RefreshReason.PRECONDITION, message)
