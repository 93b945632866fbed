"""System call filters as classic BPF: a table, an assembler and the call that installs them.

`child_program` is what every process of a sandbox lives under, process 1 included;
`supervisor_program` takes the mount, module and tracing calls from the supervisor itself. The
tables say what is refused and why; programs are built once, in the zygote.
"""

from __future__ import annotations

import ctypes
import errno
import struct
from collections.abc import Sequence
from dataclasses import dataclass

from openshell.supervisor.isolation import syscalls

__all__ = ["Program", "UnsupportedMachine", "child_program", "install", "supervisor_program"]

_AUDIT_ARCH = {"x86_64": 0xC000_003E, "aarch64": 0xC000_00B7}
_X32_BIT = 0x4000_0000

_ALLOW = 0x7FFF_0000
_ERRNO = 0x0005_0000
_KILL_PROCESS = 0x8000_0000

_LOAD, _EQUAL, _GREATER_EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCHITECTURE = 0, 4

_SET_FILTER = 1

# Refused whatever the arguments. First the contract's list, then what no agent needs and whose
# only users inside would be attacks on the kernel (keys, handles, modules, host state).
_CHILD_REFUSED = (
    "memfd_create",
    "ptrace",
    "bpf",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_open",
    "pidfd_getfd",
    "pidfd_send_signal",
    "io_uring_setup",
    "mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "move_mount",
    "open_tree",
    "setns",
    "umount2",
    "pivot_root",
    "userfaultfd",
    "perf_event_open",
    "io_uring_enter",
    "io_uring_register",
    "mount_setattr",
    "open_tree_attr",
    "memfd_secret",
    "keyctl",
    "add_key",
    "request_key",
    "open_by_handle_at",
    "fanotify_init",
    "kcmp",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "reboot",
    "swapon",
    "swapoff",
    "acct",
    "quotactl",
    "quotactl_fd",
    "settimeofday",
    "clock_settime",
    "syslog",
    "chroot",
    "iopl",
    "ioperm",
    "modify_ldt",
    "uselib",
)
# The supervisor has mounted and cloned all it ever will, and runs no program: what an attacker in
# its memory would want next.
_SUPERVISOR_REFUSED = (
    "mount",
    "fsopen",
    "fsconfig",
    "fsmount",
    "fspick",
    "move_mount",
    "open_tree",
    "open_tree_attr",
    "mount_setattr",
    "pivot_root",
    "chroot",
    "umount2",
    "bpf",
    "perf_event_open",
    "userfaultfd",
    "init_module",
    "finit_module",
    "delete_module",
    "kexec_load",
    "kexec_file_load",
    "execve",
    "execveat",
    "setns",
    "unshare",
    "ptrace",
    "process_vm_readv",
    "process_vm_writev",
    "pidfd_getfd",
    "kcmp",
    "keyctl",
    "add_key",
    "request_key",
    "open_by_handle_at",
    "io_uring_setup",
)

_AF_UNIX, _AF_INET, _AF_INET6, _AF_NETLINK = 1, 2, 10, 16
_AF_PACKET, _AF_BLUETOOTH, _AF_VSOCK = 17, 31, 40
_IPPROTO_MPTCP = 262
_AT_EMPTY_PATH = 0x1000
# Every namespace flag; CLONE_NEWTIME (0x80) is part of the exit signal in clone.
_NAMESPACE_FLAGS = 0x7E02_0000
_NEWTIME = 0x80
_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_PR_SET_DUMPABLE, _PR_SET_SECCOMP = 4, 22
# The personalities that change nothing but the reported release.
_PERSONALITIES = (0, 0x8, 0x2_0000, 0x2_0008, 0xFFFF_FFFF)


class UnsupportedMachine(Exception):
    """No filter can be built for this processor; nothing must start without one."""


@dataclass(frozen=True, slots=True)
class Program:
    """An assembled filter: 8 bytes per instruction."""

    code: bytes

    @property
    def instructions(self) -> list[tuple[int, int, int, int]]:
        return list(struct.iter_unpack("=HBBI", self.code))


@dataclass(frozen=True, slots=True)
class _Jump:
    """A conditional jump to labels; None falls through to the next instruction."""

    code: int
    value: int
    true: str | None
    false: str | None


_Item = str | _Jump | tuple[int, int]


def _assemble(items: Sequence[_Item]) -> Program:
    """Resolve labels (plain strings) to forward distances."""
    places: dict[str, int] = {}
    position = 0
    for item in items:
        if isinstance(item, str):
            places[item] = position
        else:
            position += 1
    code = bytearray()
    position = 0
    for item in items:
        if isinstance(item, str):
            continue
        position += 1
        if isinstance(item, _Jump):
            true = 0 if item.true is None else places[item.true] - position
            false = 0 if item.false is None else places[item.false] - position
            code += struct.pack("=HBBI", item.code, true, false, item.value)
        else:
            code += struct.pack("=HBBI", item[0], 0, 0, item[1])
    return Program(bytes(code))


def _argument(index: int) -> tuple[int, int]:
    """Load the low word of an argument; both supported machines are little-endian."""
    return _LOAD, 16 + 8 * index


def _refuse(code: int) -> tuple[int, int]:
    return _RETURN, _ERRNO | code


def _prologue(machine: str) -> list[_Item]:
    architecture = _AUDIT_ARCH.get(machine)
    if architecture is None:
        raise UnsupportedMachine(f"no system call filter for {machine}: x86_64 or aarch64 needed")
    items: list[_Item] = [
        (_LOAD, _ARCHITECTURE),
        _Jump(_EQUAL, architecture, None, "kill"),
        (_LOAD, _NUMBER),
    ]
    if machine == "x86_64":
        items.append(_Jump(_GREATER_EQUAL, _X32_BIT, "kill", None))
    return items


def _epilogue() -> list[_Item]:
    return [
        (_RETURN, _ALLOW),
        "eperm",
        _refuse(errno.EPERM),
        "kill",
        (_RETURN, _KILL_PROCESS),
    ]


def _refused(names: Sequence[str], numbers: dict[str, int]) -> list[_Item]:
    """Compare the number with each name in turn, in runs a jump can span."""
    items: list[_Item] = []
    known = [numbers[name] for name in names if name in numbers]
    hit = f"refused{known[0]}" if known else ""
    items += [_Jump(_EQUAL, number, hit, None) for number in known[:-1]]
    if known:
        after = f"after{known[0]}"
        items += [_Jump(_EQUAL, known[-1], hit, after), hit, _refuse(errno.EPERM), after]
    return items


def _socket_rules() -> list[_Item]:
    """Unix, IPv4, IPv6 and route netlink; other families are unknown here.

    MPTCP is refused as unsupported, so that libraries fall back to TCP: its subflows have no
    socket inode by which the owner of a connection could be found.
    """
    return [
        _argument(0),
        _Jump(_EQUAL, _AF_UNIX, "socket_allow", None),
        _Jump(_EQUAL, _AF_INET, "socket_protocol", None),
        _Jump(_EQUAL, _AF_INET6, "socket_protocol", None),
        _Jump(_EQUAL, _AF_NETLINK, "socket_netlink", None),
        _Jump(_EQUAL, _AF_PACKET, "socket_eperm", None),
        _Jump(_EQUAL, _AF_BLUETOOTH, "socket_eperm", None),
        _Jump(_EQUAL, _AF_VSOCK, "socket_eperm", None),
        _refuse(errno.EAFNOSUPPORT),
        "socket_protocol",
        _argument(2),
        _Jump(_EQUAL, _IPPROTO_MPTCP, None, "socket_allow"),
        _refuse(errno.EPROTONOSUPPORT),
        "socket_netlink",
        _argument(2),
        _Jump(_EQUAL, 0, "socket_allow", None),
        "socket_eperm",
        _refuse(errno.EPERM),
        "socket_allow",
        (_RETURN, _ALLOW),
    ]


def _flag_rule(argument: int, mask: int) -> list[_Item]:
    return [
        _argument(argument),
        _Jump(_ANY_BIT, mask, None, f"flag{argument}_{mask}"),
        _refuse(errno.EPERM),
        f"flag{argument}_{mask}",
        (_RETURN, _ALLOW),
    ]


def _prctl_rules() -> list[_Item]:
    """No second filter; hiding from the supervisor (dumpable 0) is pretended, not done."""
    return [
        _argument(0),
        _Jump(_EQUAL, _PR_SET_SECCOMP, "prctl_eperm", None),
        _Jump(_EQUAL, _PR_SET_DUMPABLE, None, "prctl_allow"),
        _argument(1),
        _Jump(_EQUAL, 0, None, "prctl_allow"),
        _refuse(0),
        "prctl_eperm",
        _refuse(errno.EPERM),
        "prctl_allow",
        (_RETURN, _ALLOW),
    ]


def _argument_rules() -> dict[str, list[_Item]]:
    return {
        "socket": _socket_rules(),
        "execveat": _flag_rule(4, _AT_EMPTY_PATH),
        "unshare": _flag_rule(0, _NAMESPACE_FLAGS | _NEWTIME),
        "clone": _flag_rule(0, _NAMESPACE_FLAGS),
        # The flags lie in memory that a filter cannot read: libc falls back to clone.
        "clone3": [_refuse(errno.ENOSYS)],
        "seccomp": [
            _argument(0),
            _Jump(_EQUAL, _SET_FILTER, None, "seccomp_allow"),
            _refuse(errno.EPERM),
            "seccomp_allow",
            (_RETURN, _ALLOW),
        ],
        "ioctl": [
            _argument(1),
            _Jump(_EQUAL, _TIOCSTI, "ioctl_eperm", None),
            _Jump(_EQUAL, _TIOCLINUX, None, "ioctl_allow"),
            "ioctl_eperm",
            _refuse(errno.EPERM),
            "ioctl_allow",
            (_RETURN, _ALLOW),
        ],
        "personality": [
            _argument(0),
            *(_Jump(_EQUAL, value, "personality_allow", None) for value in _PERSONALITIES),
            _refuse(errno.EPERM),
            "personality_allow",
            (_RETURN, _ALLOW),
        ],
        "prctl": _prctl_rules(),
    }


def child_program(machine: str | None = None) -> Program:
    """The filter of everything inside; `machine` is for tests."""
    machine = machine or syscalls.MACHINE
    numbers = syscalls._numbers(machine)
    items = _prologue(machine)
    for name, rules in _argument_rules().items():
        items += [_Jump(_EQUAL, numbers[name], None, f"not_{name}"), *rules, f"not_{name}"]
    items += _refused(_CHILD_REFUSED, numbers)
    return _assemble([*items, *_epilogue()])


def supervisor_program(machine: str | None = None) -> Program:
    """The filter of the supervisor: it has mounted and cloned all it ever will."""
    machine = machine or syscalls.MACHINE
    items = _prologue(machine) + _refused(_SUPERVISOR_REFUSED, syscalls._numbers(machine))
    return _assemble([*items, *_epilogue()])


def install(program: Program) -> None:
    """Load a filter for this thread and all that it starts; needs no_new_privs."""
    code = ctypes.create_string_buffer(program.code, len(program.code))
    header = struct.pack("=HxxxxxxQ", len(program.code) // 8, ctypes.addressof(code))
    syscalls.call("seccomp", _SET_FILTER, 0, header)
