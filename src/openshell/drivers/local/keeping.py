"""Pausing a sandbox, and keeping, giving out and putting back copies of its workspace.

A copy is made under the trash directory and renamed when it is whole: what a crash leaves there is
removed at the next start, and half a snapshot is never seen. A workspace is put back by exchanging
two names, so there is always one. Called by the driver, which holds the sandbox's lock.
"""

import asyncio
import contextlib
import ctypes
import os

from openshell.drivers.base import DriverError, DriverErrorCode, SnapshotFacts
from openshell.drivers.local import processes
from openshell.drivers.local.copying import Copied, CopyError, copy_tree
from openshell.drivers.local.known import KnownSandbox
from openshell.drivers.local.removal import RemovalError, remove_tree
from openshell.drivers.local.state import IsolationRecord, read_record, sync_directory

__all__ = ["copy_workspace", "drop", "freeze", "is_frozen", "put_back", "take", "thaw"]

_FREEZE_TRIES = 200
_FREEZE_PAUSE = 0.005
"""A second in all: a group freezes in a millisecond unless the kernel holds one of its processes."""
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


def _group(known: KnownSandbox) -> str:
    """The group of the unified hierarchy, empty where there is none."""
    record = read_record(known.paths.isolation, IsolationRecord)
    groups = record.cgroups if record else processes.find_cgroups(known.plan.sandbox_id)
    return next((path for path in groups if os.path.exists(f"{path}/cgroup.freeze")), "")


def _write(group: str, value: bytes) -> None:
    fd = os.open(f"{group}/cgroup.freeze", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, value)
    finally:
        os.close(fd)


def _all_held(group: str) -> bool:
    with open(f"{group}/cgroup.events", "rb") as file:
        return b"frozen 1" in file.read()


def is_frozen(known: KnownSandbox) -> bool:
    """Whether its processes are held, by what the kernel says."""
    group = _group(known)
    try:
        with open(f"{group}/cgroup.freeze", "rb") as file:
            return bool(group) and file.read().strip() == b"1"
    except OSError:
        return False


async def freeze(known: KnownSandbox) -> bool:
    """Hold every process; False where no group can."""
    group = _group(known)
    if not group:
        return False
    try:
        _write(group, b"1")
        for _ in range(_FREEZE_TRIES):
            if _all_held(group):
                return True
            await asyncio.sleep(_FREEZE_PAUSE)
    except OSError:
        return False
    thaw(known)
    return False


def thaw(known: KnownSandbox) -> None:
    """Let them go on; nothing to do where none is held."""
    group = _group(known)
    if group:
        with contextlib.suppress(OSError):
            _write(group, b"0")


async def copy_workspace(source: str, target: str, owner: int) -> Copied:
    """Copy on a thread; what is made of a failed copy is removed."""
    work = asyncio.ensure_future(asyncio.to_thread(copy_tree, source, target, owner))
    try:
        # A thread cannot be cancelled: wait for it, so that nothing writes after we have removed.
        return await asyncio.shield(work)
    except BaseException as error:
        if not work.done():
            await asyncio.wait((work,))
        with contextlib.suppress(RemovalError):
            await asyncio.to_thread(remove_tree, target)
        if isinstance(error, CopyError):
            raise DriverError(DriverErrorCode.FAILED_PRECONDITION, str(error)) from error
        if isinstance(error, OSError):
            raise DriverError(
                DriverErrorCode.INTERNAL,
                f"the workspace could not be copied: {error.strerror}; nothing was kept",
            ) from error
        raise


async def take(
    known: KnownSandbox, snapshot_id: str, staging: str, *, running: bool
) -> SnapshotFacts:
    """Make a snapshot; processes are held meanwhile where they can be."""
    paths = known.paths
    was_frozen = running and is_frozen(known)
    frozen = running and (was_frozen or await freeze(known))
    try:
        copied = await copy_workspace(paths.workspace, staging, known.plan.host_id)
    finally:
        if frozen and not was_frozen:
            thaw(known)
    try:
        os.makedirs(paths.snapshots, mode=0o700, exist_ok=True)
        await asyncio.to_thread(os.sync)
        os.rename(staging, paths.snapshot(snapshot_id))
        sync_directory(paths.snapshots)
    except OSError as error:
        raise DriverError(
            DriverErrorCode.INTERNAL, f"the snapshot could not be kept: {error.strerror}"
        ) from error
    return SnapshotFacts(
        data_bytes=copied.data_bytes,
        entries=copied.entries,
        skipped=copied.skipped,
        method=copied.method,
        consistent=frozen or not running,
    )


async def drop(known: KnownSandbox, snapshot_id: str, trash: str) -> bool:
    """Remove a snapshot; renamed first, so that it is there whole or not at all."""
    try:
        os.rename(known.paths.snapshot(snapshot_id), trash)
    except FileNotFoundError:
        return False
    try:
        await asyncio.to_thread(remove_tree, trash)
    except RemovalError as error:
        raise DriverError(DriverErrorCode.INTERNAL, str(error)) from error
    return True


async def put_back(known: KnownSandbox, snapshot_id: str, staging: str) -> None:
    """Make the workspace what the snapshot is; what it was is removed."""
    source = known.paths.snapshot(snapshot_id)
    if not os.path.isdir(source):
        raise DriverError(DriverErrorCode.NOT_FOUND, "snapshot not found")
    await copy_workspace(source, staging, known.plan.host_id)
    try:
        _exchange(staging, known.paths.workspace)
    except OSError as error:
        with contextlib.suppress(RemovalError):
            await asyncio.to_thread(remove_tree, staging)
        raise DriverError(
            DriverErrorCode.FAILED_PRECONDITION,
            f"the workspace could not be exchanged ({error.strerror}): fork the snapshot instead",
        ) from error
    # What stays in the trash is removed at the next start.
    with contextlib.suppress(RemovalError):
        await asyncio.to_thread(remove_tree, staging)


def _exchange(one: str, other: str) -> None:
    """renameat2(2) with RENAME_EXCHANGE: both names exist at every moment."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
