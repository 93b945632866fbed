"""Strict reading of a request head: bytes in, a head or a refusal out.

No bodies, no path canonicalisation (that is `openshell.policy.target`), no policy, no I/O. The outcome
tables in the tests are the contract; how the bytes are scanned is this module's own affair.

It is strict because we stand between an agent and an upstream: anything two parsers could read differently
is refused, never repaired. Beyond its two arguments nothing makes it lenient.

Called by the listener for the first request of a connection and by the tunnel relay for later ones. They
differ in the size limit and in whether a Host field must be there (a CONNECT or an absolute target names the
authority itself). The rules are those of `proxy.md` 2.1, 2.2 and 9.1.
"""

from __future__ import annotations

import msgspec

from openshell.egress.http1.fields import (
    FieldScan,
    Headers,
    HeadReader,
    are_usual,
    check_text,
    connection_options,
    is_token,
    render_fields,
    split_first,
    values,
)
from openshell.egress.http1.framing import NO_BODY, Framing, Length, NoBody
from openshell.egress.http1.rejects import HeadRejected, RejectReason
from openshell.egress.http1.target import match_authority

__all__ = [
    "FIRST_HEAD_LIMIT",
    "TUNNEL_HEAD_LIMIT",
    "FieldMemory",
    "RequestHead",
    "RequestHeadReader",
    "render_request_head",
]

# Bounds what one connection can make us keep before it has said anything useful; nginx and Apache use 8 KiB
# as well. The client sees 431.
FIRST_HEAD_LIMIT = 8 * 1024
# Requests inside a tunnel carry cookies and tokens; Node and Envoy allow 16 KiB or more. The client sees 431.
TUNNEL_HEAD_LIMIT = 16 * 1024

_VERSIONS = frozenset({b"HTTP/1.1", b"HTTP/1.0"})


class RequestHead(msgspec.Struct, frozen=True):
    """A head that passed every check; fields in the order and spelling received.

    Target and fields may hold credentials, ours after rewriting, so a head never shows them.
    """

    method: bytes
    target: bytes
    version: bytes
    headers: Headers
    framing: Framing

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r}, {len(self.headers)} fields, {self.framing}>"

    def values(self, name: bytes) -> tuple[bytes, ...]:
        """All values of a field; `name` in lower case."""
        return values(self.headers, name)

    @property
    def host(self) -> bytes | None:
        """The one Host field, or None in a head that may omit it."""
        found = values(self.headers, b"host")
        return found[0] if found else None

    @property
    def connection_options(self) -> frozenset[bytes]:
        return connection_options(self.headers)

    @property
    def keep_alive(self) -> bool:
        """Whether the client wants the connection to stay for another request."""
        options = connection_options(self.headers)
        if self.version == b"HTTP/1.1":
            return b"close" not in options
        return b"keep-alive" in options and b"close" not in options

    def upgrade_tokens(self) -> frozenset[bytes]:
        """Protocols the client asks to switch to (lower case); empty unless Connection says upgrade."""
        if b"upgrade" not in connection_options(self.headers):
            return frozenset()
        found = values(self.headers, b"upgrade")
        return frozenset(
            item.strip(b" \t").lower() for value in found for item in value.split(b",")
        )

    def with_target(self, target: bytes) -> RequestHead:
        """The same request for another target."""
        return RequestHead(self.method, target, self.version, self.headers, self.framing)

    def with_headers(self, headers: Headers) -> RequestHead:
        """The same request with other fields; the caller leaves the framing fields alone."""
        return RequestHead(self.method, self.target, self.version, headers, self.framing)


class RequestHeadReader(HeadReader[RequestHead]):
    """Reads one request head."""

    __slots__ = ("_memory", "_require_host")

    def __init__(
        self, *, limit: int, require_host: bool, memory: FieldMemory | None = None
    ) -> None:
        """`memory` belongs to the connection and serves all its heads."""
        super().__init__(limit)
        self._require_host = require_host
        self._memory = memory

    def _parse(self, block: bytes) -> RequestHead:
        first, fields = split_first(block)
        memory = self._memory
        if memory is not None and memory.fields == fields and first.isascii():
            check_text(first)
            method, target, version = _request_line(first)
            if memory.read_as == (version, self._require_host):
                _check_connect(method, memory.framing)
                return RequestHead(method, target, version, memory.headers, memory.framing)
        _check_encoding(block)
        usual = are_usual(first, fields)
        method, target, version = _request_line(first)
        scan = FieldScan(first, fields, usual=usual)
        framing = scan.framing(http10=version == b"HTTP/1.0") or NO_BODY
        _check_connect(method, framing)
        _check_host(scan.hosts, required=self._require_host and version == b"HTTP/1.1")
        if memory is not None:
            memory.fields, memory.headers, memory.framing = fields, scan.headers, framing
            memory.read_as = version, self._require_host
        return RequestHead(method, target, version, scan.headers, framing)


class FieldMemory:
    """The field lines of a connection's last good head and how they were read.

    Clients repeat them word for word, and the same bytes read the same way.
    """

    __slots__ = ("fields", "framing", "headers", "read_as")

    def __init__(self) -> None:
        # No head has such field lines, so that nothing is remembered at first.
        self.fields = b"-"
        self.headers: Headers = ()
        self.framing: Framing = NO_BODY
        # What the reading depends on besides the bytes.
        self.read_as = (b"", False)


def _check_encoding(block: bytes) -> None:
    if not block.isascii():
        try:
            block.decode()
        except UnicodeDecodeError as error:
            raise HeadRejected(RejectReason.NOT_UTF8, error.start) from None


def _check_connect(method: bytes, framing: Framing) -> None:
    # A tunnel starts right behind the head: a body there is read as tunnel bytes by one side only.
    if method == b"CONNECT" and not (isinstance(framing, NoBody) or framing == Length(0)):
        raise HeadRejected(RejectReason.CONNECT_BODY)


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    parts = line.split(b" ")
    if len(parts) != 3:
        raise HeadRejected(RejectReason.REQUEST_LINE)
    method, target, version = parts
    if not is_token(method):
        raise HeadRejected(RejectReason.METHOD)
    if not target or b"\t" in target:
        raise HeadRejected(RejectReason.TARGET, len(method) + 1)
    if version not in _VERSIONS:
        raise HeadRejected(RejectReason.VERSION, len(method) + len(target) + 2)
    return method, target, version


def _check_host(hosts: list[bytes], *, required: bool) -> None:
    if len(hosts) == 1:
        if match_authority(hosts[0]) is None:
            raise HeadRejected(RejectReason.HOST_INVALID)
    elif hosts:
        # RFC 9112 3.2; the same field twice is refused too, whoever picks one need not pick ours.
        raise HeadRejected(RejectReason.HOST_REPEATED)
    elif required:
        raise HeadRejected(RejectReason.HOST_MISSING)


def render_request_head(head: RequestHead) -> bytes:
    """The bytes of a head. The parts were checked when it was read or rewritten, not here again."""
    fields = render_fields(head.headers)
    return b"%b %b %b\r\n%b" % (head.method, head.target, head.version, fields)
