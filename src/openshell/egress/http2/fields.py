"""Header lists of HTTP/2: checked lists to the heads that judging knows, and heads back to lists.

Pure. As strict as `http1`, and for the same reason: what two readers could read differently is
refused, never repaired (RFC 9113 8.2 and 8.3, and the byte rules of `proxy.md` 2.1). A list that
breaks a rule spoils its stream only. Texts name the rule, never a value: a field may hold a
credential.
"""

from collections.abc import Iterable, Sequence
from enum import StrEnum
from typing import Final

import msgspec
from hpack import HeaderTuple, NeverIndexedHeaderTuple

from openshell.egress.http1 import (
    CHUNKED,
    NO_BODY,
    TUNNEL_HEAD_LIMIT,
    Headers,
    HeadRejected,
    Length,
    RequestHead,
    end_to_end,
    is_token,
)
from openshell.egress.http1.fields import MAX_FIELDS, TEXT_BYTES
from openshell.egress.http1.framing import declared_framing
from openshell.egress.http1.target import match_authority

__all__ = [
    "LIST_LIMIT",
    "Malformed",
    "MalformedFields",
    "ResponseFields",
    "read_request",
    "read_response",
    "read_trailers",
    "write_request",
    "write_response",
    "write_trailers",
]

# One header list, counted as RFC 9113 6.5.2 does. As much as a head inside an HTTP/1 tunnel; announced to
# peers. A request beyond it is answered 431; what goes beyond DECODED_LIMIT of `peer` ends the connection.
LIST_LIMIT: Final = TUNNEL_HEAD_LIMIT
_PER_FIELD: Final = 32

_REQUEST: Final = frozenset({b":method", b":scheme", b":authority", b":path"})
# RFC 9113 8.2.2; the last two are read as framing fields by servers that make variables of fields.
_FORBIDDEN: Final = frozenset(
    {
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"transfer-encoding",
        b"upgrade",
        b"content_length",
        b"transfer_encoding",
    }
)
# Fields that would change what has been judged or framed before them.
_NOT_IN_TRAILERS: Final = frozenset(
    {b"authorization", b"content-length", b"cookie", b"host", b"te", b"trailer"}
)
_UPPER: Final = bytes(range(0x41, 0x5B))
_SWITCHING: Final = 101


class Malformed(StrEnum):
    """One member per rule; the value is the code that events carry."""

    TOO_LARGE = "header_list_too_large"
    TOO_MANY = "too_many_fields"
    NAME = "malformed_field_name"
    VALUE = "malformed_field_value"
    NOT_UTF8 = "field_not_utf8"
    CONNECTION_SPECIFIC = "connection_specific_field"
    PSEUDO_UNKNOWN = "unknown_pseudo_field"
    PSEUDO_REPEATED = "pseudo_field_repeated"
    PSEUDO_LATE = "pseudo_field_after_fields"
    PSEUDO_MISSING = "pseudo_field_missing"
    METHOD = "malformed_method"
    CONNECT = "connect_in_tunnel"
    SCHEME = "scheme_mismatch"
    PATH = "malformed_path"
    AUTHORITY = "malformed_authority"
    AUTHORITY_CONFLICT = "authority_and_host_differ"
    LENGTH = "invalid_content_length"
    LENGTH_BROKEN = "content_length_not_kept"
    STATUS = "malformed_status"
    IN_TRAILERS = "forbidden_trailer"


class MalformedFields(Exception):
    """A header list that we do not accept; `status` is what a client is answered."""

    def __init__(self, reason: Malformed) -> None:
        super().__init__(f"HTTP/2 header list rejected: {reason.value}")
        self.reason = reason
        self.status = 431 if reason in (Malformed.TOO_LARGE, Malformed.TOO_MANY) else 400


class ResponseFields(msgspec.Struct, frozen=True):
    """A response head. Fields in the order received, in lower case, for the next hop."""

    status: int
    headers: Headers

    @property
    def is_interim(self) -> bool:
        return self.status < 200


def read_request(fields: Sequence[tuple[bytes, bytes]], *, ended: bool, scheme: str) -> RequestHead:
    """Read the list that opens a request; `ended` says that no body follows.

    The result is what an HTTP/1.1 request would have been read as. Raises MalformedFields.
    """
    pseudo, rest = _split(fields)
    if not pseudo.keys() <= _REQUEST:
        raise MalformedFields(Malformed.PSEUDO_UNKNOWN)
    method = pseudo.get(b":method", b"")
    if method == b"CONNECT":
        raise MalformedFields(Malformed.CONNECT)
    if b":method" not in pseudo or b":scheme" not in pseudo or b":path" not in pseudo:
        raise MalformedFields(Malformed.PSEUDO_MISSING)
    if not is_token(method):
        raise MalformedFields(Malformed.METHOD)
    if pseudo[b":scheme"] != scheme.encode():
        raise MalformedFields(Malformed.SCHEME)
    path = pseudo[b":path"]
    if not path or b" " in path or b"\t" in path:
        raise MalformedFields(Malformed.PATH)
    authority = _authority(pseudo.get(b":authority"), rest)
    lengths = [value for name, value in rest if name == b"content-length"]
    try:
        framing = declared_framing(lengths, [], http10=False)
    except HeadRejected:
        raise MalformedFields(Malformed.LENGTH) from None
    if len(lengths) > 1:
        raise MalformedFields(Malformed.LENGTH)
    if ended and framing not in (None, Length(0)):
        raise MalformedFields(Malformed.LENGTH_BROKEN)
    kept = tuple([pair for pair in rest if pair[0] != b"host"])
    return RequestHead(
        method,
        path,
        b"HTTP/1.1",
        ((b"host", authority), *kept),
        framing or (NO_BODY if ended else CHUNKED),
    )


def read_response(fields: Sequence[tuple[bytes, bytes]]) -> ResponseFields:
    """Read the head of a response, interim or final. Raises MalformedFields."""
    pseudo, rest = _split(fields)
    if pseudo.keys() != {b":status"}:
        known = b":status" in pseudo
        raise MalformedFields(Malformed.PSEUDO_UNKNOWN if known else Malformed.PSEUDO_MISSING)
    text = pseudo[b":status"]
    if len(text) != 3 or not text.isdigit() or text < b"100" or int(text) == _SWITCHING:
        raise MalformedFields(Malformed.STATUS)
    return ResponseFields(int(text), end_to_end(rest))


def read_trailers(fields: Sequence[tuple[bytes, bytes]]) -> Headers:
    """Read the list that ends a message. Raises MalformedFields."""
    pseudo, rest = _split(fields)
    if pseudo:
        raise MalformedFields(Malformed.PSEUDO_LATE)
    if any(name in _NOT_IN_TRAILERS for name, _ in rest):
        raise MalformedFields(Malformed.IN_TRAILERS)
    return rest


def write_request(
    wire: bytes, original: RequestHead, scheme: str
) -> tuple[list[HeaderTuple], bytes]:
    """Turn the request that judging wrote for HTTP/1.1 into a header list and its body.

    What it wrote holds no line end but its own. Fields that the client did not send may be
    credentials: they never enter a compression table.
    """
    head, _, body = wire.partition(b"\r\n\r\n")
    first, *lines = head.split(b"\r\n")
    method, target, _ = first.split(b" ")
    sent = {(name.lower(), value) for name, value in original.headers}
    authority, fields = b"", list[HeaderTuple]()
    for line in lines:
        name, _, value = line.partition(b":")
        name, value = name.lower(), value.strip(b" \t")
        if name == b"host":
            authority = value
        elif name not in _FORBIDDEN:
            known = (name, value) in sent and name != b"authorization"
            fields.append((HeaderTuple if known else NeverIndexedHeaderTuple)(name, value))
    changed = target != original.target
    path = (NeverIndexedHeaderTuple if changed else HeaderTuple)(b":path", target)
    pseudo = [
        HeaderTuple(b":method", method),
        HeaderTuple(b":scheme", scheme.encode()),
        HeaderTuple(b":authority", authority),
        path,
    ]
    return pseudo + fields, body


def write_response(status: int, headers: Iterable[tuple[bytes, bytes]]) -> list[HeaderTuple]:
    """Write a response head; fields of an HTTP/1 connection are left out."""
    fields = [HeaderTuple(b":status", b"%d" % status)]
    for name, value in headers:
        lowered = name.lower()
        if lowered not in _FORBIDDEN:
            fields.append(HeaderTuple(lowered, value))
    return fields


def write_trailers(headers: Headers) -> list[HeaderTuple]:
    return [HeaderTuple(name, value) for name, value in headers]


def _split(
    fields: Sequence[tuple[bytes, bytes]],
) -> tuple[dict[bytes, bytes], tuple[tuple[bytes, bytes], ...]]:
    """Check sizes and bytes of a list; return its pseudo fields and the others."""
    if len(fields) > MAX_FIELDS:
        raise MalformedFields(Malformed.TOO_MANY)
    if sum(len(name) + len(value) + _PER_FIELD for name, value in fields) > LIST_LIMIT:
        raise MalformedFields(Malformed.TOO_LARGE)
    pseudo: dict[bytes, bytes] = {}
    rest: list[tuple[bytes, bytes]] = []
    for name, value in fields:
        _check_value(value)
        if name[:1] == b":":
            if rest:
                raise MalformedFields(Malformed.PSEUDO_LATE)
            if name in pseudo:
                raise MalformedFields(Malformed.PSEUDO_REPEATED)
            pseudo[bytes(name)] = bytes(value)
            continue
        if not is_token(name) or name.translate(None, _UPPER) != name:
            raise MalformedFields(Malformed.NAME)
        if name in _FORBIDDEN or (name == b"te" and value.lower() != b"trailers"):
            raise MalformedFields(Malformed.CONNECTION_SPECIFIC)
        rest.append((bytes(name), bytes(value)))
    return pseudo, tuple(rest)


def _check_value(value: bytes) -> None:
    if (
        value.translate(None, TEXT_BYTES)
        or value[:1] in (b" ", b"\t")
        or value[-1:] in (b" ", b"\t")
    ):
        raise MalformedFields(Malformed.VALUE)
    if not value.isascii():
        try:
            value.decode()
        except UnicodeDecodeError:
            raise MalformedFields(Malformed.NOT_UTF8) from None


def _authority(named: bytes | None, rest: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Find the one authority of a request; a Host field may stand for it or repeat it."""
    hosts = [value for name, value in rest if name == b"host"]
    if len(hosts) > 1:
        raise MalformedFields(Malformed.AUTHORITY_CONFLICT)
    if named is None:
        if not hosts:
            raise MalformedFields(Malformed.PSEUDO_MISSING)
        named = hosts[0]
    elif hosts and hosts[0].lower() != named.lower():
        raise MalformedFields(Malformed.AUTHORITY_CONFLICT)
    if match_authority(named) is None:
        raise MalformedFields(Malformed.AUTHORITY)
    return named
