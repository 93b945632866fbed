"""Glob dialects: the contract's table, agreement with a slow matcher, and linear time."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.policy.globs import GlobError, compile_glob, compile_route, compile_selector
from unit.policy import policy_reference as reference
from unit.policy.policy_cases import load


def compiled(case):
    if case["dialect"] == "E":
        return compile_glob(case["pattern"], case.get("sep", "/"))
    return (compile_route if case["dialect"] == "R" else compile_selector)(case["pattern"])


@pytest.mark.parametrize("case", load("globs"))
def test_matches_what_the_contract_says(case):
    matcher = compiled(case)
    assert [text for text in case["hit"] if not matcher(text)] == []
    assert [text for text in case["miss"] if matcher(text)] == []


@pytest.mark.parametrize("case", load("globs_refused"))
def test_unreadable_patterns_are_refused(case):
    with pytest.raises(GlobError):
        compiled(case)


ATOMS = ["a", "b", "*", "?", "**", "[ab]", "[!a]", "{a,b*}", "{a,b}"]


def patterns(sep):
    parts = st.lists(st.sampled_from(ATOMS), max_size=3).map("".join)
    whole = st.lists(st.one_of(parts, st.just("**")), max_size=5).map(sep.join)
    return whole.filter(lambda pattern: pattern.count("{") <= 5)


def texts(sep):
    return st.lists(st.text(alphabet="abc", max_size=3), max_size=5).map(sep.join)


@settings(max_examples=400, deadline=None)
@given(patterns("/"), texts("/"))
def test_paths_agree_with_the_slow_matcher(pattern, text):
    assert bool(compile_glob(pattern, "/")(text)) == reference.glob_matches(pattern, text, "/")


@settings(max_examples=400, deadline=None)
@given(patterns("."), texts("."))
def test_names_agree_with_the_slow_matcher(pattern, text):
    assert bool(compile_glob(pattern, ".")(text)) == reference.glob_matches(pattern, text, ".")


@settings(max_examples=400, deadline=None)
@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "?", "[ab]", "[!a]"]), max_size=8).map("".join),
    st.booleans(),
    texts("/"),
)
def test_routes_agree_with_the_slow_matcher(body, below, text):
    pattern = f"/{body}/**" if below else f"/{body}"
    if "/**/" in f"{body}/" or "**" in body:
        return
    assert bool(compile_route(pattern)(f"/{text}")) == reference.route_matches(pattern, f"/{text}")


@settings(max_examples=500)
@given(st.text(alphabet="a/.*?[]{}!,\\-^\0é", max_size=30), st.text(max_size=20))
def test_any_text_is_a_pattern_or_refused(pattern, text):
    for sep in "/.":
        try:
            compile_glob(pattern, sep)(text)
        except GlobError:
            continue
    compile_route(pattern)(text)


HOSTILE = [
    "/" + "*a" * 60 + "b",
    "/**/" * 40 + "b",
    "/" + "**/a/" * 40 + "b",
    "/" + "*a*/" * 30 + "**/" + "*b" * 30,
    "/" + "{a,*}" * 6 + "b",
    "/" + "?*" * 80 + "b",
    "/" + "[ab]*" * 80 + "c",
    "**/" + "*" * 200 + "b",
]


@pytest.mark.parametrize("pattern", HOSTILE, ids=range(len(HOSTILE)))
@pytest.mark.parametrize("unit", ["a", "a/", "aa/a", "/"])
def test_time_grows_linearly(pattern, unit):
    """Doubling the text may not take much more than double the time (best of several runs)."""
    matchers = [compile_glob(pattern, "/"), compile_route(pattern)]

    def best(length):
        text = "/" + (unit * length)[:length]
        took = []
        for _ in range(4):
            start = time.process_time()
            for matcher in matchers:
                matcher(text)
            took.append(time.process_time() - start)
        return min(took)

    short, long = best(2_000), best(16_000)
    # Eight times the text: linear is 8, quadratic 64. The floor keeps clock noise out.
    assert long < max(short, 0.0005) * 30
