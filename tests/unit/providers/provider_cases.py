"""Situations in a line or two: providers with or without profiles, attached to a sandbox."""

import dataclasses

from openshell.policy.model import Binary, CredentialBinding, Endpoint, NetworkRule, SandboxPolicy
from openshell.providers.catalogue import make_entry
from openshell.providers.profile.builtin import builtin_profiles, builtin_revision
from openshell.providers.profile.model import (
    AudienceOverride,
    ProfileCredential,
    ProviderProfile,
    Strategy,
    TokenGrant,
)
from openshell.providers.records import Handle, ProviderRecord
from openshell.providers.situation import Attached, RefreshState, Situation

NOW = 1_000_000


def record(name="work", keys=("API_KEY",), **overrides):
    fields = {
        "id": f"id-{name}",
        "name": name,
        "workspace": "default",
        "type": "generic",
        "handles": {key: Handle("db", f"v1:{key}") for key in keys},
        "resource_version": 1,
        **overrides,
    }
    return ProviderRecord(**fields)


def endpoint(host="api.example.com", port=443, provider=None, **overrides):
    fields = {"ports": (port,), "protocol": "rest", "access": "read-only", **overrides}
    if provider is not None:
        fields["credential_binding"] = CredentialBinding(provider)
    return Endpoint(host=host, **fields)


def policy(*endpoints, key="rule", **overrides):
    rule = NetworkRule(key, key, tuple(endpoints), (Binary("/usr/bin/curl"),))
    return SandboxPolicy(network_policies={key: rule}, **overrides)


def profile(profile_id="custom", endpoints=(), credentials=None, **overrides):
    if credentials is None:
        credentials = (ProfileCredential(name="api_key", env_vars=("API_KEY",)),)
    return ProviderProfile(
        id=profile_id, endpoints=tuple(endpoints), credentials=tuple(credentials), **overrides
    )


def grant(name="token", *overrides, endpoint="https://idp.example.com/token", **fields):
    return ProfileCredential(
        name=name,
        auth_style="bearer",
        token_grant=TokenGrant(
            token_endpoint=endpoint,
            audience_overrides=tuple(AudienceOverride(**o) for o in overrides),
            **fields,
        ),
    )


def attached(name="work", spec=None, *, keys=("API_KEY",), refresh=(), scope="workspace", **fields):
    """`spec`: a profile, or None for a type without one."""
    if spec is None:
        return Attached(record(name, keys, **fields), None, tuple(refresh))
    entry = make_entry(spec, "user", scope, "1")
    return Attached(record(name, keys, type=spec.id, **fields), entry, tuple(refresh))


def builtin(profile_id, name=None, keys=None):
    found = builtin_profiles()[profile_id]
    if keys is None:
        keys = [variable for c in found.credentials for variable in c.env_vars]
    entry = make_entry(found, "builtin", "", builtin_revision())
    return Attached(record(name or profile_id, keys, type=profile_id), entry)


def refresh(key="API_KEY", **overrides):
    fields = {
        "id": f"state-{key}",
        "provider_id": "id-work",
        "key": key,
        "strategy": Strategy.OAUTH2_CLIENT_CREDENTIALS,
        "epoch": "epoch-1",
        "resource_version": 1,
        **overrides,
    }
    return RefreshState(**fields)


def situation(*items, base=None, **overrides):
    fields = {
        "workspace": "default",
        "sandbox": "box",
        "sandbox_id": "sandbox-1",
        "policy": base if base is not None else policy(),
        "attached": items,
        "missing": (),
        "v2": True,
        "global_policy": None,
        "now_ms": NOW,
        **overrides,
    }
    return Situation(**fields)


def changed(value, **overrides):
    return dataclasses.replace(value, **overrides)
