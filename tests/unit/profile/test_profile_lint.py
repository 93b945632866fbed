"""Every diagnostic of one profile by itself: a sound profile, one change, and what is said about it."""

import textwrap

import pytest
import yaml
from hypothesis import given, settings

from openshell.policy import errors_of, validate_policy
from openshell.policy.features import EVERY_FEATURE
from openshell.policy.model import (
    PROVIDER_KEY_PREFIX,
    Binary,
    Endpoint,
    L7Rule,
    Matcher,
    McpOptions,
    NetworkRule,
    SandboxPolicy,
)
from openshell.providers.profile import model as p
from openshell.providers.profile.builtin import builtin_profiles
from openshell.providers.profile.document import read_profile
from openshell.providers.profile.lint import MAX_FINDINGS, batch_findings, lint_profile
from unit.profile.profile_samples import PROFILES

BASE = """\
id: sound
display_name: Sound
credentials:
  - name: key
    env_vars: [SOUND_KEY]
    auth_style: bearer
    header_name: authorization
endpoints:
  - {host: api.example.com, port: 443, protocol: rest, access: read-only, enforcement: enforce}
binaries: [/usr/bin/curl]
discovery: {credentials: [key]}
"""


def changed(text):
    """The sound profile with other top-level keys."""
    document = {**yaml.safe_load(BASE), **yaml.safe_load(textwrap.dedent(text))}
    return read_profile(yaml.safe_dump(document, sort_keys=False), source="t", format="yaml")


def said(profile):
    return [(finding.field, finding.message) for finding in lint_profile(profile)]


def errors(profile):
    return [(item.field, item.message) for item in lint_profile(profile) if item.is_error]


def test_a_sound_profile_has_no_findings():
    assert lint_profile(changed("{}")) == ()


def credentials(*texts):
    return "credentials: [" + ", ".join(f"{{{text}}}" for text in texts) + "]\ndiscovery: {}\n"


def refresh(text):
    return credentials(f"name: a, env_vars: [A], refresh: {{{text}}}")


def grant(text, more="", endpoints=""):
    url = "" if "token_endpoint" in text else "token_endpoint: 'https://idp.example.com/t', "
    return credentials(f"name: a, {more} token_grant: {{{url}{text}}}") + endpoints


STS = (
    "name: a, env_vars: [AWS_ACCESS_KEY_ID], refresh: {strategy: aws_sts_assume_role, "
    "additional_outputs: [%s]}"
)
SECRET = "{output: secret_access_key, credential: s}"
SESSION = "{output: session_token, credential: t}"
S = "name: s, env_vars: [AWS_SECRET_ACCESS_KEY]"
T = "name: t, env_vars: [AWS_SESSION_TOKEN]"

NAME, ENV = "credentials.name", "credentials.env_vars"
HEADER = "credentials.header_name"
TEMPLATE = "credentials.path_template"
OUTPUTS = "credentials.refresh.additional_outputs"
OVERRIDES = "credentials.token_grant.audience_overrides"
URL = "credentials.token_grant.token_endpoint"

CASES = {
    "blank id": ("id: ''", [("id", "required")]),
    "id of spaces": ("id: '  '", [("id", "required")]),
    "id with spaces": ("id: ' alex-api '", [("id", "lowercase kebab-case")]),
    "id with underscore": ("id: alex_api", [("id", "lowercase kebab-case")]),
    "id in capitals": ("id: Alex-API", [("id", "lowercase kebab-case")]),
    "blank name": (credentials("name: ' '"), [(NAME, "required")]),
    "repeated name": (credentials("name: a", "name: ' a '"), [(NAME, "duplicate")]),
    "all names first": (
        credentials("name: '', env_vars: ['']", "name: ''"),
        [(NAME, "required"), (NAME, "required"), (ENV, "empty")],
    ),
    "discovery": (
        "discovery: {credentials: ['', key, key, other]}",
        [
            ("discovery.credentials[0]", "empty"),
            ("discovery.credentials[2]", "duplicate"),
            ("discovery.credentials[3]", "unknown"),
        ],
    ),
    "blank variable": (credentials("name: a, env_vars: [' ']"), [(ENV, "empty")]),
    "placeholder of a revision": (
        credentials("name: a, env_vars: [v12_X]"),
        [(ENV, "reserved placeholder namespace")],
    ),
    "placeholder of a handle": (
        credentials(f"name: a, env_vars: [s{'a1' * 32}_X]"),
        [(ENV, "reserved placeholder namespace")],
    ),
    "nearly placeholders": (credentials("name: a, env_vars: [v_X, V1_X, s12_X, v1]"), []),
    "no variable": (
        credentials("name: a, env_vars: ['1A', 'A-B']"),
        [(ENV, "'1A'"), (ENV, "'A-B'")],
    ),
    "variable twice in one": (credentials("name: a, env_vars: [A, A]"), [(ENV, "duplicate")]),
    "variable twice in two": (
        credentials("name: a, env_vars: [A]", "name: b, env_vars: [A]"),
        [(ENV, "duplicate")],
    ),
    "bearer without header": (credentials("name: a, auth_style: bearer"), [(HEADER, "bearer")]),
    "header without header": (credentials("name: a, auth_style: HEADER"), [(HEADER, "header")]),
    "path without template": (credentials("name: a, auth_style: path"), [(TEMPLATE, "required")]),
    "path without mark": (
        credentials("name: a, auth_style: path, path_template: /x"),
        [(TEMPLATE, "exactly once, found 0")],
    ),
    "path with two marks": (
        credentials("name: a, auth_style: path, path_template: '/{credential}/{credential}'"),
        [(TEMPLATE, "exactly once, found 2")],
    ),
    "path with mark": (
        credentials("name: a, auth_style: path, path_template: '/bot{credential}'"),
        [],
    ),
    "query without parameter": (
        credentials("name: a, auth_style: query"),
        [("credentials.query_param", "required")],
    ),
    "basic": (credentials("name: a, auth_style: Basic"), []),
    "other style": (
        credentials("name: a, auth_style: cookie"),
        [("credentials.auth_style", "unsupported")],
    ),
    "no strategy": (refresh(""), [("credentials.refresh.strategy", "required")]),
    "negative times": (
        refresh("strategy: external, refresh_before_seconds: -1, max_lifetime_seconds: -1"),
        [
            ("credentials.refresh.refresh_before_seconds", ">= 0"),
            ("credentials.refresh.max_lifetime_seconds", ">= 0"),
        ],
    ),
    "material": (
        refresh("strategy: external, material: [{name: ''}, {name: m}, {name: m}]"),
        [
            ("credentials.refresh.material.name", "required"),
            ("credentials.refresh.material.name", "duplicate"),
        ],
    ),
    "outputs of another strategy": (
        refresh(f"strategy: oauth2_refresh_token, additional_outputs: [{SECRET}]"),
        [(OUTPUTS, "unsupported")],
    ),
    "sts": (credentials(STS % f"{SECRET}, {SESSION}", S, T), []),
    "sts without session": (
        credentials(STS % SECRET, S),
        [(OUTPUTS, "required output 'session_token'")],
    ),
    "sts without outputs": (
        credentials(STS % ""),
        [(OUTPUTS, "'secret_access_key'"), (OUTPUTS, "'session_token'")],
    ),
    "odd outputs": (
        credentials(
            STS % f"{SECRET}, {SESSION}, {{output: '', credential: s}}, "
            "{output: other, credential: s}, {output: session_token, credential: t}",
            S,
            T,
        ),
        [
            (f"{OUTPUTS}.output", "empty"),
            (f"{OUTPUTS}.output", "no output 'other'"),
            (f"{OUTPUTS}.output", "duplicate"),
        ],
    ),
    "outputs to nobody": (
        credentials(STS % f"{SECRET}, {SESSION}", S),
        [(f"{OUTPUTS}.credential", "unknown")],
    ),
    "outputs to one that refreshes": (
        credentials(STS % f"{SECRET}, {SESSION}", S, f"{T}, refresh: {{strategy: external}}"),
        [(f"{OUTPUTS}.credential", "refresh of its own")],
    ),
    "outputs to two variables": (
        credentials(STS % f"{SECRET}, {SESSION}", "name: s, env_vars: [A, B]", T),
        [(f"{OUTPUTS}.credential", "exactly one")],
    ),
    "outputs to another variable": (
        credentials(STS % f"{SECRET}, {SESSION}", "name: s, env_vars: [A]", T),
        [(f"{OUTPUTS}.credential", "AWS_SECRET_ACCESS_KEY")],
    ),
    "sts with another variable": (
        credentials((STS % f"{SECRET}, {SESSION}").replace("[AWS_ACCESS_KEY_ID]", "[A]"), S, T),
        [(ENV, "AWS_ACCESS_KEY_ID")],
    ),
    "grant": (grant("audience: x"), []),
    "grant by query": (
        grant("audience: x", "auth_style: query, query_param: q,"),
        [("credentials.token_grant.auth_style", "only bearer or header")],
    ),
    "grant by path": (
        grant("audience: x", "auth_style: path, path_template: '{credential}',"),
        [("credentials.token_grant.auth_style", "only bearer or header")],
    ),
    "grant by basic": (
        grant("audience: x", "auth_style: basic,"),
        [("credentials.token_grant.auth_style", "only bearer or header")],
    ),
    "grant in an odd header": (
        grant("audience: x", "auth_style: header, header_name: 'x y',"),
        [(HEADER, "no valid name")],
    ),
    "grant in a header with a line end": (
        grant("audience: x", 'auth_style: header, header_name: "x\\n",'),
        [("credentials[0].header_name", "control character"), (HEADER, "no valid name")],
    ),
    "grant in a header of the connection": (
        grant("audience: x", "auth_style: header, header_name: Transfer-Encoding,"),
        [(HEADER, "must not use the header 'transfer-encoding'")],
    ),
    "no endpoints": ("endpoints: []", []),
    "blank binary": ("binaries: [/a, ' ']", [("binaries[1]", "blank")]),
    "relative binary": ("binaries: ['**/b', bin/a]", [("binaries[1]", "is not absolute")]),
}


@pytest.mark.parametrize("name", CASES)
def test_findings_of_credentials_and_the_rest(name):
    text, wanted = CASES[name]
    found = said(changed(text))
    assert [field for field, _ in found] == [field for field, _ in wanted]
    for (_, message), (_, gist) in zip(found, wanted, strict=True):
        assert gist in message


@pytest.mark.parametrize("header", ["host", "Content-Length", "transfer-encoding", "CONNECTION"])
def test_headers_that_no_grant_may_set(header):
    (found,) = said(changed(grant("audience: x", f"auth_style: header, header_name: {header},")))
    assert found[0] == HEADER


@pytest.mark.parametrize(
    "url",
    [
        "https://idp.example.com/token",
        "https://10.0.0.1:8443/t?x=1",
        "http://localhost:8080/t",
        "http://127.0.0.1/t",
        "http://127.9.9.9/t",
        "http://[::1]:8080/t",
        "http://idp.auth.svc/token",
        "http://idp.auth.svc.cluster.local:8080/token",
        "HTTPS://idp.example.com/",
    ],
)
def test_token_endpoints_that_may_be_asked(url):
    assert said(changed(grant(f"token_endpoint: '{url}'"))) == []


@pytest.mark.parametrize(
    ("url", "gist"),
    [
        ("", "absolute"),
        ("/token", "absolute"),
        ("idp.example.com/token", "absolute"),
        ("https://", "absolute"),
        ("https:///token", "absolute"),
        ("https://[::1/t", "absolute"),
        ("https://h:99999/", "absolute"),
        ("https://h:0/", "absolute"),
        (" https://idp.example.com/", "absolute"),
        ("https://idp.example.com/a b", "absolute"),
        ("http://idp.example.com/", "https"),
        ("ftp://localhost/", "https"),
        ("http://localhost.example.com/", "https"),
        ("http://128.0.0.1/", "https"),
        ("http://svc/", "https"),
        ("http://a.svc/", "https"),
        ("http://a.b.c.svc/", "https"),
        ("http://.b.svc/", "https"),
        ("http://a.b.svc.example.com/", "https"),
        ("http://a.b.svc.cluster.local.example.com/", "https"),
        ("http://a.b.svc@evil.example.com/", "user"),
        ("https://user:secret@idp.example.com/", "user"),
        ("https://idp.example.com/#x", "fragment"),
    ],
)
def test_token_endpoints_that_may_not(url, gist):
    ((field, message),) = said(changed(grant(f"token_endpoint: '{url}'")))
    assert field == URL
    assert gist in message
    assert "secret" not in message


TWO = """
endpoints:
  - {host: api.example.com, port: 443, protocol: rest, access: full}
  - {host: api.example.com, port: 8443, protocol: rest, access: full, path: /v1/**}
"""


@pytest.mark.parametrize(
    ("overrides", "pairs"),
    [
        ("{audience: x}", []),
        ("{audience: x}, {audience: y}", [(0, 1)]),
        ("{audience: x, port: 443}, {audience: y, port: 8443}", []),
        ("{audience: x, path: /a/**}, {audience: y, path: /b/**}", []),
        ("{audience: x, path: /a/**}, {audience: y, path: /a/b/**}", []),
        ("{audience: x, path: /a/**}, {audience: y}, {audience: z, path: /a/**}", [(0, 2)]),
        ("{audience: x, path: '/v1/**'}, {audience: y, port: 8443}", [(0, 1)]),
        ("{audience: x, host: '*.example.com'}, {audience: y}", []),
        ("{audience: x, host: 'a*.example.com'}, {audience: y, host: '*i.example.com'}", [(0, 1)]),
        ("{audience: x, host: other.example.com}, {audience: y, host: other.example.com}", []),
        ("{audience: x}, {audience: y}, {audience: z}", [(0, 1), (0, 2), (1, 2)]),
    ],
)
def test_overrides_that_could_serve_one_request_equally_well(overrides, pairs):
    found = said(changed(grant(f"audience_overrides: [{overrides}]", endpoints=TWO)))
    assert all(field == OVERRIDES for field, _ in found)
    assert len(found) == len(pairs)
    for (_, message), (one, two) in zip(found, pairs, strict=True):
        assert f"audience_overrides[{one}]" in message
        assert f"audience_overrides[{two}]" in message


def endpoint(**values):
    plain = {"host": "api.example.com", "ports": (443,), "protocol": "rest", "access": "full"}
    return p.ProviderProfile("a", "A", endpoints=(Endpoint(**{**plain, **values}),))


def mcp(*rules, deny=(), known=None, strict=None):
    return endpoint(
        protocol="mcp",
        access="",
        rules=rules,
        deny_rules=deny,
        mcp=McpOptions(strict, known),
    )


def tool(glob="t", method="tools/call", **more):
    return L7Rule(method, params={"name": Matcher(glob), **more})


AT = "endpoints[0]"
ALLOW = "endpoints[0].rules[0].allow"
DENY = "endpoints[0].deny_rules[0]"
CALL = L7Rule("tools/call")

ENDPOINTS = {
    "sound": (endpoint(), []),
    "blank host": (endpoint(host=" "), [(AT, "invalid endpoint ' :443'")]),
    "no port": (endpoint(ports=()), [(AT, "invalid endpoint 'api.example.com:0'")]),
    "port 0": (endpoint(ports=(443, 0)), [(AT, "invalid endpoint 'api.example.com:443,0'")]),
    "large port": (endpoint(ports=(70000,)), [(AT, "invalid endpoint")]),
    "blank host of mcp": (
        endpoint(host="", protocol="mcp", access="", rules=(CALL,)),
        [(AT, "invalid endpoint")],
    ),
    "trailing dot": (endpoint(host="api.example.com."), [(AT, "empty label")]),
    "white space": (endpoint(host="api example.com"), [(AT, "white space")]),
    "braces": (endpoint(host="{a,b}.example.com"), [(AT, "braces")]),
    "too wide a host": (endpoint(host="*.com"), [(AT, "TLD wildcard")]),
    "unknown protocol": (endpoint(protocol="gopher"), [(AT, "unknown protocol 'gopher'")]),
    "protocol in capitals": (endpoint(protocol="REST"), []),
    "tcp": (endpoint(protocol="tcp", access=""), []),
    "tcp with access": (endpoint(protocol="tcp"), [(AT, "access, rules, or deny_rules")]),
    "tcp with path": (endpoint(protocol="tcp", access="", path="/"), [(AT, "path")]),
    "tcp with mcp": (endpoint(protocol="tcp", access="", mcp=McpOptions()), [(AT, "mcp")]),
    "tcp with region": (
        endpoint(protocol="tcp", access="", signing_region="x"),
        [(AT, "signing_region")],
    ),
    "rules and access": (
        endpoint(rules=(L7Rule("GET", "/"),)),
        [(AT, "mutually exclusive")],
    ),
    "json-rpc with access": (endpoint(protocol="json-rpc"), [(AT, "access presets")]),
    "json-rpc without rules": (endpoint(protocol="json-rpc", access=""), [(AT, "explicit rules")]),
    "mcp with access": (endpoint(protocol="mcp"), [(AT, "access presets")]),
    "rest without rules": (endpoint(access=""), [(AT, "rules or access")]),
    "mcp without rules": (mcp(), [(AT, "requires rules")]),
    "mcp with known methods": (mcp(known=True), []),
    "rules that allow nothing": (
        endpoint(access="", rules=(L7Rule(query={"q": Matcher("x")}),)),
        [(AT, "deny all")],
    ),
    "deny_rules without protocol": (
        endpoint(protocol="", access="", deny_rules=(L7Rule("GET", "/"),)),
        [(AT, "require protocol")],
    ),
    "deny_rules without rules": (
        endpoint(access="", deny_rules=(L7Rule("GET", "/"),)),
        [(AT, "rules or access"), (AT, "deny_rules require")],
    ),
    "mcp options elsewhere": (
        endpoint(mcp=McpOptions(True)),
        [(f"{AT}.mcp", "only valid for protocol mcp")],
    ),
    "empty mcp elsewhere": (endpoint(mcp=McpOptions()), [(f"{AT}.mcp", "mcp")]),
    "params elsewhere": (
        endpoint(access="", rules=(L7Rule("GET", "/", params={"name": Matcher("t")}),)),
        [(f"{ALLOW}.params", "only valid for protocol mcp")],
    ),
    "params of json-rpc": (
        endpoint(protocol="json-rpc", access="", rules=(tool(),)),
        [(f"{ALLOW}.params", "json-rpc")],
    ),
    "mcp tools": (mcp(tool("search_*"), tool("get_[ab]")), []),
    "tool with another method": (
        mcp(tool(method="tools/list")),
        [(f"{ALLOW}.tool", "tools/call")],
    ),
    "mcp rule without method": (
        mcp(CALL, L7Rule(command="x")),
        [("endpoints[0].rules[1].allow", "method")],
    ),
    "implied method": (mcp(tool(method=""), known=True), []),
    "glob of all methods": (mcp(L7Rule("*")), [(f"{ALLOW}.method", "tools/")]),
    "glob of methods": (mcp(L7Rule("res{ources,x}/*")), [(f"{ALLOW}.method", "tools/")]),
    "glob of tools": (mcp(L7Rule("tools/*")), []),
    "path of mcp": (mcp(L7Rule("tools/call", "/x")), [(ALLOW, "path and query")]),
    "other params": (mcp(tool(other=Matcher("x"))), [(f"{ALLOW}.params", "params.name")]),
    "matcher with both": (
        mcp(L7Rule("tools/call", params={"name": Matcher("a", ("b",))})),
        [(f"{ALLOW}.params.name", "not both")],
    ),
    "matcher with neither": (
        mcp(L7Rule("tools/call", params={"name": Matcher()})),
        [(f"{ALLOW}.params.name", "needs a glob or any")],
    ),
    "tool patterns without strict names": (
        mcp(tool("a*"), strict=False),
        [(f"{ALLOW}.tool", "strict")],
    ),
    "tool names without strict names": (mcp(tool("a"), strict=False), []),
    "tools and all tools": (
        mcp(tool(), CALL),
        [("endpoints[0].rules[1].allow", "tools/call")],
    ),
    "tools and a deny of all tools": (
        mcp(tool(), deny=(L7Rule("tools/*"),)),
        [(DENY, "tools/call")],
    ),
    "tools and everything known": (
        mcp(tool(), L7Rule(), known=True),
        [("endpoints[0].rules[1].allow", "tools/call")],
    ),
    "deny of one tool": (mcp(tool(), deny=(tool("x"),)), []),
    "enforcement": (endpoint(enforcement="enforec"), [(AT, "unknown value")]),
    "access has no check of its value": (endpoint(access="odd"), []),
}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_errors_of_endpoints(name):
    profile, wanted = ENDPOINTS[name]
    found = errors(profile)
    assert [field for field, _ in found] == [field for field, _ in wanted]
    for (_, message), (_, gist) in zip(found, wanted, strict=True):
        assert gist in message


KEY = p.ProfileCredential("key", env_vars=("KEY",))


@pytest.mark.parametrize(
    ("values", "gap"),
    [
        ({}, ""),
        ({"protocol": "", "access": ""}, "no protocol"),
        ({"protocol": "tcp", "access": ""}, "tcp"),
        ({"tls": "skip"}, "tls: skip"),
        ({"tls": "Skip"}, "tls: skip"),
        ({"tls": "terminate"}, ""),
    ],
)
@pytest.mark.parametrize("consent", [False, True])
@pytest.mark.parametrize("reason", ["credentials", "signing", "none"])
def test_credentials_on_traffic_that_nothing_inspects(values, gap, consent, reason):
    signs = {"credential_signing": "sigv4", "signing_service": "s3"} if reason == "signing" else {}
    profile = endpoint(**values, **signs, allow_uninspected_credentials=consent)
    if reason == "credentials":
        profile = p.ProviderProfile("a", "A", credentials=(KEY,), endpoints=profile.endpoints)
    found = [item for item in errors(profile) if item[0].endswith("_uninspected_credentials")]
    if not gap or consent or reason == "none":
        assert found == []
        return
    ((field, message),) = found
    assert field == "endpoints[0].allow_uninspected_credentials"
    assert gap in message
    assert "allow_uninspected_credentials: true" in message


def test_one_profile_with_many_mistakes_reports_them_in_order():
    profile = p.ProviderProfile(
        id="Bad",
        credentials=(
            p.ProfileCredential("", env_vars=("",), auth_style="odd", refresh=p.Refresh()),
            p.ProfileCredential("b", token_grant=p.TokenGrant()),
        ),
        discovery=p.Discovery(("c",)),
        endpoints=(Endpoint(), Endpoint(host="h", ports=(1,))),
        binaries=(Binary(""),),
    )
    assert [finding.field for finding in lint_profile(profile)] == [
        "id",
        "credentials.name",
        "discovery.credentials[0]",
        "credentials.env_vars",
        "credentials.auth_style",
        "credentials.refresh.strategy",
        "credentials.token_grant.token_endpoint",
        "endpoints[0]",
        "endpoints[0]",
        "endpoints[0].allow_uninspected_credentials",
        "endpoints[1].allow_uninspected_credentials",
        "binaries[0]",
    ]


def test_what_is_only_odd_is_a_warning_with_its_place():
    (finding,) = lint_profile(endpoint(tls="terminate"))
    assert (finding.field, finding.severity) == ("endpoints[0].tls", "warning")
    assert not finding.message.startswith("network policy")


def batch(*ids):
    found = batch_findings([p.ProviderProfile(id=name) for name in ids])
    return [[(item.field, item.message.split(":")[0]) for item in items] for items in found]


def test_a_batch_names_repeated_ids_once_for_each():
    again = ("id", "duplicate id")
    assert batch("a", "b") == [[], []]
    assert batch("a", "b", "a") == [[again], [], [again]]
    # Blank ones are said to be blank.
    assert batch("", "") == [[("id", "an id is required")]] * 2
    assert batch() == []


def test_three_spellings_of_an_id_are_three_findings():
    found = batch(" alex-api ", "alex_api", "Alex-API")
    assert [len(items) for items in found] == [1, 1, 1]


def test_a_batch_says_about_each_what_it_says_alone():
    bad = p.ProviderProfile("b", binaries=(Binary(""),))
    assert batch_findings([bad, p.ProviderProfile("c")]) == (lint_profile(bad), ())


def test_findings_are_bounded_and_no_error_gets_lost():
    odd = Endpoint("h.example.com", (443,), protocol="rest", access="odd", tls="odd")
    many = p.ProviderProfile("a", endpoints=(odd,) * 250)
    found = lint_profile(many)
    assert len(found) == MAX_FINDINGS + 1
    assert found[-1].message == f"{500 - MAX_FINDINGS} more findings are not shown"
    assert not any(item.is_error for item in found)
    worse = p.ProviderProfile("a", endpoints=many.endpoints, binaries=(Binary(""),))
    found = lint_profile(worse)
    assert [item for item in found if item.is_error] == [found[-1]]


def test_a_batch_with_many_mistakes_has_a_short_answer():
    blank = p.ProviderProfile("a", binaries=(Binary(""),) * 256)
    assert len(batch_findings([blank])[0]) == MAX_FINDINGS + 1
    found = batch_findings([blank] * 100)
    assert {len(items) for items in found} == {11}
    assert all(items[-1].message.endswith("more findings are not shown") for items in found)


def test_findings_quote_little():
    long = p.ProviderProfile("a", credentials=(p.ProfileCredential("c", auth_style="x" * 4000),))
    (finding,) = lint_profile(long)
    assert len(finding.message) < 500


@pytest.mark.parametrize("name", [*ENDPOINTS, *builtin_profiles()])
def test_what_a_policy_would_refuse_is_refused_here(name):
    """A profile without errors becomes a rule without errors: a sandbox would refuse its policy."""
    profile = ENDPOINTS[name][0] if name in ENDPOINTS else builtin_profiles()[name]
    # Endpoints of one provider are not compared with each other.
    rule = NetworkRule(f"{PROVIDER_KEY_PREFIX}r", "r", profile.endpoints, (Binary("/**"),))
    found = validate_policy(
        SandboxPolicy(network_policies={rule.key: rule}), features=EVERY_FEATURE
    )
    assert bool(errors(profile)) >= bool(errors_of(found))


@settings(max_examples=100, deadline=None)
@given(PROFILES)
def test_any_profile_is_judged_without_a_crash(profile):
    for finding in lint_profile(profile):
        assert finding.field
        assert finding.message
