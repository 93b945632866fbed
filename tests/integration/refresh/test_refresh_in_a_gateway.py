"""The whole gateway: its RPCs over gRPC, and the sweep with which it starts."""

import asyncio

from integration.gateway.harness import running
from integration.refresh.conftest import CLIENT_SECRET, graph
from openshell._proto import datamodel_pb2
from openshell._proto import openshell_pb2 as pb
from openshell.codec.profile import profile_to_proto
from openshell.providers.profile.model import Strategy


async def statuses(gw):
    answer = await gw.api.GetProviderRefreshStatus(
        pb.GetProviderRefreshStatusRequest(provider="work")
    )
    return list(answer.credentials)


async def test_a_gateway_renews_when_it_starts(tmp_path, issuer):
    async with running(tmp_path) as gw:
        await gw.api.ImportProviderProfiles(
            pb.ImportProviderProfilesRequest(
                workspace="default",
                profiles=[
                    pb.ProviderProfileImportItem(
                        source="graph.yaml", profile=profile_to_proto(graph(issuer.url))
                    )
                ],
            )
        )
        provider = datamodel_pb2.Provider(
            metadata=datamodel_pb2.ObjectMeta(name="work"),
            type="graph",
            profile_workspace="default",
        )
        await gw.api.CreateProvider(pb.CreateProviderRequest(provider=provider))
        answer = await gw.api.ConfigureProviderRefresh(
            pb.ConfigureProviderRefreshRequest(
                provider="work",
                credential_key="TOKEN",
                strategy=Strategy.OAUTH2_CLIENT_CREDENTIALS,
                material={"client_id": "agent", "client_secret": CLIENT_SECRET},
            )
        )
        assert [answer.status] == await statuses(gw)
        assert not issuer.requests
    async with running(tmp_path) as gw, asyncio.timeout(20):
        while (await statuses(gw))[0].status != "refreshed":
            await asyncio.sleep(0.02)
        assert len(issuer.requests) == 1
        rotated = await gw.api.RotateProviderCredential(
            pb.RotateProviderCredentialRequest(provider="work", credential_key="TOKEN")
        )
        assert rotated.status.status == "refreshed"
        assert len(issuer.requests) == 2
        deleted = await gw.api.DeleteProviderRefresh(
            pb.DeleteProviderRefreshRequest(provider="work", credential_key="TOKEN")
        )
        assert deleted.deleted
        assert await statuses(gw) == []
