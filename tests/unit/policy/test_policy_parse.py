"""Policy YAML: what is refused and where, what survives writing and reading."""

import contextlib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.policy import PolicyParseError, dump_policy, parse_policy, policy_to_json
from openshell.policy.document import MAX_DOCUMENT_BYTES
from openshell.policy.model import Matcher
from unit.policy.policy_cases import load
from unit.policy.policy_samples import full_policies


@pytest.mark.parametrize("case", load("documents_refused"))
def test_refused_documents_say_where_and_what(case):
    with pytest.raises(PolicyParseError) as caught:
        parse_policy(case["text"], source="policy.yaml")
    error = caught.value
    assert (error.file, error.line) == ("policy.yaml", case["line"])
    assert case["says"] in error.message
    assert error.path == case.get("path", error.path)
    assert f"policy.yaml:{error.line}:{error.column}" in str(error)


def endpoint(text):
    policy = parse_policy(
        f"version: 1\nnetwork_policies: {{r: {{endpoints: [{text}]}}}}", source="t"
    )
    return policy.network_policies["r"].endpoints[0]


def test_ports_win_over_port_and_zero_is_unset():
    assert endpoint("{port: 1, ports: [2, 3]}").ports == (2, 3)
    assert endpoint("{port: 1, ports: []}").ports == (1,)
    assert endpoint("{port: 0}").ports == ()


def test_protocol_is_lower_cased():
    assert endpoint("{protocol: MCP}").protocol == "mcp"


def test_text_that_other_yaml_takes_for_something_else_stays_text():
    assert endpoint("{host: no, path: 12:30}").host == "no"


def test_tool_is_shorthand_and_params_name_wins():
    rule = endpoint("{deny_rules: [{tool: x, params: {name: y, a: {b: {any: [z]}}}}]}").deny_rules[
        0
    ]
    assert rule.params == {"name": Matcher("y"), "a.b": Matcher(any_of=("z",))}


def test_mcp_block_wins_over_json_rpc_even_with_the_default():
    found = endpoint("{json_rpc: {max_body_bytes: 9}, mcp: {strict_tool_names: false}}")
    assert found.json_rpc_max_body_bytes == 0
    assert found.mcp.strict_tool_names is False


def test_harness_is_accepted_and_never_written():
    text = "version: 1\nnetwork_policies: {r: {binaries: [{path: /a, harness: true}]}}"
    policy = parse_policy(text, source="t")
    assert not policy.network_policies["r"].binaries[0].advisor_proposed
    assert "harness" not in dump_policy(policy)


def test_name_defaults_to_key_and_is_always_written():
    policy = parse_policy("version: 1\nnetwork_policies: {b: {}, a: {name: x}}", source="t")
    shown = policy_to_json(policy)["network_policies"]
    assert list(shown) == ["a", "b"]
    assert (shown["a"]["name"], shown["b"]["name"]) == ("x", "b")


def test_a_document_too_large_is_refused():
    with pytest.raises(PolicyParseError, match="larger than"):
        parse_policy("version: 1\n#" + "x" * MAX_DOCUMENT_BYTES, source="t")


@settings(max_examples=150, deadline=None)
@given(full_policies())
def test_writing_and_reading_loses_nothing(policy):
    text = dump_policy(policy)
    assert parse_policy(text, source="t") == policy
    assert dump_policy(parse_policy(text, source="t")) == text


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet="version: 1\n{}[]&*!a-?|>'\"#,<\t", max_size=60))
def test_any_text_is_a_policy_or_a_parse_error(text):
    with contextlib.suppress(PolicyParseError):
        parse_policy("version: 1\n" + text, source="t")


def test_the_json_view_is_the_yaml():
    policy = parse_policy("version: 1\nprocess: {run_as_user: '7'}", source="t")
    assert yaml.safe_load(dump_policy(policy)) == policy_to_json(policy)
