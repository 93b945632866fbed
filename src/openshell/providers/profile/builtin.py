"""The profiles that come with the package: `openshell/providers/profiles/*.yaml`, one a file.

Read once per process and never changed; a file that cannot be read is a broken installation. Tests
lint every one. The catalogue of the gateway and its clients without a gateway use them.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from openshell.providers.profile.document import profile_to_json, read_profile
from openshell.providers.profile.model import ProviderProfile

__all__ = ["builtin_profiles", "builtin_revision"]

_DIRECTORY: Final = Path(__file__).parents[1] / "profiles"


@functools.cache
def builtin_profiles() -> Mapping[str, ProviderProfile]:
    """Id to profile, sorted by id."""
    profiles = {}
    for path in sorted(_DIRECTORY.glob("*.yaml")):
        profile = read_profile(path.read_text(encoding="utf-8"), source=path.name, format="yaml")
        profiles[profile.id] = profile
    return MappingProxyType(dict(sorted(profiles.items())))


@functools.cache
def builtin_revision() -> str:
    """Names the contents: another version of the package with the same profiles gives the same."""
    contents = [profile_to_json(profile) for profile in builtin_profiles().values()]
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()
