"""ClientHellos of other clients and of attackers: GREASE, encrypted hellos, early data, old versions, cuts."""

from __future__ import annotations

import socket
import subprocess
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.fuzz_tls_hello import read
from openshell.egress.tls_hello import ClientHello, HelloRejectReason
from unit.egress.feeding import CUTS
from unit.egress.test_tls_hello import extension, hello, record, sni, vector

R = HelloRejectReason
PLAIN = ClientHello("a.example", (), ech=False)
NAME = sni(b"a.example")
GREASE = [bytes([n, n]) for n in range(0x0A, 0x100, 0x10)]
# RFC 8446 4.2.11: an identity with its age, and a binder; always the last extension.
PSK = extension(41, vector(2, vector(2, b"ticket") + bytes(4)) + vector(2, vector(1, bytes(32))))
# RFC 9849: an outer hello names the public server; the inner one is sealed.
ECH = extension(0xFE0D, b"\0" + b"\0\1\0\1" + b"\7" + vector(2, bytes(32)) + vector(2, bytes(200)))


def grease(kind: bytes, content: bytes = b"") -> bytes:
    return kind + vector(2, content)


ACCEPTED = {
    "grease_extensions": (hello(grease(GREASE[0]), NAME, grease(GREASE[1], b"\0")), PLAIN),
    "grease_suites": (hello(NAME, suites=GREASE[2] + b"\x13\x01"), PLAIN),
    "grease_alpn": (
        hello(NAME, extension(16, vector(2, vector(1, GREASE[3]) + vector(1, b"h2")))),
        ClientHello("a.example", (GREASE[3], b"h2"), ech=False),
    ),
    "early_data": (hello(NAME, extension(42, b""), PSK), PLAIN),
    "resumption": (hello(NAME, PSK, session=bytes(32)), PLAIN),
    "padding": (hello(NAME, extension(21, bytes(5000))), PLAIN),
    "ech_outer_name": (hello(NAME, ECH), ClientHello("a.example", (), ech=True)),
    "ech_without_a_name": (hello(ECH), ClientHello(None, (), ech=True)),
    "upper_case": (hello(sni(b"A.EXAMPLE")), PLAIN),
    "no_extensions": (b"\x01" + vector(3, hello()[4:-2]), ClientHello(None, (), ech=False)),
}


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize(("message", "expected"), ACCEPTED.values(), ids=ACCEPTED.keys())
def test_read(message: bytes, expected: ClientHello, feeding) -> None:
    assert read(list(feeding(record(message)))) == expected


REFUSED = {
    # The hello of SSL 2.0: a length with its high bit set, type 1, version 3.0.
    "sslv2_hello": (b"\x80\x2e\x01\x03\x00\x00\x15\x00\x00\x00\x10" + bytes(37), R.NOT_HANDSHAKE),
    "early_data_first": (b"\x17\x03\x03\x00\x05hello", R.NOT_HANDSHAKE),
    "ccs_first": (b"\x14\x03\x03\x00\x01\x01", R.NOT_HANDSHAKE),
    "ccs_between": (record(hello(NAME)[:9]) + b"\x14\x03\x03\x00\x01\x01", R.NOT_HANDSHAKE),
    "two_grease_alike": (record(hello(grease(GREASE[0]), grease(GREASE[0]))), R.EXTENSION_REPEATED),
    "two_alpn": (
        record(hello(*(extension(16, vector(2, vector(1, p))) for p in (b"h2", b"x")))),
        R.EXTENSION_REPEATED,
    ),
    "two_ech": (record(hello(NAME, ECH, ECH)), R.EXTENSION_REPEATED),
    "name_and_other_type": (
        record(hello(extension(0, vector(2, b"\0" + vector(2, b"a") + b"\1" + vector(2, b"b"))))),
        R.SERVER_NAME,
    ),
    "same_name_twice": (record(hello(sni(b"a", b"a"))), R.SERVER_NAME),
    "space_in_name": (record(hello(sni(b"a b"))), R.SERVER_NAME),
    "too_long_name": (record(hello(sni(b"a" * 254))), R.SERVER_NAME),
    "second_hello_behind": (record(hello(NAME) + hello(sni(b"b.example"))), R.MALFORMED),
    "just_too_large": (record(b"\x01" + (16 * 1024 + 1).to_bytes(3, "big")), R.TOO_LARGE),
    "extension_longer_than_the_list": (
        record(b"\x01" + vector(3, hello()[4:-2] + b"\x00\x04\x00\x00\x00\x09")),
        R.MALFORMED,
    ),
}


@pytest.mark.parametrize("feeding", CUTS.values(), ids=CUTS.keys())
@pytest.mark.parametrize(("data", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(data: bytes, reason: HelloRejectReason, feeding) -> None:
    # The same record without what is wrong is read.
    assert read([record(hello(NAME))]) == PLAIN
    assert read(list(feeding(data))) is reason


@given(
    st.lists(st.integers(1, 400), min_size=1, max_size=20),
    st.lists(st.integers(1, 300), min_size=1, max_size=20),
)
def test_cuts_into_records_and_segments_change_nothing(
    records: list[int], segments: list[int]
) -> None:
    message, data, pieces = hello(grease(GREASE[5]), NAME, ECH), b"", []
    for size in records:
        if message:
            data, message = data + record(message[:size]), message[size:]
    data += record(message) if message else b""
    for size in segments:
        pieces.append(data[:size])
        data = data[size:]
    assert read([*filter(None, pieces), *([data] if data else [])]) == ClientHello(
        "a.example", (), ech=True
    )


@given(st.lists(st.tuples(st.integers(0, 0xFFFF), st.binary(max_size=40)), max_size=8))
def test_extensions_that_nobody_knows_do_not_change_the_name(
    others: list[tuple[int, bytes]],
) -> None:
    kinds = [kind for kind, _ in others]
    found = read([record(hello(NAME, *(extension(*other) for other in others)))])
    if len({0, *kinds}) != len(kinds) + 1:
        assert found is R.EXTENSION_REPEATED
    elif 16 not in kinds:
        assert found == ClientHello("a.example", (), ech=0xFE0D in kinds)


def test_early_data_right_behind_the_hello_is_not_a_part_of_it() -> None:
    assert (
        read([record(hello(NAME, extension(42, b""), PSK)) + b"\x17\x03\x03\0\x05early"]) == PLAIN
    )


def test_openssl_as_a_client() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        seen: list[bytes] = []

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                seen.append(connection.recv(16384))

        thread = threading.Thread(target=serve)
        thread.start()
        port = listener.getsockname()[1]
        subprocess.run(
            ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-servername", "A.example",
             "-alpn", "h2,http/1.1", "-split_send_frag", "512"],
            stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False,
        )  # fmt: skip
        thread.join()
    assert read(seen) == ClientHello("a.example", (b"h2", b"http/1.1"), ech=False)
