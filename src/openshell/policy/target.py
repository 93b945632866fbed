"""Canonical form of an HTTP request target: the one path that policy judges and upstream receives.

If policy and upstream could read a target differently, a rule could be walked around; so the path
is resolved once, here, and whatever has no single meaning is refused. The query is checked and
decoded for matching, and forwarded as it came. The authority of an absolute target is the
caller's to check; placeholders are redacted by the caller before matching.

Callers: the egress pipeline for every inspected request, and offline checks of a policy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

import msgspec

__all__ = [
    "MAX_PATH_BYTES",
    "CanonicalTarget",
    "TargetRejectReason",
    "TargetRejected",
    "canonicalize",
    "parse_query",
]

# What the contract grants a path before it is resolved; peers cut between 4 and 8 KiB.
MAX_PATH_BYTES: Final = 4096

# Space, control characters, DEL.
_CONTROLS: Final = bytes(range(0x21)) + b"\x7f"
_NO_PARAMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})

_SCHEME = re.compile(rb"[A-Za-z][A-Za-z0-9+.-]*://")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
# Already canonical, seen at one glance: the usual case. No `%`, `;`, `//` or segment led by a dot.
_CLEAN = re.compile(rb"/(?:[A-Za-z0-9\-_~!$&'()*+,=:@]++[A-Za-z0-9\-._~!$&'()*+,=:@]*+/?)*+")
_PCHAR: Final = frozenset(
    b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@"
)
# Stands for a kept encoded slash while segments are resolved; no byte of a path can be it.
_KEPT_SLASH: Final = 0
# What an upstream may take for the border of segments after all; Windows' servers do so with backslashes.
_MAY_BORDER: Final = re.compile(rb"[\x00\\]")


class TargetRejectReason(Enum):
    """One member per rule; the value is a sentence for people that quotes nothing."""

    TOO_LONG = f"the path is longer than {MAX_PATH_BYTES} bytes"
    NOT_A_PATH = "the target is neither a path that starts with '/' nor an absolute URI"
    FRAGMENT = "the target contains '#'"
    CONTROL = "the target contains a space or a control character"
    NON_ASCII = "the target contains bytes outside ASCII"
    BAD_PERCENT = "the target contains '%' without two hexadecimal digits"
    ENCODED_CONTROL = "the path contains an encoded control character"
    ENCODED_SLASH = (
        "the path contains '%2F'; allow_encoded_slash: true on the endpoint would keep it"
    )
    ABOVE_ROOT = "the path climbs above '/'"
    DOT_SEGMENT = "the path hides a dot segment behind an encoded slash or a backslash"
    QUERY_NOT_UTF8 = "the query does not decode to UTF-8"


class TargetRejected(ValueError):
    """The target has no single meaning. The text never contains the target: it may hold secrets."""

    def __init__(self, reason: TargetRejectReason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class CanonicalTarget(msgspec.Struct, frozen=True):
    """`path` is ASCII and canonical, `query` verbatim without `?` ("" if none), `params` decoded."""

    path: str
    query: str
    params: Mapping[str, tuple[str, ...]]
    has_encoded_slash: bool

    def __repr__(self) -> str:
        return f"<CanonicalTarget {len(self.path)} path bytes, {len(self.params)} parameters>"

    @property
    def origin_form(self) -> str:
        return f"{self.path}?{self.query}" if self.query else self.path


def canonicalize(target: bytes, *, allow_encoded_slash: bool) -> CanonicalTarget:
    """Resolves a request target or raises `TargetRejected`."""
    _check_bytes(target)
    path, _, query = _strip_authority(target).partition(b"?")
    if len(path) > MAX_PATH_BYTES:
        raise TargetRejected(TargetRejectReason.TOO_LONG)
    params = parse_query(query)
    if _CLEAN.fullmatch(path):
        return CanonicalTarget(path.decode("ascii"), query.decode("ascii"), params, False)
    resolved, kept = _resolve(path, allow_encoded_slash=allow_encoded_slash)
    return CanonicalTarget(resolved, query.decode("ascii"), params, kept)


def _check_bytes(target: bytes) -> None:
    if not target.isascii():
        raise TargetRejected(TargetRejectReason.NON_ASCII)
    if len(target.translate(None, _CONTROLS)) != len(target):
        raise TargetRejected(TargetRejectReason.CONTROL)
    if b"#" in target:
        raise TargetRejected(TargetRejectReason.FRAGMENT)
    if b"%" in target and _BAD_PERCENT.search(target):
        raise TargetRejected(TargetRejectReason.BAD_PERCENT)


def _strip_authority(target: bytes) -> bytes:
    if not target or target[:1] in (b"/", b"?"):
        return target
    scheme = _SCHEME.match(target)
    if scheme is None:
        raise TargetRejected(TargetRejectReason.NOT_A_PATH)
    rest = target[scheme.end() :]
    ends = [at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0]
    return rest[min(ends) :] if ends else b""


def _decode_once(path: bytes, *, allow_encoded_slash: bool) -> tuple[bytes, bool]:
    out = bytearray()
    kept = False
    at = 0
    while at < len(path):
        byte = path[at]
        at += 1
        if byte == 0x25:
            byte = int(path[at : at + 2], 16)
            at += 2
            if byte < 0x20 or byte == 0x7F:
                raise TargetRejected(TargetRejectReason.ENCODED_CONTROL)
            if byte == 0x2F:
                if not allow_encoded_slash:
                    raise TargetRejected(TargetRejectReason.ENCODED_SLASH)
                byte, kept = _KEPT_SLASH, True
        out.append(byte)
    return bytes(out), kept


def _resolve(path: bytes, *, allow_encoded_slash: bool) -> tuple[str, bool]:
    decoded, _ = _decode_once(path or b"/", allow_encoded_slash=allow_encoded_slash)
    segments: list[bytes] = []
    ends_open = False
    for raw in decoded.split(b"/")[1:]:
        # Parameters go before dots are resolved: `..;x` is `..` to the servers that know them.
        segment = raw.partition(b";")[0]
        ends_open = segment in (b"", b".", b"..")
        if segment == b"..":
            if not segments:
                raise TargetRejected(TargetRejectReason.ABOVE_ROOT)
            segments.pop()
        elif not ends_open:
            segments.append(segment)
    for segment in segments:
        if _MAY_BORDER.search(segment) and {b".", b".."} & set(_MAY_BORDER.split(segment)):
            raise TargetRejected(TargetRejectReason.DOT_SEGMENT)
    kept_slash = bytes((_KEPT_SLASH,))
    out = "/" + "/".join(map(_encode, segments))
    kept = any(kept_slash in segment for segment in segments)
    return (out + "/" if ends_open and segments else out), kept


def _encode(segment: bytes) -> str:
    return "".join(
        chr(byte) if byte in _PCHAR else f"%{0x2F if byte == _KEPT_SLASH else byte:02X}"
        for byte in segment
    )


def _decode_component(text: bytes) -> str:
    if b"%" not in text and b"+" not in text:
        return text.decode("ascii")
    out = bytearray()
    at = 0
    while at < len(text):
        byte = text[at]
        at += 1
        if byte == 0x25:
            byte = int(text[at : at + 2], 16)
            at += 2
        elif byte == 0x2B:
            byte = 0x20
        out.append(byte)
    try:
        return out.decode("utf-8")
    except UnicodeDecodeError:
        raise TargetRejected(TargetRejectReason.QUERY_NOT_UTF8) from None


def parse_query(query: bytes) -> Mapping[str, tuple[str, ...]]:
    """Decodes a query to all values of each name, in order. A name without `=` has the value ""."""
    if not query:
        return _NO_PARAMS
    if _BAD_PERCENT.search(query):
        raise TargetRejected(TargetRejectReason.BAD_PERCENT)
    if not query.isascii():
        raise TargetRejected(TargetRejectReason.NON_ASCII)
    found: dict[str, list[str]] = {}
    for pair in query.split(b"&"):
        if pair:
            name, _, value = pair.partition(b"=")
            found.setdefault(_decode_component(name), []).append(_decode_component(value))
    return MappingProxyType({name: tuple(values) for name, values in found.items()})
