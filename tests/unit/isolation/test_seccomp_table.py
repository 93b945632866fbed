"""The filters' verdicts, computed by a small BPF interpreter: nothing is loaded."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.supervisor.isolation import syscalls
from openshell.supervisor.isolation.seccomp import (
    Program,
    UnsupportedMachine,
    child_program,
    supervisor_program,
)

ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = tuple(ARCHITECTURE)
ALLOW, KILL = 0x7FFF0000, 0x80000000


def verdict(
    program: Program, number: int, arguments: tuple[int, ...] = (), *, architecture: int
) -> int:
    """Run the filter on one call, as the kernel would."""
    padded = (*arguments, *(0,) * (6 - len(arguments)))
    data = struct.pack("=IIQ6Q", number & 0xFFFFFFFF, architecture, 0, *padded)
    instructions = program.instructions
    accumulator, position = 0, 0
    while True:
        code, true, false, value = instructions[position]
        position += 1
        if code == 0x20:
            accumulator = struct.unpack_from("=I", data, value)[0]
        elif code == 0x06:
            return value
        else:
            taken = {
                0x15: accumulator == value,
                0x35: accumulator >= value,
                0x45: bool(accumulator & value),
            }[code]
            position += true if taken else false


def decide(machine: str, name: str, *arguments: int) -> int | str:
    """The errno of a refusal, or ALLOW or KILL by name."""
    number = syscalls._numbers(machine)[name]
    value = verdict(child_program(machine), number, arguments, architecture=ARCHITECTURE[machine])
    if value == ALLOW:
        return "allow"
    if value == KILL:
        return "kill"
    assert value & 0xFFFF0000 == 0x00050000
    return value & 0xFFFF


# The contract's list, written down a second time on purpose.
ALWAYS = [
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
]
BEYOND = [
    "keyctl",
    "add_key",
    "request_key",
    "open_by_handle_at",
    "kcmp",
    "kexec_load",
    "kexec_file_load",
    "init_module",
    "finit_module",
    "delete_module",
    "reboot",
    "syslog",
    "chroot",
    "mount_setattr",
    "io_uring_enter",
]
HIGH = 0xDEADBEEF_00000000
ARGUMENTS = [
    ("socket", (1, 1, 0), "allow"),
    ("socket", (2, 1, 0), "allow"),
    ("socket", (2, 1, 6), "allow"),
    ("socket", (10, 2, 0), "allow"),
    ("socket", (16, 3, 0), "allow"),
    ("socket", (16, 3, 4), errno.EPERM),
    ("socket", (16, 3, 12), errno.EPERM),
    ("socket", (16 | HIGH, 3, 12 | HIGH), errno.EPERM),
    ("socket", (17, 3, 0), errno.EPERM),
    ("socket", (31, 3, 0), errno.EPERM),
    ("socket", (40, 1, 0), errno.EPERM),
    ("socket", (38, 5, 0), errno.EAFNOSUPPORT),
    ("socket", (2, 1, 262), errno.EPROTONOSUPPORT),
    ("socket", (10, 1, 262), errno.EPROTONOSUPPORT),
    ("execveat", (3, 0, 0, 0, 0), "allow"),
    ("execveat", (3, 0, 0, 0, 0x1000), errno.EPERM),
    ("execveat", (3, 0, 0, 0, 0x1100), errno.EPERM),
    ("unshare", (0x200,), "allow"),
    ("unshare", (0x10000000,), errno.EPERM),
    ("unshare", (0x20000,), errno.EPERM),
    ("unshare", (0x80,), errno.EPERM),
    ("clone", (0x3D0F00,), "allow"),
    ("clone", (0x4111,), "allow"),
    ("clone", (0x11,), "allow"),
    ("clone", (0x10000011,), errno.EPERM),
    ("clone", (0x40000011,), errno.EPERM),
    ("clone3", (0, 88), errno.ENOSYS),
    ("seccomp", (0,), "allow"),
    ("seccomp", (1,), errno.EPERM),
    ("seccomp", (2,), "allow"),
    ("seccomp", (1 | HIGH,), errno.EPERM),
    ("ioctl", (0, 0x5401), "allow"),
    ("ioctl", (0, 0x5412), errno.EPERM),
    ("ioctl", (0, 0x5412 | HIGH), errno.EPERM),
    ("ioctl", (0, 0x541C), errno.EPERM),
    ("personality", (0xFFFFFFFF,), "allow"),
    ("personality", (0,), "allow"),
    ("personality", (0x0400000,), errno.EPERM),
    ("prctl", (22, 2), errno.EPERM),
    ("prctl", (4, 0), 0),
    ("prctl", (4, 1), "allow"),
    ("prctl", (15, 0), "allow"),
    ("prctl", (38, 1), "allow"),
]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("name", ALWAYS + BEYOND)
def test_refused_whatever_the_arguments(machine: str, name: str) -> None:
    assert decide(machine, name) == errno.EPERM
    assert decide(machine, name, *(2**64 - 1,) * 6) == errno.EPERM


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    ARGUMENTS,
    ids=[f"{n}-{'-'.join(hex(x) for x in a)}" for n, a, _ in ARGUMENTS],
)
def test_judged_by_arguments(
    machine: str, name: str, arguments: tuple[int, ...], expected: int | str
) -> None:
    assert decide(machine, name, *arguments) == expected


@pytest.mark.parametrize("machine", MACHINES)
def test_another_architecture_is_killed(machine: str) -> None:
    program = child_program(machine)
    for architecture in (0x40000003, 0, *(v for k, v in ARCHITECTURE.items() if k != machine)):
        assert verdict(program, 0, architecture=architecture) == KILL


@given(st.integers(0, 0x3FFFFFFF))
def test_x32_numbers_are_killed(number: int) -> None:
    program = child_program("x86_64")
    assert verdict(program, number | 0x40000000, architecture=0xC000003E) == KILL
    assert verdict(program, number | 0x80000000, architecture=0xC000003E) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@given(number=st.integers(0, 1023), arguments=st.tuples(*[st.integers(0, 2**64 - 1)] * 6))
def test_calls_outside_the_table_are_allowed(
    machine: str, number: int, arguments: tuple[int, ...]
) -> None:
    known = set(syscalls._numbers(machine).values())
    result = verdict(child_program(machine), number, arguments, architecture=ARCHITECTURE[machine])
    assert number in known or result == ALLOW


@pytest.mark.parametrize("machine", MACHINES)
def test_the_supervisor_keeps_what_it_needs(machine: str) -> None:
    program = supervisor_program(machine)
    numbers = syscalls._numbers(machine)
    outcome = {
        name: verdict(program, number, architecture=ARCHITECTURE[machine])
        for name, number in numbers.items()
    }
    refused = {name for name, value in outcome.items() if value == 0x00050000 | errno.EPERM}
    assert refused == {
        "mount",
        "fsopen",
        "fsconfig",
        "fsmount",
        "fspick",
        "move_mount",
        "open_tree",
        "open_tree_attr",
        "pivot_root",
        "umount2",
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "init_module",
        "finit_module",
        "delete_module",
        "kexec_load",
        "kexec_file_load",
        "mount_setattr",
        "chroot",
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
    }
    assert {outcome[name] for name in outcome.keys() - refused} == {ALLOW}


def test_programs_are_well_formed() -> None:
    for machine in MACHINES:
        for program in (child_program(machine), supervisor_program(machine)):
            instructions = program.instructions
            assert len(instructions) < 4096, "the kernel's limit"
            for position, (code, true, false, _) in enumerate(instructions, 1):
                if code != 0x06:
                    assert position + max(true, false) < len(instructions)
            assert instructions[-1][0] == 0x06


def test_an_unknown_machine_gets_no_filter() -> None:
    with pytest.raises(UnsupportedMachine, match="riscv64"):
        child_program("riscv64")
