"""One provider record: what a client may write, how an update merges, what is kept.

A record holds handles, never values: values pass through `NewProvider` and `ProviderChange` on
their way to the credential store and are in no repr and no message. Whether a name is taken, a
version is stale or a sandbox uses the record is decided by the gateway's transaction.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from openshell.providers.env_names import is_env_key, is_reserved_env_key
from openshell.providers.texts import byte_size, shown
from openshell.providers.types import canonical_type

__all__ = [
    "MAX_CONFIG",
    "MAX_CREDENTIALS",
    "MAX_KEY_BYTES",
    "MAX_NAME_BYTES",
    "MAX_TYPE_BYTES",
    "MAX_VALUE_BYTES",
    "Handle",
    "NewProvider",
    "ProviderChange",
    "ProviderRecord",
    "RecordRefused",
    "UpdatePlan",
    "check_new",
    "plan_update",
]

# The contract's limits: they bound one row, and what a supervisor must hold in memory.
MAX_NAME_BYTES: Final = 253
MAX_TYPE_BYTES: Final = 64
MAX_CREDENTIALS: Final = 32
MAX_CONFIG: Final = 64
MAX_KEY_BYTES: Final = 256
MAX_VALUE_BYTES: Final = 8192


class RecordRefused(ValueError):
    """The client's record breaks a rule; the message names the field, never a value."""


@dataclass(frozen=True, slots=True)
class Handle:
    """Where one value is kept: the store's name and the store's own pointer."""

    driver: str
    handle: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class ProviderRecord:
    """A stored provider, without values."""

    id: str
    name: str
    workspace: str
    type: str
    handles: Mapping[str, Handle]
    config: Mapping[str, str] = field(default_factory=dict, repr=False)
    expires_at_ms: Mapping[str, int] = field(default_factory=dict)
    profile_workspace: str = ""
    resource_version: int = 0

    @property
    def canonical_type(self) -> str:
        return canonical_type(self.type)

    def is_expired(self, key: str, now_ms: int) -> bool:
        expires = self.expires_at_ms.get(key, 0)
        return 0 < expires <= now_ms


@dataclass(frozen=True, slots=True)
class NewProvider:
    """What a client asks to create."""

    name: str
    type: str
    credentials: Mapping[str, str] = field(repr=False)
    config: Mapping[str, str] = field(default_factory=dict, repr=False)
    expires_at_ms: Mapping[str, int] = field(default_factory=dict)
    profile_workspace: str = ""
    has_handles: bool = False


@dataclass(frozen=True, slots=True)
class ProviderChange:
    """What a client asks to change. An empty value removes its key, an empty map changes nothing."""

    type: str = ""
    profile_workspace: str = ""
    credentials: Mapping[str, str] = field(default_factory=dict, repr=False)
    config: Mapping[str, str] = field(default_factory=dict, repr=False)
    expires_at_ms: Mapping[str, int] = field(default_factory=dict)
    has_handles: bool = False


@dataclass(frozen=True, slots=True)
class UpdatePlan:
    """The merged record but for new handles, and what happens to each credential."""

    store_keys: tuple[str, ...]
    remove_keys: tuple[str, ...]
    config: Mapping[str, str] = field(repr=False)
    expires_at_ms: Mapping[str, int]


def check_new(new: NewProvider, workspace: str, *, may_be_empty: bool = False) -> None:
    """Raises `RecordRefused` for anything that may not become a record.

    `may_be_empty`: the type's profile lets all values come into being at run time.
    """
    if not new.type.strip():
        raise RecordRefused("provider.type is required")
    if new.has_handles:
        raise RecordRefused("provider.credential_handles is internal state and cannot be supplied")
    _check_profile_workspace(new.profile_workspace, workspace)
    _check_bytes("provider name", new.name, MAX_NAME_BYTES)
    _check_bytes("provider.type", new.type, MAX_TYPE_BYTES)
    if not new.credentials and not may_be_empty:
        raise RecordRefused("provider.credentials must not be empty")
    _check_credentials(new.credentials)
    for key, value in new.credentials.items():
        if not value:
            raise RecordRefused(f"provider.credentials['{shown(key)}'] must not be empty")
    _check_map("provider.config", new.config, MAX_CONFIG)
    _check_expiries(new.expires_at_ms)
    for key, expires in new.expires_at_ms.items():
        if expires < 0:
            raise RecordRefused(
                f"provider.credential_expires_at_ms['{shown(key)}'] must not be negative"
            )


def plan_update(record: ProviderRecord, change: ProviderChange) -> UpdatePlan:
    """What the record becomes. Raises `RecordRefused`; writes nothing."""
    if change.type and change.type.lower() != record.type.lower():
        raise RecordRefused(
            f"provider.type cannot be changed (it is '{record.type}'); create another provider"
        )
    if change.profile_workspace and change.profile_workspace != record.profile_workspace:
        raise RecordRefused("provider.profile_workspace cannot be changed")
    if change.has_handles:
        raise RecordRefused("provider.credential_handles is internal state and cannot be supplied")
    _check_credentials(change.credentials)
    _check_map("provider.config", change.config, MAX_CONFIG)
    _check_expiries(change.expires_at_ms)
    store = tuple(sorted(key for key, value in change.credentials.items() if value))
    remove = tuple(
        sorted(k for k, value in change.credentials.items() if not value and k in record.handles)
    )
    kept = len(record.handles.keys() - set(remove) | set(store))
    if kept > MAX_CREDENTIALS:
        raise RecordRefused(
            f"provider.credentials has too many entries ({kept} > {MAX_CREDENTIALS})"
        )
    config = {k: v for k, v in {**record.config, **change.config}.items() if v}
    if len(config) > MAX_CONFIG:
        raise RecordRefused(f"provider.config has too many entries ({len(config)} > {MAX_CONFIG})")
    expiries = {**record.expires_at_ms, **change.expires_at_ms}
    expiries = {key: expires for key, expires in expiries.items() if expires > 0}
    _check_expiries(expiries)
    return UpdatePlan(store, remove, config, expiries)


def _check_profile_workspace(profile_workspace: str, workspace: str) -> None:
    if profile_workspace not in ("", workspace):
        raise RecordRefused(
            f"provider.profile_workspace must be empty or '{workspace}', the provider's own workspace"
        )


def _check_credentials(credentials: Mapping[str, str]) -> None:
    _check_map("provider.credentials", credentials, MAX_CREDENTIALS)
    for key in credentials:
        if not is_env_key(key):
            raise RecordRefused(
                f"provider.credentials key '{shown(key)}' is no environment variable name "
                "(letters, digits and _, not starting with a digit)"
            )
        if is_reserved_env_key(key):
            raise RecordRefused(
                f"provider.credentials key '{shown(key)}' looks like a placeholder; choose another"
            )


def _check_map(name: str, values: Mapping[str, str], limit: int) -> None:
    if len(values) > limit:
        raise RecordRefused(f"{name} has too many entries ({len(values)} > {limit})")
    for key, value in values.items():
        if not key:
            raise RecordRefused(f"{name} has an empty key")
        _check_bytes(f"{name} key", key, MAX_KEY_BYTES)
        _check_bytes(f"{name}['{shown(key)}']", value, MAX_VALUE_BYTES)


def _check_expiries(expiries: Mapping[str, int]) -> None:
    if len(expiries) > MAX_CREDENTIALS:
        raise RecordRefused(
            "provider.credential_expires_at_ms has too many entries "
            f"({len(expiries)} > {MAX_CREDENTIALS})"
        )
    for key in expiries:
        _check_bytes("provider.credential_expires_at_ms key", key, MAX_KEY_BYTES)


def _check_bytes(name: str, value: str, limit: int) -> None:
    size = byte_size(value)
    if size > limit:
        raise RecordRefused(f"{name} exceeds maximum length ({size} > {limit} bytes)")
