"""Ways out of a sandbox that must fail, each shown to be a way where our layers are missing.

`namespaced` controls run as the all-powerful user of fresh namespaces, `plain` ones as the caller.
A control that answers with another errno than the sandbox shows that the call is reached there.
"""

from __future__ import annotations

import os

import pytest

from e2e.isolation.sandboxes import Sandbox, running_sandbox

# (probe, arguments, outcome inside, where the control runs, outcomes of the control)
OK = ("ok",)
ESCAPES = [
    ("raw_socket", (), "EPERM", "namespaced", OK),
    ("packet_socket", (), "EPERM", "namespaced", OK),
    ("vsock", (), "EPERM", "namespaced", ("ok", "EAFNOSUPPORT")),
    ("mptcp_socket", (), "EPROTONOSUPPORT", "namespaced", ("ok", "ENOPROTOOPT")),
    ("netlink_netfilter", (), "EPERM", "namespaced", OK),
    ("netlink_route_write", (), "EPERM", "namespaced", OK),
    ("transparent_socket", (), "EPERM", "namespaced", OK),
    ("mount_tmpfs", (), "EPERM", "namespaced", OK),
    ("open_tree", (), "EPERM", "namespaced", OK),
    ("mount_setattr", (), "EPERM", "namespaced", OK),
    ("umount_mask", (), "EPERM", "namespaced", ("ENOENT", "EINVAL")),
    ("pivot_root", (), "EPERM", "namespaced", ("ENOENT",)),
    ("chroot", (), "EPERM", "namespaced", OK),
    ("set_namespace", (), "EPERM", "namespaced", OK),
    ("user_namespace", (), "EPERM", "namespaced", OK),
    ("user_namespace_clone", (), "EPERM", "namespaced", OK),
    ("network_namespace", (), "EPERM", "namespaced", OK),
    ("clone3", (), "ENOSYS", "namespaced", ("EINVAL",)),
    ("ptrace_process_1", (), "EPERM", "namespaced", OK),
    ("vm_readv_denied", (), "EPERM", "namespaced", OK),
    ("read_vm_of_process_1", (), "EACCES", "namespaced", OK),
    ("pidfd_of_process_1", (), "EPERM", "namespaced", OK),
    ("steal_descriptor", (), "EPERM", "namespaced", ("EBADF",)),
    ("kcmp", (), "EPERM", "namespaced", ("ok", "ENOSYS")),
    ("keyctl", (), "EPERM", "namespaced", ("ok", "ENOSYS")),
    ("add_key", (), "EPERM", "namespaced", ("ok", "ENOSYS")),
    ("bpf", (), "EPERM", "namespaced", ("EINVAL",)),
    ("io_uring", (), "EPERM", "namespaced", ("ok", "ENOSYS")),
    ("userfaultfd", (), "EPERM", "namespaced", ("ok", "ENOSYS")),
    ("perf_event", (), "EPERM", "namespaced", ("ok", "EACCES", "ENOENT")),
    ("memfd", (), "EPERM", "namespaced", OK),
    ("execute_nameless_file", (), "EPERM", "namespaced", OK),
    ("second_filter", (), "EPERM", "namespaced", OK),
    ("second_filter_by_prctl", (), "EPERM", "namespaced", OK),
    ("hide_from_supervisor", (), "visible", "namespaced", ("hidden",)),
    ("open_by_handle", (), "EPERM", "plain", ("EINVAL", "EFAULT", "EBADF")),
    ("personality", (), "EPERM", "namespaced", OK),
    ("x32", (), "SIGSYS", "namespaced", ("ENOSYS", "ok")),
    ("kexec", (), "EPERM", "namespaced", ("ENOSYS",)),
    ("load_module", (), "EPERM", "namespaced", ("ENOSYS",)),
    ("become_root", (), "EINVAL", "namespaced", OK),
    ("raise_capabilities", (), "EPERM", "namespaced", OK),
    ("enable_core_files", (), "EPERM", "plain", OK),
    ("set_hostname", (), "EPERM", "namespaced", OK),
    # A refusal of the terminal itself, not of the call, on a control without a terminal.
    ("push_terminal_input", (), "EPERM", "plain", ("ENOTTY",)),
    ("push_terminal_input_high_bits", (), "EPERM", "plain", ("ENOTTY",)),
    ("console_ioctl", (), "EPERM", "plain", ("ENOTTY",)),
]
NEEDS_X86 = {"x32"}


@pytest.mark.parametrize(
    ("probe", "arguments", "inside", "where", "control"), ESCAPES, ids=[row[0] for row in ESCAPES]
)
def test_the_way_out_is_closed(
    sandbox: Sandbox,
    probe: str,
    arguments: tuple[str, ...],
    inside: str,
    where: str,
    control: tuple[str, ...],
) -> None:
    if probe in NEEDS_X86 and os.uname().machine != "x86_64":
        pytest.skip("the x32 ABI exists on x86-64 only")
    outside = getattr(sandbox, where)(probe, *arguments)
    assert outside["outcome"] in control, "the probe itself does not work here"
    terminal = (80, 24) if "terminal" in probe or "console" in probe else None
    assert sandbox.probe(probe, *arguments, tty=terminal)["outcome"] == inside


@pytest.mark.parametrize(
    "name",
    ["mem", "maps", "environ", "fd", "fdinfo", "task/1/fd", "root", "cwd", "exe", "ns/net",
     "auxv", "stack", "syscall", "io", "map_files"],
)  # fmt: skip
def test_process_1_cannot_be_read_by_its_programs(sandbox: Sandbox, name: str) -> None:
    outside = sandbox.namespaced("read_proc_1", name)["outcome"]
    # Some of these files need a capability over the host even of an own process.
    assert outside == "ok" or name in {"stack", "map_files"}
    assert sandbox.probe("read_proc_1", name)["outcome"] in {"EACCES", "EPERM", "ENOENT"}
    assert sandbox.probe("read_proc_1", "status")["outcome"] == "ok"


def test_process_1_survives_every_signal(sandbox: Sandbox) -> None:
    assert sandbox.probe("kill_process_1")["outcome"] == "ok"
    assert sandbox.probe("signal_process", "1")["outcome"] == "ok"


def test_processes_of_the_host_have_no_number_inside(sandbox: Sandbox) -> None:
    pid = str(sandbox.greeting["pid"])
    assert sandbox.plain("signal_process", pid)["outcome"] == "ok"
    assert sandbox.probe("signal_process", pid)["outcome"] == "ESRCH"


def test_abstract_sockets_of_the_host_are_elsewhere(sandbox: Sandbox) -> None:
    name = f"openshell-e2e-{sandbox.greeting['pid']}"
    assert sandbox.plain("connect_abstract", name)["outcome"] == "ok"
    assert sandbox.probe("connect_abstract", name)["outcome"] == "ECONNREFUSED"


def test_a_fork_bomb_stops_at_the_limit(mode: str) -> None:
    with running_sandbox(mode, limits={"pids": 40}) as small:
        assert small.plain("fork_bomb")["outcome"] == "ok"
        assert small.probe("fork_bomb")["outcome"] == "EAGAIN"
        assert small.probe("raise_process_limit")["outcome"] == "EPERM"
        assert small.run("true")["exit_code"] == 0


def test_threads_forks_and_loopback_servers_still_work(sandbox: Sandbox) -> None:
    assert sandbox.probe("threads_and_forks")["outcome"] == "ok"
    assert sandbox.probe("own_server")["outcome"] == "ok"
    assert sandbox.probe("netlink_route_open")["outcome"] == "ok"
