"""The policy of a sandbox that was given none, and what is added so that programs can run.

Pure: whether a path exists is asked of the caller. Additions are derived at start and never
stored; what the author wrote is never taken away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from openshell.policy.findings import Finding, Severity
from openshell.policy.model import (
    PROVIDER_KEY_PREFIX,
    FilesystemPolicy,
    LandlockPolicy,
    NetworkRule,
    SandboxPolicy,
)
from openshell.policy.rest import ACCESS_PRESETS

__all__ = [
    "ACCESS_PRESETS",
    "BASELINE_READ_ONLY",
    "BASELINE_READ_WRITE",
    "check_startable",
    "enrich",
    "restrictive_default",
    "without_provider_rules",
]

# What nearly every program reads to start and to find name service and certificates.
BASELINE_READ_ONLY: Final = (
    "/usr",
    "/lib",
    "/etc",
    "/app",
    "/var/log",
    "/proc",
    "/dev/urandom",
)
BASELINE_READ_WRITE: Final = ("/tmp",)  # noqa: S108 (a path inside the sandbox)


def restrictive_default() -> SandboxPolicy:
    """Files to run programs with, the workspace, and no network at all."""
    return SandboxPolicy(
        version=1,
        filesystem=FilesystemPolicy(
            include_workdir=True,
            read_only=("/usr", "/lib", "/proc", "/dev/urandom", "/app", "/etc", "/var/log"),
            read_write=("/tmp", "/dev/null"),  # noqa: S108 (paths inside the sandbox)
        ),
        landlock=LandlockPolicy("best_effort"),
    )


def enrich(policy: SandboxPolicy, exists: Callable[[str], bool]) -> SandboxPolicy:
    """Adds the baseline paths that exist, when there is network to use them for.

    A baseline path that the author made read-only stays read-only. Returns the same object when
    nothing is missing.
    """
    if not policy.network_policies:
        return policy
    before = policy.filesystem or FilesystemPolicy(include_workdir=True)
    listed = {_normal(path) for path in (*before.read_only, *before.read_write)}

    def missing(paths: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(path for path in paths if path not in listed and exists(path))

    after = replace(
        before,
        read_only=before.read_only + missing(BASELINE_READ_ONLY),
        read_write=before.read_write + missing(BASELINE_READ_WRITE),
    )
    return policy if after == policy.filesystem else replace(policy, filesystem=after)


def check_startable(policy: SandboxPolicy) -> tuple[Finding, ...]:
    """Warns of a policy under which not even a shell starts; for one that a sandbox begins with.

    A later one keeps the files of the one before it.
    """
    files = policy.filesystem
    if policy.network_policies or (files and (files.read_only or files.read_write)):
        return ()
    usual = restrictive_default().filesystem or FilesystemPolicy()
    message = (
        "no program can start: the policy lists no path, and without network rules none is added; "
        f"write filesystem_policy: {{include_workdir: true, read_only: [{', '.join(usual.read_only)}], "
        f"read_write: [{', '.join(usual.read_write)}]}}"
    )
    return (Finding("no_program_starts", Severity.WARNING, "filesystem_policy", message),)


def _normal(path: str) -> str:
    """Lexically: repeated and trailing slashes and `.` do not make another path."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    return ("/" if path.startswith("/") else "") + "/".join(parts)


def without_provider_rules(policy: SandboxPolicy) -> SandboxPolicy:
    """The policy as a person would store it: composed rules belong to their providers."""
    kept: Mapping[str, NetworkRule] = MappingProxyType(
        {
            key: rule
            for key, rule in policy.network_policies.items()
            if not key.startswith(PROVIDER_KEY_PREFIX)
        }
    )
    if len(kept) == len(policy.network_policies):
        return policy
    return replace(policy, network_policies=kept)
