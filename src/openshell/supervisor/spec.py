"""From launch plan and policy to what isolation is asked to build. Pure but for looking at paths.

The static sections of the policy hold from start to end; they are read here, once. Paths added by
us (the baseline, the caller's exposed tools) are derived each time and stored nowhere.
"""

import os
import re
from collections.abc import Callable

from openshell.drivers.launch import LaunchPlan
from openshell.policy.defaults import enrich, restrictive_default
from openshell.policy.model import SandboxPolicy
from openshell.supervisor.isolation.model import (
    ExposedPath,
    LandlockMode,
    Limits,
    SandboxSpec,
)

__all__ = ["SpecError", "binary_links", "hostname_of", "static_policy", "to_spec"]

_GLOB = re.compile(r"[*?\[{]")
_NOT_LABEL = re.compile(r"[^A-Za-z0-9-]+")
_MAX_LABEL = 63


class SpecError(Exception):
    """The sandbox cannot be started as asked; one sentence."""


def static_policy(
    policy: SandboxPolicy | None, exists: Callable[[str], bool] = os.path.exists
) -> SandboxPolicy:
    """The policy whose static sections hold: the gateway's, or the restrictive default."""
    return enrich(policy if policy is not None else restrictive_default(), exists)


def to_spec(
    plan: LaunchPlan, policy: SandboxPolicy, workspace_dir: str, *, uid: int, gid: int
) -> SandboxSpec:
    """Everything that isolation needs; raises SpecError."""
    _check_identity(policy, uid)
    filesystem = policy.filesystem
    landlock = policy.landlock
    defaults = Limits()
    exposed = tuple(_exposed(path) for path in plan.exposure.paths)
    try:
        return SandboxSpec(
            id=plan.sandbox_id,
            name=plan.name,
            hostname=hostname_of(plan.name),
            workspace_dir=workspace_dir,
            host_uid=plan.host_id or uid,
            host_gid=plan.host_id or gid,
            read_only=(
                *(filesystem.read_only if filesystem else ()),
                *(path.path for path in exposed),
            ),
            read_write=filesystem.read_write if filesystem else (),
            include_workdir=filesystem.include_workdir if filesystem else True,
            landlock=LandlockMode.HARD_REQUIREMENT
            if landlock is not None and landlock.is_hard_requirement
            else LandlockMode.BEST_EFFORT,
            exposed=exposed,
            masks=plan.exposure.masked,
            limits=Limits(
                pids=plan.pids_limit or defaults.pids,
                memory_bytes=plan.memory_limit_bytes or None,
                cpu_millis=plan.cpu_limit_millis or None,
            ),
        )
    except ValueError as error:
        raise SpecError(str(error)) from None


def hostname_of(name: str) -> str:
    """The host name inside: one DNS label made from the sandbox's name."""
    label = _NOT_LABEL.sub("-", f"sandbox-{name}")[:_MAX_LABEL].strip("-")
    return label or "sandbox"


def binary_links(policy: SandboxPolicy) -> dict[str, str]:
    """Paths of binaries in the policy that are links: what the kernel will call the program.

    Inside, the system's directories and the exposed ones are the host's own, so a link leads to
    the same place inside and outside.
    """
    links: dict[str, str] = {}
    for rule in policy.network_policies.values():
        for binary in rule.binaries:
            if binary.path.startswith("/") and not _GLOB.search(binary.path):
                real = os.path.realpath(binary.path)
                if real != binary.path:
                    links[binary.path] = real
    return links


def _exposed(path: str) -> ExposedPath:
    real = os.path.realpath(path)
    return ExposedPath(path, "" if real == path else real)


def _check_identity(policy: SandboxPolicy, uid: int) -> None:
    """One identity exists inside; another cannot be mapped without root, and is not as root."""
    process = policy.process
    if process is None:
        return
    for wanted in (process.run_as_user, process.run_as_group):
        if wanted not in {"", "sandbox", "1000", str(uid) if uid else ""}:
            raise SpecError(
                f"the policy asks to run as '{wanted}', but a sandbox has the one identity "
                "'sandbox' (1000): leave run_as_user and run_as_group out"
            )
