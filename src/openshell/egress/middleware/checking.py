"""Whether an answer of a stage counts, and what a request is after it. Pure, all or nothing.

An answer with anything wrong in it changes nothing: neither its body nor its fields nor its findings are
used. Called by `passage` for every answer, whoever gave it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from openshell.egress.credentials import find_marker
from openshell.egress.http1 import Headers, Length, NoBody, RequestHead
from openshell.egress.middleware.fields import mutate
from openshell.egress.middleware.values import Answer, Noticed, StageFault

__all__ = ["Changed", "apply_answer", "has_body"]

# The contract's numbers.
_MAX_REASON: Final = 4 * 1024
_REASON_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")
_MAX_FINDINGS: Final = 32
_MAX_FINDING: Final = 4 * 1024
_MAX_METADATA: Final = 64
_MAX_METADATA_BYTES: Final = 32 * 1024
# A count is for people; wire and events hold it in 32 bits.
_MAX_COUNT: Final = 2**32 - 1

# What says of a body something that is not true of another one.
_DIGESTS: Final = frozenset({b"content-digest", b"content-md5", b"digest", b"repr-digest"})
_EMPTY: Final = Length(0)


@dataclass(frozen=True, slots=True)
class Changed:
    """A request after a stage: the very objects from before where nothing changed."""

    head: RequestHead
    body: bytes | None


def has_body(head: RequestHead) -> bool:
    return not isinstance(head.framing, NoBody) and head.framing != _EMPTY


def apply_answer(
    answer: Answer, head: RequestHead, body: bytes | None, limit: int
) -> Changed | StageFault:
    """The request after an answer that allows it, or what is wrong with any answer."""
    fault = _fault(answer)
    if fault is not None:
        return fault
    headers = mutate(head.headers, answer.mutations)
    if isinstance(headers, StageFault):
        return headers
    if answer.body is not None:
        if len(answer.body) > limit:
            return StageFault.BODY_SIZE
        if body is None and answer.body:
            # What carries no body gets none.
            return StageFault.BODY
        if body is not None and answer.body != body:
            body, headers = answer.body, _without_digests(headers)
    if headers is not head.headers:
        head = RequestHead(head.method, head.target, head.version, headers, head.framing)
    return Changed(head, body)


def _fault(answer: Answer) -> StageFault | None:
    if answer.allow is None:
        return StageFault.DECISION
    code = answer.reason_code
    if _size(answer.reason) > _MAX_REASON or (code and not _REASON_CODE.fullmatch(code)):
        return StageFault.REASON
    if len(answer.noticed) > _MAX_FINDINGS or any(_is_bad(n) for n in answer.noticed):
        return StageFault.FINDING
    metadata = answer.metadata
    size = sum(_size(name) + _size(value) for name, value in metadata.items())
    if len(metadata) > _MAX_METADATA or size > _MAX_METADATA_BYTES:
        return StageFault.METADATA
    return None


def _is_bad(noticed: Noticed) -> bool:
    texts: Sequence[str] = (noticed.kind, noticed.label, noticed.confidence, noticed.severity)
    return (
        not noticed.kind
        or sum(map(_size, texts)) > _MAX_FINDING
        or not 0 <= noticed.count <= _MAX_COUNT
        # It would stand in a log.
        or any(find_marker(text.encode("utf-8", "replace")) for text in texts)
    )


def _size(text: str) -> int:
    return len(text.encode("utf-8", "replace"))


def _without_digests(headers: Headers) -> Headers:
    return tuple(pair for pair in headers if pair[0].lower() not in _DIGESTS)
