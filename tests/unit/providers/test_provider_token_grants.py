"""Scores, overlap and ambiguity of token grants by the contract's table, and the choice at run time."""

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.policy.overlap import Budget
from openshell.providers.selectors import (
    covers_host,
    covers_path,
    selectors_overlap,
    spans_overlap,
)
from openshell.providers.token_grants import GrantBinding, expand, find_ambiguity, score
from unit.providers.provider_cases import attached, endpoint, grant, profile


def binding(host="api.x.com", port=443, path="", provider="p", credential="c"):
    return GrantBinding(provider, credential, host, port, path, grant(credential))


@pytest.mark.parametrize(
    ("host", "path", "expected"),
    [
        pytest.param("api.x.com", "", 100_000 + 300 + 9, id="name"),
        pytest.param("*.x.com", "", 90_000 + 300 + 6, id="star"),
        pytest.param("**.x.com", "", 80_000 + 300 + 6, id="two stars"),
        pytest.param("*.*.*.*.*.*.*.*.*.*.*.com", "", 0 + 1200 + 14, id="never below zero"),
        pytest.param("api..com.", "", 100_000 + 200 + 9, id="empty labels do not count"),
        pytest.param("api.x.com", "**", 100_309, id="any path"),
        pytest.param("api.x.com", "/**", 1_100_309 + 1, id="a tree outranks no path"),
        pytest.param("api.x.com", "/v1/**", 1_100_309 + 4, id="tree"),
        pytest.param("api.x.com", "/v1/*/x", 1_100_309 + 6, id="one star in a path"),
    ],
)
def test_score(host, path, expected):
    assert score(host, path) == expected


AMBIGUITY = [
    pytest.param(
        binding(path="/v1/**"), binding(path="/v1/**", provider="q"), True, id="same selector"
    ),
    pytest.param(
        binding(path="/v1/**"), binding(path="/v2/**", provider="q"), False, id="disjoint"
    ),
    pytest.param(
        binding(path="/v1/**"),
        binding(path="/v1/admin/**", provider="q"),
        False,
        id="scores differ",
    ),
    pytest.param(binding(), binding(host="*.x.com", provider="q"), False, id="host scores differ"),
    pytest.param(binding(), binding(port=8443, provider="q"), False, id="ports"),
    pytest.param(binding(), binding(credential="d"), True, id="two credentials of one provider"),
    pytest.param(binding(), binding(), False, id="the same grant"),
    pytest.param(
        binding(host="a-*.x.com"), binding(host="*-a.x.com", provider="q"), True, id="glob-aware"
    ),
    pytest.param(
        binding(host="a?.x.com"), binding(host="ab.x.com", provider="q"), True, id="question mark"
    ),
    pytest.param(
        binding(host="a*.x.com"), binding(host="b*.x.com", provider="q"), False, id="apart"
    ),
    pytest.param(
        binding(path="/a*"), binding(path="/*b", provider="q"), True, id="two globs are assumed"
    ),
]


@pytest.mark.parametrize(("one", "two", "ambiguous"), AMBIGUITY)
def test_ambiguity(one, two, ambiguous):
    assert find_ambiguity([one]) is None
    for pair in ([one, two], [two, one]):
        assert (find_ambiguity(pair) is not None) is ambiguous


def test_the_message_names_both_grants_the_place_and_the_way_out():
    found = find_ambiguity([binding(path="/v1/**"), binding(path="/v1/**", provider="q")])
    assert found.providers == ("p", "q")
    for part in ("p:c and q:c are ambiguous", "api.x.com:443", "'/v1/**'", "attach only one"):
        assert part in found.message


def test_too_many_to_compare_are_refused_in_bounded_time():
    many = [binding(path=f"/{'a*' * 40}{i:03}*", credential=f"c{i}") for i in range(400)]
    apart = [binding(host=f"{'*a' * 9}{i:03}?.x.com", credential=f"c{i}") for i in range(400)]
    started = time.process_time()
    assert find_ambiguity(many) is not None
    assert find_ambiguity(apart) is not None
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("one", "two", "overlap"),
    [
        pytest.param("api.x.com", "API.X.COM", True, id="case"),
        pytest.param("*.x.com", "api.x.com", True, id="one label"),
        pytest.param("*.x.com", "a.b.x.com", False, id="one label only"),
        pytest.param("**.x.com", "a.b.x.com", True, id="many labels"),
        pytest.param("**.x.com", "x.com", True, id="no label, as the contract has it"),
        pytest.param("**.com", "api.**", True, id="both open"),
        pytest.param("a*b.x.com", "ax*.x.com", True, id="within a label"),
        pytest.param("[ab].x.com", "[cd].x.com", False, id="classes apart"),
        pytest.param("a{b}*.x.com", "zz.x.com", True, id="braces are not compared"),
    ],
)
def test_hosts_overlap(one, two, overlap):
    assert selectors_overlap(one, two, Budget()) is overlap
    assert selectors_overlap(two, one, Budget()) is overlap


@pytest.mark.parametrize(
    ("one", "two", "overlap"),
    [
        pytest.param("", "/x", True, id="empty"),
        pytest.param("/**", "/x", True, id="everything"),
        pytest.param("/v1/**", "/v1", True, id="the root of a tree"),
        pytest.param("/v1/**", "/v1/a/b", True, id="below"),
        pytest.param("/v1/**", "/v10", False, id="not a prefix of text"),
        pytest.param("/v1/**", "/v1/admin/**", True, id="nested trees"),
        pytest.param("/v1/**", "/v2/**", False, id="trees apart"),
        pytest.param("/v*/**", "/v2/**", True, id="a tree of patterns"),
        pytest.param("/v*/**", "/w2/**", False, id="a tree of patterns apart"),
        pytest.param("/a", "/b", False, id="names"),
        pytest.param("/?", "/b", True, id="question mark"),
        pytest.param("/a?", "/?b", True, id="two question marks"),
    ],
)
def test_paths_overlap(one, two, overlap):
    assert spans_overlap(one, two, Budget()) is overlap
    assert spans_overlap(two, one, Budget()) is overlap


LABELS = st.lists(st.text("ab*?", min_size=1, max_size=3), min_size=1, max_size=4)
NAMES = st.lists(st.text("ab", min_size=1, max_size=3), min_size=1, max_size=4)
PATHS = st.lists(st.text("ab*?", max_size=3), max_size=3).map(lambda parts: "/" + "/".join(parts))
TEXTS = st.lists(st.text("ab", max_size=3), max_size=3).map(lambda parts: "/" + "/".join(parts))


@given(LABELS.map(".".join), LABELS.map(".".join), NAMES.map(".".join))
def test_a_host_that_both_cover_makes_them_overlap(one, two, name):
    if covers_host(one, name) and covers_host(two, name):
        assert selectors_overlap(one, two, Budget())


@given(PATHS, PATHS, TEXTS)
def test_a_path_that_both_cover_makes_them_overlap(one, two, path):
    if covers_path(one, path) and covers_path(two, path):
        assert spans_overlap(one, two, Budget())


BINDINGS = st.lists(
    st.builds(
        binding,
        host=LABELS.map(".".join),
        path=st.one_of(st.just(""), PATHS),
        provider=st.sampled_from("pq"),
        credential=st.sampled_from("cd"),
    ),
    max_size=4,
)


@given(BINDINGS, NAMES.map(".".join), TEXTS)
def test_without_ambiguity_no_two_owners_share_the_highest_score(bindings, host, path):
    if find_ambiguity(bindings) is not None:
        return
    covering = [
        found
        for found in bindings
        if covers_host(found.host, host) and covers_path(found.path, path)
    ]
    scores = [score(found.host, found.path) for found in covering]
    best = [found for found, own in zip(covering, scores, strict=True) if own == max(scores)]
    assert len({(found.provider, found.credential) for found in best}) <= 1


@given(BINDINGS)
def test_ambiguity_does_not_depend_on_order(bindings):
    verdicts = {find_ambiguity(p) is None for p in itertools.permutations(bindings)}
    assert len(verdicts) == 1


def keys(*credentials, endpoints):
    spec = profile(endpoints=endpoints, credentials=credentials)
    return {found.key: found for found in expand([attached("work", spec)])}


def test_a_grant_is_multiplied_out_over_hosts_and_ports():
    found = keys(
        grant(),
        endpoints=[endpoint("API.x.com", ports=(443, 8443, 0)), endpoint("b.com", path="/p")],
    )
    assert list(found) == [
        "api.x.com\t443\t\twork:token",
        "api.x.com\t8443\t\twork:token",
        "b.com\t443\t/p\twork:token",
    ]


def test_an_override_inherits_what_it_leaves_empty_and_replaces_what_it_says():
    found = keys(
        grant("token", {"audience": "admin", "path": "/admin/**"}, audience="all", scopes=("s",)),
        endpoints=[endpoint("api.x.com")],
    )
    assert list(found) == [
        "api.x.com\t443\t\twork:token",
        "api.x.com\t443\t/admin/**\twork:token",
    ]
    default, admin = (item.settings.token_grant for item in found.values())
    assert (default.audience, admin.audience) == ("all", "admin")
    assert (default.scopes, admin.scopes) == (("s",), ("s",))
    assert admin.audience_overrides == ()


@pytest.mark.parametrize(
    ("override", "applies"),
    [
        pytest.param({}, True, id="anywhere"),
        pytest.param({"host": "api.x.com"}, True, id="same host"),
        pytest.param({"host": "*.x.com"}, True, id="wider host"),
        pytest.param({"host": "b.x.com"}, False, id="other host"),
        pytest.param({"port": 443}, True, id="same port"),
        pytest.param({"port": 8443}, False, id="other port"),
    ],
)
def test_an_override_applies(override, applies):
    found = keys(
        grant("token", {"audience": "o", "path": "/o", **override}),
        endpoints=[endpoint("api.x.com")],
    )
    assert any(item.settings.token_grant.audience == "o" for item in found.values()) is applies


@pytest.mark.parametrize("turned", [False, True])
def test_an_override_that_lands_on_a_default_replaces_it_whichever_endpoint_comes_first(turned):
    endpoints = [endpoint("api.x.com"), endpoint("api.x.com", path="/o")]
    found = keys(
        grant("token", {"audience": "o", "path": "/o"}, audience="all"),
        endpoints=endpoints[::-1] if turned else endpoints,
    )
    audiences = {item.path: item.settings.token_grant.audience for item in found.values()}
    assert audiences == {"": "all", "/o": "o"}


def test_two_providers_of_one_profile_are_ambiguous():
    spec = profile(endpoints=[endpoint()], credentials=[grant()])
    assert find_ambiguity(expand([attached("one", spec)])) is None
    found = find_ambiguity(expand([attached("one", spec), attached("two", spec)]))
    assert found.providers == ("one", "two")
