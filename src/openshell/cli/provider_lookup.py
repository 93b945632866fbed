"""What commands about providers ask the gateway before they act: types, their profiles, the setting.

The pure halves are `provider_types` and `provider_discovery`. The policy language, which profiles speak,
is loaded by the methods that read one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

import grpc

from openshell.cli.failures import CliError
from openshell.cli.provider_discovery import Found, discover_by_profile, discover_by_table
from openshell.cli.provider_types import KNOWN_TYPES, known_type
from openshell.providers.types import canonical_type
from openshell.sdk.nouns import SettingsClient
from openshell.sdk.profiles import ProfileClient

if TYPE_CHECKING:
    from openshell.providers.profile.model import ProviderProfile
    from openshell.sdk.client import SandboxClient

__all__ = ["Lookup", "type_unknown"]

_V2 = "providers_v2_enabled"


@dataclass(frozen=True, slots=True)
class Lookup:
    """Answers about types in one scope: a workspace, or "" for the platform's profiles only."""

    client: SandboxClient
    scope: str

    def v2_enabled(self) -> bool:
        """Whether profiles of attached providers count."""
        from openshell.codec.settings import value_from_proto

        settings = SettingsClient(self.client).read_global().settings
        return _V2 in settings and value_from_proto(settings[_V2]) is True

    def profile(self, kind: str) -> ProviderProfile | None:
        """The profile of a type or alias; None when there is none."""
        try:
            found = ProfileClient(self.client).get(canonical_type(kind), workspace=self.scope)
        except grpc.RpcError as error:
            if error.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT}:
                return None
            raise
        from openshell.codec.profile import profile_from_proto

        return profile_from_proto(found)

    def require_profile(self, kind: str, why: str) -> ProviderProfile:
        """The profile of a type.

        Raises:
            CliError: there is none; `why` says what needs it.
        """
        found = self.profile(kind)
        if found is None:
            raise CliError(
                f"type '{kind}' has no profile, and {why}\n"
                "See which types have one:  openshell provider list-profiles"
            )
        return found

    def type_of(self, text: str) -> str:
        """The canonical type that a person means.

        Raises:
            CliError: neither a known type nor the id of a profile.
        """
        found = known_type(text)
        if found is not None:
            return found
        profile = self.profile(text)
        if profile is None:
            raise type_unknown(text)
        return profile.id

    def discover(self, canonical: str) -> Found:
        """The credentials of a type that this machine has.

        Raises:
            CliError: nothing is known about where the type keeps them.
        """
        if not self.v2_enabled():
            return discover_by_table(canonical, os.environ)
        profile = self.require_profile(canonical, "only a profile says where credentials are")
        return discover_by_profile(profile, canonical, os.environ)


def type_unknown(text: str) -> CliError:
    """A refusal that names what would do."""
    return CliError(
        f"unsupported provider type '{text}': no profile has that id\n"
        f"Known without a profile:  {', '.join(KNOWN_TYPES)}\n"
        "See the profiles:         openshell provider list-profiles\n"
        "Bring one of your own:    openshell provider profile import -f FILE"
    )
