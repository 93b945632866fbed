"""The whole gateway serves the profile methods, over TLS, and keeps what they wrote."""

import grpc.aio

from integration.gateway.harness import running
from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell._proto import openshell_ext_profiles_pb2_grpc, openshell_pb2
from openshell.codec.profile import profile_to_proto
from support.profile_values import profile


def apply(version=0, **fields):
    item = ext.ApplyProfilesItem(
        id="acme",
        profile=profile_to_proto(profile("acme", **fields)),
        expected_resource_version=version,
    )
    return ext.ApplyProfilesRequest(workspace="default", items=[item])


async def test_a_profile_and_its_history_outlive_the_gateway(tmp_path):
    async with running(tmp_path) as started:
        stub = openshell_ext_profiles_pb2_grpc.ProviderProfilesStub(started.channel)
        assert (await stub.Apply(apply())).applied
        try:
            await stub.Apply(apply(9))
        except grpc.aio.AioRpcError as error:
            assert error.code() is grpc.StatusCode.ABORTED
        else:
            raise AssertionError("a stale version was taken")
    async with running(tmp_path) as started:
        stub = openshell_ext_profiles_pb2_grpc.ProviderProfilesStub(started.channel)
        found = await started.api.GetProviderProfile(
            openshell_pb2.GetProviderProfileRequest(id="acme", workspace="default")
        )
        assert found.profile.resource_version == 1
        history = await stub.ListRevisions(
            ext.ListProfileRevisionsRequest(workspace="default", id="acme")
        )
        (revision,) = history.revisions
        assert revision.author, "the name that the certificate says"


async def test_the_built_in_profiles_are_there_from_the_start(tmp_path):
    async with running(tmp_path) as started:
        for workspace in ("", "default"):
            listed = await started.api.ListProviderProfiles(
                openshell_pb2.ListProviderProfilesRequest(workspace=workspace)
            )
            assert {"github", "aws-s3", "claude-code"} <= {p.id for p in listed.profiles}
