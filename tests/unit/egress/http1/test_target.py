"""Authorities and which fields go on."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.http1 import (
    AbsoluteTarget,
    Authority,
    HeadRejected,
    end_to_end,
    parse_absolute_target,
    parse_connect_target,
    parse_host_field,
)


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"a.Example:443", Authority("a.example", 443)),
        (b"[::1]:8443", Authority("::1", 8443)),
        (b"10.0.0.1:0", Authority("10.0.0.1", 0)),
        (b"a:65535", Authority("a", 65535)),
        (b"_a-1.example.:443", Authority("_a-1.example.", 443)),
        (b"a" * 254 + b":443", Authority("a" * 254, 443)),
    ],
)
def test_connect_target(target: bytes, expected: Authority) -> None:
    assert parse_connect_target(target) == expected


@pytest.mark.parametrize(
    "target",
    [
        b"a",
        b"a:",
        b":443",
        b"a:65536",
        b"a:+1",
        b"::1:443",
        b"[::1]",
        b"u@a:1",
        b"a:1:2",
        b"a:1/",
        b"/",
        b"[a]b:1",
        b"*.example:443",
        b"*:443",
        b"a%2eexample:443",
        b"a..example:443",
        b".example:443",
        b".:443",
        b"a'b:443",
        b"fe80::1%eth0:443",
        b"[fe80::1%eth0]:443",
        b"[cafe.de]:443",
        b"[10.0.0.1]:443",
        b"[..]:443",
        b"[1::2::3]:443",
        b"[:::]:443",
        b"a" * 255 + b":443",
    ],
)
def test_connect_target_refused(target: bytes) -> None:
    with pytest.raises(HeadRejected):
        parse_connect_target(target)


@pytest.mark.parametrize(
    ("target", "expected", "field"),
    [
        (
            b"HTTP://A.example/x?y=1",
            AbsoluteTarget("http", "a.example", 80, b"/x?y=1"),
            "a.example",
        ),
        (b"http://a:8080", AbsoluteTarget("http", "a", 8080, b"/"), "a:8080"),
        (b"http://a?q", AbsoluteTarget("http", "a", 80, b"/?q"), "a"),
        (b"https://[::1]:443/", AbsoluteTarget("https", "::1", 443, b"/"), "[::1]"),
        (b"ftp://a/x", AbsoluteTarget("ftp", "a", 80, b"/x"), "a"),
    ],
)
def test_absolute_target(target: bytes, expected: AbsoluteTarget, field: str) -> None:
    assert parse_absolute_target(target) == expected
    assert expected.host_field == field


@pytest.mark.parametrize(
    "target",
    [
        b"/x",
        b"http:///x",
        b"http://a/#f",
        b"http://u@a/",
        b"http://a:x/",
        b"//a/x",
        b"*",
        b"http://a\\b/",
    ],
)
def test_absolute_target_refused(target: bytes) -> None:
    with pytest.raises(HeadRejected):
        parse_absolute_target(target)


def test_host_field() -> None:
    assert parse_host_field(b"A.example:80") == Authority("a.example", 80)
    assert parse_host_field(b"a") == Authority("a", None)


@given(st.binary(max_size=30))
def test_any_bytes(data: bytes) -> None:
    for parse in (parse_connect_target, parse_absolute_target, parse_host_field):
        try:
            parse(data)
        except HeadRejected:
            continue


def test_fields_for_this_hop_do_not_go_on() -> None:
    headers = (
        (b"Host", b"a"),
        (b"connection", b"close, X-Mine"),
        (b"X-Mine", b"1"),
        (b"Upgrade", b"h2c"),
        (b"Proxy-Authorization", b"Basic x"),
        (b"Proxy-Connection", b"keep-alive"),
        (b"Transfer-Encoding", b"chunked"),
        (b"X-Yours", b"2"),
    )
    assert end_to_end(headers) == (
        (b"Host", b"a"),
        (b"Transfer-Encoding", b"chunked"),
        (b"X-Yours", b"2"),
    )
