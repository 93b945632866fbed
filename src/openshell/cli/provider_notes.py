"""What is said after a provider is attached whose endpoints or credentials do nothing yet.

Only advice: a caller who may not read what it needs gets none. `sandbox create` and `sandbox provider
attach` call it with what they attached.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import grpc

from openshell.cli.documents import credential_keys
from openshell.cli.output import note
from openshell.cli.provider_lookup import Lookup
from openshell.policy.hosts import normalize_host
from openshell.policy.overlap import Budget, hosts_overlap
from openshell.sdk.nouns import PolicyClient
from openshell.sdk.providers import ProviderClient

if TYPE_CHECKING:
    from openshell._proto import datamodel_pb2, sandbox_pb2
    from openshell.cli.connection import Session
    from openshell.providers.profile.model import ProviderProfile

__all__ = ["say_idle"]


def say_idle(opened: Session, sandbox_id: str, provider_names: Iterable[str]) -> None:
    """Tells of providers whose profile counts for nothing, or whose credentials no endpoint takes."""
    try:
        config = PolicyClient(opened.client).effective(sandbox_id)
        for name in provider_names:
            record = ProviderClient(opened.client).get(name, workspace=opened.workspace)
            lookup = Lookup(opened.client, record.profile_workspace)
            profile = lookup.profile(record.type)
            if profile is not None and profile.endpoints:
                _say_switched_off(name, profile, lookup, config)
            if profile is None or not profile.has_usable_endpoint:
                _say_withheld(name, record, config.policy)
    except grpc.RpcError:
        return


def _say_switched_off(
    name: str,
    profile: ProviderProfile,
    lookup: Lookup,
    config: sandbox_pb2.GetSandboxConfigResponse,
) -> None:
    """Tells when neither the profile nor the policy lets the sandbox reach the profile's hosts."""
    from openshell._proto import sandbox_pb2

    named = {
        normalize_host(endpoint.host)
        for rule in config.policy.network_policies.values()
        for endpoint in rule.endpoints
    }
    budget = Budget()
    is_named = any(
        hosts_overlap(normalize_host(endpoint.host), host, budget)
        for endpoint in profile.endpoints
        for host in named
    )
    # Under a global policy no profile counts, whatever the setting.
    is_global = config.policy_source == sandbox_pb2.POLICY_SOURCE_GLOBAL
    if is_global or is_named or lookup.v2_enabled():
        return
    note(
        f"Note: {name}'s endpoints are not reachable yet: profiles are switched off. Switch them on:\n"
        "  openshell settings set --global --key providers_v2_enabled --value on"
    )


def _say_withheld(
    name: str, record: datamodel_pb2.Provider, policy: sandbox_pb2.SandboxPolicy
) -> None:
    """Tells when no endpoint takes the credentials: inside, their variables would be missing."""
    bound = {
        endpoint.credential_binding.provider
        for rule in policy.network_policies.values()
        for endpoint in rule.endpoints
    }
    if name in bound or not credential_keys(record):
        return
    note(
        f"Note: no endpoint takes the credentials of {name}, so "
        f"{', '.join(credential_keys(record))} will not be set inside.\n"
        f"  Bind an endpoint of the policy to it:  credential_binding: {{provider: {name}}}"
    )
