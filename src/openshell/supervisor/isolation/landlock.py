"""Landlock: which paths may be read and written, as far as the kernel can enforce it.

Chooses rights for the kernel's ABI, opens the paths after the pivot (rules bind to inodes), and
reports what holds. Who may do what is in the spec; this module adds only the private devices and
the CA directory that no program inside could do without.
"""

from __future__ import annotations

import enum
import errno
import os
import stat
import struct
from dataclasses import dataclass

from openshell.supervisor.isolation.etc import OWN_DIRECTORY
from openshell.supervisor.isolation.model import (
    TRUST_DIRECTORY,
    WORKSPACE,
    LandlockMode,
    Layer,
    LayerStatus,
    SandboxSpec,
)
from openshell.supervisor.isolation.syscalls import SyscallError, call

__all__ = [
    "Right",
    "RuleSet",
    "abi_version",
    "plan_landlock",
    "restrict",
    "rights_for",
    "ruleset_attributes",
    "scopes_for",
]

# Newest ABI whose rights we know; a newer kernel is used as if it were this one.
_NEWEST_ABI = 7
_VERSION_FLAG = 1
_PATH_BENEATH = 1
_SCOPE_ABSTRACT_SOCKET, _SCOPE_SIGNAL = 1, 2


class Right(enum.IntFlag):
    EXECUTE = 1 << 0
    WRITE_FILE = 1 << 1
    READ_FILE = 1 << 2
    READ_DIR = 1 << 3
    REMOVE_DIR = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_CHAR = 1 << 6
    MAKE_DIR = 1 << 7
    MAKE_REG = 1 << 8
    MAKE_SOCK = 1 << 9
    MAKE_FIFO = 1 << 10
    MAKE_BLOCK = 1 << 11
    MAKE_SYM = 1 << 12
    REFER = 1 << 13
    TRUNCATE = 1 << 14
    IOCTL_DEV = 1 << 15


_ABI_1 = Right((1 << 13) - 1)
_READ = Right.EXECUTE | Right.READ_FILE | Right.READ_DIR
# What a rule on something that is no directory may name.
_FILE = Right.EXECUTE | Right.WRITE_FILE | Right.READ_FILE | Right.TRUNCATE | Right.IOCTL_DEV

# Private to the sandbox and harmless; without them no shell, pager or TLS client works.
_DEVICES = (
    "/dev/null",
    "/dev/zero",
    "/dev/full",
    "/dev/random",
    "/dev/urandom",
    "/dev/tty",
    "/dev/pts",
    "/dev/shm",
)


@dataclass(frozen=True, slots=True)
class RuleSet:
    """The effective lists, in the order in which they are applied."""

    read_only: tuple[str, ...]
    read_write: tuple[str, ...]
    derived_read_only: tuple[str, ...]
    derived_read_write: tuple[str, ...]
    mode: LandlockMode

    @property
    def wanted(self) -> bool:
        return bool(self.read_only or self.read_write)


def plan_landlock(spec: SandboxSpec) -> RuleSet:
    read_write = list(dict.fromkeys(os.path.normpath(p) for p in spec.read_write))
    if spec.include_workdir and WORKSPACE not in read_write:
        read_write.append(WORKSPACE)
    read_only = dict.fromkeys(os.path.normpath(p) for p in spec.read_only)
    exposed = dict.fromkeys(e.path for e in spec.exposed)
    return RuleSet(
        read_only=tuple(read_only),
        read_write=tuple(read_write),
        derived_read_only=(
            *(e for e in exposed if e not in read_only),
            TRUST_DIRECTORY,
            OWN_DIRECTORY,
        ),
        derived_read_write=_DEVICES,
        mode=spec.landlock,
    )


def abi_version() -> tuple[int, int]:
    """Return (ABI, 0), or (0, errno) where Landlock is absent or switched off."""
    try:
        return call("landlock_create_ruleset", None, 0, _VERSION_FLAG), 0
    except SyscallError as error:
        return 0, error.errno or errno.ENOSYS


def rights_for(abi: int) -> Right:
    """All file rights that a kernel of this ABI can deny."""
    rights = _ABI_1
    if abi >= 2:
        rights |= Right.REFER
    if abi >= 3:
        rights |= Right.TRUNCATE
    if abi >= 5:
        rights |= Right.IOCTL_DEV
    return rights


def scopes_for(abi: int) -> int:
    return _SCOPE_ABSTRACT_SOCKET | _SCOPE_SIGNAL if abi >= 6 else 0


def ruleset_attributes(abi: int) -> bytes:
    """Encode the ruleset's attributes, as long as this ABI knows them.

    Network rights stay unhandled: they would forbid the agent's own servers on loopback, and the
    network namespace is the fence.
    """
    words = [int(rights_for(abi)), 0, scopes_for(abi)]
    length = 3 if abi >= 6 else 2 if abi >= 4 else 1
    return struct.pack(f"={length}Q", *words[:length])


def _add_path(ruleset: int, path: str, rights: Right) -> None:
    opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISDIR(os.fstat(opened).st_mode):
            rights &= _FILE
        if rights:
            rule = struct.pack("=Qi", int(rights), opened)
            call("landlock_add_rule", ruleset, _PATH_BENEATH, rule, 0)
    finally:
        os.close(opened)


def restrict(rules: RuleSet) -> Layer:
    """Put the calling process, and all it will start, under the rules.

    Needs no_new_privs and must follow every mount. Raises OSError where `hard_requirement` cannot
    be met.
    """
    hard = rules.mode is LandlockMode.HARD_REQUIREMENT
    if not rules.wanted:
        return Layer("landlock", LayerStatus.OFF, "the policy lists no paths")
    abi, reason = abi_version()
    if abi == 0:
        if hard:
            raise SyscallError("landlock_create_ruleset", reason)
        return Layer("landlock", LayerStatus.OFF, f"not available: {os.strerror(reason)}")
    if hard and abi < 2:
        raise SyscallError("landlock_create_ruleset", errno.EOPNOTSUPP)
    known = min(abi, _NEWEST_ABI)
    attributes = ruleset_attributes(known)
    ruleset = call("landlock_create_ruleset", attributes, len(attributes), 0)
    everything = rights_for(known)
    skipped: list[str] = []
    try:
        for paths, rights, derived in (
            (rules.derived_read_write, everything, True),
            (rules.derived_read_only, _READ, True),
            (rules.read_only, _READ | (everything & Right.IOCTL_DEV), False),
            (rules.read_write, everything, False),
        ):
            for path in paths:
                try:
                    _add_path(ruleset, path, rights)
                except OSError:
                    if hard and not derived:
                        raise
                    if not derived:
                        skipped.append(path)
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)
    return _report(known, skipped)


def _report(abi: int, skipped: list[str]) -> Layer:
    missing = [
        text
        for needed, text in (
            (2, "moves between directories"),
            (3, "truncation"),
            (5, "device ioctls"),
            (6, "abstract sockets and signals"),
        )
        if abi < needed
    ]
    detail = f"ABI {abi}"
    if missing:
        detail += f"; this kernel cannot restrict {', '.join(missing)}"
    if skipped:
        detail += f"; not there: {', '.join(skipped)}"
    status = LayerStatus.PARTLY if missing else LayerStatus.ENFORCED
    return Layer("landlock", status, detail)
