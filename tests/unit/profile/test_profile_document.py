"""Documents of profiles: what is read, what is written, what is refused and where."""

import contextlib
import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.policy import model as policy
from openshell.policy.document import MAX_DOCUMENT_BYTES
from openshell.providers.profile import model
from openshell.providers.profile.document import (
    ProfileDocumentError,
    dump_profile,
    local_findings,
    profile_to_json,
    read_profile,
)
from openshell.providers.profile.fields import SECTIONS, section_of
from unit.profile.profile_samples import EVERY_KEY

HEAD = "id: a\ndisplay_name: A\n"


def read(text, form="yaml"):
    return read_profile(text, source="f", format=form)


def endpoint(text):
    return read(f"{HEAD}endpoints:\n  - {{host: h, {text}}}\n").endpoints[0]


def test_a_document_with_every_key_is_written_as_it_was():
    assert dump_profile(read(EVERY_KEY), "yaml") == EVERY_KEY
    as_json = dump_profile(read(EVERY_KEY), "json")
    assert as_json.endswith("}\n")
    assert dump_profile(read(as_json, "json"), "yaml") == EVERY_KEY
    assert list(json.loads(as_json)) == list(profile_to_json(read(EVERY_KEY)))


def test_the_sample_really_has_every_key():
    present = set(EVERY_KEY.replace("- ", "").replace(":", " ").split())
    for section in SECTIONS:
        missing = {field.name for field in section.fields} - present
        # Short for params.name, which is what export writes.
        assert missing <= {"tool"}, section.key


def test_what_export_always_writes():
    profile = model.ProviderProfile(
        id="a", credentials=(model.ProfileCredential(name="c", refresh=model.Refresh()),)
    )
    assert profile_to_json(profile) == {
        "id": "a",
        "display_name": "",
        "description": "",
        "category": "other",
        "credentials": (
            {
                "name": "c",
                "description": "",
                "env_vars": (),
                "required": False,
                "auth_style": "",
                "header_name": "",
                "query_param": "",
                "refresh": {"strategy": ""},
            },
        ),
        "endpoints": (),
        "binaries": (),
        "inference_capable": False,
    }


# Where the document has other names or another shape than the model.
_OTHERWISE = {
    "profile": (model.ProviderProfile, set(), set()),
    "credential": (model.ProfileCredential, set(), set()),
    "discovery": (model.Discovery, set(), set()),
    "client_certificate": (model.ClientCertificate, set(), set()),
    "binary": (policy.Binary, {"harness"}, {"advisor_proposed"}),
    "refresh": (model.Refresh, set(), set()),
    "material": (model.Material, set(), set()),
    "output": (model.RefreshOutput, set(), set()),
    "token_grant": (model.TokenGrant, set(), set()),
    "override": (model.AudienceOverride, set(), set()),
    "endpoint": (
        policy.Endpoint,
        {"port"},
        {"credential_binding", "provider_credentialed", "advisor_proposed"},
    ),
    "mcp": (policy.McpOptions, set(), set()),
    "graphql_operation": (policy.GraphqlOperation, set(), set()),
    "l7_rule": (policy.L7Rule, {"tool"}, set()),
    "matcher": (policy.Matcher, {"any"}, {"any_of"}),
}


@pytest.mark.parametrize("key", [section.key for section in SECTIONS if section.key != "allow"])
def test_the_table_of_keys_is_that_of_the_model(key):
    kind, only_document, only_model = _OTHERWISE[key]
    names = {field.name for field in section_of(key).fields}
    assert names - only_document == {f.name for f in dataclasses.fields(kind)} - only_model


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("port: 443", (443,)),
        ("ports: [1, 2]", (1, 2)),
        ("port: 443, ports: [1, 2]", (1, 2)),
        ("port: 443, ports: []", (443,)),
        ("port: 0", ()),
        ("ports: [0]", (0,)),
        ("port: 70000", (70000,)),
        ("path: /", ()),
    ],
)
def test_ports(text, ports):
    assert endpoint(text).ports == ports


@pytest.mark.parametrize(
    ("text", "matcher"),
    [
        ("a*", policy.Matcher("a*")),
        ("{glob: a*}", policy.Matcher("a*")),
        ("{any: [a, b]}", policy.Matcher("", ("a", "b"))),
        ("{glob: a, any: [b]}", policy.Matcher("a", ("b",))),
        ("{}", policy.Matcher()),
        ("{any: []}", policy.Matcher()),
    ],
)
def test_matchers(text, matcher):
    for where in ("params: {name", "query: {name", "x: {}, tool"):
        key = "query" if "query" in where else "params"
        close = "}" if "{name" in where else ""
        rule = endpoint(f"rules: [{{allow: {{{where}: {text}{close}}}}}]").rules[0]
        assert getattr(rule, key) == {"name": matcher}


def test_a_tool_is_the_parameter_name_and_is_written_so():
    rule = endpoint("protocol: MCP, deny_rules: [{tool: search_*}]").deny_rules[0]
    assert rule.params == {"name": policy.Matcher("search_*")}
    # A method that mcp options imply is not filled in.
    assert rule.method == ""


@pytest.mark.parametrize(
    ("word", "category"),
    [
        ("source_control", model.Category.SOURCE_CONTROL),
        ("Source-Control", model.Category.SOURCE_CONTROL),
        ('""', model.Category.OTHER),
        ("KNOWLEDGE", model.Category.KNOWLEDGE),
    ],
)
def test_categories(word, category):
    assert read(f"{HEAD}category: {word}").category is category


@pytest.mark.parametrize("strategy", [s for s in model.Strategy if s])
def test_strategies_in_both_spellings(strategy):
    for word in (strategy.name.lower(), strategy.name.replace("_", "-")):
        text = f"{HEAD}credentials: [{{name: c, refresh: {{strategy: {word}}}}}]"
        assert read(text).credentials[0].refresh.strategy is strategy


def test_unknown_keys_are_ignored_at_every_level():
    text = """\
id: a
display_name: A
odd: {deep: [1]}
credentials:
  - {name: c, odd: 1, refresh: {strategy: static, odd: 1, material: [{name: m, odd: 1}]}}
endpoints:
  - host: h
    credential_binding: {provider: p}
    provider_credentialed: true
    advisor_proposed: true
    odd: 1
    mcp: {odd: 1, max_body_bytes: 5}
    rules: [{odd: 1, allow: {odd: 1, method: GET, query: {q: {any: [a], odd: 1}}}}]
binaries: [{path: /a, odd: 1}]
discovery: {odd: 1}
"""
    profile = read(text)
    assert profile.endpoints[0] == policy.Endpoint(
        host="h",
        mcp=policy.McpOptions(),
        rules=(policy.L7Rule("GET", query={"q": policy.Matcher("", ("a",))}),),
    )
    assert profile.binaries == (policy.Binary("/a"),)
    assert profile.credentials[0].refresh.material == (model.Material("m"),)


_REFUSED = {
    "text for a list": ("binaries: /a", "binaries", "expected a list"),
    "list for a mapping": ("discovery: [a]", "discovery", "expected a mapping"),
    "text for a number": ('resource_version: "5"', "resource_version", "expected a number"),
    "boolean for a number": ("resource_version: true", "resource_version", "expected a number"),
    "fraction for a number": ("resource_version: 1.5", "resource_version", "expected a number"),
    "too large a number": (f"resource_version: {2**64}", "resource_version", "from"),
    "negative version": ("resource_version: -1", "resource_version", "from 0"),
    "text for a boolean": ('inference_capable: "yes"', "inference_capable", "true or false"),
    "number for text": ("description: 5", "description", "expected text"),
    "nothing for text": ("description:", "description", "expected text"),
    "number for an annotation": ("annotations: {a: 1}", "annotations.a", "expected text"),
    "unknown category": ("category: cloud", "category", "knowledge"),
    "number for a category": ("category: 3", "category", "expected one of"),
    "unknown strategy": (
        "credentials: [{name: c, refresh: {strategy: magic}}]",
        "credentials[0].refresh.strategy",
        "aws_sts_assume_role",
    ),
    "credential without name": ("credentials: [{required: true}]", "credentials[0]", "'name'"),
    "entry that is no mapping": ("credentials: [c]", "credentials[0]", "expected a mapping"),
    "endpoint without host": ("endpoints: [{port: 1}]", "endpoints[0]", "'host'"),
    "port that is text": ("endpoints: [{host: h, port: x}]", "endpoints[0].port", "a number"),
    "port that is nothing": ("endpoints: [{host: h, port: }]", "endpoints[0].port", "a number"),
    "one of the ports": (
        "endpoints: [{host: h, ports: [1, x]}]",
        "endpoints[0].ports[1]",
        "number",
    ),
    "port below zero": ("endpoints: [{host: h, port: -1}]", "endpoints[0].port", "from 0"),
    "rule without allow": (
        "endpoints: [{host: h, rules: [{}]}]",
        "endpoints[0].rules[0]",
        "'allow'",
    ),
    "method of a rule": (
        "endpoints: [{host: h, rules: [{allow: {method: 1}}]}]",
        "endpoints[0].rules[0].allow.method",
        "expected text",
    ),
    "matcher": (
        "endpoints: [{host: h, deny_rules: [{query: {q: [a]}}]}]",
        "endpoints[0].deny_rules[0].query.q",
        "expected a mapping",
    ),
    "any of a matcher": (
        "endpoints: [{host: h, deny_rules: [{query: {q: {any: a}}}]}]",
        "endpoints[0].deny_rules[0].query.q.any",
        "expected a list",
    ),
    "output without credential": (
        "credentials: [{name: c, refresh: {strategy: static, additional_outputs: [{output: o}]}}]",
        "credentials[0].refresh.additional_outputs[0]",
        "'credential'",
    ),
    "grant without endpoint": (
        "credentials: [{name: c, token_grant: {}}]",
        "credentials[0].token_grant",
        "'token_endpoint'",
    ),
    "binary without path": ("binaries: [{harness: true}]", "binaries[0]", "'path'"),
    "duplicate key": ("category: other\ncategory: data", "", "duplicate key"),
    "alias": ("description: &a x\nscope: *a", "", "not supported"),
    "tag": ("description: !!python/name:os.system x", "", "not supported"),
}


@pytest.mark.parametrize("name", _REFUSED)
def test_type_errors_are_refused_with_their_place(name):
    text, path, gist = _REFUSED[name]
    with pytest.raises(ProfileDocumentError) as caught:
        read(f"{HEAD}{text}\n")
    error = caught.value
    assert (error.file, error.path) == ("f", path)
    assert error.line in (3, 4)
    assert gist in error.message
    assert str(error).startswith("failed to parse provider profile: f:")


@pytest.mark.parametrize(
    ("text", "line", "gist"),
    [
        ('{"id": "a",\n "id": "b"}', 0, "duplicate key 'id'"),
        ('{"id": "a",\n', 2, "not valid JSON"),
        ('{"id": "a", "display_name": "\\u0000"}', 0, "NUL"),
        ('{"id": "a", "display_name": "\\ud800"}', 0, ""),
        ('{"id": "a", "display_name": NaN}', 1, "expected text"),
        ('{"id": "a",\n"display_name": 5}', 2, "expected text"),
        ('{"id": "a",\n"display_name": 5, "x": "\\ud83d\\ude00"}', 0, "expected text"),
        ("[" * 100_000, 0, "nested deeper"),
        ("[" * 100 + "]" * 100, 0, "nested deeper"),
        (f'{{"id": "a", "resource_version": {"9" * 5000}}}', 0, "too long"),
        ("3", 1, "expected a mapping"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_json_is_refused(text, line, gist):
    with pytest.raises(ProfileDocumentError) as caught:
        read(text, "json")
    assert gist in caught.value.message
    assert caught.value.line == line


@pytest.mark.parametrize("form", ["yaml", "json"])
def test_documents_are_bounded(form):
    fits = json.dumps({"id": "a", "display_name": "A", "odd": "x"})
    assert read(fits, form).id == "a"
    with pytest.raises(ProfileDocumentError, match="larger than"):
        read(fits + " " * MAX_DOCUMENT_BYTES, form)


@pytest.mark.parametrize("text", ["", "# only a comment\n", "---\n"])
def test_an_empty_document_says_what_is_needed(text):
    with pytest.raises(ProfileDocumentError) as caught:
        read(text)
    assert "display_name" in caught.value.message or "a mapping" in caught.value.message


def test_required_keys_of_the_top():
    for text, missing in (("id: a\n", "display_name"), ("display_name: A\n", "id")):
        with pytest.raises(ProfileDocumentError, match=f"missing key '{missing}'"):
            read(text)


def findings(text, form="yaml"):
    found = local_findings(text, source="f", format=form)
    return [(item.field, item.message.split(";")[0]) for item in found]


def test_the_local_check_tells_empty_lists_from_absent_ones():
    text = f"""{HEAD}endpoints:
  - {{host: a, rules: [], deny_rules: []}}
  - {{host: b}}
  - host: c
    protocol: mcp
    rules: [{{allow: {{tool: t, params: {{name: t}}}}}}, {{allow: {{tool: t}}}}]
    deny_rules: [{{params: {{name: t}}}}, {{params: {{name: t}}, tool: t}}]
"""
    both = "tool and params.name are the same"
    wanted = [
        ("endpoints[0]", "an empty rules list would deny all traffic"),
        ("endpoints[0]", "an empty deny_rules list has no effect"),
        ("endpoints[2].rules[0].allow.tool", both),
        ("endpoints[2].deny_rules[1].tool", both),
    ]
    assert findings(text) == wanted
    as_json = {"id": "a", "endpoints": [{"rules": []}]}
    assert findings(json.dumps(as_json), "json") == wanted[:1]


@pytest.mark.parametrize(
    "text", ["3", "endpoints: 3", "endpoints: [3, {rules: 3, deny_rules: [3]}]"]
)
def test_the_local_check_leaves_types_to_the_reader(text):
    assert findings(text) == []


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=60)


@settings(max_examples=150, deadline=None)
@given(TEXT, TEXT)
def test_any_text_survives_both_formats(text, key):
    profile = model.ProviderProfile("a", "A", text, annotations={key or "k": text})
    for form in ("yaml", "json"):
        assert read(dump_profile(profile, form), form) == profile


def _trees():
    keys = st.sampled_from([f.name for section in SECTIONS for f in section.fields])
    leaves = st.one_of(
        st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(["", "a", "static"])
    )
    return st.recursive(
        leaves,
        lambda inner: st.one_of(
            st.lists(inner, max_size=3), st.dictionaries(keys, inner, max_size=5)
        ),
        max_leaves=20,
    )


@settings(max_examples=300, deadline=None)
@given(st.dictionaries(st.sampled_from([f.name for f in section_of("profile").fields]), _trees()))
def test_any_tree_is_a_profile_or_refused(tree):
    text = json.dumps({"id": "a", "display_name": "A", **tree})
    try:
        read(text, "json")
    except ProfileDocumentError as error:
        assert error.message
    local_findings(text, source="f", format="json")


@settings(max_examples=200, deadline=None)
@given(st.one_of(st.text(max_size=80), st.text("{}[]:,-\"'#&*!|>\n a0", max_size=80)))
def test_any_text_is_a_profile_or_refused(text):
    for form in ("yaml", "json"):
        with contextlib.suppress(ProfileDocumentError):
            read(text, form)
