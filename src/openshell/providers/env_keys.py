"""Which provider owns an environment variable of a sandbox.

One key has one owner among the providers attached to a sandbox: otherwise a placeholder could stand
for either of two accounts. What a refresh will write counts before it is written. Called by
`fitness` for every writer and before delivery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from openshell.providers.env_names import is_env_key, is_reserved_env_key
from openshell.providers.plugin_env import plugin_environment
from openshell.providers.records import ProviderRecord
from openshell.providers.situation import Attached

__all__ = ["KeyClash", "active_keys", "find_key_clashes"]

# The gateway's own service account key of this type signs token requests and never goes inside.
_NEVER_INJECTED: Final = frozenset({("google-vertex-ai", "GOOGLE_SERVICE_ACCOUNT_KEY")})


@dataclass(frozen=True, slots=True)
class KeyClash:
    """Two attached providers claim one variable, or two refreshed credentials of one do."""

    key: str
    first: str
    second: str
    is_setting: bool = False
    """The second one derives it from its configuration."""

    @property
    def message(self) -> str:
        if self.first == self.second:
            return (
                f"two refreshed credentials of provider '{self.first}' both write the environment "
                f"variable '{self.key}'; delete one refresh"
            )
        if self.is_setting:
            return (
                f"the credential '{self.key}' of provider '{self.first}' has the name of an "
                f"environment variable that provider '{self.second}' derives from its "
                "configuration; attach only one of them, or rename the credential"
            )
        return (
            f"providers '{self.first}' and '{self.second}' both provide the environment variable "
            f"'{self.key}'; attach only one of them, or rename the credential in one"
        )


def active_keys(record: ProviderRecord, now_ms: int) -> tuple[str, ...]:
    """Credential keys that a sandbox may get now, sorted: injectable and not expired."""
    return tuple(
        key
        for key in sorted(record.handles)
        if _is_injectable(record, key) and not record.is_expired(key, now_ms)
    )


def find_key_clashes(attached: Sequence[Attached], now_ms: int) -> tuple[KeyClash, ...]:
    """All of them, in attachment order. Two that derive one setting do not clash: the first wins."""
    clashes: list[KeyClash] = []
    owners: dict[str, str] = {}
    for item in attached:
        name = item.record.name
        written = [key for state in item.refresh for key in state.keys]
        twice = sorted({key for key in written if written.count(key) > 1})
        clashes += [KeyClash(key, name, name) for key in twice]
        for key in sorted({*active_keys(item.record, now_ms), *written}):
            owner = owners.setdefault(key, name)
            if owner != name:
                clashes.append(KeyClash(key, owner, name))
    for item in attached:
        for key in plugin_environment(item.record):
            owner = owners.get(key, item.record.name)
            if owner != item.record.name:
                clashes.append(KeyClash(key, owner, item.record.name, is_setting=True))
    return tuple(clashes)


def _is_injectable(record: ProviderRecord, key: str) -> bool:
    return (
        is_env_key(key)
        and not is_reserved_env_key(key)
        and (record.canonical_type, key) not in _NEVER_INJECTED
    )
