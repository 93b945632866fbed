"""A gateway that answers clients as a test scripts it: what it was asked can be looked at.

For tests of what commands send, show and advise. Providers and profiles have just enough of a memory;
what the real gateway does with them is tested elsewhere.
"""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor

import grpc

from openshell._proto import (
    openshell_ext_profiles_pb2,
    openshell_ext_profiles_pb2_grpc,
    openshell_pb2,
    openshell_pb2_grpc,
    sandbox_pb2,
)

ext = openshell_ext_profiles_pb2
REFRESH_TOKEN = openshell_pb2.PROVIDER_CREDENTIAL_REFRESH_STRATEGY_OAUTH2_REFRESH_TOKEN


class ScriptedGateway(openshell_pb2_grpc.OpenShellServicer):
    """Remembers what it was asked; `failing` names methods and how they end."""

    def __init__(self):
        self.calls = []
        self.failing = {}
        self.v2 = False
        self.providers = {}
        self.profiles = {}
        self.revisions = []
        self.config = sandbox_pb2.GetSandboxConfigResponse()
        self.lint = openshell_pb2.LintProviderProfilesResponse(valid=True)
        self.applied = ext.ApplyProfilesResponse(valid=True)
        self.refreshed = openshell_pb2.ProviderCredentialRefreshStatus(status="refreshed")

    def _take(self, method, request, context):
        self.calls.append((method, request))
        if method in self.failing:
            context.abort(*self.failing[method])

    def asked(self, method):
        return [request for name, request in self.calls if name == method]

    def GetGatewayConfig(self, request, context):
        self._take("GetGatewayConfig", request, context)
        value = sandbox_pb2.SettingValue(bool_value=self.v2)
        return sandbox_pb2.GetGatewayConfigResponse(settings={"providers_v2_enabled": value})

    def GetProviderProfile(self, request, context):
        self._take("GetProviderProfile", request, context)
        if request.id not in self.profiles:
            context.abort(grpc.StatusCode.NOT_FOUND, "no such profile")
        return openshell_pb2.ProviderProfileResponse(profile=self.profiles[request.id])

    def ListProviderProfiles(self, request, context):
        found = list(self.profiles.values())[request.offset : request.offset + request.limit]
        return openshell_pb2.ListProviderProfilesResponse(profiles=found)

    def ImportProviderProfiles(self, request, context):
        self._take("ImportProviderProfiles", request, context)
        return openshell_pb2.ImportProviderProfilesResponse(
            imported=True,
            profiles=[item.profile for item in request.profiles],
            diagnostics=[
                diagnostic(
                    request.profiles[0], "id", "shadows a platform-scoped profile", "warning"
                )
            ],
        )

    def LintProviderProfiles(self, request, context):
        self._take("LintProviderProfiles", request, context)
        return self.lint

    def UpdateProviderProfiles(self, request, context):
        self._take("UpdateProviderProfiles", request, context)
        if not request.expected_resource_version:
            return openshell_pb2.UpdateProviderProfilesResponse(
                diagnostics=[diagnostic(request.profile, "resource_version", "non-zero needed")]
            )
        if request.expected_resource_version != self.profiles[request.id].resource_version:
            context.abort(grpc.StatusCode.ABORTED, "concurrent modification")
        updated = request.profile.profile
        updated.resource_version += 1
        return openshell_pb2.UpdateProviderProfilesResponse(updated=True, profile=updated)

    def CreateProvider(self, request, context):
        self._take("CreateProvider", request, context)
        name = request.provider.metadata.name
        if name in self.providers:
            context.abort(grpc.StatusCode.ALREADY_EXISTS, f"provider '{name}' already exists")
        self.providers[name] = request.provider
        return openshell_pb2.ProviderResponse(provider=request.provider)

    def GetProvider(self, request, context):
        return openshell_pb2.ProviderResponse(provider=self.providers[request.name])

    def ListProviders(self, request, context):
        self._take("ListProviders", request, context)
        found = list(self.providers.values())[request.offset : request.offset + request.limit]
        return openshell_pb2.ListProvidersResponse(providers=found)

    def UpdateProvider(self, request, context):
        self._take("UpdateProvider", request, context)
        return openshell_pb2.ProviderResponse(provider=request.provider)

    def DeleteProvider(self, request, context):
        self._take("DeleteProvider", request, context)
        self.providers.pop(request.name)
        return openshell_pb2.DeleteProviderResponse(deleted=True)

    def CreateSandbox(self, request, context):
        self._take("CreateSandbox", request, context)
        context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "no room for a sandbox")

    def GetSandbox(self, request, context):
        self._take("GetSandbox", request, context)
        return openshell_pb2.SandboxResponse()

    def AttachSandboxProvider(self, request, context):
        self._take("AttachSandboxProvider", request, context)
        return openshell_pb2.AttachSandboxProviderResponse(attached=True)

    def GetSandboxConfig(self, request, context):
        self._take("GetSandboxConfig", request, context)
        return self.config

    def GetProviderRefreshStatus(self, request, context):
        self._take("GetProviderRefreshStatus", request, context)
        return openshell_pb2.GetProviderRefreshStatusResponse(credentials=[self.refreshed])

    def ConfigureProviderRefresh(self, request, context):
        self._take("ConfigureProviderRefresh", request, context)
        return openshell_pb2.ConfigureProviderRefreshResponse(status=self.refreshed)

    def RotateProviderCredential(self, request, context):
        self._take("RotateProviderCredential", request, context)
        return openshell_pb2.RotateProviderCredentialResponse(status=self.refreshed)


class Extension(openshell_ext_profiles_pb2_grpc.ProviderProfilesServicer):
    def __init__(self, gateway):
        self.gateway = gateway

    def Apply(self, request, context):
        self.gateway._take("Apply", request, context)
        return self.gateway.applied

    def Rollback(self, request, context):
        self.gateway._take("Rollback", request, context)
        return self.gateway.applied

    def ListRevisions(self, request, context):
        self.gateway._take("ListRevisions", request, context)
        found = []
        for item in self.gateway.revisions[request.offset : request.offset + request.limit]:
            found.append(ext.ProfileRevision())
            found[-1].CopyFrom(item)
            found[-1].ClearField("profile")
        return ext.ListProfileRevisionsResponse(revisions=found)

    def GetRevision(self, request, context):
        for item in self.gateway.revisions:
            if request.revision in {0, item.revision}:
                return ext.GetProfileRevisionResponse(revision=item)
        return context.abort(grpc.StatusCode.NOT_FOUND, "no such revision")


def diagnostic(item, field, message, severity="error"):
    return openshell_pb2.ProviderProfileDiagnostic(
        source=item.source,
        profile_id=item.profile.id,
        field=field,
        message=message,
        severity=severity,
    )


def profile(version, *, id="work", name="Work", hosts=("a.example",), **more):
    endpoints = [
        sandbox_pb2.NetworkEndpoint(host=host, port=443, protocol="rest", access="read-only")
        for host in hosts
    ]
    return openshell_pb2.ProviderProfile(
        id=id,
        display_name=name,
        category=openshell_pb2.PROVIDER_PROFILE_CATEGORY_DATA,
        endpoints=endpoints,
        resource_version=version,
        source="user",
        scope="workspace",
        **more,
    )


def refreshing(name="gcp"):
    names = ("client_id", "client_secret", "refresh_token")
    refresh = openshell_pb2.ProviderCredentialRefresh(
        strategy=REFRESH_TOKEN,
        material=[openshell_pb2.ProviderCredentialRefreshMaterial(name=item) for item in names],
    )
    credential = openshell_pb2.ProviderProfileCredential(
        name="token", env_vars=["TOKEN"], refresh=refresh
    )
    return profile(0, id=name, credentials=[credential])


@contextlib.contextmanager
def serving():
    """The gateway and the URL under which it answers, for the length of a block."""
    served = ScriptedGateway()
    server = grpc.server(ThreadPoolExecutor(2))
    openshell_pb2_grpc.add_OpenShellServicer_to_server(served, server)
    openshell_ext_profiles_pb2_grpc.add_ProviderProfilesServicer_to_server(
        Extension(served), server
    )
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield served, f"http://127.0.0.1:{port}"
    finally:
        server.stop(None)
