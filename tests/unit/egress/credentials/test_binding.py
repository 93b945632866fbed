"""Which endpoints a binding covers."""

from __future__ import annotations

import time

import pytest

from openshell.egress.credentials import BadPattern, BoundEndpoint, EndpointScope


@pytest.mark.parametrize(
    ("pattern", "host", "covers"),
    [
        ("api.example.com", "api.example.com", True),
        ("API.example.com", "api.EXAMPLE.com", True),
        ("api.example.com", "xapi.example.com", False),
        ("api.example.com", "api.example.com.", False),
        ("*.example.com", "a.example.com", True),
        ("*.example.com", "a.b.example.com", False),
        ("*.example.com", "example.com", False),
        ("**.example.com", "a.b.example.com", True),
        ("**.example.com", "example.com", False),
        ("a.**.com", "a.b.c.com", True),
        ("a.**.com", "a.com", False),
        ("**", "anything.at.all", True),
        ("api-?.example.com", "api-1.example.com", True),
        ("api-?.example.com", "api-12.example.com", False),
        ("api-[0-9].example.com", "api-7.example.com", True),
        ("api-[!0-9].example.com", "api-7.example.com", False),
        ("a*b*c.com", "axxbyyc.com", True),
        ("a*b*c.com", "axxcyyb.com", False),
        ("a.com", "aXcom", False),
        ("a+.com", "aa.com", False),
    ],
)
def test_hosts(pattern: str, host: str, covers: bool) -> None:
    assert BoundEndpoint(pattern, 443).covers(EndpointScope(host, 443, "/")) is covers


@pytest.mark.parametrize(
    "pattern", ["", " ", "a b.com", "a..com", ".com", "a.", "{a,b}.com", "a[.com", "a\t.com"]
)
def test_bad_hosts(pattern: str) -> None:
    with pytest.raises(BadPattern):
        BoundEndpoint(pattern, 443)


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_bad_ports(port: int) -> None:
    with pytest.raises(BadPattern):
        BoundEndpoint("a.com", port)


def test_another_port_is_not_covered() -> None:
    assert not BoundEndpoint("a.com", 443).covers(EndpointScope("a.com", 80, "/"))


@pytest.mark.parametrize(
    ("pattern", "path", "covers"),
    [
        ("", "/x", True),
        ("**", "/x/y", True),
        ("/**", "/", True),
        ("/v1/**", "/v1", True),
        ("/v1/**", "/v1/x/y", True),
        ("/v1/**", "/v10", False),
        ("/v1/*", "/v1/x/y", True),
        ("/v1/*/end", "/v1/x/y/end", True),
        ("/v1/*/end", "/v1/end", False),
        ("/v1", "/v1/", False),
        ("/a*b/**", "/axbyb/z", True),
        ("/a[", "/a[", True),
        ("/a[", "/ab", False),
        ("/a.c", "/abc", False),
    ],
)
def test_paths(pattern: str, path: str, covers: bool) -> None:
    assert BoundEndpoint("a.com", 443, pattern).covers(EndpointScope("a.com", 443, path)) is covers


def test_matching_does_not_explode() -> None:
    bound = BoundEndpoint("**.**.**.com", 443, "/" + "a*" * 30 + "b")
    started = time.perf_counter()
    assert not bound.covers(EndpointScope("a." * 60 + "org", 443, "/"))
    assert not bound.covers(EndpointScope("a.b.c.com", 443, "/" + "a" * 4000))
    assert time.perf_counter() - started < 1
