"""Which policies a sandbox may be given, in the words and codes of the contract."""

import dataclasses

import pytest

from openshell.gateway.errors import ApiError, Code
from openshell.gateway.services.policy_plan import (
    plan_create,
    plan_replacement,
    plan_supervisor_sync,
)
from openshell.policy.defaults import restrictive_default
from openshell.policy.model import (
    Binary,
    Endpoint,
    FilesystemPolicy,
    LandlockPolicy,
    NetworkRule,
    ProcessPolicy,
    SandboxPolicy,
)

DEFAULT = restrictive_default()


def rule(key="web", **overrides):
    fields = {
        "host": "api.example.com",
        "ports": (443,),
        "protocol": "rest",
        "access": "read-only",
        "enforcement": "enforce",
        **overrides,
    }
    return NetworkRule(key, key, (Endpoint(**fields),), (Binary("/usr/bin/curl"),))


def network(*rules, **sections):
    return SandboxPolicy(network_policies={r.key: r for r in rules}, **sections)


def refusal(plan, *arguments, **named):
    with pytest.raises(ApiError) as refused:
        plan(*arguments, **named)
    return refused.value


def test_without_a_policy_a_sandbox_gets_the_restrictive_default():
    assert plan_create(None) == DEFAULT
    assert not plan_create(None).network_policies


def test_a_new_policy_is_kept_but_for_marks():
    given = network(rule(provider_credentialed=True, advisor_proposed=True))
    assert plan_create(given) == network(rule())


@pytest.mark.parametrize(
    ("policy", "code", "says"),
    [
        pytest.param(
            network(rule("_provider_x")), Code.INVALID_ARGUMENT, "reserved '_provider_'", id="key"
        ),
        pytest.param(
            network(rule(host="*.com")),
            Code.INVALID_ARGUMENT,
            "policy contains unsafe content",
            id="tld",
        ),
        pytest.param(
            network(rule(protocol="sql", access="full")),
            Code.INVALID_ARGUMENT,
            "sql",
            id="not built",
        ),
        pytest.param(
            network(rule("a"), rule("b", enforcement="audit")),
            Code.FAILED_PRECONDITION,
            "network endpoint ambiguity validation failed:",
            id="ambiguous",
        ),
    ],
)
def test_a_policy_is_refused(policy, code, says):
    assert plan_create(network(rule()))
    for plan in (
        lambda: plan_create(policy),
        lambda: plan_replacement(DEFAULT, DEFAULT, policy),
    ):
        error = refusal(plan)
        assert error.code is code
        assert says in error.message


def test_a_replacement_inherits_what_it_leaves_out():
    planned = plan_replacement(DEFAULT, DEFAULT, network(rule()))
    assert planned == dataclasses.replace(DEFAULT, network_policies={"web": rule()})


def test_a_replacement_keeps_paths_added_by_an_earlier_one():
    fs = DEFAULT.filesystem
    more = dataclasses.replace(fs, read_only=(*fs.read_only, "/opt"))
    base = dataclasses.replace(DEFAULT, filesystem=more)
    assert plan_replacement(DEFAULT, base, network(rule())).filesystem == more


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        pytest.param(
            {"filesystem": FilesystemPolicy(include_workdir=True, read_only=("/usr/../etc",))},
            "cannot be removed",
            id="removed path, before the unsafe one",
        ),
        pytest.param(
            {"filesystem": dataclasses.replace(DEFAULT.filesystem, include_workdir=False)},
            "include_workdir",
            id="include_workdir",
        ),
        pytest.param({"landlock": LandlockPolicy("hard_requirement")}, "landlock", id="landlock"),
        pytest.param({"process": ProcessPolicy("1000", "")}, "process", id="process"),
    ],
)
def test_static_sections_stay(sections, says):
    error = refusal(plan_replacement, DEFAULT, DEFAULT, network(rule(), **sections))
    assert error.code is Code.INVALID_ARGUMENT
    assert says in error.message


def test_a_supervisor_may_not_change_the_network():
    base = dataclasses.replace(DEFAULT, network_policies={"web": rule()})
    same = dataclasses.replace(
        base, network_policies={"web": rule(), "_provider_x": rule("_provider_x")}
    )
    assert plan_supervisor_sync(DEFAULT, base, same) == base
    for candidate in (
        network(rule(access="full")),
        network(),
        network(rule(), rule("b", host="x.y")),
    ):
        assert refusal(plan_supervisor_sync, DEFAULT, base, candidate).code is Code.ABORTED


def test_a_supervisor_may_backfill_when_there_is_nothing():
    assert plan_supervisor_sync(None, None, network(rule())) == network(rule())
