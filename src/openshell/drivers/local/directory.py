"""The directory of a sandbox: made at create, renewed at start, removed at delete.

What lies in it is named in `paths`; what it means after a restart is read by `adoption`. Called by
the driver, which orders the calls for one sandbox.
"""

import asyncio
import contextlib
import os

from openshell.drivers.base import DriverSandbox
from openshell.drivers.launch import LaunchPlan, encode_plan
from openshell.drivers.local.paths import SandboxPaths
from openshell.drivers.local.removal import remove_tree
from openshell.drivers.local.state import sync_directory, write_bytes, write_record

__all__ = ["remove", "renew", "synchronise", "write_files", "write_new"]


def write_new(paths: SandboxPaths, plan: LaunchPlan, sandbox: DriverSandbox) -> None:
    """The files of a new sandbox; the plan last: it makes the directory a sandbox."""
    os.mkdir(paths.root, 0o700)
    os.mkdir(paths.workspace, 0o700)
    if plan.host_id:
        # What the agent makes belongs to nobody on this machine: a set-user-id file of root's,
        # which a mapped mount would let it make, is nothing to have lying around.
        os.chown(paths.workspace, plan.host_id, plan.host_id)
    write_files(paths, plan, sandbox)


def write_files(paths: SandboxPaths, plan: LaunchPlan, sandbox: DriverSandbox) -> None:
    """The files beside a workspace that is there."""
    write_bytes(paths.token, sandbox.token.encode())
    write_bytes(paths.config, sandbox.initial_config)
    write_record(paths.plan, plan)


def synchronise(paths: SandboxPaths) -> None:
    """Make a new sandbox survive a power cut.

    Beside its start, not before it: until create has answered nobody counts on it, and after a
    power cut nothing of it runs.
    """
    fd = os.open(paths.plan, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    sync_directory(paths.root)
    sync_directory(os.path.dirname(paths.root))


def renew(
    paths: SandboxPaths, plan: LaunchPlan, token: str | None, initial_config: bytes | None
) -> None:
    """Write what the next start begins with; nothing of the last one is left."""
    write_bytes(paths.plan, encode_plan(plan), durable=True)
    if token is not None:
        write_bytes(paths.token, token.encode())
    if initial_config is not None:
        write_bytes(paths.config, initial_config)
    for marker in (paths.exited, paths.failure, paths.isolation, paths.process, paths.stopped):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(marker)


async def remove(paths: SandboxPaths, trash: str) -> None:
    """Rename first: half a directory must never look like a sandbox. Raises RemovalError."""
    try:
        os.rename(paths.root, trash)
    except FileNotFoundError:
        return
    await asyncio.to_thread(remove_tree, trash)
