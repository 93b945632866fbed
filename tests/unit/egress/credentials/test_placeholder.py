"""Forms of placeholders, markers in any spelling and cutting, redaction."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.fuzz_credentials import fuzz_scanner
from openshell.egress.credentials import (
    MarkerScanner,
    Placeholder,
    find_marker,
    parse_placeholder,
    redact_placeholders,
)

HANDLE = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("token", "expected"),
    [
        ("openshell:resolve:env:KEY", Placeholder("KEY")),
        ("openshell:resolve:env:v12_KEY", Placeholder("KEY", revision=12)),
        ("openshell:resolve:env:v0_A_B", Placeholder("A_B", revision=0)),
        (f"openshell:resolve:env:s{HANDLE}_KEY", Placeholder("KEY", handle=HANDLE)),
        ("openshell:resolve:env:version_KEY", Placeholder("version_KEY")),
        ("openshell:resolve:env:v01_KEY", Placeholder("v01_KEY")),
        ("sk-OPENSHELL-RESOLVE-ENV-KEY", Placeholder("KEY")),
    ],
)
def test_forms(token: str, expected: Placeholder) -> None:
    assert parse_placeholder(token.encode()) == expected


@pytest.mark.parametrize(
    "token",
    [
        "openshell:resolve:env:",
        "openshell:resolve:env:KE-Y",
        "xopenshell:resolve:env:KEY",
        "openshell:resolve:env:KEY ",
        "openshell:resolve:env:KEY\n",
        "OPENSHELL-RESOLVE-ENV-KEY",
        "a b-OPENSHELL-RESOLVE-ENV-KEY",
        "openshell%3Aresolve:env:KEY",
        "Openshell:resolve:env:KEY",
        "openshell:resolve:env:KÉY",
    ],
)
def test_not_a_placeholder(token: str) -> None:
    assert parse_placeholder(token.encode()) is None


SPELLINGS = {
    "literal": b"openshell:resolve:env:",
    "alias": b"OPENSHELL-RESOLVE-ENV-",
    "colons": b"openshell%3Aresolve%3aenv%3A",
    "dashes": b"OPENSHELL%2DRESOLVE%2dENV-",
    "a_letter": b"%6fpenshell:resolve:env:",
    "all": "".join(f"%{ord(c):02X}" for c in "openshell:resolve:env:").encode(),
}


@pytest.mark.parametrize("spelling", SPELLINGS.values(), ids=SPELLINGS.keys())
def test_a_marker_is_found_in_any_spelling_and_cutting(spelling: bytes) -> None:
    data = b"%3A%20{" + spelling + b"KEY}"
    assert find_marker(data)
    for place in range(len(data)):
        scanner = MarkerScanner()
        scanner.feed(data[:place])
        assert scanner.feed(memoryview(data)[place:])
        assert scanner.feed(b"later")


@pytest.mark.parametrize(
    "data", [b"", b"openshell:resolve", b"openshell%253Aresolve%253Aenv%253A", b"100% openshell"]
)
def test_no_marker(data: bytes) -> None:
    assert not find_marker(data)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"/a/b", b"/a/b"),
        (b"/bot openshell:resolve:env:v1_KEY/x", b"/bot [CREDENTIAL]/x"),
        (b"/botopenshell:resolve:env:v1_KEY/x", b"/bot[CREDENTIAL]/x"),
        (b"/openshell%3Aresolve%3Aenv%3AKEY", b"/[CREDENTIAL]"),
        (b"/x/sk-OPENSHELL-RESOLVE-ENV-KEY", b"/x/[CREDENTIAL]"),
        (b"/openshell:resolve:env:%4BE%59_%7a%31", b"/[CREDENTIAL]"),
        # What follows a placeholder stays for the policy to judge, however it is written.
        (b"/openshell:resolve:env:KEY%5C..%5Cadmin", b"/[CREDENTIAL]%5C..%5Cadmin"),
        (b"/openshell:resolve:env:KEY%3Badmin", b"/[CREDENTIAL]%3Badmin"),
        (b"/openshell:resolve:env:KEY%40%60%5B%7B%7F", b"/[CREDENTIAL]%40%60%5B%7B%7F"),
        (b"/openshell:resolve:env:", None),
        (b"/openshell:resolve:env:-/x", None),
    ],
)
def test_redaction(data: bytes, expected: bytes | None) -> None:
    assert redact_placeholders(data) == expected


@given(
    st.text("openshl:rv%3AaKEY-OPENSHELLRVE_", max_size=80),
    st.integers(0, 80),
    st.sampled_from(list(SPELLINGS.values())),
)
def test_any_bytes(text: str, place: int, spelling: bytes) -> None:
    data = text.encode()
    fuzz_scanner(data[:place] + spelling + data[place:])
    fuzz_scanner(data)


@given(st.sampled_from(list(SPELLINGS.values())), st.integers(0, 300), st.integers(0, 300))
def test_a_marker_is_found_among_other_escapes(spelling: bytes, before: int, behind: int) -> None:
    assert find_marker((b"%6f" * 100)[:before] + spelling + (b"%3A-" * 100)[:behind])


def test_scanning_and_redacting_are_linear() -> None:
    started = time.perf_counter()
    find_marker(b"%6f" * 200_000)
    redact_placeholders(b"a" * 5_000 + b"openshell:resolve:env:" + b"-" * 5_000)
    assert time.perf_counter() - started < 2
