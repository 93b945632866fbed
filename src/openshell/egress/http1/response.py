"""Strict reading of a response head: bytes of an upstream in, a head or a refusal out.

The framing depends on the request, so a reader is made for one exchange; an interim head (1xx) is followed
by another reader fed with the leftover. No bodies, no I/O. The rules are those of `proxy.md` 9.5, except
that a response without any framing always runs until the upstream closes (RFC 9112 6.3), also in HTTP/1.1.
"""

from __future__ import annotations

import re

import msgspec

from openshell.egress.http1.fields import (
    FieldScan,
    Headers,
    HeadReader,
    are_usual,
    connection_options,
    render_fields,
    split_first,
    values,
)
from openshell.egress.http1.framing import NO_BODY, UNTIL_CLOSE, Framing, UntilClose
from openshell.egress.http1.rejects import HeadRejected, RejectReason

__all__ = ["RESPONSE_HEAD_LIMIT", "ResponseHead", "ResponseHeadReader", "render_response_head"]

# Same size as an inspected request head; an upstream that sends more gets its connection dropped (502).
RESPONSE_HEAD_LIMIT = 16 * 1024

# The space before an empty reason is often left out, and nothing depends on it.
_STATUS_LINE = re.compile(rb"(HTTP/1\.[01]) ([1-9][0-9]{2})(?: (.*))?", re.DOTALL).fullmatch

_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


class ResponseHead(msgspec.Struct, frozen=True):
    """A head that passed every check. Its fields may hold cookies, so it never shows them."""

    version: bytes
    status: int
    reason: bytes
    headers: Headers
    framing: Framing

    def __repr__(self) -> str:
        return f"<ResponseHead {self.status}, {len(self.headers)} fields, {self.framing}>"

    def values(self, name: bytes) -> tuple[bytes, ...]:
        """All values of a field; `name` in lower case."""
        return values(self.headers, name)

    @property
    def is_interim(self) -> bool:
        """Whether another head of the same exchange follows (101 is final: it ends HTTP)."""
        return 100 <= self.status < 200 and self.status != 101

    @property
    def keep_alive(self) -> bool:
        """Whether the upstream keeps the connection for another request after this response."""
        if isinstance(self.framing, UntilClose):
            return False
        options = connection_options(self.headers)
        if self.version == b"HTTP/1.1":
            return b"close" not in options
        return b"keep-alive" in options and b"close" not in options

    @property
    def is_event_stream(self) -> bool:
        """Whether the body is server-sent events, which have no idle limit."""
        kinds = values(self.headers, b"content-type")
        return len(kinds) == 1 and kinds[0].lower().startswith(b"text/event-stream")

    def with_headers(self, headers: Headers) -> ResponseHead:
        """The same response with other fields; the caller leaves the framing fields alone."""
        return ResponseHead(self.version, self.status, self.reason, headers, self.framing)


class ResponseHeadReader(HeadReader[ResponseHead]):
    """Reads one response head to a request of the given method."""

    __slots__ = ("_method",)

    def __init__(self, *, limit: int, request_method: bytes) -> None:
        super().__init__(limit)
        self._method = request_method

    def _parse(self, block: bytes) -> ResponseHead:
        return _parse(block, self._method)


def _parse(block: bytes, method: bytes) -> ResponseHead:
    first, fields = split_first(block)
    usual = are_usual(first, fields)
    line = _STATUS_LINE(first)
    if line is None:
        raise HeadRejected(RejectReason.STATUS_LINE)
    version, code, reason = line.groups()
    status = int(code)
    scan = FieldScan(first, fields, usual=usual)
    declared = scan.framing(http10=version == b"HTTP/1.0")
    # The declaration is checked even where no body follows, so that a contradictory head never passes.
    headers = scan.headers
    if method == b"HEAD" or status < 200 or status in (204, 304):
        framing: Framing = NO_BODY
        if status < 200 or status == 204:
            # RFC 9112 6.1, RFC 9110 8.6: nothing may be declared here. A client that believed it would
            # take the next response for a body.
            headers = tuple([pair for pair in headers if pair[0].lower() not in _FRAMING])
    else:
        framing = UNTIL_CLOSE if declared is None else declared
    return ResponseHead(version, status, reason or b"", headers, framing)


def render_response_head(head: ResponseHead) -> bytes:
    """The bytes of a head. The parts were checked when it was read, not here again."""
    fields = render_fields(head.headers)
    return b"%b %d %b\r\n%b" % (head.version, head.status, head.reason, fields)
