"""Clients for what surrounds a sandbox: providers, policies, logs. They share a client's channel."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from openshell._proto import datamodel_pb2, openshell_pb2, sandbox_pb2

if TYPE_CHECKING:
    from openshell.sdk.client import SandboxClient

__all__ = ["LogClient", "PolicyClient", "ProviderClient"]


class ProviderClient:
    """Providers: named holders of credentials, and which sandboxes they are attached to."""

    def __init__(self, client: SandboxClient) -> None:
        self._stub, self._timeout = client.unary

    def create(
        self,
        name: str,
        type: str,  # noqa: A002  # the contract's word
        credentials: Mapping[str, str],
        *,
        workspace: str,
        config: Mapping[str, str] | None = None,
    ) -> datamodel_pb2.Provider:
        """Stores credentials under a name; answers never carry their values."""
        provider = datamodel_pb2.Provider(
            metadata=datamodel_pb2.ObjectMeta(name=name, workspace=workspace),
            type=type,
            credentials=dict(credentials),
            config=dict(config or {}),
            profile_workspace=workspace,
        )
        request = openshell_pb2.CreateProviderRequest(provider=provider, workspace=workspace)
        return self._stub.CreateProvider(request, timeout=self._timeout).provider

    def get(self, name: str, *, workspace: str) -> datamodel_pb2.Provider:
        request = openshell_pb2.GetProviderRequest(name=name, workspace=workspace)
        return self._stub.GetProvider(request, timeout=self._timeout).provider

    def list(
        self, *, workspace: str, limit: int = 100, offset: int = 0, all_workspaces: bool = False
    ) -> list[datamodel_pb2.Provider]:
        request = openshell_pb2.ListProvidersRequest(
            limit=limit,
            offset=offset,
            workspace="" if all_workspaces else workspace,
            all_workspaces=all_workspaces,
        )
        return list(self._stub.ListProviders(request, timeout=self._timeout).providers)

    def update(
        self,
        name: str,
        *,
        workspace: str,
        credentials: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
    ) -> datamodel_pb2.Provider:
        """Merges the given values; an empty value removes its key."""
        provider = datamodel_pb2.Provider(
            metadata=datamodel_pb2.ObjectMeta(name=name, workspace=workspace),
            credentials=dict(credentials or {}),
            config=dict(config or {}),
        )
        request = openshell_pb2.UpdateProviderRequest(provider=provider, workspace=workspace)
        return self._stub.UpdateProvider(request, timeout=self._timeout).provider

    def delete(self, name: str, *, workspace: str) -> bool:
        """Deletes a provider; False when there was none."""
        request = openshell_pb2.DeleteProviderRequest(name=name, workspace=workspace)
        return self._stub.DeleteProvider(request, timeout=self._timeout).deleted

    def attached(self, sandbox: str, *, workspace: str) -> Sequence[datamodel_pb2.Provider]:
        """The providers of a sandbox, in the order of attachment."""
        request = openshell_pb2.ListSandboxProvidersRequest(
            sandbox_name=sandbox, workspace=workspace
        )
        return list(self._stub.ListSandboxProviders(request, timeout=self._timeout).providers)

    def attach(self, sandbox: str, provider: str, *, workspace: str, expected: int = 0) -> bool:
        """Attaches; False when it was attached already. `expected` is a resource version."""
        request = openshell_pb2.AttachSandboxProviderRequest(
            sandbox_name=sandbox,
            provider_name=provider,
            expected_resource_version=expected,
            workspace=workspace,
        )
        return self._stub.AttachSandboxProvider(request, timeout=self._timeout).attached

    def detach(self, sandbox: str, provider: str, *, workspace: str, expected: int = 0) -> bool:
        """Detaches; False when it was not attached."""
        request = openshell_pb2.DetachSandboxProviderRequest(
            sandbox_name=sandbox,
            provider_name=provider,
            expected_resource_version=expected,
            workspace=workspace,
        )
        return self._stub.DetachSandboxProvider(request, timeout=self._timeout).detached


class PolicyClient:
    """Policies of sandboxes: what is effective, its revisions, and replacing it."""

    def __init__(self, client: SandboxClient) -> None:
        self._stub, self._timeout = client.unary

    def effective(self, sandbox_id: str) -> sandbox_pb2.GetSandboxConfigResponse:
        """What a sandbox runs under now, with the revision numbers."""
        request = sandbox_pb2.GetSandboxConfigRequest(sandbox_id=sandbox_id)
        return self._stub.GetSandboxConfig(request, timeout=self._timeout)

    def revision(
        self, sandbox: str, version: int = 0, *, workspace: str
    ) -> openshell_pb2.GetSandboxPolicyStatusResponse:
        """One stored revision; version 0 means the newest."""
        request = openshell_pb2.GetSandboxPolicyStatusRequest(
            name=sandbox, version=version, workspace=workspace
        )
        return self._stub.GetSandboxPolicyStatus(request, timeout=self._timeout)

    def revisions(
        self, sandbox: str, *, workspace: str, limit: int = 20
    ) -> list[openshell_pb2.SandboxPolicyRevision]:
        """Stored revisions, newest first."""
        request = openshell_pb2.ListSandboxPoliciesRequest(
            name=sandbox, limit=limit, workspace=workspace
        )
        return list(self._stub.ListSandboxPolicies(request, timeout=self._timeout).revisions)

    def replace(
        self,
        sandbox: str,
        policy: sandbox_pb2.SandboxPolicy,
        *,
        workspace: str,
        expected: int = 0,
    ) -> openshell_pb2.UpdateConfigResponse:
        """Replaces a sandbox's policy as a whole. `expected` is a resource version, 0 for any."""
        request = openshell_pb2.UpdateConfigRequest(
            name=sandbox,
            policy=policy,
            expected_resource_version=expected,
            workspace=workspace,
        )
        return self._stub.UpdateConfig(request, timeout=self._timeout)


class LogClient:
    """Log lines of sandboxes: what the proxy decided, what the supervisor did."""

    def __init__(self, client: SandboxClient) -> None:
        self._client = client
        self._stub, self._timeout = client.unary

    def read(
        self,
        sandbox_id: str,
        *,
        workspace: str,
        lines: int = 200,
        since_ms: int = 0,
        sources: Sequence[str] = (),
        min_level: str = "",
    ) -> openshell_pb2.GetSandboxLogsResponse:
        """The newest lines, oldest first; the filters apply to those `lines`."""
        request = openshell_pb2.GetSandboxLogsRequest(
            sandbox_id=sandbox_id,
            lines=lines,
            since_ms=since_ms,
            sources=sources,
            min_level=min_level,
            workspace=workspace,
        )
        return self._stub.GetSandboxLogs(request, timeout=self._timeout)

    def follow(
        self,
        sandbox_id: str,
        *,
        lines: int = 200,
        since_ms: int = 0,
        sources: Sequence[str] = (),
        min_level: str = "",
    ) -> Iterator[openshell_pb2.SandboxLogLine]:
        """Lines as they come, after the newest `lines` of the past; ends with the sandbox."""
        request = openshell_pb2.WatchSandboxRequest(
            id=sandbox_id,
            follow_logs=True,
            log_tail_lines=lines,
            log_since_ms=since_ms,
            log_sources=sources,
            log_min_level=min_level,
        )
        for event in self._client.watch(request):
            if event.WhichOneof("payload") == "log":
                yield event.log
