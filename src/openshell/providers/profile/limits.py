"""How large a profile may be, and the check of it. A profile is what a stranger may have written.

Documents are bounded when they are read; these limits hold for messages as well. They keep the work of
every other check, of composing a policy and of sending it to a sandbox small. `lint` asks first and
looks no further at a profile that is too large as a whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Final

from openshell.policy.model import Endpoint
from openshell.providers.profile.findings import ProfileFinding
from openshell.providers.profile.model import ProviderProfile
from openshell.providers.texts import byte_size, shown

__all__ = [
    "COUNTS",
    "DEFAULT_COUNT",
    "DEFAULT_TEXT_BYTES",
    "MAX_PROFILE_BYTES",
    "TEXT_BYTES",
    "is_too_large",
    "limit_findings",
]

# As much as a sandbox policy: its endpoints become rules of one.
MAX_PROFILE_BYTES: Final = 262_144
# What a value weighs beside its text, so that many empty ones count too.
_VALUE_BYTES: Final = 8

# Entries of any other list or map: twice what a provider can hold of credentials.
DEFAULT_COUNT: Final = 64
COUNTS: Final[Mapping[str, int]] = MappingProxyType(
    {
        # The largest built-in profile has eight of each.
        "endpoints": 256,
        "binaries": 256,
        "rules": 256,
        "deny_rules": 256,
        "allowed_ips": 256,
        # Names that one value may go by.
        "env_vars": 16,
        # Hashes that a client registers beforehand, often all of an application's.
        "graphql_persisted_queries": 1024,
    }
)

# Any other text: the longest path that a request may have.
DEFAULT_TEXT_BYTES: Final = 4096
TEXT_BYTES: Final[Mapping[str, int]] = MappingProxyType(
    {
        # A provider's type is no longer.
        "id": 64,
        # A line of a list.
        "display_name": 256,
        # Keys of a provider are no longer, and these become such keys or name them.
        "name": 256,
        "env_vars": 256,
        # A name in DNS.
        "host": 253,
    }
)
# Keys of maps, as in a provider's configuration.
_MAX_KEY_BYTES: Final = 256

# Of everything else only text that cannot drive a terminal; these may have lines.
_LINES: Final = frozenset(("description", "annotations"))
# How the document spells what the model names otherwise.
_SPELLED: Final = MappingProxyType({"any_of": "any"})


def is_too_large(profile: ProviderProfile) -> bool:
    return _weight(profile) > MAX_PROFILE_BYTES


def limit_findings(profile: ProviderProfile) -> Iterator[ProfileFinding]:
    """One finding for the whole, or one for each value that is too long or holds control characters."""
    weight = _weight(profile)
    if weight > MAX_PROFILE_BYTES:
        yield ProfileFinding(
            "profile", f"the profile is too large ({weight} > {MAX_PROFILE_BYTES} bytes)"
        )
        return
    yield from _check(profile, "", "")


def _weight(value: object) -> int:
    """Bytes of text, and something for every value."""
    if isinstance(value, str):
        return _VALUE_BYTES + byte_size(value)
    if isinstance(value, Mapping):
        return _VALUE_BYTES + sum(byte_size(key) + _weight(item) for key, item in value.items())
    if isinstance(value, tuple):
        return _VALUE_BYTES + sum(map(_weight, value))
    if dataclasses.is_dataclass(value):
        return _VALUE_BYTES + sum(_weight(getattr(value, name)) for name in _names(type(value)))
    return _VALUE_BYTES


def _check(value: object, name: str, path: str) -> Iterator[ProfileFinding]:
    if isinstance(value, str):
        yield from _check_text(value, path, TEXT_BYTES.get(name, DEFAULT_TEXT_BYTES), name)
    elif isinstance(value, Mapping):
        yield from _check_count(value, name, path)
        for key, item in value.items():
            yield from _check_text(key, path, _MAX_KEY_BYTES, "")
            yield from _check(item, name, f"{path}.{shown(key)}")
    elif isinstance(value, tuple):
        yield from _check_count(value, name, path)
        for index, item in enumerate(value):
            inner = f"{path}[{index}].allow" if name == "rules" else f"{path}[{index}]"
            yield from _check(item, name, inner)
    elif dataclasses.is_dataclass(value):
        for field in _names(type(value)):
            spelled = _SPELLED.get(field, field)
            yield from _check(
                getattr(value, field), spelled, f"{path}.{spelled}" if path else spelled
            )


def _check_count(
    value: Mapping[str, object] | tuple[object, ...], name: str, path: str
) -> Iterator[ProfileFinding]:
    most = COUNTS.get(name, DEFAULT_COUNT)
    if len(value) > most:
        yield ProfileFinding(path, f"too many entries ({len(value)} > {most})")


def _check_text(text: str, path: str, most: int, name: str) -> Iterator[ProfileFinding]:
    size = byte_size(text)
    if size > most:
        yield ProfileFinding(path, f"too long ({size} > {most} bytes)")
    allowed = "\n\t" if name in _LINES else ""
    if any(_is_control(char) and char not in allowed for char in text):
        yield ProfileFinding(path, "contains a control character; remove it")


def _is_control(char: str) -> bool:
    return char < " " or "\x7f" <= char < "\xa0"


def _names(kind: type) -> tuple[str, ...]:
    return _NAMES.get(kind) or tuple(field.name for field in dataclasses.fields(kind))


# The one type that there may be hundreds of.
_NAMES: Final[Mapping[type, tuple[str, ...]]] = MappingProxyType(
    {Endpoint: tuple(field.name for field in dataclasses.fields(Endpoint))}
)
