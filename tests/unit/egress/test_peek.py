from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.peek import FirstBytes, classify

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", FirstBytes.MORE),
        (b"\x16", FirstBytes.MORE),
        (b"\x16\x03", FirstBytes.MORE),
        (b"\x16\x03\x01", FirstBytes.TLS),
        (b"\x16\x03\x04\x02", FirstBytes.TLS),
        (b"\x16\x03\x05", FirstBytes.UNKNOWN),
        (b"\x16\x02", FirstBytes.UNKNOWN),
        (b"G", FirstBytes.MORE),
        (b"GET", FirstBytes.MORE),
        (b"GET ", FirstBytes.HTTP1),
        (b"GET / HTTP/1.1\r\n", FirstBytes.HTTP1),
        (b"OPTIONS * HT", FirstBytes.HTTP1),
        (b"GETX", FirstBytes.UNKNOWN),
        (b"get ", FirstBytes.UNKNOWN),
        (b"PRI * H", FirstBytes.MORE),
        (PREFACE[:8], FirstBytes.H2C),
        (PREFACE + b"\0\0\x12", FirstBytes.H2C),
        (b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n", FirstBytes.UNKNOWN),
        (b"SSH-2.0-OpenSSH", FirstBytes.UNKNOWN),
        (b"\0", FirstBytes.UNKNOWN),
    ],
)
def test_classes(data: bytes, expected: FirstBytes) -> None:
    assert classify(data) is expected


@given(
    st.sampled_from(
        [
            b"GET / HTTP/1.1\r\nHost: a",
            PREFACE,
            b"\x16\x03\x01\x02\x00",
            b"PROPFIND /x",
            b"SSH-2.0-x",
        ]
    )
)
def test_an_answer_does_not_change_with_more_bytes(data: bytes) -> None:
    answers = [classify(data[:size]) for size in range(len(data) + 1)]
    decided = [answer for answer in answers if answer is not FirstBytes.MORE]
    # The preface is decided by its first eight bytes and checked again when more of it is there.
    assert len(set(decided)) == 1
    assert answers.index(decided[0]) + len(decided) == len(answers)
