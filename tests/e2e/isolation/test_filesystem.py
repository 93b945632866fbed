"""What a sandbox sees and may change of the file system."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile

import pytest

from e2e.isolation.sandboxes import MODES, Sandbox, running_sandbox

INSIDE_PYTHON = os.path.realpath(sys.executable)

REFUSED = {"EACCES", "EROFS", "EPERM"}


@pytest.mark.parametrize(
    "path",
    ["/escape", "/etc/escape", "/usr/escape", "/usr/bin/escape", "/var/escape", "/run/escape",
     "/home/escape", "/opt/escape", "/root/escape", "/dev/escape", "/proc/escape", "/sys/escape",
     "/etc/openshell-tls/escape", "/var/tmp/escape"],
)  # fmt: skip
def test_writing_outside_the_lists_is_refused(sandbox: Sandbox, path: str) -> None:
    assert sandbox.probe("create", "/sandbox/inside")["outcome"] == "ok"
    assert sandbox.probe("create", "/tmp/inside")["outcome"] == "ok"
    assert sandbox.probe("create", path)["outcome"] in REFUSED | {"ENOENT"}
    assert sandbox.probe("make_directory", path)["outcome"] in REFUSED | {"ENOENT"}


@pytest.mark.parametrize(
    "path", ["/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/etc/passwd", "/etc/hosts",
             "/etc/openshell-tls/ca-bundle.pem", "/usr/bin/env", "/proc/sys/user/max_user_namespaces"]
)  # fmt: skip
def test_existing_files_cannot_be_changed(sandbox: Sandbox, path: str) -> None:
    if not os.path.exists(path) and not path.startswith("/etc/openshell-tls"):
        pytest.skip(f"{path}: this host has none")
    assert sandbox.probe("write_through_symlink", "/tmp/through-a-link")["outcome"] == "ok"
    assert sandbox.probe("write_through_symlink", path)["outcome"] in REFUSED
    assert sandbox.probe("truncate", path)["outcome"] in REFUSED | {"EINVAL"}


@pytest.mark.parametrize("game", ["rename_out", "link_out"])
def test_files_do_not_leave_a_writable_directory(sandbox: Sandbox, game: str) -> None:
    """/var/tmp/in is listed, /var/tmp beside it on the same mount is not."""
    assert sandbox.probe(game, "/var/tmp/in", "/var/tmp/in")["outcome"] == "ok"
    assert sandbox.probe(game, "/var/tmp", "/var/tmp/in")["outcome"] in REFUSED | {"EXDEV"}


def test_an_unlisted_directory_cannot_be_pulled_in(sandbox: Sandbox) -> None:
    outcome = sandbox.probe("rename_directory_in", "/var/cache", "/var/tmp/in")["outcome"]
    assert outcome in REFUSED | {"EXDEV"}


@pytest.mark.parametrize("path", ["/etc/shadow", "/etc/gshadow", "/etc/sudoers"])
def test_secrets_of_etc_are_empty(sandbox: Sandbox, path: str) -> None:
    if not os.path.exists(path):
        pytest.skip(f"{path}: this host has none")
    assert sandbox.probe("read", "/etc/os-release")["outcome"] == "ok"
    assert sandbox.probe("read", path)["outcome"] == "empty"


@pytest.mark.parametrize(
    "path", ["/dev/sda", "/dev/vda", "/dev/mem", "/dev/kmsg", "/dev/kvm", "/dev/fuse",
             "/dev/net/tun", "/dev/loop-control", "/run/docker.sock", "/var/run/docker.sock"]
)  # fmt: skip
def test_devices_and_engine_sockets_are_not_there(sandbox: Sandbox, path: str) -> None:
    assert sandbox.probe("exists", "/dev/null")["outcome"] == "ok"
    assert sandbox.probe("exists", path)["outcome"] == "ENOENT"


@pytest.mark.parametrize("name", ["kcore", "keys", "timer_list"])
def test_files_of_the_kernel_are_masked(sandbox: Sandbox, name: str) -> None:
    if not os.path.exists(f"/proc/{name}"):
        pytest.skip(f"/proc/{name}: this kernel has none")
    assert sandbox.probe("read", f"/proc/{name}")["outcome"] in {"empty", "EACCES"}


def test_homes_and_temporary_files_of_the_host_are_hidden(mode: str) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp", prefix="openshell-secret-") as secret:
        os.chmod(secret.name, 0o644)
        secret.write(b"secret")
        secret.flush()
        # Landlock off: hidden means not mounted.
        lists = {"read_only": [], "read_write": [], "include_workdir": False}
        with running_sandbox(mode, **lists) as open_sandbox:
            assert open_sandbox.layers["landlock"][0] == "off"
            assert open_sandbox.plain("read", secret.name)["outcome"] == "ok"
            assert open_sandbox.probe("read", secret.name)["outcome"] == "ENOENT"
            assert open_sandbox.probe("list_directory", "/home")["outcome"] == "empty" or (
                # an interpreter below a home is shown, and nothing beside it
                open_sandbox.probe("read", "/home/.bashrc")["outcome"] == "ENOENT"
            )
            for path in ("/root/.bashrc", "/root/.ssh", "/boot", "/srv", "/mnt", "/media"):
                assert open_sandbox.probe("exists", path)["outcome"] == "ENOENT"
            # Without Landlock the mounts still hold.
            for path in ("/escape", "/usr/escape", "/etc/escape", "/opt/escape"):
                assert open_sandbox.probe("create", path)["outcome"] in {"EROFS", "EACCES"}


def test_an_exposed_directory_is_shown_read_only_without_its_credentials(mode: str) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="openshell-tools-") as base:
        os.chmod(base, 0o755)
        for name in ("shown/bin", "shown/.config/secret", "sibling"):
            os.makedirs(f"{base}/{name}")
        for name in ("shown/bin/tool", "shown/token", "shown/.config/secret/key", "sibling/file"):
            with open(f"{base}/{name}", "w", encoding="utf-8") as file:
                file.write("content")
        os.symlink("shown", f"{base}/link")
        options = {
            "exposed": [[f"{base}/shown"], [f"{base}/link", f"{base}/shown"]],
            "masks": [f"{base}/shown/token", f"{base}/shown/.config/secret"],
        }
        with running_sandbox(mode, **options) as shown:
            assert shown.probe("read", f"{base}/shown/bin/tool")["outcome"] == "ok"
            assert shown.probe("read", f"{base}/link/bin/tool")["outcome"] == "ok"
            assert shown.probe("read", f"{base}/shown/token")["outcome"] == "empty"
            directory = f"{base}/shown/.config/secret"
            assert shown.probe("read", directory)["outcome"] == "empty"
            assert shown.probe("read", f"{directory}/key")["outcome"] == "ENOTDIR"
            assert shown.probe("exists", f"{base}/sibling")["outcome"] == "ENOENT"
            assert shown.probe("create", f"{base}/shown/new")["outcome"] in REFUSED


def test_a_credential_that_is_replaced_outside_stays_hidden(mode: str) -> None:
    """Tools renew their files by a rename; a mount on the old file would go with it."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="openshell-tools-") as base:
        os.chmod(base, 0o755)
        secrets = ["token", "deep/er/token", "place/key"]
        for name in (*secrets, "tool", "deep/er/tool"):
            os.makedirs(os.path.dirname(f"{base}/{name}"), exist_ok=True)
            with open(f"{base}/{name}", "w", encoding="utf-8") as file:
                file.write("old")
        os.symlink(base, f"{base}/itself")
        masks = [f"{base}/token", f"{base}/deep/er/token", f"{base}/place"]
        with running_sandbox(mode, exposed=[[base]], masks=masks) as shown:
            before = [shown.run("cat", f"{base}/{name}")["stdout"] for name in secrets]
            for name in secrets[:2]:
                with open(f"{base}/{name}.new", "w", encoding="utf-8") as file:
                    file.write("renewed")
                os.rename(f"{base}/{name}.new", f"{base}/{name}")
            os.rename(f"{base}/place", f"{base}/elsewhere")
            os.mkdir(f"{base}/place")
            os.rename(f"{base}/elsewhere/key", f"{base}/place/key")
            after = [shown.run("cat", f"{base}/{name}")["stdout"] for name in secrets]
            assert (before, after) == (["", "", ""], ["", "", ""])
            for name in ("tool", "deep/er/tool"):
                assert shown.run("cat", f"{base}/{name}")["stdout"] == "old"


def test_the_workspace_is_the_users_own_outside(sandbox: Sandbox) -> None:
    written = sandbox.run("sh", "-c", "echo hello > made; id -un; stat -c %U made")
    assert written["stdout"].split() == ["sandbox", "sandbox"]
    found = os.stat(f"{sandbox.workspace}/made")
    owner = os.stat(sandbox.workspace)
    assert (found.st_uid, found.st_gid) == (owner.st_uid, owner.st_gid)
    with open("/etc/passwd", encoding="utf-8") as file:
        assert "/sandbox:" not in file.read(), "the host's accounts stay as they are"


def test_hard_requirement_fails_on_a_missing_path(mode: str) -> None:
    lists = {"read_only": ["/usr", "/nowhere"], "landlock": "hard_requirement"}
    with running_sandbox(mode, **lists) as failed:
        assert failed.greeting["step"] == "landlock"
        assert "/nowhere" in failed.greeting["text"]
    with running_sandbox(mode, **{**lists, "landlock": "best_effort"}) as started:
        status, detail = started.layers["landlock"]
        assert status in {"enforced", "partly"}
        assert "/nowhere" in detail


def test_a_workspace_that_is_a_link_is_refused(mode: str) -> None:
    from e2e.isolation import sandboxes

    with sandboxes.workspace(mode) as path:
        os.symlink("/etc", f"{path}/link")
        conversation = sandboxes.Conversation(mode, path, {"workspace_dir": f"{path}/link"})
        try:
            assert conversation.line()["step"] == "plan"
        finally:
            conversation.close()


@pytest.mark.skipif("root" not in MODES, reason="needs root: the identity is another user's")
def test_an_ordinary_user_cannot_choose_another_identity() -> None:
    with running_sandbox("ordinary", host_uid=200005, host_gid=200005) as refused:
        assert refused.greeting["step"] == "identity"


def _mount_options(sandbox: Sandbox) -> dict[str, set[str]]:
    """Mount point inside -> options of the topmost mount there."""
    lines = sandbox.run("cat", "/proc/self/mountinfo")["stdout"].splitlines()
    return {line.split(" ")[4]: set(line.split(" ")[5].split(",")) for line in lines}


def test_every_mount_is_as_tight_as_it_can_be(sandbox: Sandbox) -> None:
    mounts = _mount_options(sandbox)
    writable = {point for point, options in mounts.items() if "rw" in options}
    devices = {f"/dev/{n}" for n in ("null", "zero", "full", "random", "urandom", "tty", "pts")}
    scratch = {"/tmp", "/var", "/run", "/dev/shm"}
    assert writable == {"/sandbox", "/proc", *scratch, *devices}
    assert all("nosuid" in options for options in mounts.values())
    assert {p for p, options in mounts.items() if "nodev" not in options} <= devices
    for point in ("/", "/usr", "/etc", "/etc/openshell-tls", "/sys", "/proc/sys", "/proc/irq"):
        assert "ro" in mounts[point]
    for name in ("keys", "timer_list"):
        if os.path.exists(f"/proc/{name}"):
            assert f"/proc/{name}" in mounts
    assert sandbox.run("cat", "/proc/sys/user/max_user_namespaces")["stdout"] == "0\n"


def test_trusted_certificates_are_written_once(mode: str) -> None:
    with running_sandbox(mode) as sandbox:
        assert sandbox.ask({"op": "publish"}) == {"again": False}
        names = ("openshell-ca.pem", "ca-bundle.pem")
        seen = sandbox.run("cat", *(f"/etc/openshell-tls/{name}" for name in names))
        assert seen["stdout"] == "ownall"
        tried = sandbox.run("sh", "-c", "echo x >> /etc/openshell-tls/ca-bundle.pem")
        assert tried["exit_code"] != 0


CONNECT = """
import socket, sys
with socket.socket(socket.AF_UNIX) as s:
    try:
        s.connect(sys.argv[1])
        print("connected")
    except OSError as error:
        print(error.errno)
"""


@pytest.mark.parametrize("masked", [True, False], ids=["beside a mask", "alone"])
def test_sockets_in_an_exposed_directory_are_out_of_reach(mode: str, masked: bool) -> None:
    """A read-only mount stops no connect, and behind a socket may be an engine or an agent."""
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="openshell-tools-") as base:
        os.chmod(base, 0o755)
        with open(f"{base}/token", "w", encoding="utf-8") as file:
            file.write("content")
        options = {"exposed": [[base]], "masks": [f"{base}/token"] if masked else []}
        with (
            socket.socket(socket.AF_UNIX) as early,
            socket.socket(socket.AF_UNIX) as late,
            running_sandbox(mode, **options) as shown,
        ):
            for listener, name in ((early, "early"), (late, "late")):
                listener.bind(f"{base}/{name}")
                listener.listen()
                os.chmod(f"{base}/{name}", 0o777)
                argv = [INSIDE_PYTHON, "-I", "-S", "-c", CONNECT, f"{base}/{name}"]
                plain = subprocess.run(argv, capture_output=True, text=True, check=True)
                assert plain.stdout == "connected\n", "the probe works"
                assert shown.run(*argv)["stdout"] != "connected\n"
