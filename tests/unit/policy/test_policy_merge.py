"""Merge operations: the contract's tables, and laws on random policies and operations."""

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from openshell.policy import ConnectionAllowed, ConnectionRequest, compile_policy
from openshell.policy import merge as mg
from openshell.policy import model as m
from openshell.policy.merge_operations import is_always_blocked
from unit.policy import merge_notation as notation
from unit.policy.policy_cases import CASES, load

# Every table row of the contract's section 8, by the names that the cases use.
ROWS = [
    *(
        f"shape {op}"
        for op in (
            "add_rule",
            "remove_endpoint",
            "remove_rule",
            "add_allow_rules",
            "add_deny_rules",
            "remove_binary",
        )
    ),
    "8 batch",
    *(
        f"8.1 {row}"
        for row in (
            "remove_rule",
            "remove_endpoint",
            "remove_binary",
            "add_allow_rules",
            "add_deny_rules",
            "target several",
            "target none",
            "target protocol empty",
            "target protocol",
            "target deny",
            "target preset",
            "presets",
        )
    ),
    *(
        f"8.2 {row}"
        for row in (
            "normalise",
            "target 1",
            "target 2",
            "target 3",
            "ports",
            "protocol, enforcement, tls",
            "rules",
            "access",
            "deny_rules, allowed_ips",
            "flags",
            "mcp options",
            "signing, binding, graphql",
            "mcp contracts",
            "binaries",
            "batch contract",
            *(f"example {number}" for number in range(1, 7)),
        )
    ),
    "C1",
    "C1 declaring",
    "C2",
    "C3",
    "mark rule 1",
    "mark rule 4",
    "mark rule 5",
]


def run(row):
    base = notation.policy(row.get("before", {}))
    operations = [notation.operation(op) for op in row["ops"]]
    return base, mg.merge_policy(base, operations, by_user=row.get("by") != "advisor")


@pytest.mark.parametrize("row", load("merge"))
def test_rows_of_the_contract(row):
    base, result = run(row)
    if "refused" in row:
        assert isinstance(result, mg.MergeRefused), result
        assert result.code == row["refused"]
        assert result.index == row.get("at", 0)
        shape = row["row"].startswith("shape")
        assert result.kind == row.get(
            "kind", "invalid_argument" if shape else "failed_precondition"
        )
        assert row.get("says", "") in result.message
        return
    assert isinstance(result, mg.MergePlan), result
    expected = notation.policy(row["after"]).network_policies
    assert dict(result.policy.network_policies) == expected
    assert [warning.code for warning in result.warnings] == row.get("warns", [])
    assert result.changed is (result.policy != base) is not row.get("unchanged", False)
    assert list(result.policy.network_policies) == sorted(expected)


def test_every_row_of_the_contract_has_a_case():
    named = {param.values[0]["row"] for param in load("merge")}
    assert named == set(ROWS), CASES


def test_what_else_a_policy_says_is_untouched():
    base = m.SandboxPolicy(
        version=7,
        filesystem=m.FilesystemPolicy(read_only=("/usr",)),
        landlock=m.LandlockPolicy("hard_requirement"),
        network_policies=notation.policy({"r": "a:443 | curl"}).network_policies,
    )
    plan = mg.merge_policy(base, [mg.RemoveRule("r")])
    assert plan.policy == replace(base, network_policies={})
    assert base.network_policies, "the base is a value"


def test_a_plan_says_which_rule_each_operation_met():
    base = notation.policy({"r": "a:443 | curl"})
    plan = mg.merge_policy(
        base,
        [
            notation.operation({"add": "n", "rule": "a:443 protocol=rest access=full | curl"}),
            notation.operation({"add": "n", "rule": "a:443 | curl"}),
        ],
    )
    assert plan.applied == (mg.Applied(True, "r"), mg.Applied(False, "r"))
    assert [w.index for w in plan.warnings] == [0, 1]


def test_a_batch_is_bounded():
    removals = [mg.RemoveRule("r")] * mg.MAX_OPERATIONS
    assert isinstance(mg.merge_policy(m.SandboxPolicy(), removals), mg.MergePlan)
    refused = mg.merge_policy(m.SandboxPolicy(), [*removals, mg.RemoveRule("r")])
    assert (refused.code, refused.kind) == ("too_many_operations", mg.RefusalKind.INVALID)


@pytest.mark.parametrize(
    ("text", "blocked"),
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("metadata.google.internal", True),
        ("127.0.0.1", True),
        ("127.255.0.9", True),
        ("169.254.1.1", True),
        ("0.0.0.0", True),
        ("::1", True),
        ("[::1]", True),
        ("fe80::1", True),
        ("::", True),
        ("::ffff:127.0.0.1", True),
        ("::ffff:169.254.169.254", True),
        ("0.0.0.0/0", True),
        ("::/0", True),
        ("126.0.0.0/7", True),
        ("10.0.0.0/8", False),
        ("::ffff:10.0.0.1", False),
        ("fd00::/8", False),
        ("a.example.com", False),
        ("*.localhost.example", False),
        ("not an address", False),
        ("", False),
    ],
)
def test_what_no_policy_can_open(text, blocked):
    assert is_always_blocked(text) is blocked


COVER = {
    "r": "a:443,80 protocol=rest rules=GET:/x,GET:/y enforcement=enforce | curl wget",
    "q": "b:1",
}


@pytest.mark.parametrize(
    ("rule", "covered"),
    [
        ("a:443 | curl", True),
        ("A:443 protocol=rest rules=GET:/x enforcement=enforce | wget", True),
        ("a:443 rules=GET:/z | curl", False),
        ("a:443 enforcement=audit | curl", False),
        ("a:443 protocol=mcp | curl", False),
        ("a:443 path=/x | curl", False),
        ("a:443,81 | curl", False),
        ("a:443 | curl git", False),
        ("a:443 flag=allow_encoded_slash | curl", False),
        ("a:443", False),
        ("b:1 | git", True),
        ("b:1", True),
        ("b:1; a:443 | git", False),
        ("| curl", False),
    ],
)
def test_coverage_of_a_proposal(rule, covered):
    assert mg.covers(notation.policy(COVER), notation.rule("n", rule)) is covered


# Laws on policies that collide on few names.

HOSTS = st.sampled_from(["a", "b", "*.x.com"])
PORTS = st.lists(st.sampled_from([80, 443, 8443]), min_size=1, max_size=2, unique=True).map(tuple)
BINARIES = st.lists(
    st.builds(m.Binary, st.sampled_from(["/curl", "/wget", "/git"]), st.booleans()),
    max_size=2,
).map(tuple)


def rule_lists(least):
    rule = st.builds(m.L7Rule, st.sampled_from(["GET", "POST"]), st.sampled_from(["/x", "/y"]))
    return st.lists(rule, min_size=least, max_size=2).map(tuple)


RULES, SOME_RULES = rule_lists(0), rule_lists(1)
ENDPOINTS = st.builds(
    m.Endpoint,
    host=HOSTS,
    ports=PORTS,
    path=st.sampled_from(["", "", "/v1/**"]),
    protocol=st.sampled_from(["", "rest", "rest", "mcp"]),
    enforcement=st.sampled_from(["", "enforce"]),
    access=st.sampled_from(["", "", "read-only", "full"]),
    rules=RULES,
    deny_rules=RULES,
    allow_encoded_slash=st.booleans(),
    advisor_proposed=st.booleans(),
    # Both together are refused by validation.
).map(lambda e: replace(e, access="") if e.rules else e)
NAMES = st.sampled_from(["r", "q", "s"])
NETWORK_RULES = st.builds(
    m.NetworkRule,
    st.just(""),
    st.just(""),
    st.lists(ENDPOINTS, min_size=1, max_size=2).map(tuple),
    BINARIES,
)
POLICIES = st.dictionaries(NAMES, NETWORK_RULES, max_size=3).map(
    lambda rules: m.SandboxPolicy(
        network_policies={
            k: replace(
                v,
                key=k,
                name=k,
                # As a merge would have stored them.
                binaries=tuple({b.path: b for b in v.binaries}.values()),
            )
            for k, v in sorted(rules.items())
        }
    )
)
ADDS = st.builds(mg.AddRule, NAMES, NETWORK_RULES)
OPERATIONS = st.one_of(
    ADDS,
    ADDS,
    st.builds(mg.RemoveEndpoint, HOSTS, st.sampled_from([80, 443]), st.sampled_from(["", "r"])),
    st.builds(mg.RemoveRule, NAMES),
    st.builds(mg.AddAllowRules, HOSTS, st.just(443), SOME_RULES),
    st.builds(mg.AddDenyRules, HOSTS, st.just(443), SOME_RULES),
    st.builds(mg.RemoveBinary, NAMES, st.sampled_from(["/curl", "/wget"])),
)
BATCHES = st.lists(OPERATIONS, max_size=4)
MANY = settings(max_examples=150, deadline=None)


@MANY
@given(POLICIES, OPERATIONS, st.booleans())
def test_an_operation_applied_twice_is_one_applied_once(base, operation, by_user):
    once = mg.merge_policy(base, [operation], by_user=by_user)
    assume(isinstance(once, mg.MergePlan))
    twice = mg.merge_policy(once.policy, [operation], by_user=by_user)
    if isinstance(operation, (mg.AddAllowRules, mg.AddDenyRules, mg.AddRule)):
        assert isinstance(twice, mg.MergePlan), twice
    if isinstance(twice, mg.MergePlan):
        assert twice.policy == once.policy
        assert not twice.changed


@MANY
@given(POLICIES, BATCHES, BATCHES)
def test_a_batch_is_its_parts_in_order_or_nothing(base, first, second):
    whole = mg.merge_policy(base, [*first, *second])
    part = mg.merge_policy(base, first)
    if isinstance(whole, mg.MergePlan):
        # Only the look at contracts waits for the end of a batch.
        if isinstance(part, mg.MergePlan):
            rest = mg.merge_policy(part.policy, second)
            assert rest == replace(
                whole,
                changed=rest.changed,
                applied=whole.applied[len(first) :],
                warnings=tuple(
                    replace(w, index=w.index - len(first))
                    for w in whole.warnings
                    if w.index >= len(first)
                ),
            )
        else:
            assert part.code == "inspection_contract"
        return
    if 0 <= whole.index < len(first):
        assert part == whole
    elif isinstance(part, mg.MergePlan) and whole.index >= 0:
        rest = mg.merge_policy(part.policy, second)
        assert rest == replace(whole, index=whole.index - len(first))


@MANY
@given(POLICIES, ADDS)
def test_add_rule_opens_nothing_that_it_does_not_name(base, operation):
    plan = mg.merge_policy(base, [operation])
    assume(isinstance(plan, mg.MergePlan))
    before, after = (compile_policy(p, generation=1) for p in (base, plan.policy))
    named = {(e.host.replace("*", "a"), port) for e in operation.rule.endpoints for port in e.ports}
    programs = {b.path for b in operation.rule.binaries}
    for host in ("a", "b", "a.x.com"):
        for port in (80, 443, 8443):
            for program in ("/curl", "/wget", "/git"):
                request = ConnectionRequest(host, port, program)
                old, new = before.connect(request), after.connect(request)
                if isinstance(new, ConnectionAllowed) and not isinstance(old, ConnectionAllowed):
                    assert (host, port) in named
                    assert program in programs
                elif isinstance(old, ConnectionAllowed):
                    assert isinstance(new, ConnectionAllowed) or not operation.rule.binaries


@MANY
@given(POLICIES, BATCHES)
def test_a_user_never_marks_and_no_endpoint_loses_its_mark(base, operations):
    plan = mg.merge_policy(base, operations)
    assume(isinstance(plan, mg.MergePlan))

    def marks(policy, marked):
        return {
            (key, e.host, e.path, port)
            for key, rule in policy.network_policies.items()
            for e in rule.endpoints
            for port in e.ports
            if e.advisor_proposed is marked
        }

    def named(policy):
        return {
            (key, b.path)
            for key, rule in policy.network_policies.items()
            for b in rule.binaries
            if b.advisor_proposed
        }

    touched = any(not isinstance(op, mg.AddRule) for op in operations)
    if not touched:
        # Ports may join a marked entry only because the base had several entries there.
        assert {place[:3] for place in marks(plan.policy, True)} == {
            place[:3] for place in marks(base, True)
        }
    assert named(plan.policy) <= named(base)


@MANY
@given(POLICIES, ADDS)
def test_what_was_added_without_a_warning_is_covered(base, operation):
    plan = mg.merge_policy(base, [operation])
    assume(isinstance(plan, mg.MergePlan))
    assume({w.code for w in plan.warnings} <= {"folded", "kept_apart", "no_binaries"})
    assert mg.covers(plan.policy, operation.rule)


def test_warnings_say_what_to_do():
    before = {"r": "a:443", "q": "b:443 | curl"}
    operations = [{"add": "r", "rule": "a:443 | curl"}, {"remove_rule": "s"}]
    _, plan = run({"before": before, "ops": operations})
    ignored, missing = plan.warnings
    assert "--remove-rule r" in ignored.message
    assert missing.message == "no rule 's'; there are: q, r"
