"""What a supervisor is handed of the attached providers: which keys, bound where, under which revision.

A plan over records and bindings; the values are fetched by the gateway for exactly the planned keys.
A key is handed out only together with the endpoints it may be sent to. A provider that no endpoint
binds has its keys withheld, alone: the other providers of the sandbox do not suffer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from openshell.providers.bindings import PolicyBinding
from openshell.providers.env_keys import active_keys, distinct
from openshell.providers.records import ProviderRecord

__all__ = ["EnvironmentPlan", "StaticCredential", "Withheld", "fingerprint", "plan_environment"]


@dataclass(frozen=True, slots=True)
class StaticCredential:
    """One key that the sandbox gets a placeholder for."""

    key: str
    provider: ProviderRecord
    endpoints: tuple[PolicyBinding, ...]

    @property
    def identity(self) -> str:
        """Names the account behind the key: a change revokes what older placeholders stood for."""
        return f"{self.provider.id}:{self.key}"

    @property
    def expires_at_ms(self) -> int:
        return self.provider.expires_at_ms.get(self.key, 0)


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


def plan_environment(
    records: Sequence[ProviderRecord], bindings: Sequence[PolicyBinding], now_ms: int
) -> EnvironmentPlan:
    """`records` in attachment order. Key ownership was checked by `env_keys.find_clash`."""
    credentials: list[StaticCredential] = []
    withheld: list[Withheld] = []
    attached = distinct(records)
    for record in attached:
        endpoints = tuple(binding for binding in bindings if binding.provider == record.name)
        active = active_keys(record, now_ms)
        for key in sorted(record.handles):
            if key not in active:
                reason = "expired" if record.is_expired(key, now_ms) else "not injectable"
                withheld.append(Withheld(record.name, key, reason))
            elif not endpoints:
                withheld.append(
                    Withheld(record.name, key, "no endpoint of the policy binds this provider")
                )
            else:
                credentials.append(StaticCredential(key, record, endpoints))
    return EnvironmentPlan(
        tuple(credentials), tuple(withheld), _revision(attached, bindings, now_ms)
    )


def fingerprint(parts: Iterable[str]) -> int:
    """64 bits that differ when any part differs; parts are length-prefixed, so cuts count too."""
    digest = hashlib.sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "big"))
        digest.update(encoded)
    return int.from_bytes(digest.digest()[:8], "big") or 1


def _revision(
    records: Sequence[ProviderRecord], bindings: Sequence[PolicyBinding], now_ms: int
) -> int:
    parts: list[str] = []
    for record in records:
        active = active_keys(record, now_ms)
        parts += ["provider", record.name, record.id, str(record.resource_version), record.type]
        # No profile catalogue yet: the part keeps its place so that a catalogue moves the revision.
        parts += ["profile", "missing", "keys", *sorted(record.handles), "active", *active]
        for key, expires in sorted(record.expires_at_ms.items()):
            parts += ["expiry", key, str(expires)]
    for binding in sorted(bindings):
        parts += ["binding", binding.provider, binding.host, str(binding.port), binding.path]
    return fingerprint(parts)
