"""Sections that are fixed while a sandbox lives: filesystem, landlock, process.

`inherit_static` first (an update that leaves a static section out keeps the one in force), then
`check_static_change`. Both compare with the baseline: the policy the sandbox was created with, or
the one backfilled by its first synchronisation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from openshell.policy.findings import Finding, Severity
from openshell.policy.model import FilesystemPolicy, SandboxPolicy

__all__ = ["check_static_change", "inherit_static"]


def inherit_static(baseline: SandboxPolicy, candidate: SandboxPolicy) -> SandboxPolicy:
    return replace(
        candidate,
        filesystem=candidate.filesystem or baseline.filesystem,
        landlock=candidate.landlock or baseline.landlock,
        process=candidate.process or baseline.process,
    )


def check_static_change(baseline: SandboxPolicy, candidate: SandboxPolicy) -> tuple[Finding, ...]:
    """What the candidate changes though the sandbox is running; adding paths is allowed."""
    return tuple(_findings(baseline, candidate))


def _findings(baseline: SandboxPolicy, candidate: SandboxPolicy) -> Iterator[Finding]:
    if baseline.filesystem is not None:
        yield from _check_filesystem(baseline.filesystem, candidate.filesystem)
    hint = "; delete the sandbox and create it again with this policy"
    if candidate.landlock != baseline.landlock:
        yield _error("landlock", f"landlock policy cannot be changed on a live sandbox{hint}")
    if candidate.process != baseline.process:
        yield _error("process", f"process policy cannot be changed on a live sandbox{hint}")


def _check_filesystem(
    before: FilesystemPolicy, after: FilesystemPolicy | None
) -> Iterator[Finding]:
    where = "filesystem_policy"
    if after is None:
        yield _error(where, "filesystem policy cannot be removed on a live sandbox")
        return
    if after.include_workdir != before.include_workdir:
        yield _error(
            f"{where}.include_workdir",
            "filesystem include_workdir cannot be changed on a live sandbox",
        )
    for name, old, new in (
        ("read_only", before.read_only, after.read_only),
        ("read_write", before.read_write, after.read_write),
    ):
        for path in old:
            if path not in new:
                yield _error(
                    f"{where}.{name}",
                    f"filesystem {name} path '{path}' cannot be removed on a live sandbox",
                )


def _error(location: str, message: str) -> Finding:
    return Finding("static_change", Severity.ERROR, location, message)
