"""The policy for all sandboxes over the real store: precedence, revisions, what it blocks, deletion."""

import pytest

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_from_proto, policy_to_proto
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.services.revisions import store_revision
from openshell.policy.parse import parse_policy
from support.policies import BOUND, FULL, OPEN

LOADED = openshell_pb2.POLICY_STATUS_LOADED
PENDING = openshell_pb2.POLICY_STATUS_PENDING
SUPERSEDED = openshell_pb2.POLICY_STATUS_SUPERSEDED
EVERYWHERE = {"global": True}
STRICT = OPEN.replace("api.example.com", "only.example.com")


async def refused(call):
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


def set_request(text):
    policy = policy_to_proto(parse_policy(text, source="test"))
    return openshell_pb2.UpdateConfigRequest(policy=policy, **EVERYWHERE)


def delete_request():
    return openshell_pb2.UpdateConfigRequest(
        setting_key="policy", delete_setting=True, **EVERYWHERE
    )


def v2(value):
    return openshell_pb2.UpdateConfigRequest(
        setting_key="providers_v2_enabled", setting_value={"bool_value": value}, **EVERYWHERE
    )


async def history(gateway, **fields):
    answer = await gateway.ListSandboxPolicies(
        openshell_pb2.ListSandboxPoliciesRequest(**EVERYWHERE, **fields)
    )
    assert not any(revision.HasField("policy") for revision in answer.revisions)
    return [(revision.version, revision.status) for revision in answer.revisions]


async def status(gateway, version=0):
    return await gateway.GetSandboxPolicyStatus(
        openshell_pb2.GetSandboxPolicyStatusRequest(version=version, **EVERYWHERE)
    )


def hosts(config):
    policy = policy_from_proto(config.policy)
    return [e.host for rule in policy.network_policies.values() for e in rule.endpoints]


async def test_it_stands_in_place_of_every_sandboxs_own_until_it_is_deleted(gateway):
    box, other = await gateway.sandbox(policy=OPEN), await gateway.sandbox("other")
    own = [await gateway.config(item) for item in (box, other)]
    answer = await gateway.UpdateConfig(set_request(STRICT))
    assert (answer.version, answer.settings_revision) == (1, 1)
    assert sorted(gateway.changes) == sorted((item.metadata.id, "policy") for item in (box, other))
    for item, before in zip((box, other), own, strict=True):
        config = await gateway.config(item)
        assert hosts(config) == ["only.example.com"]
        assert config.policy_source == sandbox_pb2.POLICY_SOURCE_GLOBAL
        assert config.global_policy_version == 1
        assert config.version == before.version == 1
        assert config.policy_hash == answer.policy_hash
        assert config.config_revision != before.config_revision
    # In full: what it does not say of files is not taken from the sandbox's own.
    assert not (await gateway.config(box)).policy.HasField("filesystem")
    late = await gateway.sandbox("late", policy=OPEN)
    assert hosts(await gateway.config(late)) == ["only.example.com"]

    gateway.changes.clear()
    gone = await gateway.UpdateConfig(delete_request())
    assert (gone.deleted, gone.settings_revision) == (True, 2)
    assert len(gateway.changes) == 3
    assert [await gateway.config(item) for item in (box, other)] == own
    assert hosts(await gateway.config(late)) == ["api.example.com"]
    again = await gateway.UpdateConfig(delete_request())
    assert (again.deleted, again.settings_revision) == (False, 2)
    assert len(gateway.changes) == 3


async def test_its_revisions_are_loaded_at_once_and_retired_together(gateway):
    error = await refused(status(gateway))
    assert (error.code, error.message) == (Code.NOT_FOUND, "no global policy revision found")
    first = await gateway.UpdateConfig(set_request(STRICT))
    assert (await gateway.UpdateConfig(set_request(STRICT))).version == first.version
    assert (await gateway.UpdateConfig(set_request(OPEN))).version == 2
    assert await history(gateway) == [(2, LOADED), (1, SUPERSEDED)]
    assert await history(gateway, limit=1, offset=1) == [(1, SUPERSEDED)]
    answer = await status(gateway)
    assert answer.revision.version == 2
    assert answer.revision.loaded_at_ms
    assert answer.active_version == 0
    assert (await status(gateway, 1)).revision.policy_hash == first.policy_hash
    assert (await refused(status(gateway, 9))).code is Code.NOT_FOUND
    await gateway.UpdateConfig(delete_request())
    assert await history(gateway) == [(2, SUPERSEDED), (1, SUPERSEDED)]
    # The same content again is a decision of its own.
    assert (await gateway.UpdateConfig(set_request(OPEN))).version == 3
    assert await history(gateway) == [(3, LOADED), (2, SUPERSEDED), (1, SUPERSEDED)]


async def test_it_blocks_updates_of_sandboxes_and_leaves_their_history(gateway):
    box = await gateway.sandbox(policy=OPEN)
    await gateway.report(box, 1, LOADED)
    await gateway.UpdateConfig(set_request(STRICT))
    merge = openshell_pb2.UpdateConfigRequest(
        name="box", merge_operations=[{"remove_rule": {"rule_name": "web"}}]
    )
    for call in (gateway.set_policy(box, FULL), gateway.UpdateConfig(merge)):
        error = await refused(call)
        assert error.code is Code.FAILED_PRECONDITION
        assert "policy is managed globally; delete global policy before" in error.message
    with gateway.as_sandbox(box):
        assert (await refused(gateway.set_policy(box, OPEN))).code is Code.FAILED_PRECONDITION
    answer = await gateway.status(box)
    assert (answer.revision.version, answer.revision.status) == (1, LOADED)
    assert answer.active_version == 1
    await gateway.UpdateConfig(delete_request())
    assert (await gateway.set_policy(box, FULL)).version == 2


async def test_credentials_that_a_sandboxs_own_policy_binds_are_withheld(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    before = await gateway.environment(box)
    assert before.environment
    # The host is the bound one, and nothing inspects it: the value must not get near it.
    raw = OPEN.replace("protocol: rest, enforcement: enforce, access: read-only", "tls: skip")
    await gateway.UpdateConfig(set_request(raw))
    config, during = await gateway.config(box), await gateway.environment(box)
    assert not during.environment
    assert during.provider_env_revision == config.provider_env_revision
    assert during.provider_env_revision != before.provider_env_revision
    await gateway.UpdateConfig(delete_request())
    assert await gateway.environment(box) == before


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        pytest.param(
            set_request(OPEN.replace("web:", "_provider_web:")),
            Code.INVALID_ARGUMENT,
            "reserved '_provider_'",
            id="reserved key",
        ),
        pytest.param(
            set_request(OPEN.replace("api.example.com", '"*.com"')),
            Code.INVALID_ARGUMENT,
            "policy contains unsafe content",
            id="safety",
        ),
        pytest.param(
            set_request(
                OPEN
                + OPEN.partition("network_policies:\n")[2]
                .replace("web:", "raw:")
                .replace("protocol: rest, enforcement: enforce, access: read-only", "tls: skip")
            ),
            Code.FAILED_PRECONDITION,
            "ambiguity",
            id="ambiguity, uncomposed",
        ),
        pytest.param(
            set_request(BOUND),
            Code.FAILED_PRECONDITION,
            "credential_binding is sandbox-scoped",
            id="credential binding",
        ),
        pytest.param(
            openshell_pb2.UpdateConfigRequest(
                policy=policy_to_proto(parse_policy(OPEN, source="test")),
                delete_setting=True,
                **EVERYWHERE,
            ),
            Code.INVALID_ARGUMENT,
            "delete_setting",
            id="with delete",
        ),
    ],
)
async def test_a_global_policy_is_refused_and_the_one_in_force_stays(gateway, request_, code, says):
    await gateway.UpdateConfig(set_request(STRICT))
    error = await refused(gateway.UpdateConfig(request_))
    assert error.code is code
    assert says in error.message
    assert await history(gateway) == [(1, LOADED)]


async def test_static_sections_of_running_sandboxes_do_not_hold_it_back(gateway):
    box = await gateway.sandbox()
    text = OPEN + "\nfilesystem_policy:\n  include_workdir: true\n  read_only: [/usr]\n"
    assert (await refused(gateway.set_policy(box, text))).code is Code.INVALID_ARGUMENT
    assert (await gateway.UpdateConfig(set_request(text))).version == 1


async def test_its_deletion_checks_every_sandbox_when_composition_becomes_active(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    await gateway.UpdateConfig(set_request(STRICT))
    # Nothing is composed while it is in force, so turning composition on checks nothing yet.
    clash = OPEN + OPEN.partition("network_policies:\n")[2].replace("web:", "raw:").replace(
        "protocol: rest, enforcement: enforce, access: read-only", "tls: skip"
    )
    await gateway.store.write(
        lambda tx: store_revision(
            tx, box.metadata.id, "default", parse_policy(clash, source="test"), {}
        )
    )
    await gateway.UpdateConfig(v2(value=True))
    error = await refused(gateway.UpdateConfig(delete_request()))
    assert error.code is Code.FAILED_PRECONDITION
    assert "cannot activate provider policy composition: sandbox 'default/box'" in error.message
    assert await history(gateway) == [(1, LOADED)]
    await gateway.UpdateConfig(v2(value=False))
    assert (await gateway.UpdateConfig(delete_request())).deleted


async def test_racing_global_updates_number_revisions_without_gaps(gateways, race):
    texts = [STRICT.replace("only", f"only{number}") for number in range(8)]
    results = await race(
        *(gateways[n % 2].UpdateConfig(set_request(text)) for n, text in enumerate(texts))
    )
    assert not [result for result in results if isinstance(result, Exception)]
    assert await history(gateways[0]) == [
        (8, LOADED),
        *((version, SUPERSEDED) for version in range(7, 0, -1)),
    ]
    assert max(result.settings_revision for result in results) == 8


@pytest.mark.parametrize("round_", range(6))
async def test_a_sandbox_update_racing_a_global_one_is_before_it_or_refused(gateways, race, round_):
    one, two = gateways
    box = await one.sandbox(policy=OPEN)
    calls = [one.set_policy(box, FULL), two.UpdateConfig(set_request(STRICT))]
    results = await race(*(calls if round_ % 2 else reversed(calls)))
    losers = [result for result in results if isinstance(result, Exception)]
    assert {loser.code for loser in losers} <= {Code.FAILED_PRECONDITION}
    assert hosts(await two.config(box)) == ["only.example.com"]
