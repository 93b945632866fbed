"""Rows of the contract: every one is named with its tests, and those that fit no table stand here."""

from functools import cache
from pathlib import Path

import pytest
import yaml

from openshell.egress.bodies.rpc import read_rpc
from openshell.policy import (
    ConnectionAllowed,
    ConnectionDenied,
    ConnectionRequest,
    L7Request,
    RequestAllowed,
    compile_policy,
    parse_policy,
    validate_policy,
)
from openshell.policy.features import EVERY_FEATURE
from unit.policy import merge_notation as notation
from unit.policy.policy_cases import CASES, load

TESTS = Path(__file__).parents[2]
ROWS = {
    f"{section}: {row}": tests
    for section, rows in yaml.safe_load((CASES / "contract_rows.yaml").read_text()).items()
    for row, tests in rows.items()
}
# Rows of each table of the contract, so that none is lost here; section 8 has its own list.
COUNTS = {
    "3 stages": 9,
    "3.1 safety": 22,
    "3.2 endpoints": 17,
    "3.3 rules": 18,
    "3.4 ambiguity": 21,
    "3.5 credentials": 8,
    "6.1 engine": 5,
    "6.2 globs": 6,
    "6.3 hosts": 8,
    "6.4 identity": 10,
    "6.5 connections": 6,
    "6.6 inspection": 7,
    "6.7 rest": 18,
    "6.8 graphql": 11,
    "6.9 json-rpc and mcp": 18,
    "6.10 websocket": 5,
    "6.11 sql and tcp": 2,
    "6.12 enforcement": 11,
    "7 updates": 17,
}


@cache
def cases_of(table):
    return {param.id for param in load(table)}


def exists(reference):
    if "::" not in reference:
        table, _, case = reference.partition(":")
        return case in cases_of(table)
    path, _, test = reference.partition("::")
    name, _, case = test.partition("[")
    source = (TESTS / path).read_text()
    named = f'id="{case[:-1]}"' in source or f'"{case[:-1]}": ' in source
    return f"def {name}(" in source and (not case or named)


def test_the_look_for_tests_finds_only_what_is_there():
    assert exists("findings:clean-rest")
    assert not exists("findings:absent")
    here = "unit/policy/test_policy_rows.py::"
    assert exists(here + "test_the_look_for_tests_finds_only_what_is_there")
    assert not exists(here + "test_that_is_not_there")
    assert not exists("unit/policy/test_policy_heads.py::test_which_heads_decide[absent]")


@pytest.mark.parametrize("tests", ROWS.values(), ids=ROWS)
def test_a_row_of_the_contract_has_its_tests(tests):
    assert tests
    assert [reference for reference in tests if not exists(reference)] == []


def test_no_row_is_lost():
    sections = [row.partition(":")[0] for row in ROWS]
    assert {section: sections.count(section) for section in sections} == COUNTS


def test_messages_begin_with_the_shown_name_and_the_position():
    policy = parse_policy(
        "version: 1\nnetwork_policies: {r: {name: My API, binaries: [{path: /a}], endpoints: ["
        "{host: a.x.com, port: 1}, {host: b.x.com, port: 1, protocol: gopher}, {port: 1}]}}",
        source="case",
    )
    unknown, hostless = (f.message for f in validate_policy(policy))
    assert unknown.startswith(
        "network policy 'My API': endpoint 1 has invalid L7 configuration: unknown protocol"
    )
    assert hostless.startswith("network policy 'My API': endpoint host must not be empty")


def test_two_endpoints_of_one_rule_are_a_pair_and_are_named_in_full():
    policy = notation.policy(
        {"r": "a.x.com:443,80 protocol=rest access=full; *.x.com:443,81 tls=skip path=/v1 | curl"}
    )
    (finding,) = (f for f in validate_policy(policy) if f.code == "ambiguous_endpoints")
    assert finding.message == (
        "rule 'r' endpoint 0 [a.x.com:80,443] and rule 'r' endpoint 1 [*.x.com:81,443/v1] "
        "overlap on ports [443] and disagree on tls (auto / skip)"
    )


def ask(policy, host="a.x.com", port=443, binary="/usr/bin/curl"):
    compiled = compile_policy(policy, generation=1)
    return compiled, compiled.connect(ConnectionRequest(host, port, binary))


def test_an_endpoint_without_host_is_any_host_on_its_port():
    policy = notation.policy({"r": ":443 ips=10.0.0.0/16 | curl"})
    for host in ("a.x.com", "10.0.0.1", "2001:db8::1", "localhost"):
        _, answer = ask(policy, host)
        assert isinstance(answer, ConnectionAllowed), host
        assert (answer.allowed_ips, answer.exact_declared_host) == (("10.0.0.0/16",), False)
    assert isinstance(ask(policy, port=80)[1], ConnectionDenied)
    # Without addresses it is no endpoint at all.
    assert isinstance(ask(notation.policy({"r": ":443 | curl"}))[1], ConnectionDenied)


def test_every_rule_that_names_the_endpoint_gives_its_reason():
    _, refused = ask(
        notation.policy(
            {"b": "a.x.com:443 | wget", "a": "*.x.com:443 | git", "c": "b.x.com:443 | wget"}
        )
    )
    first, second = refused.reason.split("; binary ")
    assert first.startswith("binary '/usr/bin/curl' not allowed in policy 'a' (ancestors: [], ")
    assert second.startswith("'/usr/bin/curl' not allowed in policy 'b' (ancestors: [], ")
    assert (refused.nearest_rule, refused.reason_code) == ("a", "binary_not_allowed")


def test_tcp_is_authorised_like_any_connection():
    policy = notation.policy({"r": "a.x.com:443 protocol=tcp | curl"})
    assert [f for f in validate_policy(policy, features=EVERY_FEATURE) if f.is_error] == []
    compiled, answer = ask(policy)
    assert isinstance(answer, ConnectionAllowed)
    assert (answer.configs, answer.l7_configs) == ((), ())
    request = L7Request("GET", "/")
    assert isinstance(compiled.authorize(answer, request), RequestAllowed)
    assert compiled.could_resolve("a.x.com") and not compiled.could_resolve("b.x.com")
    for other in ({"port": 80}, {"binary": "/bin/sh"}, {"host": "b.x.com"}):
        assert isinstance(ask(policy, **other)[1], ConnectionDenied)
    assert (answer.is_tcp, answer.is_opaque, compiled.has_tcp) == (True, True, True)
    assert compiled.is_tcp_only("A.x.com", 443) and not compiled.is_tcp_only("a.x.com", 80)
    # Where two speak of one place, which validation refuses, the stricter one counts.
    both = notation.policy({"r": "a.x.com:443 protocol=tcp; a.x.com:443 | curl"})
    assert not ask(both)[1].is_tcp and not ask(both)[0].is_tcp_only("a.x.com", 443)


def test_tcp_is_found_by_name_only():
    policy = notation.policy({"r": "**.0.9:443 protocol=tcp | curl"})
    assert isinstance(ask(policy, host="x.y.0.9")[1], ConnectionAllowed)
    for address in ("10.0.0.9", "192.168.0.9"):
        assert isinstance(ask(policy, host=address)[1], ConnectionDenied)
    plain = notation.policy({"r": "**.0.9:443 | curl"})
    assert isinstance(ask(plain, host="10.0.0.9")[1], ConnectionAllowed)


def test_arguments_of_a_tool_are_never_looked_at():
    call = b'{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"read","arguments":%b}}'
    plain = read_rpc(call % b"{}", is_mcp=True)
    assert plain.calls[0].tool == "read"
    for arguments in (b'{"name":"write"}', b'{"path":"/etc/shadow","method":"tools/list"}'):
        assert read_rpc(call % arguments, is_mcp=True) == plain
