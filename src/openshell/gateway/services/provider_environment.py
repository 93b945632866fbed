"""GetSandboxProviderEnvironment: real values for one supervisor, each with the places it may go.

Sandbox, providers, policy and sealed values come from one snapshot, so that the revision names
exactly what is sent. A key is only sent together with its endpoints; what is withheld is logged by
name. The answer exists nowhere but in this call: it is not logged, cached or stored.
"""

from __future__ import annotations

import logging
from typing import Any

from openshell._proto import openshell_pb2
from openshell.gateway.auth.principal import require_sandbox
from openshell.gateway.credentials.model import (
    CredentialCode,
    CredentialError,
    CredentialRef,
    CredentialStore,
    Loaded,
)
from openshell.gateway.errors import ApiError, Code, failed_precondition
from openshell.gateway.services.global_policy import policy_in_force
from openshell.gateway.services.lookup import (
    attached_records,
    find_sandbox_by_id,
    require_field,
)
from openshell.gateway.services.policy_plan import check_provider_set
from openshell.gateway.store.model import Store, Tx
from openshell.policy.model import SandboxPolicy
from openshell.providers.bindings import policy_bindings
from openshell.providers.env_keys import find_clash
from openshell.providers.environment import EnvironmentPlan, StaticCredential, plan_environment

__all__ = ["ProviderEnvironment", "plan_for_sandbox"]

_log = logging.getLogger(__name__)

_CODES = {
    CredentialCode.NOT_FOUND: Code.NOT_FOUND,
    CredentialCode.FAILED_PRECONDITION: Code.FAILED_PRECONDITION,
    CredentialCode.DATA_LOSS: Code.INTERNAL,
}


def plan_for_sandbox(
    tx: Tx, sandbox: openshell_pb2.Sandbox, policy: SandboxPolicy | None
) -> EnvironmentPlan:
    """What the sandbox's supervisor gets now, bound as the policy in force says.

    Every invariant is checked again before delivery.
    """
    names = list(sandbox.spec.providers)
    records = attached_records(tx, sandbox.metadata.workspace, names)
    clash = find_clash(records, tx.now_ms)
    if clash is not None:
        raise failed_precondition(clash.message)
    check_provider_set(policy, names, gate=False)
    bindings = policy_bindings(policy) if policy is not None else ()
    return plan_environment(records, bindings, tx.now_ms)


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
            plan = plan_for_sandbox(tx, sandbox, policy_in_force(tx, sandbox).policy)
            refs = [_ref(credential) for credential in plan.credentials]
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
            provider_env_revision=plan.revision
        )
        # A supervisor that does not know bindings would put a value anywhere: it gets none.
        if request.supports_static_credential_bindings:
            try:
                values = await self._credentials.open(loaded)
            except CredentialError as error:
                raise ApiError(_CODES[error.code], error.message) from error
            for credential in plan.credentials:
                _add(response, credential, values[_ref(credential)])
        return response


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
    for endpoint in credential.endpoints:
        binding.endpoints.add(host=endpoint.host, port=endpoint.port, path=endpoint.path)
