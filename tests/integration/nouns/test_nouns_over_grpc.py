"""The same services behind real gRPC: both doors, tokens, statuses, streams."""

import uuid

import grpc
import grpc.aio
import pytest

from openshell._proto import datamodel_pb2, openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_to_proto
from openshell.policy.parse import parse_policy
from support.policies import BOUND, FULL, OPEN

SECRET = "s3cr3t-of-the-wire"


def policy(text):
    return policy_to_proto(parse_policy(text, source="test"))


async def status_of(call):
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


def create(name="work"):
    return openshell_pb2.CreateProviderRequest(
        provider=datamodel_pb2.Provider(
            metadata=datamodel_pb2.ObjectMeta(name=name),
            type="generic",
            credentials={"API_KEY": SECRET},
        )
    )


async def test_a_secret_reaches_the_supervisor_and_no_user(gateway, doors):
    box = await gateway.sandbox()
    created = await doors.user.CreateProvider(create())
    attached = await doors.user.AttachSandboxProvider(
        openshell_pb2.AttachSandboxProviderRequest(sandbox_name="box", provider_name="work")
    )
    updated = await doors.user.UpdateConfig(
        openshell_pb2.UpdateConfigRequest(name="box", policy=policy(BOUND))
    )
    config = await doors.supervisor.GetSandboxConfig(
        sandbox_pb2.GetSandboxConfigRequest(sandbox_id=box.metadata.id), **doors.token(box)
    )
    environment = await doors.supervisor.GetSandboxProviderEnvironment(
        openshell_pb2.GetSandboxProviderEnvironmentRequest(
            sandbox_id=box.metadata.id, supports_static_credential_bindings=True
        ),
        **doors.token(box),
    )
    assert environment.environment["API_KEY"] == SECRET
    assert environment.provider_env_revision == config.provider_env_revision
    assert config.version == updated.version == 2
    await doors.supervisor.ReportPolicyStatus(
        openshell_pb2.ReportPolicyStatusRequest(
            sandbox_id=box.metadata.id, version=2, status=openshell_pb2.POLICY_STATUS_LOADED
        ),
        **doors.token(box),
    )
    answer = await doors.user.GetSandboxPolicyStatus(
        openshell_pb2.GetSandboxPolicyStatusRequest(name="box")
    )
    assert answer.active_version == 2
    seen = [created, attached, updated, answer, config]
    seen.append(await doors.user.ListProviders(openshell_pb2.ListProvidersRequest()))
    seen.append(
        await doors.user.ListSandboxProviders(
            openshell_pb2.ListSandboxProvidersRequest(sandbox_name="box")
        )
    )
    for message in seen:
        assert SECRET.encode() not in message.SerializeToString()


async def test_users_read_no_environment_and_supervisors_write_no_provider(gateway, doors):
    box = await gateway.sandbox()
    request = openshell_pb2.GetSandboxProviderEnvironmentRequest(sandbox_id=box.metadata.id)
    code, _ = await status_of(doors.user.GetSandboxProviderEnvironment(request))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    code, _ = await status_of(doors.supervisor.GetSandboxProviderEnvironment(request))
    assert code is grpc.StatusCode.UNAUTHENTICATED
    code, _ = await status_of(doors.supervisor.CreateProvider(create(), **doors.token(box)))
    assert code is grpc.StatusCode.PERMISSION_DENIED
    code, _ = await status_of(doors.user.CreateProvider(create(), **doors.token(box)))
    assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_a_supervisor_reaches_its_own_sandbox_alone(gateway, doors):
    box, other = await gateway.sandbox(policy=OPEN), await gateway.sandbox("other")
    calls = [
        doors.supervisor.GetSandboxConfig(
            sandbox_pb2.GetSandboxConfigRequest(sandbox_id=box.metadata.id), **doors.token(other)
        ),
        doors.supervisor.GetSandboxProviderEnvironment(
            openshell_pb2.GetSandboxProviderEnvironmentRequest(sandbox_id=box.metadata.id),
            **doors.token(other),
        ),
        doors.supervisor.ReportPolicyStatus(
            openshell_pb2.ReportPolicyStatusRequest(
                sandbox_id=box.metadata.id, version=1, status=openshell_pb2.POLICY_STATUS_LOADED
            ),
            **doors.token(other),
        ),
        doors.supervisor.UpdateConfig(
            openshell_pb2.UpdateConfigRequest(name="box", policy=policy(OPEN)), **doors.token(other)
        ),
    ]
    for call in calls:
        assert (await status_of(call))[0] is grpc.StatusCode.PERMISSION_DENIED
    code, _ = await status_of(
        doors.supervisor.UpdateConfig(
            openshell_pb2.UpdateConfigRequest(name="box", policy=policy(FULL)), **doors.token(box)
        )
    )
    assert code is grpc.StatusCode.ABORTED


async def test_logs_stream_in_and_are_read_back(gateway, doors):
    box, other = await gateway.sandbox(), await gateway.sandbox("other")

    async def lines(*sandboxes):
        for number, sandbox in enumerate(sandboxes):
            yield openshell_pb2.PushSandboxLogsRequest(
                sandbox_id=sandbox.metadata.id,
                logs=[openshell_pb2.SandboxLogLine(message=f"line {number}", level="INFO")],
            )

    await doors.supervisor.PushSandboxLogs(lines(box, box), **doors.token(box))
    code, _ = await status_of(
        doors.supervisor.PushSandboxLogs(lines(box, other), **doors.token(box))
    )
    assert code is grpc.StatusCode.PERMISSION_DENIED
    answer = await doors.user.GetSandboxLogs(
        openshell_pb2.GetSandboxLogsRequest(sandbox_id=box.metadata.id)
    )
    assert [line.message for line in answer.logs] == ["line 0", "line 1", "line 0"]


@pytest.mark.parametrize(
    "method",
    [
        "ApproveDraftChunk",
        "UndoDraftChunk",
        "ExposeService",
        "ListServices",
        "CreateWorkspace",
    ],
)
async def test_what_is_not_built_says_its_name(doors, method):
    request = getattr(openshell_pb2, f"{method}Request")()
    code, details = await status_of(getattr(doors.user, method)(request))
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert method in details


async def test_a_refusal_carries_its_sentence(gateway, doors):
    await gateway.sandbox()
    missing = openshell_pb2.AttachSandboxProviderRequest(
        sandbox_name="box", provider_name=f"absent-{uuid.uuid4()}"
    )
    code, details = await status_of(doors.user.AttachSandboxProvider(missing))
    assert code is grpc.StatusCode.FAILED_PRECONDITION
    assert missing.provider_name in details
