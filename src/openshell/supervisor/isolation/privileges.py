"""Identity and privileges of a process: ids, capabilities, no_new_privs, dumpable.

Each function does one thing and raises where it did not take effect; the order is init.py's.
"""

from __future__ import annotations

import ctypes
import os

from openshell.supervisor.isolation.model import INNER_GID, INNER_UID
from openshell.supervisor.isolation.syscalls import SyscallError, capset, prctl

__all__ = [
    "become_sandbox_user",
    "capability_sets",
    "clear_capabilities",
    "die_with_parent",
    "drop_capabilities",
    "forbid_new_privileges",
    "set_dumpable",
    "take_name",
]

_SET_DEATH_SIGNAL = 1
_SET_DUMPABLE = 4
_SET_KEEPCAPS = 8
_SET_NAME = 15
_READ_BOUNDING, _DROP_BOUNDING = 23, 24
_SET_NO_NEW_PRIVILEGES = 38
_AMBIENT, _AMBIENT_CLEAR_ALL = 47, 4
_SIGKILL = 9
# arg_start in /proc/<pid>/stat, counted after the name; arg_end, env_start and env_end follow.
_ARGUMENTS = 45
_EINVAL = 22
# The kernel has 41; the loops end at the first number it does not know.
_MOST_CAPABILITIES = 64


def _known_capabilities() -> int:
    for number in range(_MOST_CAPABILITIES):
        try:
            prctl(_READ_BOUNDING, number)
        except SyscallError:
            return number
    return _MOST_CAPABILITIES


def die_with_parent() -> None:
    """Have the kernel kill this process when the thread that made it ends."""
    prctl(_SET_DEATH_SIGNAL, _SIGKILL)


def set_dumpable(*, dumpable: bool) -> None:
    """0 closes /proc/<pid>/{mem,fd,environ,maps} and tracing to others of the same id."""
    prctl(_SET_DUMPABLE, int(dumpable))


def take_name(name: str) -> None:
    """Rename this process and wipe the supervisor's command line and environment from it.

    The command line of every process can be read inside, and would show paths of the host.
    """
    text = name.encode()[:15] + b"\0"
    buffer = ctypes.create_string_buffer(text)
    prctl(_SET_NAME, ctypes.addressof(buffer))
    with open("/proc/self/stat", "rb", buffering=0) as file:
        fields = file.read().rpartition(b")")[2].split()
    start, end, environment, environment_end = map(int, fields[_ARGUMENTS : _ARGUMENTS + 4])
    if start and end - start >= len(text):
        ctypes.memset(start, 0, end - start)
        ctypes.memmove(start, text, len(text))
    if environment and environment_end > environment:
        ctypes.memset(environment, 0, environment_end - environment)


def become_sandbox_user(*, clear_groups: bool) -> None:
    """Take the mapped identity, keeping the capabilities over the new namespaces.

    An id change clears the death signal and dumpable: both are set again here.
    """
    if clear_groups:
        os.setgroups([])
    if os.getresuid() != (INNER_UID,) * 3 or os.getresgid() != (INNER_GID,) * 3:
        prctl(_SET_KEEPCAPS, 1)
        os.setresgid(INNER_GID, INNER_GID, INNER_GID)
        os.setresuid(INNER_UID, INNER_UID, INNER_UID)
        everything = (1 << _known_capabilities()) - 1
        capset(everything, everything, 0)
        die_with_parent()
        set_dumpable(dumpable=True)


def drop_capabilities(*, keep: int = 0) -> None:
    """Empty the bounding, ambient and inheritable sets for good, the others but for `keep`.

    `keep` is a mask; what of it the caller does not hold it does not get.
    """
    for number in range(_MOST_CAPABILITIES):
        try:
            prctl(_DROP_BOUNDING, number)
        except SyscallError as error:
            if error.errno == _EINVAL and number:
                break
            raise
    clear_capabilities(keep=keep)


def clear_capabilities(*, keep: int = 0) -> None:
    """As `drop_capabilities`, for a caller without the right to empty the bounding set."""
    prctl(_AMBIENT, _AMBIENT_CLEAR_ALL)
    kept = keep & capability_sets()["CapPrm"]
    capset(kept, kept, 0)


def capability_sets() -> dict[str, int]:
    """The calling thread's capability sets by their names in /proc, each a mask."""
    with open("/proc/thread-self/status", "rb", buffering=0) as file:
        lines = file.read().decode("ascii", "replace").splitlines()
    pairs = (line.split(":\t") for line in lines if line.startswith("Cap"))
    return {name: int(value, 16) for name, value in pairs}


def forbid_new_privileges() -> None:
    prctl(_SET_NO_NEW_PRIVILEGES, 1)
