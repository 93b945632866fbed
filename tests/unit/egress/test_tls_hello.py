"""Real hellos of the interpreter's own TLS, and ones broken rule by rule."""

from __future__ import annotations

import ssl
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.fuzz_tls_hello import fuzz_tls_hello, read
from openshell.egress.tls_hello import (
    ClientHello,
    ClientHelloReader,
    HelloRejected,
    HelloRejectReason,
)
from unit.egress.feeding import CUTS


def real_hello(name: str | None, alpn: list[str]) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(alpn)
    out = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), out, server_hostname=name).do_handshake()
    return out.read()


def vector(prefix: int, content: bytes) -> bytes:
    return len(content).to_bytes(prefix, "big") + content


def extension(kind: int, content: bytes) -> bytes:
    return struct.pack("!H", kind) + vector(2, content)


def sni(*names: bytes, kind: int = 0) -> bytes:
    return extension(0, vector(2, b"".join(bytes([kind]) + vector(2, name) for name in names)))


def hello(
    *extensions: bytes,
    tail: bytes = b"",
    session: bytes = b"",
    suites: bytes = b"\x13\x01",
    compressions: bytes = b"\0",
) -> bytes:
    body = (
        b"\x03\x03" + bytes(32) + vector(1, session) + vector(2, suites) + vector(1, compressions)
    )
    body += vector(2, b"".join(extensions)) + tail
    return b"\x01" + vector(3, body)


def record(handshake: bytes) -> bytes:
    return b"\x16\x03\x01" + vector(2, handshake)


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize(
    ("name", "alpn", "expected"),
    [
        (
            "API.example.com",
            ["h2", "http/1.1"],
            ClientHello("api.example.com", (b"h2", b"http/1.1"), ech=False),
        ),
        ("a.example", [], ClientHello("a.example", (), ech=False)),
        (None, [], ClientHello(None, (), ech=False)),
        ("127.0.0.1", [], ClientHello(None, (), ech=False)),
    ],
)
def test_real_hellos(name: str | None, alpn: list[str], expected: ClientHello, feeding) -> None:
    assert read(list(feeding(real_hello(name, alpn)))) == expected


def test_a_hello_over_several_records_and_with_ech() -> None:
    message = hello(sni(b"a.example"), extension(0xFE0D, b"x"))
    data = b"".join(record(message[i : i + 7]) for i in range(0, len(message), 7))
    assert read([data]) == ClientHello("a.example", (), ech=True)


R = HelloRejectReason
REFUSED = {
    "http": (b"GET / HTTP/1.1\r\n", R.NOT_HANDSHAKE),
    "alert": (b"\x15\x03\x01\x00\x02\x01\x00", R.NOT_HANDSHAKE),
    "sslv2": (b"\x16\x02\x00\x00\x05", R.NOT_HANDSHAKE),
    "empty_record": (b"\x16\x03\x01\x00\x00", R.RECORD_LENGTH),
    "huge_record": (b"\x16\x03\x01\xff\xff", R.RECORD_LENGTH),
    "huge_hello": (record(b"\x01\xff\xff\xff"), R.TOO_LARGE),
    "crumbs": (record(b"\x01\x00\x10\x00") + record(b"a") * 70, R.TOO_MANY_RECORDS),
    "server_hello": (record(b"\x02\x00\x00\x01\x00"), R.NOT_CLIENT_HELLO),
    "short_body": (record(b"\x01\x00\x00\x01\x00"), R.MALFORMED),
    "long_session": (record(hello(session=bytes(33))), R.MALFORMED),
    "no_suites": (record(hello(suites=b"")), R.MALFORMED),
    "odd_suites": (record(hello(suites=b"\x13\x01\x13")), R.MALFORMED),
    "no_compression": (record(hello(compressions=b"")), R.MALFORMED),
    "tail_inside": (record(hello(tail=b"x")), R.MALFORMED),
    "tail_behind": (record(hello() + b"x"), R.MALFORMED),
    "extension_cut": (record(hello(b"\0\0\0\x09x")), R.MALFORMED),
    "two_sni_extensions": (record(hello(sni(b"a"), sni(b"b"))), R.EXTENSION_REPEATED),
    "two_names": (record(hello(sni(b"a", b"b"))), R.SERVER_NAME),
    "other_name_type": (record(hello(sni(b"a", kind=1))), R.SERVER_NAME),
    "nul_in_name": (record(hello(sni(b"a\0.b"))), R.SERVER_NAME),
    "trailing_dot": (record(hello(sni(b"a.b."))), R.SERVER_NAME),
    "empty_label": (record(hello(sni(b"a..b"))), R.SERVER_NAME),
    "empty_name": (record(hello(sni(b""))), R.SERVER_NAME),
    "not_ascii": (record(hello(sni("é.example".encode()))), R.SERVER_NAME),
    "no_names": (record(hello(extension(0, b""))), R.SERVER_NAME),
    "empty_protocol": (record(hello(extension(16, vector(2, b"\0")))), R.ALPN),
    "no_protocol": (record(hello(extension(16, vector(2, b"")))), R.ALPN),
}


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes, reason: HelloRejectReason, feeding) -> None:
    assert read(list(feeding(data))) is reason


def test_a_reader_stays_refused() -> None:
    reader = ClientHelloReader()
    for data in (b"GET ", record(hello(sni(b"a.example")))):
        with pytest.raises(HelloRejected):
            reader.feed(data)


def test_every_reason_has_a_row() -> None:
    assert {reason for _, reason in REFUSED.values()} == set(HelloRejectReason)


@given(st.binary(max_size=80))
def test_any_bytes(data: bytes) -> None:
    fuzz_tls_hello(data)
    fuzz_tls_hello(record(hello(sni(b"a.example"), data)))


@given(st.integers(0, 90), st.integers(0, 255))
def test_damaged_hello(place: int, value: int) -> None:
    data = bytearray(record(hello(sni(b"a.example"), extension(16, vector(2, vector(1, b"h2"))))))
    data[place % len(data)] = value
    fuzz_tls_hello(bytes(data))
