"""CreateSandbox and StartSandbox of a whole gateway: providers, profile and policy must go together."""

import grpc
import pytest

from integration.gateway.harness import code_of, running
from openshell._proto import datamodel_pb2, sandbox_pb2
from openshell._proto import openshell_pb2 as pb
from openshell.codec.policy import policy_to_proto
from openshell.codec.profile import profile_to_proto
from openshell.gateway.records import Kind
from openshell.policy.parse import parse_policy
from support.policies import OPEN
from support.profile_values import profile
from support.statuses import refused

AUDITED = OPEN.replace("api.example.com", "api.acme.test").replace(
    "enforcement: enforce", "enforcement: audit"
)


@pytest.fixture
async def gw(tmp_path):
    async with running(tmp_path) as started:
        await started.api.ImportProviderProfiles(
            pb.ImportProviderProfilesRequest(
                profiles=[pb.ProviderProfileImportItem(profile=profile_to_proto(profile()))]
            )
        )
        await provider(started, "work", "ACME_KEY")
        yield started


async def provider(gw, name, key):
    message = datamodel_pb2.Provider(
        metadata=datamodel_pb2.ObjectMeta(name=name), type="acme", credentials={key: "secret"}
    )
    await gw.api.CreateProvider(pb.CreateProviderRequest(provider=message))


async def v2(gw):
    await gw.api.UpdateConfig(
        pb.UpdateConfigRequest(
            setting_key="providers_v2_enabled",
            setting_value={"bool_value": True},
            **{"global": True},
        )
    )


def policy(text):
    return policy_to_proto(parse_policy(text, source="test"))


async def test_a_sandbox_is_created_with_its_layers(gw):
    await v2(gw)
    box = await gw.create(providers=["work"], policy=policy(OPEN))
    given = sandbox_pb2.GetSandboxConfigResponse.FromString(
        gw.driver.sandboxes[box.metadata.id][0].initial_config
    )
    assert sorted(given.policy.network_policies) == ["_provider_work", "web"]
    config = await gw.api.GetSandboxConfig(
        sandbox_pb2.GetSandboxConfigRequest(sandbox_id=box.metadata.id)
    )
    assert config == given
    assert sorted(box.spec.policy.network_policies) == ["web"]


@pytest.mark.parametrize(
    ("spec", "code", "says"),
    [
        pytest.param(
            {"providers": ["absent"]}, "FAILED_PRECONDITION", "provider 'absent' not found", id="no"
        ),
        pytest.param(
            {"providers": ["work", "twin"]}, "FAILED_PRECONDITION", "'ACME_KEY'", id="one key"
        ),
        pytest.param(
            {"providers": ["work"], "policy": policy(AUDITED)},
            "FAILED_PRECONDITION",
            "api.acme.test",
            id="conflict",
        ),
        pytest.param(
            {"providers": [f"p{n}" for n in range(33)]}, "INVALID_ARGUMENT", "32", id="too many"
        ),
    ],
)
async def test_what_does_not_go_together_is_not_created(gw, spec, code, says):
    await provider(gw, "twin", "ACME_KEY")
    await v2(gw)
    found, message = await refused(gw.create(**spec))
    assert found is grpc.StatusCode[code]
    assert says in message
    assert not gw.driver.sandboxes
    assert await code_of(gw.get()) is grpc.StatusCode.NOT_FOUND
    # Nothing is left that would hinder a second try.
    assert (await gw.create(providers=["work"])).metadata.name == "one"


async def test_a_session_is_told_at_once_of_what_concerns_it(gw):
    box, supervisor = await gw.ready()
    await gw.api.AttachSandboxProvider(
        pb.AttachSandboxProviderRequest(sandbox_name="one", provider_name="work")
    )
    await supervisor.next("config_changed")
    await v2(gw)
    await supervisor.next("config_changed")
    update = pb.UpdateProviderRequest()
    update.provider.metadata.name = "work"
    update.provider.credentials["ACME_KEY"] = "other"
    await gw.api.UpdateProvider(update)
    await supervisor.next("config_changed")
    answer = await supervisor.stub.GetSandboxProviderEnvironment(
        pb.GetSandboxProviderEnvironmentRequest(
            sandbox_id=box.metadata.id, supports_static_credential_bindings=True
        ),
        metadata=supervisor.metadata,
    )
    assert answer.environment["ACME_KEY"] == "other"


async def test_what_cannot_be_delivered_does_not_start(gw):
    box = await gw.create(providers=["work"])
    supervisor = await gw.connect(box.metadata.id)
    await supervisor.report_ready()
    await gw.wait_phase("one", pb.SANDBOX_PHASE_READY)
    await gw.api.StopSandbox(pb.StopSandboxRequest(name="one"))
    store = gw.gateway._store
    lost = await store.read(lambda tx: tx.get(Kind.PROVIDER, "default", "work"))
    await store.write(lambda tx: tx.delete(Kind.PROVIDER, lost.id))
    code, says = await refused(gw.api.StartSandbox(pb.StartSandboxRequest(name="one")))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert "provider 'work' not found" in says
    assert (await gw.get()).status.phase == pb.SANDBOX_PHASE_STOPPED
    await gw.api.DetachSandboxProvider(
        pb.DetachSandboxProviderRequest(sandbox_name="one", provider_name="work")
    )
    started = await gw.api.StartSandbox(pb.StartSandboxRequest(name="one"))
    assert started.sandbox.status.phase == pb.SANDBOX_PHASE_STARTING
