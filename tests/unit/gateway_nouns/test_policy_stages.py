"""In which order a policy's faults are told, and what an update must look like to be one."""

import dataclasses

import pytest

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.gateway.auth.principal import SandboxPrincipal, SandboxSource
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.services.config_request import read_update
from openshell.gateway.services.policy_plan import plan_create, plan_replacement
from openshell.policy.defaults import restrictive_default
from openshell.policy.model import (
    Binary,
    Endpoint,
    LandlockPolicy,
    NetworkRule,
    SandboxPolicy,
)

DEFAULT = restrictive_default()
GOOD = Endpoint("a.x.com", (443,), protocol="rest", access="full")
# Each fault, with what is said of it, in the order of the contract's stages.
FAULTS = {
    "reserved key": "uses reserved '_provider_' prefix",
    "static section": "landlock policy cannot be changed on a live sandbox",
    "unsafe content": "policy contains unsafe content: ",
    "ambiguity": "network endpoint ambiguity validation failed:",
}


def policy_with(faults):
    rules = {"a": NetworkRule("a", "a", (GOOD,), (Binary("/a"),))}
    policy = DEFAULT
    if "reserved key" in faults:
        rules["_provider_x"] = NetworkRule("_provider_x", "x", (GOOD,), (Binary("/a"),))
    if "static section" in faults:
        policy = dataclasses.replace(policy, landlock=LandlockPolicy("hard_requirement"))
    if "unsafe content" in faults:
        files = dataclasses.replace(
            DEFAULT.filesystem, read_only=(*DEFAULT.filesystem.read_only, "rel", "/a/../b")
        )
        policy = dataclasses.replace(policy, filesystem=files)
    if "ambiguity" in faults:
        other = dataclasses.replace(GOOD, enforcement="enforce")
        rules["b"] = NetworkRule("b", "b", (other,), (Binary("/a"),))
    return dataclasses.replace(policy, network_policies=rules)


def said(plan, *arguments):
    with pytest.raises(ApiError) as refused:
        plan(*arguments)
    return refused.value.message


@pytest.mark.parametrize("first", range(len(FAULTS)), ids=list(FAULTS))
def test_of_several_faults_of_a_replacement_the_first_stage_speaks(first):
    faults = list(FAULTS)[first:]
    assert FAULTS[faults[0]] in said(plan_replacement, DEFAULT, DEFAULT, policy_with(faults))


@pytest.mark.parametrize("first", [0, 2, 3], ids=lambda first: list(FAULTS)[first])
def test_of_several_faults_of_a_new_policy_the_first_stage_speaks(first):
    faults = [fault for fault in list(FAULTS)[first:] if fault != "static section"]
    assert FAULTS[faults[0]] in said(plan_create, policy_with(faults))


def test_all_violations_are_told_at_once():
    message = said(plan_create, policy_with(["unsafe content"]))
    parts = message.removeprefix("policy contains unsafe content: ").split("; ")
    assert parts == [
        "path must be absolute: 'rel'",
        "path contains '..' traversal component: '/a/../b'",
    ]


POLICY = {"policy": sandbox_pb2.SandboxPolicy(version=1)}
CALLER = SandboxPrincipal("id", SandboxSource.GATEWAY_TOKEN)
# What only a supervisor is refused.
FOR_PERSONS = {
    "global": {"global": True, **POLICY},
    "delete": {"name": "box", "delete_setting": True, **POLICY},
    "no name": POLICY,
    "no policy": {"name": "box"},
    "setting key": {"name": "box", "setting_key": "providers_v2_enabled", **POLICY},
    "merge": {
        "name": "box",
        "merge_operations": [{"remove_rule": {"rule_name": "r"}}],
    },
}


@pytest.mark.parametrize("fields", FOR_PERSONS.values(), ids=FOR_PERSONS)
def test_a_supervisor_may_only_send_a_policy(fields):
    whole = openshell_pb2.UpdateConfigRequest(name="box", **POLICY)
    assert read_update(whole, CALLER)
    with pytest.raises(ApiError) as refused:
        read_update(openshell_pb2.UpdateConfigRequest(**fields), CALLER)
    assert refused.value.code is Code.PERMISSION_DENIED


SHAPES = {
    "nothing": ({"name": "box"}, "one of policy, setting_key, or merge_operations must be"),
    "policy and setting": (
        {"name": "box", "setting_key": "providers_v2_enabled", **POLICY},
        "mutually exclusive",
    ),
    "policy and merge": ({**FOR_PERSONS["merge"], **POLICY}, "mutually exclusive"),
    "setting and merge": (
        {**FOR_PERSONS["merge"], "setting_key": "providers_v2_enabled"},
        "mutually exclusive",
    ),
    "no name": (POLICY, "name is required for sandbox-scoped updates"),
    "blank name": ({"name": " ", **POLICY}, "name is required for sandbox-scoped updates"),
    "global merge": (
        {"global": True, "merge_operations": [{"remove_rule": {"rule_name": "r"}}]},
        "merge_operations are not supported for global policy updates",
    ),
    "global annotations": (
        {"global": True, "annotations": {"a": "b"}, **POLICY},
        "annotations are not supported for global updates",
    ),
    "global policy and delete": (
        {"global": True, "delete_setting": True, **POLICY},
        "delete_setting does not go with a policy",
    ),
}


@pytest.mark.parametrize(("fields", "says"), SHAPES.values(), ids=SHAPES)
def test_an_update_is_one_thing(fields, says):
    with pytest.raises(ApiError) as refused:
        read_update(openshell_pb2.UpdateConfigRequest(**fields), None)
    assert refused.value.code is Code.INVALID_ARGUMENT
    assert says in refused.value.message


def test_the_default_is_a_policy_without_faults():
    assert plan_replacement(DEFAULT, DEFAULT, policy_with([])) == policy_with([])
    assert isinstance(plan_create(policy_with([])), SandboxPolicy)
