"""Canonical request targets: the contract's table and what holds for any bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.policy.target import (
    MAX_PATH_BYTES,
    TargetRejected,
    TargetRejectReason,
    canonicalize,
    parse_query,
)
from unit.policy.policy_cases import load

CASES = load("targets")


@pytest.mark.parametrize("case", CASES)
def test_targets(case):
    raw = case["in"].encode()
    if "bad" in case:
        with pytest.raises(TargetRejected) as caught:
            canonicalize(raw, allow_encoded_slash=case.get("opt", False))
        assert caught.value.reason is TargetRejectReason[case["bad"]]
        return
    target = canonicalize(raw, allow_encoded_slash=case.get("opt", False))
    assert (target.path, target.query) == (case["out"], case.get("query", ""))
    assert target.has_encoded_slash == case.get("slash", False)


def test_every_reason_has_a_case():
    used = {row.values[0].get("bad") for row in CASES} | {"TOO_LONG"}
    assert {reason.name for reason in TargetRejectReason} <= used


def test_longest_path_passes_and_one_more_byte_does_not():
    longest = b"/" + b"a" * (MAX_PATH_BYTES - 1)
    assert canonicalize(longest, allow_encoded_slash=False).path == longest.decode()
    with pytest.raises(TargetRejected) as caught:
        canonicalize(longest + b"a", allow_encoded_slash=False)
    assert caught.value.reason is TargetRejectReason.TOO_LONG


def test_query_keeps_every_value_in_order():
    params = parse_query(b"a=1&b=x+y&a=%32&c&=d&&a=")
    assert params == {"a": ("1", "2", ""), "b": ("x y",), "c": ("",), "": ("d",)}


PIECES = [
    "/",
    "a",
    "..",
    ".",
    ";",
    "%2f",
    "%2F",
    "%2e",
    "%3b",
    "%41",
    "%20",
    "//",
    "?",
    "%25",
    "\\",
]


@given(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.booleans())
def test_canonical_is_a_fixed_point_without_anything_to_resolve(text, keep):
    raw = b"/" + text.encode()
    try:
        first = canonicalize(raw, allow_encoded_slash=keep)
    except TargetRejected:
        return
    again = canonicalize(first.origin_form.encode(), allow_encoded_slash=keep)
    assert again.path == first.path
    assert not {".", ".."} & set(first.path.replace("%2F", "/").split("/"))
    assert "//" not in first.path and ";" not in first.path
    assert first.has_encoded_slash == ("%2F" in first.path)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_target_or_rejected_without_echo(raw):
    try:
        target = canonicalize(raw, allow_encoded_slash=True)
    except TargetRejected as rejected:
        assert str(rejected) == rejected.reason.value
    else:
        assert target.path.startswith("/") and target.path.isascii()
