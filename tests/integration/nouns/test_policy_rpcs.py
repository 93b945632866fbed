"""Policies over the real store: replacement, revisions, status, configuration, two writers."""

import dataclasses

import pytest

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_from_proto, policy_hash, policy_to_proto
from openshell.gateway.errors import ApiError, Code, error_to_status
from openshell.policy.defaults import restrictive_default
from support.policies import BOUND, FULL, OPEN

LOADED = openshell_pb2.POLICY_STATUS_LOADED
FAILED = openshell_pb2.POLICY_STATUS_FAILED
PENDING = openshell_pb2.POLICY_STATUS_PENDING
SUPERSEDED = openshell_pb2.POLICY_STATUS_SUPERSEDED


async def refused(call):
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


async def history(gateway, **fields):
    request = openshell_pb2.ListSandboxPoliciesRequest(name="box", **fields)
    answer = await gateway.ListSandboxPolicies(request)
    return [(revision.version, revision.status) for revision in answer.revisions]


async def test_a_sandbox_without_a_policy_starts_with_the_default_as_revision_1(gateway):
    box = await gateway.sandbox()
    answer = await gateway.status(box)
    assert answer.revision.version == 1
    assert answer.revision.status == PENDING
    assert policy_from_proto(answer.revision.policy) == restrictive_default()
    assert answer.active_version == 0
    config = await gateway.config(box)
    assert config.version == 1
    assert config.policy == answer.revision.policy
    assert config.policy_hash == answer.revision.policy_hash == policy_hash(restrictive_default())
    assert config.policy_source == sandbox_pb2.POLICY_SOURCE_SANDBOX
    assert config.policy_validation_failure_mode == "fail_closed"
    assert config.workspace == "default"
    assert "providers_v2_enabled" in config.settings


async def test_a_replacement_inherits_static_sections_and_is_announced(gateway):
    box = await gateway.sandbox()
    answer = await gateway.set_policy(box, OPEN)
    assert answer.version == 2
    config = await gateway.config(box)
    policy = policy_from_proto(config.policy)
    assert policy.filesystem == restrictive_default().filesystem
    assert "web" in policy.network_policies
    assert answer.policy_hash == config.policy_hash
    assert gateway.changes == [(box.metadata.id, "policy")]
    assert await history(gateway) == [(2, PENDING), (1, SUPERSEDED)]


async def test_the_same_policy_is_the_same_version(gateway):
    box = await gateway.sandbox(policy=OPEN)
    again = await gateway.set_policy(box, OPEN)
    assert again.version == 1
    assert not gateway.changes
    noted = await gateway.set_policy(box, OPEN, annotations={"why": "ticket 7"})
    assert noted.version == 2
    assert dict(noted.annotations) == {"why": "ticket 7"}
    plain = await gateway.set_policy(box, FULL)
    assert plain.version == 3
    assert dict(plain.annotations) == {"why": "ticket 7"}
    assert dict((await gateway.status(box, 2)).revision.provenance) == {"why": "ticket 7"}


async def test_a_life_of_revisions(gateway):
    box = await gateway.sandbox(policy=OPEN)
    await gateway.report(box, 1, LOADED)
    assert (await gateway.status(box)).active_version == 1
    await gateway.set_policy(box, FULL)
    assert await history(gateway) == [(2, PENDING), (1, SUPERSEDED)]
    await gateway.report(box, 2, FAILED, "cannot be compiled")
    answer = await gateway.status(box)
    assert (answer.revision.status, answer.revision.load_error) == (FAILED, "cannot be compiled")
    assert answer.active_version == 1
    await gateway.set_policy(box, OPEN)
    await gateway.report(box, 3, LOADED)
    assert await history(gateway) == [(3, LOADED), (2, FAILED), (1, SUPERSEDED)]
    answer = await gateway.status(box)
    assert answer.active_version == 3
    assert answer.revision.loaded_at_ms
    assert (await gateway.reload(box)).status.current_policy_version == 3


async def test_reports_are_repeatable_and_late_ones_change_nothing(gateway):
    box = await gateway.sandbox(policy=OPEN)
    await gateway.set_policy(box, FULL)
    await gateway.report(box, 2, LOADED)
    before = await gateway.reload(box)
    await gateway.report(box, 2, LOADED)
    await gateway.report(box, 1, LOADED)
    assert await gateway.reload(box) == before
    assert await history(gateway) == [(2, LOADED), (1, SUPERSEDED)]


async def test_the_running_revision_is_superseded_when_its_successor_loads(gateway):
    box = await gateway.sandbox(policy=OPEN)
    await gateway.set_policy(box, FULL)
    await gateway.report(box, 1, LOADED)
    assert await history(gateway) == [(2, PENDING), (1, LOADED)]
    await gateway.report(box, 2, LOADED)
    assert await history(gateway) == [(2, LOADED), (1, SUPERSEDED)]


@pytest.mark.parametrize(
    ("version", "status", "code"),
    [
        pytest.param(0, LOADED, Code.INVALID_ARGUMENT, id="version 0"),
        pytest.param(1, PENDING, Code.INVALID_ARGUMENT, id="other status"),
        pytest.param(9, LOADED, Code.NOT_FOUND, id="unknown version"),
    ],
)
async def test_a_report_is_refused(gateway, version, status, code):
    box = await gateway.sandbox()
    assert (await refused(gateway.report(box, version, status))).code is code


async def test_a_supervisor_reports_and_reads_for_itself_alone(gateway):
    box, other = await gateway.sandbox(), await gateway.sandbox("other")
    with gateway.as_sandbox(other):
        request = openshell_pb2.ReportPolicyStatusRequest(
            sandbox_id=box.metadata.id, version=1, status=LOADED
        )
        assert (await refused(gateway.ReportPolicyStatus(request))).code is Code.PERMISSION_DENIED
        assert (await refused(gateway.config(box))).code is Code.PERMISSION_DENIED
        assert (await gateway.config(other)).version == 1
    # A user is no supervisor.
    assert (await refused(gateway.ReportPolicyStatus(request))).code is Code.PERMISSION_DENIED


async def test_status_and_lists_are_refused_by_what_is_missing(gateway):
    box = await gateway.sandbox()
    status = openshell_pb2.GetSandboxPolicyStatusRequest
    for request, code in (
        (status(), Code.INVALID_ARGUMENT),
        (status(name="absent"), Code.NOT_FOUND),
        (status(name="box", version=5), Code.NOT_FOUND),
        (status(**{"global": True}), Code.NOT_FOUND),
        (status(name="box", workspace="absent"), Code.NOT_FOUND),
    ):
        assert (await refused(gateway.GetSandboxPolicyStatus(request))).code is code
    assert (await gateway.status(box, 1)).revision.version == 1


async def test_history_is_paged_newest_first_without_bodies(gateway):
    box = await gateway.sandbox(policy=OPEN)
    for number in range(6):
        await gateway.set_policy(box, (FULL, OPEN)[number % 2])
    assert [v for v, _ in await history(gateway, limit=3, offset=1)] == [6, 5, 4]
    answer = await gateway.ListSandboxPolicies(openshell_pb2.ListSandboxPoliciesRequest(name="box"))
    assert not any(revision.HasField("policy") for revision in answer.revisions)


def _shape(**fields):
    if fields.pop("with_policy", False):
        fields["policy"] = policy_to_proto(restrictive_default())
    return openshell_pb2.UpdateConfigRequest(**fields)


MERGE = openshell_pb2.PolicyMergeOperation()


@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        pytest.param(_shape(name="box"), Code.INVALID_ARGUMENT, "one of", id="nothing"),
        pytest.param(
            _shape(name="box", with_policy=True, setting_key="x"),
            Code.INVALID_ARGUMENT,
            "mutually exclusive",
            id="two things",
        ),
        pytest.param(
            _shape(with_policy=True), Code.INVALID_ARGUMENT, "name is required", id="no name"
        ),
        pytest.param(
            _shape(name="absent", with_policy=True), Code.NOT_FOUND, "sandbox", id="absent"
        ),
        pytest.param(
            _shape(name="box", with_policy=True, expected_resource_version=77),
            Code.ABORTED,
            "resource_version: 1",
            id="stale",
        ),
        pytest.param(
            _shape(name="box", merge_operations=[MERGE]),
            Code.INVALID_ARGUMENT,
            "merge_operations[0]: the merge operation names nothing to do",
            id="merge",
        ),
        pytest.param(
            _shape(name="box", merge_operations=[MERGE] * 257),
            Code.INVALID_ARGUMENT,
            "more than 256",
            id="too many operations",
        ),
        pytest.param(
            _shape(name="box", setting_key="ocsf_json_enabled"),
            Code.INVALID_ARGUMENT,
            "expects bool value",
            id="setting without value",
        ),
        pytest.param(
            _shape(name="box", setting_key="nonsense"),
            Code.INVALID_ARGUMENT,
            "Allowed keys",
            id="unknown key",
        ),
        pytest.param(
            _shape(name="box", setting_key="policy"),
            Code.INVALID_ARGUMENT,
            "policy field",
            id="policy key",
        ),
        pytest.param(
            _shape(merge_operations=[MERGE], **{"global": True}),
            Code.INVALID_ARGUMENT,
            "merge_operations",
            id="global merge",
        ),
        pytest.param(
            _shape(with_policy=True, annotations={"a": "b"}, **{"global": True}),
            Code.INVALID_ARGUMENT,
            "annotations",
            id="global annotations",
        ),
        pytest.param(
            _shape(name="box", with_policy=True, annotations={"bad key": "b"}),
            Code.INVALID_ARGUMENT,
            "annotations",
            id="bad annotation",
        ),
        pytest.param(
            _shape(
                name="box",
                policy=sandbox_pb2.SandboxPolicy(
                    version=1,
                    filesystem=sandbox_pb2.FilesystemPolicy(read_only=["/" + "x" * 300_000]),
                ),
            ),
            Code.INVALID_ARGUMENT,
            "maximum",
            id="huge",
        ),
    ],
)
async def test_an_update_is_refused_and_stores_nothing(gateway, request_, code, says):
    await gateway.sandbox()
    error = await refused(gateway.UpdateConfig(request_))
    assert error.code is code
    assert says in error.message
    assert await history(gateway) == [(1, PENDING)]
    assert not gateway.changes


async def test_a_deleting_sandbox_takes_no_policy(gateway):
    box = await gateway.sandbox(phase=openshell_pb2.SANDBOX_PHASE_DELETING)
    assert (await refused(gateway.set_policy(box, OPEN))).code is Code.FAILED_PRECONDITION


async def test_a_supervisor_may_sync_files_but_not_open_the_network(gateway):
    box, other = await gateway.sandbox(policy=OPEN), await gateway.sandbox("other")
    base = policy_from_proto((await gateway.status(box)).revision.policy)
    files = dataclasses.replace(base, filesystem=restrictive_default().filesystem)
    with gateway.as_sandbox(box):
        request = openshell_pb2.UpdateConfigRequest(name="box", policy=policy_to_proto(files))
        assert (await gateway.UpdateConfig(request)).version == 2
        assert (await refused(gateway.set_policy(box, FULL))).code is Code.ABORTED
        assert (await refused(gateway.set_policy(other, OPEN))).code is Code.PERMISSION_DENIED
        for fields in ({"global": True}, {"setting_key": "x"}, {"delete_setting": True}):
            request = openshell_pb2.UpdateConfigRequest(
                name="box", policy=policy_to_proto(files), **fields
            )
            assert (await refused(gateway.UpdateConfig(request))).code is Code.PERMISSION_DENIED


async def test_a_policy_may_bind_attached_providers_only(gateway):
    await gateway.provider()
    box = await gateway.sandbox()
    error = await refused(gateway.set_policy(box, BOUND))
    assert error.code is Code.FAILED_PRECONDITION
    await gateway.attach(box, "work")
    assert (await gateway.set_policy(box, BOUND)).version == 2
    (endpoint,) = (await gateway.config(box)).policy.network_policies["web"].endpoints
    assert endpoint.provider_credentialed
    stored = (await gateway.status(box)).revision.policy
    assert not stored.network_policies["web"].endpoints[0].provider_credentialed


async def test_one_number_moves_with_policy_and_providers(gateway):
    await gateway.provider()
    box = await gateway.sandbox()
    seen = [await gateway.config(box)]
    assert await gateway.config(box) == seen[0]
    await gateway.attach(box, "work")
    seen.append(await gateway.config(box))
    await gateway.set_policy(box, BOUND)
    seen.append(await gateway.config(box))
    await gateway.UpdateProvider(
        openshell_pb2.UpdateProviderRequest(
            provider={"metadata": {"name": "work"}, "credentials": {"API_KEY": "new"}}
        )
    )
    seen.append(await gateway.config(box))
    await gateway.set_policy(box, OPEN)
    await gateway.detach(box, "work")
    seen.append(await gateway.config(box))
    revisions = [config.config_revision for config in seen]
    assert len(set(revisions)) == len(revisions)
    assert all(revisions)
    env = [config.provider_env_revision for config in seen]
    assert env[2] != env[3]
    assert env[0] == env[4]
    assert (await gateway.environment(box)).provider_env_revision == env[4]


async def test_gateway_config_lists_every_setting_unset(gateway):
    answer = await gateway.GetGatewayConfig(sandbox_pb2.GetGatewayConfigRequest())
    assert sorted(answer.settings) == [
        "agent_policy_proposals_enabled",
        "ocsf_json_enabled",
        "proposal_approval_mode",
        "providers_v2_enabled",
    ]
    assert all(value.WhichOneof("value") is None for value in answer.settings.values())
    assert answer.settings_revision == 0


async def test_racing_updates_number_revisions_without_gaps(gateways, race):
    box = await gateways[0].sandbox(policy=OPEN)
    await race(
        *(
            gateway.set_policy(box, FULL, annotations={"n": str(n)})
            for n, gateway in enumerate(gateways * 6)
        )
    )
    found = await history(gateways[0])
    assert found == [(13, PENDING), *((version, SUPERSEDED) for version in range(12, 0, -1))]


async def test_racing_updates_of_one_version_have_one_winner(gateways, race):
    box = await gateways[0].sandbox(policy=OPEN)
    version = box.metadata.resource_version
    results = await race(
        *(
            gateway.set_policy(
                box, FULL, annotations={"n": str(n)}, expected_resource_version=version
            )
            for n, gateway in enumerate(gateways * 3)
        )
    )
    losers = [result for result in results if isinstance(result, Exception)]
    assert len(losers) == 5
    assert {error_to_status(loser)[0] for loser in losers} == {Code.ABORTED}


@pytest.mark.parametrize("round_", range(10))
async def test_a_binding_racing_a_detach_never_binds_nobody(gateways, race, round_):
    one, two = gateways
    await one.provider()
    box = await one.sandbox(providers=["work"], policy=OPEN)
    calls = [one.set_policy(box, BOUND), two.detach(box, "work")]
    results = await race(*(calls if round_ % 2 else reversed(calls)))
    losers = [result for result in results if isinstance(result, Exception)]
    assert [error_to_status(loser)[0] for loser in losers] == [Code.FAILED_PRECONDITION]
    # Whatever won, the sandbox can be configured.
    assert (await one.config(box)).version in (1, 2)


@pytest.mark.parametrize("round_", range(10))
async def test_a_report_racing_an_update_ends_with_the_newest_pending(gateways, race, round_):
    one, two = gateways
    box = await one.sandbox(policy=OPEN)
    calls = [one.set_policy(box, FULL), two.report(box, 1, LOADED)]
    results = await race(*(calls if round_ % 2 else reversed(calls)))
    assert not [result for result in results if isinstance(result, Exception)]
    found = dict(await history(one))
    assert found[2] == PENDING
    assert found[1] in (LOADED, SUPERSEDED)
    assert (await one.status(box)).active_version == 1
