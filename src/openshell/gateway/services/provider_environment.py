"""GetSandboxProviderEnvironment: real values for one supervisor, each with the places it may go.

Sandbox, providers, profiles, policy and sealed values come from one snapshot, so that the revision
names exactly what is sent. A key is only sent together with its endpoints; what is withheld is logged
by name. The answer exists nowhere but in this call: it is not logged, cached or stored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from openshell._proto import openshell_pb2
from openshell.codec.profile import profile_to_proto
from openshell.gateway.auth.principal import require_sandbox
from openshell.gateway.credentials.model import (
    CredentialCode,
    CredentialError,
    CredentialRef,
    CredentialStore,
    Loaded,
)
from openshell.gateway.errors import ApiError, Code, failed_precondition
from openshell.gateway.services.lookup import find_sandbox_by_id, require_field
from openshell.gateway.services.situations import situation_of
from openshell.gateway.store.model import Store, Tx
from openshell.providers.environment import (
    EnvironmentPlan,
    ShownIdentity,
    StaticCredential,
    plan_environment,
)
from openshell.providers.fitness import find_faults
from openshell.providers.profile.model import ProfileCredential, ProviderProfile
from openshell.providers.situation import Fault, FaultCode, Situation

__all__ = ["ProviderEnvironment", "refuse_undeliverable"]

_log = logging.getLogger(__name__)

_OF_LAYERS = frozenset({FaultCode.LAYER_CONFLICT, FaultCode.LAYER_UNSAFE})

_CODES = {
    CredentialCode.NOT_FOUND: Code.NOT_FOUND,
    CredentialCode.FAILED_PRECONDITION: Code.FAILED_PRECONDITION,
    CredentialCode.DATA_LOSS: Code.INTERNAL,
}


def refuse_undeliverable(situation: Situation) -> list[Fault]:
    """Raises for what may not reach a supervisor; the faults that only the proxy has to act on."""
    faults = find_faults(situation, gate=True)
    stamped = [fault for fault in faults if fault.code is FaultCode.UNINSPECTED]
    refused = [fault for fault in faults if fault.code is not FaultCode.UNINSPECTED]
    if refused:
        text = "; ".join(fault.message for fault in refused)
        if any(fault.code in _OF_LAYERS for fault in refused):
            text = f"provider composition produced an invalid effective policy: {text}"
        raise failed_precondition(text, fault=refused[0].code.value)
    return stamped


class ProviderEnvironment:
    """The one method of this noun."""

    def __init__(self, store: Store, credentials: CredentialStore) -> None:
        self._store = store
        self._credentials = credentials

    async def GetSandboxProviderEnvironment(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.GetSandboxProviderEnvironmentRequest, _context: Any
    ) -> openshell_pb2.GetSandboxProviderEnvironmentResponse:
        require_field(request.sandbox_id, "sandbox_id")
        require_sandbox(request.sandbox_id)

        def read(tx: Tx) -> tuple[EnvironmentPlan, Loaded]:
            _row, sandbox = find_sandbox_by_id(tx, request.sandbox_id)
            situation = situation_of(tx, sandbox)
            refuse_undeliverable(situation)
            plan = plan_environment(situation)
            shown = plan.identities if request.supports_client_identities else ()
            parts = [part for item in shown for part in (item.certificate, item.private_key)]
            refs = [_ref(credential) for credential in (*plan.credentials, *parts)]
            return plan, self._credentials.load(tx, refs)

        plan, loaded = await self._store.read(read)
        for withheld in plan.withheld:
            _log.warning(
                "credential %s of provider %s is withheld from sandbox %s: %s",
                withheld.key,
                withheld.provider,
                request.sandbox_id,
                withheld.reason,
            )
        response = openshell_pb2.GetSandboxProviderEnvironmentResponse(
            provider_env_revision=plan.revision,
            environment=plan.config,
            non_secret_environment_keys=plan.non_secret_keys,
            dynamic_credentials={
                key: _grant(credential) for key, credential in plan.dynamic_credentials.items()
            },
        )
        # A supervisor that does not know bindings would put a value anywhere: it gets none.
        if request.supports_static_credential_bindings:
            try:
                values = await self._credentials.open(loaded)
            except CredentialError as error:
                raise ApiError(_CODES[error.code], error.message) from error
            for credential in plan.credentials:
                _add(response, credential, values[_ref(credential)])
            if request.supports_client_identities:
                for item in plan.identities:
                    _show(response, item, values)
        return response


def _show(
    response: openshell_pb2.GetSandboxProviderEnvironmentResponse,
    item: ShownIdentity,
    values: Mapping[CredentialRef, str],
) -> None:
    message = response.client_identities.add(
        provider=item.certificate.provider.name,
        certificate=values[_ref(item.certificate)],
        private_key=values[_ref(item.private_key)],
    )
    for endpoint in item.endpoints:
        message.endpoints.add(host=endpoint.host, port=endpoint.port)


def _grant(credential: ProfileCredential) -> openshell_pb2.ProviderProfileCredential:
    # The codec speaks of whole profiles.
    return profile_to_proto(ProviderProfile(credentials=(credential,))).credentials[0]


def _ref(credential: StaticCredential) -> CredentialRef:
    provider = credential.provider
    return CredentialRef(provider.handles[credential.key].handle, provider.id, credential.key)


def _add(
    response: openshell_pb2.GetSandboxProviderEnvironmentResponse,
    credential: StaticCredential,
    value: str,
) -> None:
    response.environment[credential.key] = value
    if credential.expires_at_ms:
        response.credential_expires_at_ms[credential.key] = credential.expires_at_ms
    binding = response.static_credential_bindings[credential.key]
    binding.credential_identity = credential.identity
    binding.workload_credential_handle = credential.handle
    for endpoint in credential.endpoints:
        binding.endpoints.add(host=endpoint.host, port=endpoint.port, path=endpoint.path)
