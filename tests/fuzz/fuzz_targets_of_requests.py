"""Invariants of what names a destination: a path is canonical once and for all, an authority means the same
when it is written again, the first bytes of a connection are classified once; a packet is read or is none."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from openshell.egress.http1 import (
    HeadRejected,
    parse_absolute_target,
    parse_connect_target,
    parse_host_field,
)
from openshell.egress.peek import FirstBytes, classify
from openshell.policy.target import MAX_PATH_BYTES, TargetRejected, canonicalize
from openshell.supervisor.packets import read_packet


def fuzz_path(data: bytes) -> None:
    for keeps in (False, True):
        try:
            found = canonicalize(data, allow_encoded_slash=keeps)
        except TargetRejected:
            continue
        assert canonicalize(found.origin_form.encode(), allow_encoded_slash=keeps) == found
        path = found.path
        assert path.startswith("/")
        assert path.isascii()
        assert path.isprintable()
        assert len(path) <= 3 * MAX_PATH_BYTES
        assert "//" not in path
        assert not {".", ".."} & set(path.split("/"))
        assert found.has_encoded_slash == ("%2F" in path)
        assert keeps or not found.has_encoded_slash
        assert data.partition(b"?")[2] == found.query.encode()
        # What a reader that decodes once more takes for a border of segments is none of ours' dots.
        assert not {".", ".."} & set(path.replace("%2F", "/").replace("%5C", "/").split("/"))


def fuzz_authority(data: bytes) -> None:
    try:
        host = parse_host_field(data)
    except HeadRejected:
        host = None
    if host is not None:
        assert parse_host_field(host.text.encode()) == host
        assert host.port is None or 0 <= host.port <= 65535
        assert _same_there(b"http://" + data, host.host, host.port)
    try:
        target = parse_connect_target(data)
    except HeadRejected:
        target = None
    assert target is None or (target == host and target.port is not None)
    try:
        absolute = parse_absolute_target(data)
    except HeadRejected:
        return
    assert parse_host_field(absolute.host_field.encode()).host == absolute.host
    assert absolute.origin_form.startswith(b"/")
    written = f"{absolute.scheme}://{absolute.host_field}".encode() + absolute.origin_form
    again = parse_absolute_target(written)
    assert (again.scheme, again.host, again.origin_form) == (
        absolute.scheme,
        absolute.host,
        absolute.origin_form,
    )
    assert _same_there(data, absolute.host, None)


def _same_there(url: bytes, host: str, port: int | None) -> bool:
    """The library of Python splits as we do; what it refuses is no difference."""
    try:
        split = urlsplit(url.decode("latin-1"))
        return split.hostname == host and (port is None or split.port == port)
    except ValueError:
        return True


def fuzz_first_bytes(data: bytes) -> None:
    found = FirstBytes.MORE
    for size in range(len(data) + 1):
        now = classify(data[:size])
        # Once decided, more bytes change nothing but which refusal it is.
        assert found in (FirstBytes.MORE, now) or (found, now) == (
            FirstBytes.H2C,
            FirstBytes.UNKNOWN,
        )
        found = now
    assert len(data) < 8 or found is not FirstBytes.MORE


def fuzz_packet(data: bytes) -> None:
    packet = read_packet(data)
    if packet is not None:
        assert 0 <= packet.port <= 65535
        assert str(ip_address(packet.host)) == packet.host
        assert packet.protocol.isprintable()
