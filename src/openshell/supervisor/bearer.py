"""The supervisor's bearer token: read late, held in one place, renewed before it ends.

Read only after the first process of the sandbox has been cloned, so that no copy of it is inside.
Never in a repr, an error or a log. Renewed at four fifths of its life where the gateway can; a
gateway that cannot issues long-lived tokens, and the file is the only source then.
"""

import base64
import binascii
import json
import os
import random
from collections.abc import Callable
from dataclasses import dataclass

from openshell.drivers.local.state import write_bytes

__all__ = ["Token", "TokenError", "read_token", "renewal_delay"]

# A signed token of ours has some 500 bytes.
_MAX_TOKEN = 16 << 10

# The year 9999; what is later says nothing.
_LATEST = 253_402_300_800
_RENEW_AT = 0.8
_MIN_DELAY = 1.0
_MAX_DELAY = 12 * 3600.0
# For a token that does not say when it ends.
_UNKNOWN_DELAY = 6 * 3600.0
# Spread, so that sandboxes started together do not all ask together.
_SPREAD = 0.09


class TokenError(Exception):
    """There is no usable token; the text holds nothing of it."""


@dataclass(slots=True)
class Token:
    """The current token; replaced in place by a renewal."""

    _value: str
    _path: str

    def __repr__(self) -> str:
        return "<Token>"

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The header of one call."""
        return (("authorization", f"Bearer {self._value}"),)

    def replace(self, value: str) -> None:
        """Use and keep a renewed token, so that a later start of this sandbox has it too."""
        self._value = value
        write_bytes(self._path, value.encode())

    def expires_at(self) -> int | None:
        """When it ends, in seconds since the epoch; None when it does not say.

        Read without a check of the signature: a wrong answer only moves the next renewal.
        """
        parts = self._value.split(".")
        if len(parts) != 3:
            return None
        try:
            payload = base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4))
            claims = json.loads(payload)
        except (ValueError, binascii.Error, RecursionError):
            return None
        expiry = claims.get("exp") if isinstance(claims, dict) else None
        if not isinstance(expiry, int | float) or not 0 < expiry < _LATEST:
            return None
        return int(expiry)


def read_token(path: str) -> Token:
    """Read the token's file; raises TokenError."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise TokenError(f"the sandbox token cannot be read: {error.strerror}") from None
    try:
        data = os.read(fd, _MAX_TOKEN + 1)
    finally:
        os.close(fd)
    value = data.decode("ascii", "replace").strip()
    if not value or len(data) > _MAX_TOKEN or not value.isprintable():
        raise TokenError("the sandbox token is empty or malformed")
    return Token(value, path)


def renewal_delay(
    expires_at: int | None, now: float, chance: Callable[[], float] = random.random
) -> float:
    """Seconds until the next renewal."""
    if expires_at is None:
        delay = _UNKNOWN_DELAY
    else:
        delay = min(max((expires_at - now) * _RENEW_AT, _MIN_DELAY), _MAX_DELAY)
    return delay * (1 + chance() * _SPREAD)
