"""All checks of one policy by itself, shared by gateway, supervisor and offline tools.

Every violation is reported, with a stable code and its place. Endpoint by endpoint checks are in
`validate_endpoint`, pairs of endpoints in `ambiguity`. What needs the outside world (attached
providers, the policy before) is checked elsewhere. What the language knows but this version's proxy
does not carry out is refused by name, code `not_supported_yet`: see `features`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Final

from openshell.policy.ambiguity import check_ambiguity
from openshell.policy.features import ENFORCED, Feature, check_features
from openshell.policy.findings import Finding, Severity, errors_of
from openshell.policy.model import (
    PROVIDER_KEY_PREFIX,
    FilesystemPolicy,
    NetworkRule,
    ProcessPolicy,
    SandboxPolicy,
)
from openshell.policy.validate_endpoint import check_endpoint
from openshell.policy.validate_middleware import check_middlewares
from openshell.policy.validate_report import Report

__all__ = [
    "MAX_FILESYSTEM_PATHS",
    "MAX_PATH_BYTES",
    "Finding",
    "Severity",
    "check_authored",
    "errors_of",
    "validate_policy",
]

# One Landlock rule is added for each path at every start; nobody lists more by hand.
MAX_FILESYSTEM_PATHS: Final = 256
# PATH_MAX of the kernel.
MAX_PATH_BYTES: Final = 4096
# An overlong path is echoed only this far.
_ECHO: Final = 80

_NUMERIC_ID = re.compile(r"[1-9][0-9]{0,9}")
_MAX_ID: Final = 4294967294


def validate_policy(
    policy: SandboxPolicy, *, features: Collection[Feature] = ENFORCED
) -> tuple[Finding, ...]:
    """Everything wrong with the policy, and everything odd about it.

    `features`: what is enforced; the default is what this version does. Widen it only to judge the
    language itself.
    """
    return (*check_features(policy, features), *_findings(policy))


def check_authored(policy: SandboxPolicy) -> tuple[Finding, ...]:
    """Rule keys that only composition may use; not for composed policies."""
    return tuple(
        Finding(
            "reserved_key",
            Severity.ERROR,
            f"network_policies.{key}",
            f"network_policies key '{key}' uses reserved '{PROVIDER_KEY_PREFIX}' prefix; such rules "
            "come from attached providers (policy get --base shows the policy without them)",
        )
        for key in sorted(policy.network_policies)
        if key.startswith(PROVIDER_KEY_PREFIX)
    )


def _findings(policy: SandboxPolicy) -> Iterator[Finding]:
    if policy.version != 1:
        message = f"version {policy.version} is unknown: the policy is read as version 1; write 1"
        yield _warning("version", "version", message)
    if policy.process is not None:
        yield from _check_process(policy.process)
    if policy.filesystem is not None:
        yield from _check_filesystem(policy.filesystem)
    if policy.landlock is not None and policy.landlock.compatibility not in (
        "",
        "best_effort",
        "hard_requirement",
    ):
        # The reference takes any other word as best_effort: a slip would then ask for less.
        yield _error(
            "landlock_compatibility",
            "landlock.compatibility",
            "unknown value; expected best_effort or hard_requirement",
        )
    for key in sorted(policy.network_policies):
        yield from _check_rule(policy.network_policies[key])
    yield from check_middlewares(policy)
    yield from check_ambiguity(policy)


def _error(code: str, location: str, message: str) -> Finding:
    return Finding(code, Severity.ERROR, location, message)


def _warning(code: str, location: str, message: str) -> Finding:
    return Finding(code, Severity.WARNING, location, message)


def _check_process(process: ProcessPolicy) -> Iterator[Finding]:
    for name, value in (
        ("run_as_user", process.run_as_user),
        ("run_as_group", process.run_as_group),
    ):
        numeric = _NUMERIC_ID.fullmatch(value) and int(value) <= _MAX_ID
        if value and value != "sandbox" and not numeric:
            yield _error(
                "run_as",
                f"process.{name}",
                f"{name} must be 'sandbox' or a numeric UID/GID in range [1, {_MAX_ID}], "
                f"got '{value[:_ECHO]}'",
            )


def _check_filesystem(filesystem: FilesystemPolicy) -> Iterator[Finding]:
    count = len(filesystem.read_only) + len(filesystem.read_write)
    if count > MAX_FILESYSTEM_PATHS:
        yield _error(
            "too_many_paths",
            "filesystem_policy",
            f"too many filesystem paths ({count} > {MAX_FILESYSTEM_PATHS})",
        )
    for name, paths in (
        ("read_only", filesystem.read_only),
        ("read_write", filesystem.read_write),
    ):
        for index, path in enumerate(paths):
            where = f"filesystem_policy.{name}[{index}]"
            yield from _check_path(path, where, writable=name == "read_write")


def _check_path(path: str, where: str, *, writable: bool) -> Iterator[Finding]:
    length = len(path.encode("utf-8", "surrogatepass"))
    if length > MAX_PATH_BYTES:
        yield _error(
            "path_too_long",
            where,
            f"path exceeds maximum length ({length} > {MAX_PATH_BYTES} bytes): '{path[:_ECHO]}…'",
        )
        return
    if not path.startswith("/"):
        yield _error("path_not_absolute", where, f"path must be absolute: '{path}'")
    if ".." in path.split("/"):
        yield _error("path_traversal", where, f"path contains '..' traversal component: '{path}'")
    if "\0" in path:
        yield _error("path_nul", where, "path contains a NUL character")
    # `/.` and `//` are the root as well.
    if writable and path.startswith("/") and not [p for p in path.split("/") if p not in ("", ".")]:
        yield _error("path_too_broad", where, f"read-write path is overly broad: '{path}'")


def _check_rule(rule: NetworkRule) -> Iterator[Finding]:
    where = f"network_policies.{rule.key}"
    if not rule.key:
        yield _error("empty_key", "network_policies", "a rule's key must not be empty")
    if not rule.endpoints:
        yield _warning("no_endpoints", where, "the rule has no endpoints and allows nothing")
    if not rule.binaries:
        yield _warning(
            "no_binaries",
            where,
            "the rule has no binaries and matches no program; write {path: /**} for any program",
        )
    for index, binary in enumerate(rule.binaries):
        if not binary.path.startswith(("/", "*")):
            yield _warning(
                "binary_not_absolute",
                f"{where}.binaries[{index}].path",
                "the path is not absolute and matches no program",
            )
    for index, endpoint in enumerate(rule.endpoints):
        yield from check_endpoint(endpoint, Report.of_rule(rule, index))
