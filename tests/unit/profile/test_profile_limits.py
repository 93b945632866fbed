"""How large a profile may be, and that a hostile one costs little to refuse."""

import time
from dataclasses import replace

import pytest

from openshell.policy.model import Binary, Endpoint, L7Rule, Matcher
from openshell.providers.profile import model as p
from openshell.providers.profile.limits import (
    COUNTS,
    DEFAULT_COUNT,
    DEFAULT_TEXT_BYTES,
    MAX_PROFILE_BYTES,
    TEXT_BYTES,
)
from openshell.providers.profile.lint import MAX_FINDINGS, lint_profile

PLAIN = Endpoint("api.example.com", (443,), protocol="rest", access="full")


def profile(**values):
    return p.ProviderProfile(**{"id": "a", "display_name": "A", **values})


def credential(**values):
    return profile(credentials=(p.ProfileCredential(**{"name": "c", **values}),))


def endpoint(**values):
    return profile(endpoints=(replace(PLAIN, **values),))


def numbered(count, make):
    return tuple(make(f"n{index}") for index in range(count))


RULE = L7Rule("GET", "/")
COUNTED = {
    "credentials": lambda n: profile(credentials=numbered(n, p.ProfileCredential)),
    "endpoints": lambda n: profile(endpoints=(PLAIN,) * n),
    "binaries": lambda n: profile(binaries=(Binary("/a"),) * n),
    "annotations": lambda n: profile(annotations=dict.fromkeys(numbered(n, str), "x")),
    "env_vars": lambda n: credential(env_vars=numbered(n, str)),
    "material": lambda n: credential(
        refresh=p.Refresh(p.Strategy.EXTERNAL, material=numbered(n, p.Material))
    ),
    "scopes": lambda n: credential(refresh=p.Refresh(p.Strategy.EXTERNAL, scopes=("s",) * n)),
    "audience_overrides": lambda n: credential(
        token_grant=p.TokenGrant(
            "https://h/", audience_overrides=(p.AudienceOverride(audience="x"),) * n
        )
    ),
    "ports": lambda n: endpoint(ports=(443,) * n),
    "rules": lambda n: endpoint(access="", rules=(RULE,) * n),
    "deny_rules": lambda n: endpoint(deny_rules=(RULE,) * n),
    "allowed_ips": lambda n: endpoint(allowed_ips=("10.0.0.1",) * n),
    "query": lambda n: endpoint(
        deny_rules=(replace(RULE, query=dict.fromkeys(numbered(n, str), Matcher("x"))),)
    ),
    "any": lambda n: endpoint(deny_rules=(replace(RULE, query={"q": Matcher("", ("x",) * n)}),)),
}


@pytest.mark.parametrize("name", COUNTED)
def test_lists_and_maps_are_limited(name):
    most = COUNTS.get(name, DEFAULT_COUNT)
    assert [f for f in lint_profile(COUNTED[name](most)) if f.is_error] == []
    found = [f for f in lint_profile(COUNTED[name](most + 1)) if f.is_error]
    assert [f.message for f in found] == [f"too many entries ({most + 1} > {most})"]
    assert found[0].field.rpartition(".")[2] == name or name in ("query", "any")


SIZED = {
    "id": lambda text: profile(id=text),
    "display_name": lambda text: profile(display_name=text),
    "description": lambda text: profile(description=text),
    "annotations.k": lambda text: profile(annotations={"k": text}),
    "credentials[0].name": lambda text: credential(name=text),
    "credentials[0].env_vars[0]": lambda text: credential(env_vars=(text,)),
    "endpoints[0].host": lambda text: endpoint(host=f"{text[:-6]}.x.com"[-len(text) :]),
    "endpoints[0].signing_region": lambda text: endpoint(signing_region=text),
    "endpoints[0].deny_rules[0].query.q.glob": lambda text: endpoint(
        deny_rules=(replace(RULE, query={"q": Matcher(text)}),)
    ),
    "endpoints[0].deny_rules[0].query.q.any[0]": lambda text: endpoint(
        deny_rules=(replace(RULE, query={"q": Matcher("", (text,))}),)
    ),
    "endpoints[0].rules[0].allow.path": lambda text: endpoint(
        access="", rules=(L7Rule("GET", text),)
    ),
    "binaries[0].path": lambda text: profile(binaries=(Binary(text),)),
}


@pytest.mark.parametrize("field", SIZED)
def test_text_is_limited(field):
    name = field.split(".")[-1].split("[")[0] if field != "annotations.k" else ""
    most = TEXT_BYTES.get(name, DEFAULT_TEXT_BYTES)
    assert [f for f in lint_profile(SIZED[field]("a" * most)) if f.is_error] == []
    found = [f for f in lint_profile(SIZED[field]("a" * (most + 1))) if f.is_error]
    assert (found[0].field, found[0].message) == (field, f"too long ({most + 1} > {most} bytes)")


def test_bytes_are_counted_and_not_characters():
    assert lint_profile(profile(display_name="é" * 128)) == ()
    assert lint_profile(profile(display_name="é" * 129))[0].field == "display_name"


def test_a_profile_is_limited_as_a_whole_and_then_looked_at_no_further():
    fits = profile(binaries=numbered(60, lambda n: Binary(f"/{n}".ljust(4000, "x"))))
    assert lint_profile(fits) == ()
    found = lint_profile(replace(fits, binaries=fits.binaries * 2 + (Binary(""),)))
    assert [f.field for f in found] == ["profile"]
    assert f"> {MAX_PROFILE_BYTES} bytes" in found[0].message


@pytest.mark.parametrize("char", ["\0", "\x1b", "\x7f", "\x9b", "\r"])
def test_control_characters_are_refused(char):
    for made in (
        profile(display_name=f"a{char}"),
        profile(description=f"a{char}"),
        profile(annotations={f"k{char}": "x"}),
        profile(binaries=(Binary(f"/a{char}"),)),
    ):
        assert any("control character" in f.message for f in lint_profile(made))


def test_descriptions_and_annotations_may_have_lines():
    assert lint_profile(profile(description="a\n\tb", annotations={"k": "a\nb"})) == ()
    assert lint_profile(profile(display_name="a\nb")) != ()


def _overrides(count, ports, hosts):
    grant = p.TokenGrant(
        "https://h/",
        audience_overrides=tuple(
            p.AudienceOverride(host=hosts(n), audience="x") for n in range(count)
        ),
    )
    one = replace(PLAIN, ports=tuple(range(1, ports + 1)))
    return profile(
        credentials=tuple(
            p.ProfileCredential(f"c{n}", token_grant=grant, auth_style="bearer", header_name="h")
            for n in range(30)
        ),
        endpoints=(one,) * 20,
    )


HOSTILE = {
    "pairs of equal overrides": lambda: _overrides(60, 2, lambda n: ""),
    "pairs of overrides": lambda: _overrides(60, 64, lambda n: ""),
    "overrides with patterns": lambda: _overrides(60, 2, lambda n: f"*{'a*' * 20}{n}.*.com"),
    "patterns of rules": lambda: profile(
        endpoints=(
            replace(
                PLAIN,
                protocol="mcp",
                access="",
                rules=tuple(
                    L7Rule("tools/{a,b}{c,d}{e,f}", params={"name": Matcher("*a" * 200)})
                    for _ in range(250)
                ),
            ),
        )
    ),
    "errors everywhere": lambda: profile(
        endpoints=tuple(
            replace(PLAIN, host="", ports=(0,), rules=(L7Rule("{"),) * 30) for _ in range(60)
        )
    ),
    "one name many times": lambda: profile(
        credentials=(p.ProfileCredential("c", env_vars=("A",) * 16),) * 64
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_profile_is_refused_quickly(name):
    hostile = HOSTILE[name]()
    started = time.process_time()
    found = lint_profile(hostile)
    assert time.process_time() - started < 3, "seconds of processor time; usual is below 0.5"
    assert len(found) <= MAX_FINDINGS + 1
    assert all(f.field != "profile" or "not shown" in f.message for f in found)
