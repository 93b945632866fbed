"""Clients for providers: who holds which credentials, who may use them, and how they renew themselves.

They share a client's channel. Answers never carry a value of a credential: the gateway puts a fixed
word in its place. What a type of provider means is the profile's affair, see `openshell.sdk.profiles`.

Every method raises `grpc.RpcError` unchanged; its docstring names the codes that a caller acts upon.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

from openshell._proto import datamodel_pb2, openshell_pb2

if TYPE_CHECKING:
    from openshell.sdk.client import SandboxClient

__all__ = ["ProviderClient", "RefreshClient"]

_PAGE: Final = 100
"""Records asked for at once when all are wanted."""
_ROTATE_SECONDS: Final = 45.0
"""For a rotation: the issuer of the credential may take 30 of them."""


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
        profile_workspace: str | None = None,
        expires_at_ms: Mapping[str, int] | None = None,
    ) -> datamodel_pb2.Provider:
        """Stores credentials under a name.

        Args:
            name: Unique in the workspace; empty lets the gateway choose.
            type: Id of a profile, one of its aliases, or any other word.
            credentials: Values by environment key; may be empty only where the profile of the type
                lets the values come into being at run time.
            workspace: Workspace of the provider.
            config: Settings that are no secret.
            profile_workspace: Where the profile is looked up: this workspace (also for None), or ""
                for profiles of the platform only.
            expires_at_ms: When values end, by environment key, in epoch milliseconds.

        Raises:
            grpc.RpcError: ALREADY_EXISTS, INVALID_ARGUMENT (a limit, or values are missing).
        """
        provider = datamodel_pb2.Provider(
            metadata=datamodel_pb2.ObjectMeta(name=name, workspace=workspace),
            type=type,
            credentials=dict(credentials),
            config=dict(config or {}),
            credential_expires_at_ms=dict(expires_at_ms or {}),
            profile_workspace=workspace if profile_workspace is None else profile_workspace,
        )
        request = openshell_pb2.CreateProviderRequest(provider=provider, workspace=workspace)
        return self._stub.CreateProvider(request, timeout=self._timeout).provider

    def get(self, name: str, *, workspace: str) -> datamodel_pb2.Provider:
        """One provider without values.

        Raises:
            grpc.RpcError: NOT_FOUND.
        """
        request = openshell_pb2.GetProviderRequest(name=name, workspace=workspace)
        return self._stub.GetProvider(request, timeout=self._timeout).provider

    def list(
        self, *, workspace: str, limit: int = 100, offset: int = 0, all_workspaces: bool = False
    ) -> list[datamodel_pb2.Provider]:
        """Providers without values, at most 1,000 at a time."""
        request = openshell_pb2.ListProvidersRequest(
            limit=limit,
            offset=offset,
            workspace="" if all_workspaces else workspace,
            all_workspaces=all_workspaces,
        )
        return list(self._stub.ListProviders(request, timeout=self._timeout).providers)

    def iterate(self, *, workspace: str) -> Iterator[datamodel_pb2.Provider]:
        """All providers of a workspace, page by page."""
        offset = 0
        while page := self.list(workspace=workspace, limit=_PAGE, offset=offset):
            yield from page
            if len(page) < _PAGE:
                return
            offset += len(page)

    def update(
        self,
        name: str,
        *,
        workspace: str,
        credentials: Mapping[str, str] | None = None,
        config: Mapping[str, str] | None = None,
        expires_at_ms: Mapping[str, int] | None = None,
        expected: int = 0,
    ) -> datamodel_pb2.Provider:
        """Merges the given values; an empty value removes its key, an expiry of 0 its expiry.

        Args:
            name: The provider.
            workspace: Its workspace.
            credentials: New values by environment key.
            config: New settings.
            expires_at_ms: New expiries by environment key, in epoch milliseconds.
            expected: The resource version it must have; 0 for any.

        Raises:
            grpc.RpcError: NOT_FOUND; ABORTED when it changed meanwhile; FAILED_PRECONDITION when the
                gateway renews a named key itself or a sandbox could not be left as it is.
        """
        provider = datamodel_pb2.Provider(
            metadata=datamodel_pb2.ObjectMeta(
                name=name, workspace=workspace, resource_version=expected
            ),
            credentials=dict(credentials or {}),
            config=dict(config or {}),
        )
        request = openshell_pb2.UpdateProviderRequest(
            provider=provider,
            credential_expires_at_ms=dict(expires_at_ms or {}),
            workspace=workspace,
        )
        return self._stub.UpdateProvider(request, timeout=self._timeout).provider

    def delete(self, name: str, *, workspace: str) -> bool:
        """Deletes a provider with its credentials; False when there was none.

        Raises:
            grpc.RpcError: FAILED_PRECONDITION while it is attached; the message lists the sandboxes.
        """
        request = openshell_pb2.DeleteProviderRequest(name=name, workspace=workspace)
        return self._stub.DeleteProvider(request, timeout=self._timeout).deleted

    def attached(self, sandbox: str, *, workspace: str) -> Sequence[datamodel_pb2.Provider]:
        """The providers of a sandbox, in the order of attachment."""
        request = openshell_pb2.ListSandboxProvidersRequest(
            sandbox_name=sandbox, workspace=workspace
        )
        return list(self._stub.ListSandboxProviders(request, timeout=self._timeout).providers)

    def attach(self, sandbox: str, provider: str, *, workspace: str, expected: int = 0) -> bool:
        """Attaches; False when it was attached already.

        Args:
            sandbox: Name of the sandbox.
            provider: Name of the provider.
            workspace: Workspace of both.
            expected: The resource version the sandbox must have; 0 for any.

        Raises:
            grpc.RpcError: ABORTED when the sandbox changed meanwhile; FAILED_PRECONDITION when the
                sandbox cannot have both this provider and what it has.
        """
        request = openshell_pb2.AttachSandboxProviderRequest(
            sandbox_name=sandbox,
            provider_name=provider,
            expected_resource_version=expected,
            workspace=workspace,
        )
        return self._stub.AttachSandboxProvider(request, timeout=self._timeout).attached

    def detach(self, sandbox: str, provider: str, *, workspace: str, expected: int = 0) -> bool:
        """Detaches; False when it was not attached. Arguments as for `attach`.

        Raises:
            grpc.RpcError: ABORTED when the sandbox changed meanwhile; FAILED_PRECONDITION while its
                policy needs the provider.
        """
        request = openshell_pb2.DetachSandboxProviderRequest(
            sandbox_name=sandbox,
            provider_name=provider,
            expected_resource_version=expected,
            workspace=workspace,
        )
        return self._stub.DetachSandboxProvider(request, timeout=self._timeout).detached


class RefreshClient:
    """Credentials that the gateway keeps fresh by itself; one configuration per credential key."""

    def __init__(self, client: SandboxClient) -> None:
        self._stub, self._timeout = client.unary

    def status(
        self, provider: str, credential_key: str = "", *, workspace: str
    ) -> list[openshell_pb2.ProviderCredentialRefreshStatus]:
        """How the credentials of a provider stand; an empty key means all of them.

        Raises:
            grpc.RpcError: NOT_FOUND without that provider.
        """
        request = openshell_pb2.GetProviderRefreshStatusRequest(
            provider=provider, credential_key=credential_key, workspace=workspace
        )
        answer = self._stub.GetProviderRefreshStatus(request, timeout=self._timeout)
        return list(answer.credentials)

    def configure(
        self,
        provider: str,
        credential_key: str,
        strategy: openshell_pb2.ProviderCredentialRefreshStrategy.ValueType,
        material: Mapping[str, str],
        *,
        workspace: str,
        secret_keys: Sequence[str] = (),
        expires_at_ms: int | None = None,
    ) -> openshell_pb2.ProviderCredentialRefreshStatus:
        """Hands over what the strategy needs; from now on the gateway owns the key.

        Args:
            provider: Name of the provider.
            credential_key: The environment key to keep fresh.
            strategy: One by which the gateway can make values itself.
            material: The strategy's inputs.
            workspace: Workspace of the provider.
            secret_keys: Inputs to seal beside those that are known to be secret.
            expires_at_ms: When the present value ends; 0 clears that, None leaves it.

        Raises:
            grpc.RpcError: INVALID_ARGUMENT (material), FAILED_PRECONDITION (the key is taken, or the
                strategy is not to be had), ABORTED (somebody else configured it meanwhile).
        """
        request = openshell_pb2.ConfigureProviderRefreshRequest(
            provider=provider,
            credential_key=credential_key,
            strategy=strategy,
            material=dict(material),
            secret_material_keys=secret_keys,
            expires_at_ms=expires_at_ms,
            workspace=workspace,
        )
        return self._stub.ConfigureProviderRefresh(request, timeout=self._timeout).status

    def rotate(
        self, provider: str, credential_key: str, *, workspace: str
    ) -> openshell_pb2.ProviderCredentialRefreshStatus:
        """Makes a new value now and says how that went.

        Raises:
            grpc.RpcError: NOT_FOUND; FAILED_PRECONDITION when the token service refused; UNAVAILABLE
                when it was not reached; ABORTED when the configuration changed meanwhile.
        """
        request = openshell_pb2.RotateProviderCredentialRequest(
            provider=provider, credential_key=credential_key, workspace=workspace
        )
        timeout = max(self._timeout, _ROTATE_SECONDS)
        return self._stub.RotateProviderCredential(request, timeout=timeout).status

    def delete(self, provider: str, credential_key: str, *, workspace: str) -> bool:
        """Ends the renewal and forgets its material; False when there was none.

        The present value stays until it ends.
        """
        request = openshell_pb2.DeleteProviderRefreshRequest(
            provider=provider, credential_key=credential_key, workspace=workspace
        )
        return self._stub.DeleteProviderRefresh(request, timeout=self._timeout).deleted
