"""Which route a request means."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.policy_local.routes import (
    CurrentPolicy,
    Find,
    Propose,
    RecentDenials,
    Wait,
    route,
)

ROUTES = {
    "policy": ("GET", "/v1/policy/current", CurrentPolicy()),
    "policy with a query": ("GET", "/v1/policy/current?x", CurrentPolicy()),
    "denials": ("GET", "/v1/denials", RecentDenials(10)),
    "denials counted": ("GET", "/v1/denials?last=5", RecentDenials(5)),
    "no denials": ("GET", "/v1/denials?last=0", RecentDenials(1)),
    "many denials": ("GET", "/v1/denials?last=5000", RecentDenials(100)),
    "denials of a word": ("GET", "/v1/denials?last=all", RecentDenials(10)),
    "negative denials": ("GET", "/v1/denials?last=-1", RecentDenials(10)),
    "digits of another script": ("GET", "/v1/denials?last=%D9%A3", RecentDenials(10)),
    "too many digits": ("GET", "/v1/denials?last=" + "9" * 5000, RecentDenials(10)),
    "too many parameters": ("GET", "/v1/denials?" + "a=1&" * 40 + "last=5", RecentDenials(10)),
    "propose": ("POST", "/v1/proposals", Propose()),
    "find": ("GET", "/v1/proposals/abc", Find("abc")),
    "wait": ("GET", "/v1/proposals/abc/wait", Wait("abc", 60)),
    "short wait": ("GET", "/v1/proposals/abc/wait?timeout=0", Wait("abc", 1)),
    "long wait": ("GET", "/v1/proposals/abc/wait?timeout=999", Wait("abc", 300)),
    "wait for a fraction": ("GET", "/v1/proposals/abc/wait?timeout=1.5", Wait("abc", 60)),
    "root": ("GET", "/", None),
    "other method": ("POST", "/v1/policy/current", None),
    "head": ("HEAD", "/v1/policy/current", None),
    "method in lower case": ("get", "/v1/policy/current", None),
    "slash at the end": ("GET", "/v1/policy/current/", None),
    "dot segments": ("GET", "/v1/./policy/current", None),
    "list of proposals": ("GET", "/v1/proposals", None),
    "empty id": ("GET", "/v1/proposals/", None),
    "empty id, wait": ("GET", "/v1/proposals//wait", None),
    "deeper": ("GET", "/v1/proposals/abc/wait/x", None),
    "other verb": ("GET", "/v1/proposals/abc/approve", None),
    "approving": ("POST", "/v1/proposals/abc/approve", None),
    "deleting": ("DELETE", "/v1/proposals/abc", None),
}


@pytest.mark.parametrize(("method", "target", "wanted"), ROUTES.values(), ids=ROUTES.keys())
def test_a_request_means_one_route_or_none(method, target, wanted):
    assert route(method, target) == wanted


@given(st.sampled_from(["GET", "POST"]), st.text(max_size=60))
def test_no_target_is_an_error(method, target):
    found = route(method, "/v1/denials?" + target)
    assert found is None or method == "GET"
    if isinstance(found, RecentDenials):
        assert 1 <= found.last <= 100
