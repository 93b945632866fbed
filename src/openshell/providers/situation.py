"""All that decides whether a sandbox may be as it is: its policy, its providers, what they stand for.

A writer changes its rows, reads the situation of every sandbox concerned from the same transaction
and asks `fitness.find_faults`; any fault undoes the write. So there is one set of rules, whoever
writes. Values only; the gateway reads them from its store.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from openshell.policy.model import SandboxPolicy
from openshell.providers.profile.model import ProviderProfile, Strategy
from openshell.providers.records import ProviderRecord

__all__ = ["Attached", "Entry", "Fault", "FaultCode", "RefreshState", "Situation"]

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Entry:
    """One profile of a catalogue and where it comes from."""

    profile: ProviderProfile
    source: str
    """ "builtin", "user" or "interceptor/NAME"."""
    scope: str
    """ "" for what is not user-managed, else "platform" or "workspace"."""
    source_revision: str
    fingerprint: str
    """Differs whenever profile, source, scope or revision differ; a part of delivery revisions."""
    _derived: dict[Callable[[Entry], Any], Any] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def is_user_managed(self) -> bool:
        return self.source == "user"

    def derive(self, compute: Callable[[Entry], _T]) -> _T:
        """`compute(self)`, kept: one profile is judged again for every sandbox that uses it.

        `compute` must be a function of the entry alone.
        """
        if compute not in self._derived:
            self._derived[compute] = compute(self)
        value: _T = self._derived[compute]
        return value


@dataclass(frozen=True, slots=True)
class RefreshState:
    """One credential that the gateway keeps fresh. Secret material is not part of it."""

    id: str
    provider_id: str
    key: str
    strategy: Strategy
    epoch: str
    """Random, new at every configuration: placeholders of an earlier one stop working."""
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Output name to the environment key that receives it."""
    resource_version: int = 0

    @property
    def keys(self) -> tuple[str, ...]:
        """Every environment key it owns, the primary one first."""
        return (self.key, *sorted(self.outputs.values()))


@dataclass(frozen=True, slots=True)
class Attached:
    """One provider of a sandbox with what its type means."""

    record: ProviderRecord
    entry: Entry | None
    """None: its type has no profile in the scope that it looks in."""
    refresh: tuple[RefreshState, ...] = ()

    @property
    def profile(self) -> ProviderProfile | None:
        return self.entry.profile if self.entry is not None else None


@dataclass(frozen=True, slots=True)
class Situation:
    """One sandbox as a transaction sees it."""

    workspace: str
    sandbox: str
    """Its name, for messages."""
    sandbox_id: str
    """A part of every workload handle, so that no placeholder means anything elsewhere."""
    policy: SandboxPolicy | None
    """Its latest own policy, without layers and marks."""
    attached: tuple[Attached, ...]
    """In attachment order, each provider once."""
    missing: tuple[str, ...]
    """Attached names without a record."""
    v2: bool
    """The setting `providers_v2_enabled`."""
    global_policy: SandboxPolicy | None
    """Stands in place of `policy` and suppresses layers."""
    now_ms: int

    @property
    def composes(self) -> bool:
        """Whether layers of attached providers are part of the effective policy."""
        return self.v2 and self.global_policy is None


class FaultCode(enum.Enum):
    """What cannot stand; the value is stable and shown to clients."""

    PROVIDER_MISSING = "provider_missing"
    TOO_MANY_PROVIDERS = "too_many_providers"
    KEY_CLASH = "key_clash"
    """Two attached providers claim one environment key, refresh-owned keys included."""
    AMBIGUOUS_GRANTS = "ambiguous_token_grants"
    LAYER_CONFLICT = "layer_conflict"
    """The composed policy has endpoints that contradict each other."""
    LAYER_UNSAFE = "layer_unsafe"
    """A profile's own endpoints would make the composed policy one that no supervisor loads."""
    BINDING_MALFORMED = "binding_malformed"
    BINDING_UNATTACHED = "binding_unattached"
    BINDING_TWO_AUTHORITIES = "binding_two_authorities"
    """The policy binds a provider whose profile has endpoints itself."""
    NO_USABLE_ENDPOINT = "no_usable_endpoint"
    """Static values that neither profile nor policy says where to send."""
    SIGNING_WITHOUT_SOURCE = "signing_without_source"
    UNINSPECTED = "uninspected_credentials"


@dataclass(frozen=True, slots=True)
class Fault:
    """One broken rule and the providers it is about, in attachment order."""

    code: FaultCode
    message: str
    """A sentence for people: names sandbox parts and what to change, never a value."""
    providers: tuple[str, ...] = ()
