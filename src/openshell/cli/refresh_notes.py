"""What is said after a renewal is configured with names that the provider's profile does not know.

The gateway takes them: it cannot know what an issuer wants. Mostly they are misspelt. Only advice: a
caller who may not read what it needs gets none. `provider refresh configure` calls it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import grpc

from openshell.cli.output import note, printable
from openshell.cli.provider_lookup import Lookup
from openshell.providers.refresh import SECRET_MATERIAL, find_credential, secret_names
from openshell.sdk.providers import ProviderClient

if TYPE_CHECKING:
    from openshell.cli.connection import Session
    from openshell.providers.profile.model import ProviderProfile, Strategy

__all__ = ["say_unknown", "unknown_names"]


def say_unknown(
    opened: Session, provider_name: str, key: str, strategy: Strategy, names: Iterable[str]
) -> None:
    """Warns of a credential key or of material that nothing is known about."""
    try:
        record = ProviderClient(opened.client).get(provider_name, workspace=opened.workspace)
        profile = Lookup(opened.client, record.profile_workspace).profile(record.type)
    except grpc.RpcError:
        return
    if profile is not None:
        for line in unknown_names(profile, key, strategy, names):
            note(printable(f"Warning: {line}"))


def unknown_names(
    profile: ProviderProfile, key: str, strategy: Strategy, names: Iterable[str]
) -> list[str]:
    """One sentence for each kind of name that the profile does not know."""
    credential = find_credential(profile, key)
    if credential is None:
        keys = ", ".join(v for c in profile.credentials for v in c.env_vars or (c.name,))
        return [f"profile '{profile.id}' has no credential '{key}'; it has: {keys or 'none'}"]
    described = credential.refresh.material if credential.refresh is not None else ()
    known = {item.name for item in described}
    # Whatever is not known to be public counts as a secret.
    strange = (
        secret_names(profile, key, strategy, dict.fromkeys(names, "x"), ())
        - known
        - SECRET_MATERIAL
    )
    if not strange:
        return []
    listed = ", ".join(item.name for item in described)
    found = f"nothing reads the material {', '.join(sorted(strange))}"
    return [f"{found}; the profile names: {listed or 'none'}"]
