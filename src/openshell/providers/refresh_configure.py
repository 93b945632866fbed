"""What a refresh configuration must satisfy, in the contract's order, and what it becomes.

`check_subject`, then (for AWS) the setting, then `check_material` need no provider; `plan_configure`
needs the provider's profile. Between them the gateway finds the provider and asks whether the keys
are free on every sandbox that has it. Whether a state exists is the gateway's question too.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from openshell.providers.env_names import is_env_key, is_reserved_env_key
from openshell.providers.profile.model import MINTABLE, ProviderProfile, Refresh, Strategy
from openshell.providers.records import MAX_KEY_BYTES, MAX_VALUE_BYTES
from openshell.providers.refresh import (
    STS_OUTPUTS,
    STS_PRIMARY_KEY,
    RefreshReason,
    RefreshRefused,
    find_credential,
    pin_outputs,
)
from openshell.providers.texts import byte_size, shown

__all__ = [
    "MAX_MATERIAL",
    "ConfigurePlan",
    "ConfigureRequest",
    "check_material",
    "check_subject",
    "plan_configure",
]

MAX_MATERIAL: Final = 64
"""Entries of material, and of the list of secret ones; the contract's limit."""
MAX_SECONDS: Final = 10 * 366 * 24 * 3600
"""Lead times and lifetimes: ten years is beyond any token and far from overflowing a time."""

_SEPARATORS: Final = re.compile(r"[,\s]+")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,18}")


@dataclass(frozen=True, slots=True)
class ConfigureRequest:
    """What a client asks for. A blank value is the same as none."""

    provider: str
    key: str
    strategy: Strategy | None
    """None: a number that names no strategy."""
    material: Mapping[str, str] = field(repr=False)
    secret_names: Sequence[str] = ()
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True)
class ConfigurePlan:
    """What is kept beside the material."""

    token_url: str
    scopes: tuple[str, ...]
    refresh_before_seconds: int
    max_lifetime_seconds: int
    outputs: Mapping[str, str]


def check_subject(request: ConfigureRequest) -> Strategy:
    """Provider, key and strategy by themselves; the strategy."""
    if not request.provider.strip():
        raise _argument("provider is required")
    key = request.key
    if not key.strip():
        raise _argument("credential_key is required")
    if len(key.encode("utf-8", "surrogatepass")) > MAX_KEY_BYTES:
        raise _argument(f"credential_key exceeds maximum length ({MAX_KEY_BYTES} bytes)")
    if not is_env_key(key):
        raise _argument(
            "credential_key is no environment variable name "
            "(letters, digits and _, not starting with a digit)"
        )
    if is_reserved_env_key(key):
        raise _argument("credential_key looks like a placeholder; choose another")
    if request.strategy is None or request.strategy is Strategy.UNSPECIFIED:
        raise _argument("strategy is required")
    if request.strategy not in MINTABLE:
        raise _argument(
            f"strategy '{request.strategy.name.lower()}' is not one by which the gateway renews "
            f"credentials ({', '.join(s.name.lower() for s in sorted(MINTABLE))})"
        )
    return request.strategy


def check_material(request: ConfigureRequest) -> None:
    """Sizes, and what may never come from a client."""
    material = request.material
    if len(material) > MAX_MATERIAL:
        raise _argument(f"material has too many entries ({len(material)} > {MAX_MATERIAL})")
    for name, value in material.items():
        if not name.strip():
            raise _argument("material has an entry without a name")
        _check_size("a name in material", name, MAX_KEY_BYTES)
        _check_size(f"material '{shown(name)}'", value, MAX_VALUE_BYTES)
    listed = request.secret_names
    if len(listed) > MAX_MATERIAL:
        raise _argument(f"secret_material_keys has too many entries ({len(listed)})")
    for name in listed:
        _check_size("an entry of secret_material_keys", name, MAX_KEY_BYTES)
    for name in ("token_url", "token_uri"):
        if material.get(name, "").strip():
            raise _argument(
                f"material '{name}' is not accepted: token endpoints come from profiles"
            )
    if "sts_endpoint_url" in material:
        raise _argument("material 'sts_endpoint_url' is never accepted: AWS's own endpoint is used")
    _check_source_keys(material)
    if request.expires_at_ms is not None and request.expires_at_ms < 0:
        raise _argument("expires_at_ms must not be negative")


def _check_source_keys(material: Mapping[str, str]) -> None:
    has_id = bool(material.get("aws_access_key_id", "").strip())
    has_secret = bool(material.get("aws_secret_access_key", "").strip())
    if has_id != has_secret:
        raise _argument(
            "material 'aws_access_key_id' and 'aws_secret_access_key' belong together: give both "
            "or neither"
        )
    if material.get("aws_session_token", "").strip() and not has_id:
        raise _argument(
            "material 'aws_session_token' needs 'aws_access_key_id' and 'aws_secret_access_key'"
        )


def plan_configure(request: ConfigureRequest, profile: ProviderProfile | None) -> ConfigurePlan:
    """What the profile demands and adds. The request passed the checks above."""
    strategy = check_subject(request)
    credential = find_credential(profile, request.key)
    described = credential.refresh if credential is not None else None
    outputs = pin_outputs(profile, request.key, strategy)
    if strategy is Strategy.AWS_STS_ASSUME_ROLE:
        _check_sts(request.key, described, outputs)
    described = described or Refresh()
    material = request.material
    # A profile that renews in another way demands the material of that other way.
    if described.strategy is strategy:
        for item in described.material:
            if item.required and not material.get(item.name, "").strip():
                raise _argument(f"material '{shown(item.name)}' is required by the profile")
    for name in request.secret_names:
        if name not in material:
            raise _argument(f"secret_material_keys names '{shown(name)}', which is not in material")
    return ConfigurePlan(
        token_url=described.token_url.strip(),
        scopes=_scopes(material) or described.scopes,
        refresh_before_seconds=_seconds(
            material, "refresh_before_seconds", described.refresh_before_seconds
        ),
        max_lifetime_seconds=_seconds(
            material, "max_lifetime_seconds", described.max_lifetime_seconds
        ),
        outputs=outputs,
    )


def _check_sts(key: str, described: Refresh | None, outputs: Mapping[str, str]) -> None:
    if described is None:
        raise _precondition(
            f"the provider's profile does not say how '{shown(key)}' is renewed; "
            "aws_sts_assume_role needs a profile that does"
        )
    if described.strategy is not Strategy.AWS_STS_ASSUME_ROLE:
        raise _precondition(
            f"the provider's profile renews '{shown(key)}' by "
            f"{described.strategy.name.lower()}, not by aws_sts_assume_role"
        )
    if key != STS_PRIMARY_KEY:
        raise _precondition(f"aws_sts_assume_role is configured for {STS_PRIMARY_KEY} only")
    if dict(outputs) != dict(STS_OUTPUTS):
        wanted = ", ".join(f"{output} to {name}" for output, name in STS_OUTPUTS.items())
        raise _precondition(f"the provider's profile must bind the outputs of the role: {wanted}")


def _scopes(material: Mapping[str, str]) -> tuple[str, ...]:
    text = f"{material.get('scope', '')} {material.get('scopes', '')}"
    return tuple(dict.fromkeys(scope for scope in _SEPARATORS.split(text) if scope))


def _seconds(material: Mapping[str, str], name: str, default: int) -> int:
    text = material.get(name, "").strip()
    if not text:
        return max(0, default)
    if not _NUMBER.fullmatch(text):
        raise _argument(f"material '{name}' must be a whole number of seconds")
    seconds = int(text)
    if not 0 <= seconds <= MAX_SECONDS:
        raise _argument(f"material '{name}' must be between 0 and {MAX_SECONDS} seconds")
    return seconds


def _check_size(what: str, value: str, limit: int) -> None:
    size = byte_size(value)
    if size > limit:
        raise _argument(f"{what} exceeds maximum length ({size} > {limit} bytes)")


def _argument(message: str) -> RefreshRefused:
    return RefreshRefused(RefreshReason.ARGUMENT, message)


def _precondition(message: str) -> RefreshRefused:
    return RefreshRefused(RefreshReason.PRECONDITION, message)
