"""What issuers may answer."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.providers.refresh import RefreshReason, RefreshRefused
from openshell.providers.refresh_answers import MAX_ANSWER_BYTES, read_token_answer

ASKED_MS = 1_700_000_000_000
TOKEN = "issued-t0ken"


def read(answer, status=200, lifetime=3600):
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
    return read_token_answer(
        status, body, key="KEY", asked_at_ms=ASKED_MS, lifetime_seconds=lifetime
    )


@pytest.mark.parametrize(
    ("stated", "cap", "seconds"),
    [
        pytest.param(None, 3600, 3600, id="nothing said"),
        pytest.param(100, 3600, 100, id="shorter"),
        pytest.param(7200, 3600, 3600, id="longer"),
        pytest.param("100", 3600, 100, id="as text"),
        pytest.param(100.9, 3600, 100, id="fraction"),
        pytest.param(10**17, 60, 60, id="far away"),
    ],
)
def test_how_long_a_value_lives(stated, cap, seconds):
    answer = {"access_token": TOKEN}
    if stated is not None:
        answer["expires_in"] = stated
    minted = read(answer, lifetime=cap)
    assert minted.expires_at_ms == ASKED_MS + seconds * 1000
    assert minted.values == {"KEY": TOKEN}
    assert minted.refresh_token == ""


def test_a_new_refresh_token_comes_along():
    assert read({"access_token": TOKEN, "refresh_token": "next"}).refresh_token == "next"
    assert read({"access_token": TOKEN, "refresh_token": "  "}).refresh_token == ""
    assert read({"access_token": TOKEN, "refresh_token": None}).refresh_token == ""


REFUSED = {
    "no json": b"access_token=" + TOKEN.encode(),
    "no utf-8": b"\xff\xfe",
    "empty": b"",
    "list": [TOKEN],
    "no token": {"token": TOKEN},
    "empty token": {"access_token": ""},
    "token is no text": {"access_token": 7},
    "line break": {"access_token": f"{TOKEN}\r\nX: y"},
    "blank inside": {"access_token": f"{TOKEN} {TOKEN}"},
    "not ascii": {"access_token": f"{TOKEN}ü"},
    "long token": {"access_token": TOKEN * 1000},
    "lifetime is text": {"access_token": TOKEN, "expires_in": "soon"},
    "lifetime is negative": {"access_token": TOKEN, "expires_in": -1},
    "lifetime is over": {"access_token": TOKEN, "expires_in": 0},
    "lifetime is a bool": {"access_token": TOKEN, "expires_in": True},
    "lifetime is nothing": b'{"access_token": "%s", "expires_in": NaN}' % TOKEN.encode(),
    "lifetime is endless": b'{"access_token": "%s", "expires_in": 1e999}' % TOKEN.encode(),
    "refresh token is no text": {"access_token": TOKEN, "refresh_token": {"a": 1}},
    "refresh token with blanks": {"access_token": TOKEN, "refresh_token": "a b"},
    "deep": b"[" * 50_000,
    "too long": b'{"access_token": "%s"}' % TOKEN.encode() + b" " * MAX_ANSWER_BYTES,
}


@pytest.mark.parametrize("answer", [pytest.param(a, id=name) for name, a in REFUSED.items()])
def test_an_answer_is_refused_without_quoting_it(answer):
    assert read({"access_token": TOKEN})
    with pytest.raises(RefreshRefused) as caught:
        read(answer)
    assert caught.value.reason is RefreshReason.PRECONDITION
    assert TOKEN not in caught.value.message
    assert caught.value.__context__ is None


@pytest.mark.parametrize("status", [199, 302, 307, 400, 401, 500])
def test_only_success_is_read(status):
    with pytest.raises(RefreshRefused) as caught:
        read({"access_token": TOKEN, "error_description": "because of secrets"}, status)
    assert str(status) in caught.value.message
    assert "because" not in caught.value.message


@given(st.binary(max_size=200))
def test_any_bytes_are_an_answer_or_a_refusal(body):
    try:
        minted = read(body)
    except RefreshRefused:
        return
    assert minted.values["KEY"]


@given(
    st.dictionaries(
        st.sampled_from(["access_token", "expires_in", "refresh_token"]),
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12)),
    )
)
def test_whatever_is_read_may_stand_in_a_head_and_ends_in_time(answer):
    try:
        minted = read(json.dumps(answer).encode())
    except RefreshRefused:
        return
    for value in (*minted.values.values(), minted.refresh_token or "x"):
        assert value.isascii()
        assert value.isprintable()
        assert " " not in value
    assert ASKED_MS < minted.expires_at_ms <= ASKED_MS + 3_600_000


def test_no_secret_is_in_a_repr():
    minted = read({"access_token": TOKEN, "refresh_token": "next-one"})
    assert TOKEN not in repr(minted)
    assert "next-one" not in repr(minted)
