"""The configuration of one sandbox as one answer: effective policy, revisions, settings.

Built inside a transaction, so that policy, providers and the two revision numbers belong together.
Everything that writers refuse is looked for again: what has come to contradict itself is not
delivered. A way for credentials that nothing inspects is no such thing: it is stamped, the proxy
denies there, and it is logged. `config_revision` moves with anything in the answer, the provider
environment included: a supervisor that holds the same number holds the same configuration.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_hash, policy_to_proto
from openshell.gateway.middleware import MiddlewareServices
from openshell.gateway.services.global_policy import policy_origin
from openshell.gateway.services.provider_environment import refuse_undeliverable
from openshell.gateway.services.settings import effective_settings
from openshell.gateway.services.situations import situation_of
from openshell.gateway.store.model import Tx
from openshell.policy.model import SandboxPolicy
from openshell.providers.environment import fingerprint, plan_environment
from openshell.providers.fitness import effective_policy

__all__ = ["FAIL_CLOSED", "NeededServices", "build_sandbox_config"]

FAIL_CLOSED: Final = "fail_closed"
"""What a supervisor does with a policy that it cannot load, unless the operator says otherwise."""

NeededServices: TypeAlias = Callable[
    [SandboxPolicy], Iterable[sandbox_pb2.SupervisorMiddlewareService]
]


def _no_services(policy: SandboxPolicy) -> Iterable[sandbox_pb2.SupervisorMiddlewareService]:
    return MiddlewareServices({}).needed(policy)


_log = logging.getLogger(__name__)


def build_sandbox_config(
    tx: Tx,
    sandbox: openshell_pb2.Sandbox,
    *,
    failure_mode: str = FAIL_CLOSED,
    needed: NeededServices = _no_services,
) -> sandbox_pb2.GetSandboxConfigResponse:
    """Raises FAILED_PRECONDITION when what is stored cannot be enforced.

    `needed` says which middleware services a policy takes.
    """
    origin = policy_origin(tx, sandbox)
    situation = situation_of(tx, sandbox)
    for uninspected in refuse_undeliverable(situation):
        _log.warning("sandbox %s: %s", sandbox.metadata.id, uninspected.message)
    response = sandbox_pb2.GetSandboxConfigResponse(
        workspace=sandbox.metadata.workspace,
        version=origin.version,
        policy_source=origin.source,
        global_policy_version=origin.global_version,
        settings=effective_settings(tx, sandbox),
        policy_validation_failure_mode=failure_mode,
        provider_env_revision=plan_environment(situation).revision,
    )
    effective = effective_policy(situation)
    if effective is not None:
        response.policy.CopyFrom(policy_to_proto(effective))
        response.policy_hash = policy_hash(effective)
        if effective.network_middlewares:
            response.supervisor_middleware_services.extend(needed(effective))
    response.config_revision = fingerprint(
        (
            sandbox_pb2.PolicySource.Name(origin.source),
            str(response.version),
            str(response.global_policy_version),
            response.policy_hash,
            failure_mode,
            response.workspace,
            str(response.provider_env_revision),
            *(
                service.SerializeToString(deterministic=True).hex()
                for service in response.supervisor_middleware_services
            ),
            *(
                f"{key}={setting.scope}:{setting.value.SerializeToString(deterministic=True).hex()}"
                for key, setting in sorted(response.settings.items())
            ),
        )
    )
    return response
