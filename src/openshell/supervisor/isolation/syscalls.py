"""System calls that Python does not offer, one thin function each.

Every failure is a `SyscallError` naming the call and carrying the errno. Nothing here decides
anything; order and meaning belong to the callers (mounts, landlock, seccomp, privileges, launch).
The calls keep the interpreter lock: all are short, and `clone` must return in the child with it.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

__all__ = [
    "MACHINE",
    "NUMBERS",
    "SyscallError",
    "call",
    "capset",
    "clone_process",
    "close_range",
    "mount",
    "mount_setattr",
    "move_mount",
    "open_tree",
    "pivot_root",
    "prctl",
    "signal_descriptor",
    "umount",
]

# name: (x86-64, arm64); None where the machine has no such call.
_TABLE: dict[str, tuple[int | None, int]] = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "bpf": (321, 280),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "close_range": (436, 436),
    "delete_module": (176, 106),
    "execve": (59, 221),
    "execveat": (322, 281),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "io_uring_setup": (425, 425),
    "ioctl": (16, 29),
    "kcmp": (312, 272),
    "kexec_file_load": (320, 294),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "landlock_add_rule": (445, 445),
    "landlock_create_ruleset": (444, 444),
    "landlock_restrict_self": (446, 446),
    "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "personality": (135, 92),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pidfd_send_signal": (424, 424),
    "pivot_root": (155, 41),
    "prctl": (157, 167),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "seccomp": (317, 277),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "signalfd4": (289, 74),
    "socket": (41, 198),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
_X86_ONLY = {"ioperm": 173, "iopl": 172, "modify_ldt": 154, "uselib": 134}

MACHINE = platform.machine()


def _numbers(machine: str) -> dict[str, int]:
    if machine == "x86_64":
        return {**{n: x for n, (x, _) in _TABLE.items() if x is not None}, **_X86_ONLY}
    if machine == "aarch64":
        return {name: arm for name, (_, arm) in _TABLE.items()}
    return {}


NUMBERS = _numbers(MACHINE)

_libc = ctypes.PyDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long

CLONE_PIDFD = 0x1000
CLONE_INTO_CGROUP = 0x2_0000_0000
CLONE_NAMESPACES = (
    0x0002_0000  # mount
    | 0x0200_0000  # cgroup
    | 0x0400_0000  # uts
    | 0x0800_0000  # ipc
    | 0x1000_0000  # user
    | 0x2000_0000  # pid
    | 0x4000_0000  # net
)
_SIGCHLD = 17
_ENOSYS = 38
_CAPABILITY_VERSION_3 = 0x2008_0522


class SyscallError(OSError):
    """A system call failed; `call` is its name."""

    def __init__(self, name: str, errno: int) -> None:
        super().__init__(errno, f"{name}: {os.strerror(errno)}")
        self.call = name


def call(name: str, *arguments: int | bytes | ctypes.Array[ctypes.c_char] | None) -> int:
    """Make one system call by name and return its result."""
    number = NUMBERS.get(name)
    if number is None:
        raise SyscallError(name, _ENOSYS)
    converted = [ctypes.c_long(a) if isinstance(a, int) else a for a in arguments]
    result = int(_syscall(ctypes.c_long(number), *converted))
    if result < 0:
        raise SyscallError(name, ctypes.get_errno())
    return result


def clone_process(flags: int, cgroup_fd: int | None = None) -> tuple[int, int]:
    """Fork into new namespaces; (pid, pidfd) in the parent, (0, -1) in the child.

    Only for a process with one thread. The interpreter's fork hooks do not run in the child: it
    may make system calls, nothing else. `clone3` first, `clone` where a filter hides it.
    """
    pidfd = ctypes.create_string_buffer(4)
    extra = 0 if cgroup_fd is None else CLONE_INTO_CGROUP
    fields = struct.pack(
        "=11Q", flags | extra | CLONE_PIDFD, ctypes.addressof(pidfd), 0, 0, _SIGCHLD,
        0, 0, 0, 0, 0, cgroup_fd or 0,
    )  # fmt: skip
    try:
        pid = call("clone3", ctypes.create_string_buffer(fields, 88), 88)
    except SyscallError as error:
        if error.errno != _ENOSYS or cgroup_fd is not None:
            raise
        pid = call("clone", flags | _SIGCHLD, 0, 0, 0, 0)
        return (pid, os.pidfd_open(pid)) if pid else (0, -1)
    return (pid, int(struct.unpack("=i", pidfd.raw)[0])) if pid else (0, -1)


def prctl(option: int, second: int = 0, third: int = 0) -> int:
    return call("prctl", option, second, third, 0, 0)


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the caller's capability sets, each a mask of 64 bits."""
    words = [
        (value >> shift) & 0xFFFF_FFFF
        for shift in (0, 32)
        for value in (effective, permitted, inheritable)
    ]
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    call("capset", ctypes.create_string_buffer(header, 8), struct.pack("=6I", *words))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    call("mount", source.encode(), os.fsencode(target), kind.encode(), flags, data.encode() or None)


def umount(target: str, flags: int) -> None:
    call("umount2", os.fsencode(target), flags)


def pivot_root(new: str, old: str) -> None:
    call("pivot_root", os.fsencode(new), os.fsencode(old))


def open_tree(directory: int, path: str, flags: int) -> int:
    return call("open_tree", directory, os.fsencode(path), flags)


def mount_setattr(
    directory: int, path: str, flags: int, *, set_bits: int, user_namespace: int = 0
) -> None:
    attributes = struct.pack("=4Q", set_bits, 0, 0, user_namespace)
    call("mount_setattr", directory, os.fsencode(path), flags, attributes, len(attributes))


def move_mount(source: int, target_directory: int, target: str, flags: int) -> None:
    call("move_mount", source, b"", target_directory, os.fsencode(target), flags)


def close_range(first: int, last: int) -> None:
    if first <= last:
        call("close_range", first, last, 0)


def signal_descriptor(signals: tuple[int, ...]) -> int:
    """Return a signalfd (non-blocking, close-on-exec) for signals that the caller has blocked."""
    mask = sum(1 << (number - 1) for number in signals)
    return call("signalfd4", -1, struct.pack("=Q", mask), 8, 0o2000000 | 0o4000)
