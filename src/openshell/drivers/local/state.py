"""Records in a sandbox's state directory, and how a process is known again after a restart.

Every record is written under another name and renamed, so a reader sees a whole one or none. What
has to survive a power cut is synchronised as well; what names a process is not, because it means
nothing after a reboot: it carries the boot it belongs to.

A process is its pid *and* its start time *and* the boot: a pid alone may be someone else's by now,
so nothing is ever signalled by pid without the other two, and then through a pidfd.
"""

import contextlib
import os
from typing import TypeVar

import msgspec

from openshell.drivers.base import Phase

__all__ = [
    "FailureRecord",
    "IsolationRecord",
    "ProcessRecord",
    "boot_id",
    "open_process",
    "read_record",
    "start_ticks",
    "sync_directory",
    "write_bytes",
    "write_record",
]

_T = TypeVar("_T")

# Records are small; anything larger is not ours.
_MAX_RECORD = 4 << 20


class ProcessRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One process of one boot."""

    pid: int
    start_ticks: int
    boot_id: str
    # Names the start of the sandbox that this process belongs to.
    instance_id: str = ""


class IsolationRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a supervisor made that could outlive it."""

    init: ProcessRecord
    cgroups: tuple[str, ...] = ()


class FailureRecord(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Why a start failed: the steps with their durations, the last one with its error."""

    code: str
    message: str
    phases: tuple[Phase, ...] = ()


def boot_id() -> str:
    """Names this run of the kernel."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def start_ticks(pid: int) -> int | None:
    """When a process started, in clock ticks after boot; None when there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name stands in parentheses and may hold anything: count from the last one.
    return int(stat[stat.rindex(b")") + 2 :].split()[19])


def open_process(record: ProcessRecord, current_boot: str) -> int | None:
    """A pidfd of that very process, or None when it is gone or its pid is someone else's."""
    if record.boot_id != current_boot:
        return None
    try:
        fd = os.pidfd_open(record.pid)
    except (ProcessLookupError, OSError):
        return None
    # Read after the pidfd exists: while it is open the pid cannot be given to another process
    # without the old one being gone, which the comparison then shows.
    if start_ticks(record.pid) != record.start_ticks:
        os.close(fd)
        return None
    return fd


def write_bytes(path: str, data: bytes, *, durable: bool = False) -> None:
    """Replace a file as a whole; readable by its owner only."""
    temporary = f"{path}.{os.getpid()}.new"
    fd = os.open(
        temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
    )
    try:
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(fd, view) :]
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        sync_directory(os.path.dirname(path))


def sync_directory(path: str) -> None:
    """Make renames in a directory survive a power cut."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_record(path: str, record: object, *, durable: bool = False) -> None:
    """Write one record."""
    write_bytes(path, msgspec.json.encode(record), durable=durable)


def read_record(path: str, kind: type[_T]) -> _T | None:
    """Read one record; None when it is missing or is not one."""
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_RECORD + 1)
    except OSError:
        return None
    if len(data) > _MAX_RECORD:
        return None
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
