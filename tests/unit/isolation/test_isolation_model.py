"""Shapes that the spec refuses, errors, control groups and the conversation with process 1."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.supervisor.isolation import wire
from openshell.supervisor.isolation.cgroups import _limit_files, find_hierarchies
from openshell.supervisor.isolation.errors import IsolationError, explain_namespaces
from openshell.supervisor.isolation.model import ExposedPath, Limits, SandboxSpec

GOOD: dict[str, object] = {
    "id": "box-1",
    "name": "box",
    "hostname": "box",
    "workspace_dir": "/srv/w",
    "host_uid": 1000,
    "host_gid": 1000,
}
BAD = [
    ("id empty", {"id": ""}),
    ("id a path", {"id": "../x"}),
    ("id dots", {"id": ".."}),
    ("id too long", {"id": "x" * 129}),
    ("hostname with dot", {"hostname": "a.b"}),
    ("hostname too long", {"hostname": "a" * 65}),
    ("root", {"host_uid": 0}),
    ("root group", {"host_gid": 0}),
    ("no such uid", {"host_uid": 2**32 - 1}),
    ("relative workspace", {"workspace_dir": "w"}),
    ("workspace with dots", {"workspace_dir": "/a/../b"}),
    ("relative path", {"read_only": ("usr",)}),
    ("path with dots", {"read_write": ("/tmp/../etc",)}),
    ("NUL in a path", {"read_write": ("/tmp\0",)}),
    ("relative mask", {"masks": ("x",)}),
    ("relative exposure", {"exposed": (ExposedPath("x"),)}),
    ("relative source", {"exposed": (ExposedPath("/x", "y"),)}),
]


@pytest.mark.parametrize("fields", [f for _, f in BAD], ids=[n for n, _ in BAD])
def test_what_a_spec_refuses(fields: dict[str, object]) -> None:
    SandboxSpec(**GOOD)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r".+"):
        SandboxSpec(**{**GOOD, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EACCES, errno.ENOSPC])
def test_a_kernel_that_forbids_user_namespaces_is_explained(code: int) -> None:
    error = IsolationError("namespaces", code, explain_namespaces(code))
    for setting in (
        "kernel.unprivileged_userns_clone",
        "kernel.apparmor_restrict_unprivileged_userns",
        "user.max_user_namespaces",
    ):
        assert setting in str(error)
    assert errno.errorcode[code] in str(error)


HYBRID = """\
cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0
cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0
cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0
"""
UNIFIED = "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid 0 0\n"


def test_hierarchies_are_found() -> None:
    hybrid = find_hierarchies(HYBRID, "4:memory:/jobs/a\n1:cpu:/\n0::/\n")
    assert hybrid.unified == "/sys/fs/cgroup/unified"
    assert dict(hybrid.legacy) == {
        "cpu": "/sys/fs/cgroup/cpu",
        "memory": "/sys/fs/cgroup/memory/jobs/a",
    }
    unified = find_hierarchies(UNIFIED, "0::/user.slice/user-1000.slice\n")
    assert unified.unified == "/sys/fs/cgroup/user.slice/user-1000.slice"
    assert unified.legacy == ()
    assert find_hierarchies("", "").unified is None


def test_limits_become_files() -> None:
    limits = Limits(pids=10, memory_bytes=1 << 20, cpu_millis=1500)
    assert _limit_files(limits, unified=True) == {
        "pids": [("pids.max", "10")],
        "memory": [("memory.max", "1048576"), ("memory.swap.max", "0")],
        "cpu": [("cpu.max", "150000 100000")],
    }
    assert _limit_files(Limits(), unified=False) == {"pids": [("pids.max", "2048")]}


MESSAGES: list[wire.Request | wire.Reply] = [
    wire.Go(),
    wire.Sources(["/sandbox"]),
    wire.Spawn(1, ["a"], {"B": "c"}, "/", (80, 24)),
    wire.Signal(2, 15, True),
    wire.OpenSocket(3, 2, 1),
    wire.Ready([wire.PhaseRecord("a", 1, 2)], [("l", "enforced", "")], ["proxy"]),
    wire.Failed("rootfs", 2, "no"),
    wire.Spawned(1, 2),
    wire.Refused(1, "COMMAND_NOT_FOUND", 127, "x"),
    wire.Exited(2, 0, 0),
    wire.Opened(3),
]


@pytest.mark.parametrize("message", MESSAGES, ids=[type(m).__name__ for m in MESSAGES])
def test_messages_come_back_with_their_descriptors(message: wire.Request | wire.Reply) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        wire.send(ours, message, (0, 1))
        received = wire.receive(theirs)
        assert received is not None
        assert received[0] == message
        assert len(received[1]) == 2
        for descriptor in received[1]:
            assert not os.get_inheritable(descriptor)
            os.close(descriptor)
        ours.close()
        assert wire.receive(theirs) is None


@pytest.mark.parametrize("size", [10, 48 * 1024, 60_000, 1 << 20])
def test_large_messages_arrive_whole(size: int) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    message = wire.Spawn(1, ["x" * size], {}, "/")
    with ours, theirs:
        wire.send(ours, message, (0,))
        received = wire.receive(theirs)
        assert received is not None
        assert received[0] == message
        assert len(received[1]) == 1
        os.close(received[1][0])


def test_what_the_kernel_would_refuse_is_refused_before() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs, pytest.raises(ValueError, match="larger"):
        wire.send(ours, wire.Spawn(1, ["x" * (5 << 20)], {}, "/"))


@given(st.dictionaries(st.text(), st.text()), st.lists(st.text(), min_size=1))
def test_any_text_comes_back(env: dict[str, str], argv: list[str]) -> None:
    message = wire.Spawn(1, argv, env, "/")
    assert wire.decode(wire.encode(message)) == message
