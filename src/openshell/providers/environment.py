"""What a supervisor is handed of the attached providers: which keys, bound where, under which revision.

A plan over one situation; the values are fetched by the gateway for exactly the planned keys. A key
is handed out only together with the endpoints it may be sent to: those of the provider's profile, or,
where the profile has none, those that the sandbox's policy binds. A provider that nothing binds has
its keys withheld, alone: the other providers of the sandbox do not suffer. The caller has refused
situations with faults (`fitness`) before.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from openshell.policy.hosts import normalize_host
from openshell.providers.bindings import PolicyBinding, policy_bindings
from openshell.providers.client_certificates import certificate_keys
from openshell.providers.digest import digest_of
from openshell.providers.env_keys import active_keys
from openshell.providers.plugin_env import plugin_environment
from openshell.providers.profile.model import MINTABLE, ProfileCredential
from openshell.providers.records import ProviderRecord
from openshell.providers.selectors import is_usable_host
from openshell.providers.situation import Attached, Entry, Situation
from openshell.providers.token_grants import expand
from openshell.providers.workload_handle import Destination, workload_handle

__all__ = [
    "Destination",
    "EnvironmentPlan",
    "ShownIdentity",
    "StaticCredential",
    "Withheld",
    "fingerprint",
    "plan_environment",
]


@dataclass(frozen=True, slots=True)
class StaticCredential:
    """One key that the sandbox gets a placeholder for."""

    key: str
    provider: ProviderRecord
    endpoints: tuple[Destination, ...]
    handle: str = ""
    """The workload's name for it; "" unless the gateway keeps the value fresh."""

    @property
    def identity(self) -> str:
        """Names the account behind the key: a change revokes what older placeholders stood for."""
        return f"refresh:{self.handle}" if self.handle else f"{self.provider.id}:{self.key}"

    @property
    def expires_at_ms(self) -> int:
        return self.provider.expires_at_ms.get(self.key, 0)


@dataclass(frozen=True, slots=True)
class ShownIdentity:
    """A client certificate for the supervisor alone, and where it may show it."""

    certificate: StaticCredential
    private_key: StaticCredential

    @property
    def endpoints(self) -> tuple[Destination, ...]:
        """Without those that are bound for a part of their paths: a certificate is for a connection."""
        return tuple(place for place in self.certificate.endpoints if not place.path)


@dataclass(frozen=True, slots=True)
class Withheld:
    """One key that is not handed out, and why, for the log."""

    provider: str
    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class EnvironmentPlan:
    credentials: tuple[StaticCredential, ...]
    withheld: tuple[Withheld, ...]
    revision: int
    """Moves whenever the answer would differ; never zero, which means "no revision" to placeholders."""
    config: Mapping[str, str] = field(default_factory=dict, repr=False)
    """Variables that are no secrets, with their values; disjoint from the credentials' keys."""
    dynamic_credentials: Mapping[str, ProfileCredential] = field(default_factory=dict)
    """Token grants by the contract's key, overrides folded in."""
    identities: tuple[ShownIdentity, ...] = ()

    @property
    def non_secret_keys(self) -> tuple[str, ...]:
        return tuple(sorted(self.config))


def plan_environment(situation: Situation) -> EnvironmentPlan:
    bindings = _bindings_in_force(situation)
    credentials: list[StaticCredential] = []
    withheld: list[Withheld] = []
    config: dict[str, str] = {}
    for item in situation.attached:
        record = item.record
        endpoints, obstacle = _destinations(item, bindings)
        active = active_keys(record, situation.now_ms)
        for key in sorted(record.handles):
            if key not in active:
                reason = "expired" if record.is_expired(key, situation.now_ms) else "not injectable"
                withheld.append(Withheld(record.name, key, reason))
            elif obstacle:
                withheld.append(Withheld(record.name, key, obstacle))
            else:
                handle = _handle(situation, item, key, endpoints)
                credentials.append(StaticCredential(key, record, endpoints, handle))
        for name, value in plugin_environment(record).items():
            config.setdefault(name, value)
    # A credential's name never carries a plain setting, not even while the credential is withheld.
    for key in (key for item in situation.attached for key in _secret_keys(item)):
        config.pop(key, None)
    identities, hidden = _identities(situation, credentials)
    return EnvironmentPlan(
        credentials=tuple(c for c in credentials if (c.provider.id, c.key) not in hidden),
        withheld=tuple(withheld),
        revision=_revision(situation, bindings),
        config=config,
        dynamic_credentials={b.key: b.settings for b in expand(situation.attached)},
        identities=identities,
    )


def _identities(
    situation: Situation, credentials: Sequence[StaticCredential]
) -> tuple[tuple[ShownIdentity, ...], set[tuple[str, str]]]:
    """Client certificates, and the keys that processes get no placeholder for, used or not."""
    by_key = {(c.provider.id, c.key): c for c in credentials}
    found: list[ShownIdentity] = []
    hidden: set[tuple[str, str]] = set()
    for item in situation.attached:
        keys = certificate_keys(item.entry.profile if item.entry is not None else None)
        if keys is None:
            continue
        places = [(item.record.id, key) for key in keys]
        hidden.update(places)
        certificate, private_key = (by_key.get(place) for place in places)
        if certificate is None or private_key is None:
            continue
        shown = ShownIdentity(certificate, private_key)
        if shown.endpoints:
            found.append(shown)
    return tuple(found), hidden


def _bindings_in_force(situation: Situation) -> tuple[PolicyBinding, ...]:
    """A global policy binds nothing, and leaves what the sandbox's own binds without effect."""
    if situation.policy is None or situation.global_policy is not None:
        return ()
    return policy_bindings(situation.policy)


def _destinations(
    item: Attached, bindings: Sequence[PolicyBinding]
) -> tuple[tuple[Destination, ...], str]:
    """Where the provider's keys may go; or none, and why."""
    bound = tuple(
        Destination(binding.host, binding.port, binding.path)
        for binding in bindings
        if binding.provider == item.record.name
    )
    if item.entry is None or not item.entry.profile.endpoints:
        usable = tuple(filter(_is_usable, bound))
        return usable, "" if usable else "no endpoint of the policy binds this provider"
    if bound:
        return (), "both its profile and the policy say where its credentials go"
    usable = item.entry.derive(_profile_destinations)
    return usable, "" if usable else "no endpoint of its profile is usable"


def _profile_destinations(entry: Entry) -> tuple[Destination, ...]:
    found = (
        Destination(normalize_host(endpoint.host), port, endpoint.path)
        for endpoint in entry.profile.endpoints
        for port in endpoint.ports
    )
    return tuple(dict.fromkeys(filter(_is_usable, found)))


def _is_usable(place: Destination) -> bool:
    """Whether the supervisor can read it: for one that it cannot, it would reject all providers."""
    return is_usable_host(place.host) and 1 <= place.port <= 65535


def _handle(
    situation: Situation, item: Attached, key: str, endpoints: Iterable[Destination]
) -> str:
    for state in item.refresh:
        if key in state.keys and state.strategy in MINTABLE:
            return workload_handle(
                situation.sandbox_id, item.record.id, key, state.epoch, endpoints
            )
    return ""


def _secret_keys(item: Attached) -> set[str]:
    return {*item.record.handles, *(key for state in item.refresh for key in state.keys)}


def fingerprint(parts: Iterable[str]) -> int:
    """64 bits that differ when any part differs; never zero."""
    return int.from_bytes(digest_of(parts)[:8], "big") or 1


def _revision(situation: Situation, bindings: Sequence[PolicyBinding]) -> int:
    parts: list[str] = []
    for item in situation.attached:
        record = item.record
        parts += ["provider", record.name, record.id, str(record.resource_version)]
        for state in sorted(item.refresh, key=lambda state: (state.key, state.id)):
            parts += ["refresh", state.key, state.strategy.name, state.epoch, state.id]
            parts.append(str(state.resource_version))
            for output, key in sorted(state.outputs.items()):
                parts += ["output", output, key]
        parts += ["type", record.type]
        parts += ["profile", item.entry.fingerprint if item.entry is not None else "missing"]
        parts += ["keys", *sorted(record.handles)]
        # Time passes without a write: a key that expires moves the revision too.
        parts += ["active", *active_keys(record, situation.now_ms)]
        for key, expires in sorted(record.expires_at_ms.items()):
            parts += ["expiry", key, str(expires)]
    for binding in sorted(bindings):
        parts += ["binding", binding.provider, binding.host, str(binding.port), binding.path]
    return fingerprint(parts)
