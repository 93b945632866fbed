"""Which request gets a token, and in which field."""

from __future__ import annotations

import pytest

from openshell.egress.credentials import (
    EndpointScope,
    GrantRejected,
    GrantSet,
    TokenGrant,
    inject,
)
from openshell.egress.credentials.grants import field_of, is_token68


def grant(host, port=443, path="", owner="p:c", **extra):
    key = f"{host}\t{port}\t{path}\t{owner}"
    endpoint, named = TokenGrant.place(key)
    assert named == owner
    return TokenGrant(key, endpoint, "https://idp.example/token", "aud", "type", **extra)


GRANTS = [
    grant("**.example", owner="every"),
    grant("*.example", owner="any"),
    grant("api.example", owner="host"),
    grant("api.example", path="/v1/**", owner="v1"),
    grant("api.example", path="/v1/admin/**", owner="admin"),
    grant("api.example", 8443, owner="other port"),
    grant("tie.example", path="/x", owner="a:a"),
    grant("tie.example", path="/x", owner="b:b"),
]


@pytest.mark.parametrize(
    ("host", "port", "path", "owner"),
    [
        ("api.example", 443, "/", "host"),
        ("API.example", 443, "/v2", "host"),
        ("api.example", 443, "/v1", "v1"),
        ("api.example", 443, "/v1/x", "v1"),
        ("api.example", 443, "/v1/admin/x", "admin"),
        ("api.example", 443, "/v1/[CREDENTIAL]", "v1"),
        ("api.example", 8443, "/v1", "other port"),
        ("www.example", 443, "/", "any"),
        ("a.b.example", 443, "/", "every"),
        ("tie.example", 443, "/x", "b:b"),
        ("api.example", 80, "/", None),
        ("api.example.evil", 443, "/", None),
        ("api.example.", 443, "/", None),
    ],
)
def test_the_most_specific_grant_is_chosen(host, port, path, owner):
    for order in (GRANTS, GRANTS[::-1]):
        chosen = GrantSet.build(order, None).choose(EndpointScope(host, port, path))
        assert (chosen and chosen.owner) == owner


@pytest.mark.parametrize(
    "key",
    [
        "",
        "a.example\t443\tp:c",
        "a.example\t443\t\tp:c\tx",
        "a.example\t0\t\tp:c",
        "a.example\t65536\t\tp:c",
        "a.example\t+443\t\tp:c",
        "a.example\t\u0664\t\tp:c",
        "\t443\t\tp:c",
        "{a}\t443\t\tp:c",
    ],
)
def test_malformed_keys_are_refused(key):
    with pytest.raises(GrantRejected):
        TokenGrant.place(key)


@pytest.mark.parametrize(
    ("style", "name", "field"),
    [
        ("", "", ("Authorization", True)),
        ("Bearer", "", ("Authorization", True)),
        ("bearer", "X-Auth", ("X-Auth", True)),
        ("header", "X-Api-Key", ("X-Api-Key", False)),
    ],
)
def test_fields(style, name, field):
    assert field_of(style, name) == field


@pytest.mark.parametrize(
    ("style", "name"),
    [
        ("header", ""),
        ("basic", ""),
        ("query", "X"),
        *(
            ("bearer", name)
            for name in ("Host", "content-LENGTH", "Transfer-Encoding", "Connection")
        ),
        ("header", "a b"),
        ("header", "a:\r\nb"),
        ("header", "é"),
    ],
)
def test_fields_that_no_token_goes_into(style, name):
    with pytest.raises(GrantRejected):
        field_of(style, name)


def test_a_token_stands_instead_of_what_was_there():
    headers = (
        (b"Host", b"a"),
        (b"AUTHORIZATION", b"Bearer mine"),
        (b"authorization", b"x"),
        (b"B", b"1"),
    )
    bearer = grant("a.example")
    assert inject(bearer, "t0k", headers) == (
        (b"Host", b"a"),
        (b"B", b"1"),
        (b"Authorization", b"Bearer t0k"),
    )
    raw = grant("a.example", header="X-Key", is_bearer=False)
    assert inject(raw, "t0k", headers)[-1] == (b"X-Key", b"t0k")


@pytest.mark.parametrize(
    ("token", "fits"),
    [
        ("abc.DEF-1_~+/==", True),
        ("", False),
        ("a b", False),
        ("a\r\nb", False),
        ("a=b", False),
        ("é", False),
        ("a" * 8193, False),
    ],
)
def test_tokens_that_fit_into_a_field(token, fits):
    assert is_token68(token) is fits
