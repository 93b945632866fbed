"""Which URLs tokens come from, and which answers hold one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.credentials import TokenUnavailable
from openshell.supervisor.token_endpoint import TokenEndpoint
from openshell.supervisor.token_issuer import read_answer


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("https://idp.example/token", (True, "idp.example", 443, "/token")),
        ("https://IDP.example", (True, "idp.example", 443, "/")),
        ("https://idp.example:8443/a/b?c=d", (True, "idp.example", 8443, "/a/b?c=d")),
        ("https://[2001:db8::1]/t", (True, "2001:db8::1", 443, "/t")),
        ("http://localhost:8080/t", (False, "localhost", 8080, "/t")),
        ("http://127.9.9.9/t", (False, "127.9.9.9", 80, "/t")),
        ("http://[::1]:1/t", (False, "::1", 1, "/t")),
        ("http://idp.auth.svc/t", (False, "idp.auth.svc", 80, "/t")),
        ("http://idp.auth.svc.cluster.local/t", (False, "idp.auth.svc.cluster.local", 80, "/t")),
        ("http://idp.example/t", None),
        ("http://10.0.0.1/t", None),
        ("http://a.b.c.svc/t", None),
        ("http://svc/t", None),
        ("http://idp.auth.svc.cluster.local.evil/t", None),
        ("http://localhost.evil/t", None),
        ("http://localhost@evil/t", None),
        ("https://user@idp.example/t", None),
        ("https://idp.example/t#f", None),
        ("https://idp.example/a b", None),
        ("https://idp.example/a\r\nX: 1", None),
        ("https://idp.example:0/t", None),
        ("https://idp.example:70000/t", None),
        ("https:///t", None),
        ("ftp://idp.example/t", None),
        ("HTTPS://idp.example/t", (True, "idp.example", 443, "/t")),
        ("HTTP://idp.example/t", None),
        ("/token", None),
        ("", None),
    ],
)
def test_urls(url, endpoint):
    found = TokenEndpoint.parse(url)
    assert (found and (found.is_tls, found.host, found.port, found.target)) == endpoint


@pytest.mark.parametrize(
    ("expires_in", "seconds"),
    [
        (60, 60),
        ("60", 60),
        (60.9, 60),
        (None, 0),
        (-1, 0),
        (True, 0),
        ("soon", 0),
        ("9" * 5000, 999_999_999_999),
        (1e300, 1_000_000_000_000),
        (float("nan"), 0),
        (float("inf"), 1_000_000_000_000),
        ([60], 0),
    ],
)
def test_when_a_token_ends(expires_in, seconds):
    answer = json.dumps({"access_token": "abc", "expires_in": expires_in}).encode()
    issued = read_answer(200, answer)
    assert (issued.value, issued.expires_in) == ("abc", seconds)


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (400, {"error": "invalid_client", "error_description": "no"}, "400 (invalid_client: no)"),
        (401, {"error": "a\r\nb\x1b[1m"}, "401 (a  b [1m)"),
        (500, {"error": "x" * 1000}, f"500 ({'x' * 256})"),
        (400, {"error": ["x"], "access_token": "secret"}, "answered 400"),
        (302, {"access_token": "secret"}, "answered 302"),
        (404, "secret", "answered 404"),
        (200, {"access_token": "se cret"}, "no usable access_token"),
        (200, {"access_token": 5}, "no usable access_token"),
        (200, ["secret"], "no usable access_token"),
    ],
)
def test_answers_without_a_token(status, body, said):
    with pytest.raises(TokenUnavailable) as raised:
        read_answer(status, json.dumps(body).encode())
    assert str(raised.value).endswith(said)
    assert "secret" not in str(raised.value)


@given(
    st.integers(200, 599),
    st.binary()
    | st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=4),
        lambda inner: st.dictionaries(
            st.sampled_from(["access_token", "expires_in", "error"]), inner
        ),
        max_leaves=4,
    ).map(lambda document: json.dumps(document).encode()),
)
def test_any_answer_is_a_token_or_a_refusal(status, body):
    try:
        issued = read_answer(status, body)
    except TokenUnavailable as error:
        assert str(error).isprintable()
    else:
        assert 200 <= status <= 299
        assert issued.value
        assert issued.expires_in >= 0
