"""Credentials that this machine has already: where each type of provider keeps them.

With `providers_v2_enabled` the profile says which variables count; without it a fixed table does.
Pure over the environment and a way of reading files. Callers: `provider create` and `update` with
`--from-existing`, and the providers that `sandbox create` makes by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from openshell.cli.failures import CliError

if TYPE_CHECKING:
    from openshell.providers.profile.model import ProviderProfile

__all__ = ["Found", "discover_by_profile", "discover_by_table", "read_text", "types_using"]

_VERTEX: Final = "google-vertex-ai"
_VERTEX_CONFIG: Final = (
    "VERTEX_AI_PROJECT_ID",
    "VERTEX_AI_REGION",
    "GOOGLE_VERTEX_AI_BASE_URL",
    "VERTEX_AI_BASE_URL",
    "VERTEX_AI_PUBLISHER",
)
_TABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "anthropic": ("ANTHROPIC_API_KEY",),
    "claude-code": ("ANTHROPIC_API_KEY", "CLAUDE_API_KEY"),
    "codex": ("OPENAI_API_KEY",),
    "copilot": ("COPILOT_GITHUB_TOKEN", "GH_TOKEN", "GITHUB_TOKEN"),
    "deepinfra": ("DEEPINFRA_API_KEY",),
    "generic": (),
    "github": ("GITHUB_TOKEN", "GH_TOKEN"),
    "gitlab": ("GITLAB_TOKEN", "GLAB_TOKEN", "CI_JOB_TOKEN"),
    "google-cloud": ("GCP_SA_ACCESS_TOKEN", "GCP_ADC_ACCESS_TOKEN"),
    _VERTEX: (
        "GOOGLE_VERTEX_AI_TOKEN",
        "VERTEX_AI_TOKEN",
        "GOOGLE_VERTEX_AI_SERVICE_ACCOUNT_TOKEN",
        "VERTEX_AI_SERVICE_ACCOUNT_TOKEN",
    ),
    "nvidia": ("NVIDIA_API_KEY",),
    "openai": ("OPENAI_API_KEY",),
    "opencode": ("OPENCODE_API_KEY", "OPENROUTER_API_KEY", "OPENAI_API_KEY"),
    "outlook": (),
}

_MAX_FILE_BYTES: Final = 1 << 20
"""A settings file larger than this is not one."""


@dataclass(frozen=True, slots=True)
class Found:
    """What was found, and where one would have looked."""

    credentials: dict[str, str] = field(default_factory=dict, repr=False)
    config: dict[str, str] = field(default_factory=dict)
    looked_for: tuple[str, ...] = ()


def types_using(variable: str) -> tuple[str, ...]:
    """The known types whose credentials are kept in a variable of that name, in any case."""
    name = variable.upper()
    return tuple(kind for kind, names in _TABLE.items() if name in names)


def read_text(path: str) -> str | None:
    """A small text file, None when it cannot be read."""
    try:
        with open(path, encoding="utf-8") as file:
            return file.read(_MAX_FILE_BYTES)
    except (OSError, UnicodeDecodeError):
        return None


def discover_by_profile(
    profile: ProviderProfile, canonical: str, environ: Mapping[str, str]
) -> Found:
    """Looks for the credentials that the profile's `discovery` lists.

    Raises:
        CliError: the profile lists a credential that it does not have.
    """
    declared = {credential.name: credential for credential in profile.credentials}
    names: list[str] = []
    for name in profile.discovery.credentials if profile.discovery else ():
        if name not in declared:
            raise CliError(f"profile '{profile.id}' discovers '{name}', which it does not declare")
        names += declared[name].env_vars
    return _found(canonical, tuple(dict.fromkeys(names)), environ)


def discover_by_table(
    canonical: str,
    environ: Mapping[str, str],
    read: Callable[[str], str | None] = read_text,
) -> Found:
    """Looks where tools of the known types keep their credentials.

    Raises:
        CliError: nothing is known about the type.
    """
    names = _TABLE.get(canonical)
    if names is None:
        raise CliError(
            f"nothing is known about where type '{canonical}' keeps credentials\n"
            "Give them yourself:  --credential KEY  (taken from the variable KEY)\n"
            "Or let its profile say so:  openshell settings set --global "
            "--key providers_v2_enabled --value true"
        )
    found = _found(canonical, names, environ)
    if canonical == "opencode":
        found = Found({**_opencode_keys(environ, read), **found.credentials}, {}, found.looked_for)
    return found


def _found(canonical: str, names: tuple[str, ...], environ: Mapping[str, str]) -> Found:
    config = _VERTEX_CONFIG if canonical == _VERTEX else ()
    return Found(_present(names, environ), _present(config, environ), names)


def _present(names: tuple[str, ...], environ: Mapping[str, str]) -> dict[str, str]:
    return {name: environ[name] for name in names if environ.get(name, "").strip()}


def _opencode_keys(environ: Mapping[str, str], read: Callable[[str], str | None]) -> dict[str, str]:
    """Keys in opencode's own settings, as `<PROVIDER>_API_KEY`; a broken file holds none."""
    base = environ.get("XDG_CONFIG_HOME") or os.path.join(environ.get("HOME", ""), ".config")
    text = read(os.path.join(base, "opencode", "opencode.json"))
    try:
        document: Any = json.loads(text) if text else {}
    except ValueError:
        return {}
    found: dict[str, str] = {}
    providers = document.get("provider") if isinstance(document, dict) else None
    for name, entry in providers.items() if isinstance(providers, dict) else ():
        options = entry.get("options") if isinstance(entry, dict) else None
        key = options.get("apiKey") if isinstance(options, dict) else None
        if isinstance(key, str) and key.strip():
            variable = "".join(c if c.isalnum() and c.isascii() else "_" for c in name).upper()
            found[f"{variable}_API_KEY"] = key
    return found
