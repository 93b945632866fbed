"""OpenSSH at a real sandbox: commands, terminals, ports, files, and what is refused."""

import os
import pty
import select
import shutil
import subprocess
import time
import uuid

import pytest

from openshell._proto import openshell_pb2 as pb

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="needs openssh-client")

MAIN = """
import sys, time
print("main is up", flush=True)
for line in sys.stdin:
    print("heard " + line.strip(), flush=True)
"""


class Ssh:
    """`ssh` with a Host block of ours."""

    def __init__(self, gateway, name, tmp_path):
        block = gateway.cli("sandbox", "ssh-config", name)
        assert block.returncode == 0, block.stderr
        self.alias = block.stdout.split()[1]
        self.config = tmp_path / "ssh_config"
        self.config.write_text(block.stdout)
        self.environ = gateway.environ

    def argv(self, program, *words):
        return [program, "-F", str(self.config), *words]

    def run(self, *words, program="ssh", **more):
        return subprocess.run(
            self.argv(program, *words),
            env=self.environ,
            capture_output=True,
            timeout=60,
            check=False,
            **({} if "input" in more else {"stdin": subprocess.DEVNULL}),
            **more,
        )

    def __call__(self, command, *options, **more):
        return self.run(*options, self.alias, command, **more)


@pytest.fixture(scope="module")
def box(client):
    name = f"ssh-{uuid.uuid4().hex[:6]}"
    spec = pb.SandboxSpec(command=["python3", "-u", "-c", MAIN], tty=True)
    client.create(workspace="default", name=name, spec=spec)
    yield client.wait_ready(name, workspace="default", timeout_seconds=30)
    client.delete(name, workspace="default")


@pytest.fixture
def ssh(gateway, box, tmp_path):
    return Ssh(gateway, box.name, tmp_path)


@pytest.mark.parametrize(
    ("command", "code", "out", "err"),
    [
        ("true", 0, b"", b""),
        ("exit 7", 7, b"", b""),
        ("kill -TERM $$", 143, b"", b""),
        ("pwd; echo $USER", 0, b"/sandbox\nsandbox\n", b""),
        ("echo out; echo err >&2", 0, b"out\n", b"err\n"),
        ("tty", 1, b"not a tty\n", b""),
        ("echo $SSH_AUTH_SOCK $OPENSHELL_SANDBOX", 0, b"1\n", b""),
        ("no-such-command", 127, b"", None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_commands(ssh, command, code, out, err):
    ran = ssh(command, "-A")
    assert (ran.returncode, ran.stdout) == (code, out), ran.stderr
    assert err is None or ran.stderr == err


def test_bytes_in_and_out(ssh):
    data = os.urandom(3_000_000)
    assert ssh("cat", input=data).stdout == data
    assert ssh("cat; echo end", input=b"").stdout == b"end\n"
    assert ssh("wc -c", input=data).stdout.strip() == b"3000000"


def test_a_slow_client_slows_the_command(ssh):
    with subprocess.Popen(
        ssh.argv("ssh", ssh.alias, "yes | head -c 200000000; echo done >&2"),
        env=ssh.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout.read(10)
        # Far less than all of it fits in what lies between the two.
        assert not select.select([process.stderr], [], [], 1.5)[0]
        process.kill()


def terminal(ssh, *words):
    pid, master = pty.fork()
    if pid == 0:
        os.execvpe("ssh", ssh.argv("ssh", "-tt", *words), ssh.environ)
    return pid, master


def read_until(master, mark, seconds=15):
    seen, deadline = b"", time.monotonic() + seconds
    while mark not in seen:
        assert select.select([master], [], [], max(0, deadline - time.monotonic()))[0], seen
        try:
            seen += os.read(master, 65536)
        except OSError:
            break
    assert mark in seen, seen
    return seen


def test_a_terminal(ssh):
    pid, master = terminal(ssh, ssh.alias)
    os.write(master, b"stty size; echo T=$TERM; tty\n")
    read_until(master, b"/dev/pts/")
    os.write(master, b"exit 5\n")
    read_until(master, b"exit")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 5
    os.close(master)


def test_the_main_process_is_met_left_and_met_again(ssh):
    pid, master = terminal(ssh, "-s", ssh.alias, "openshell-main")
    read_until(master, b"main is up")
    os.write(master, b"hello\r")
    read_until(master, b"heard hello")
    watcher, other = terminal(ssh, "-s", ssh.alias, "openshell-main")
    read_until(other, b"attached read-only")
    os.write(master, b"\x10\x11ignored\r")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    os.write(other, b"\x10\x11")
    assert os.waitstatus_to_exitcode(os.waitpid(watcher, 0)[1]) == 0
    # It lives on, and what it said before is shown again.
    pid, third = terminal(ssh, "-s", ssh.alias, "openshell-main")
    read_until(third, b"heard hello")
    os.write(third, b"again\r")
    read_until(third, b"heard again")
    os.write(third, b"\x10\x11")
    os.waitpid(pid, 0)
    for each in (master, other, third):
        os.close(each)


def test_many_sessions_of_one_connection(ssh, tmp_path):
    control = [
        "-o",
        f"ControlPath={tmp_path}/c",
        "-o",
        "ControlMaster=auto",
        "-o",
        "ControlPersist=20",
    ]
    assert ssh("echo first", *control).stdout == b"first\n"
    running = [
        subprocess.Popen(
            ssh.argv("ssh", *control, ssh.alias, f"sleep 0.5; echo {number}"),
            env=ssh.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        for number in range(8)
    ]
    assert [process.communicate(timeout=30)[0] for process in running] == [
        b"%d\n" % number for number in range(8)
    ]
    ssh.run(*control, "-O", "exit", ssh.alias)


SERVE = """
import socket
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
connection, _ = listener.accept()
data = b""
while piece := connection.recv(65536):
    data += piece
connection.sendall(data[::-1])
connection.close()
"""


def test_a_port_inside(ssh):
    serving = subprocess.Popen(
        ssh.argv("ssh", ssh.alias, "python3", "-"),
        env=ssh.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    serving.stdin.write(SERVE.encode())
    serving.stdin.close()
    port = int(serving.stdout.readline())
    data = os.urandom(500_000)
    through = ssh.run("-W", f"localhost:{port}", ssh.alias, input=data)
    assert through.stdout == data[::-1]
    serving.wait(10)


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("127.0.0.1:9", b"Connection refused"),
        ("10.200.0.1:3128", b"administratively prohibited"),
        ("example.com:443", b"administratively prohibited"),
    ],
)
def test_ports_that_are_refused(ssh, target, says):
    ran = ssh.run("-o", "LogLevel=INFO", "-W", target, ssh.alias)
    assert ran.returncode != 0
    assert says in ran.stderr


def test_ways_back_are_refused(ssh):
    back = ssh("true", "-o", "ExitOnForwardFailure=yes", "-R", "0:127.0.0.1:1")
    assert back.returncode == 255
    assert b"remote port forwarding failed" in back.stderr


def test_a_client_that_leaves(ssh, box, client):
    with subprocess.Popen(
        ssh.argv(
            "ssh", "-tt", ssh.alias, "setsid sh -c 'echo up; exec sleep 4711' & exec sleep 4712"
        ),
        env=ssh.environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout.readline().strip() == b"up"
        process.kill()
    gone = [
        "sh",
        "-c",
        "while pgrep -f 'sleep 471[2]' >/dev/null; do sleep 0.05; done; pgrep -f 'sleep 471[1]'",
    ]
    ran = client.exec(box.id, gone, timeout_seconds=10)
    # What it started of its own went with the line; what it had put away stays.
    assert ran.exit_code == 0, ran
    client.exec(box.id, ["pkill", "-f", "sleep 4711"])


def test_files(ssh, tmp_path):
    sent = tmp_path / "sent"
    sent.write_bytes(os.urandom(1_000_000))
    assert ssh.run(str(sent), f"{ssh.alias}:copy", program="scp").returncode == 0
    assert ssh.run(f"{ssh.alias}:copy", str(tmp_path / "back"), program="scp").returncode == 0
    assert (tmp_path / "back").read_bytes() == sent.read_bytes()
    words = b"pwd\nls -l copy\nmkdir d\nrename copy d/copy\nchmod 640 d/copy\nls -la d\ndf\nln -s copy d/link\n"
    listed = ssh.run("-b", "-", ssh.alias, program="sftp", input=words)
    assert listed.returncode == 0, listed.stderr
    assert b"/sandbox" in listed.stdout
    assert b"1000000" in listed.stdout
    assert b"-rw-r-----" in listed.stdout
    refused = ssh.run("-b", "-", ssh.alias, program="sftp", input=b"put /etc/hostname /etc/x\n")
    assert refused.returncode == 1
    assert b"Permission denied" in refused.stderr


def test_files_are_served_where_the_policy_lets_programs_read(ssh, tmp_path):
    assert (
        ssh.run(f"{ssh.alias}:/etc/shadow", str(tmp_path / "shadow"), program="scp").returncode == 0
    )
    # The host's is not there: an empty file stands in its place.
    assert (tmp_path / "shadow").read_bytes() == b""
    for path in ("/proc/1/environ", "/proc/1/mem", "/root/.bashrc", "/sandbox/../root/.profile"):
        back = ssh.run(f"{ssh.alias}:{path}", str(tmp_path / "x"), program="scp")
        assert back.returncode != 0, path
    assert not (tmp_path / "x").exists()


def test_the_file_server_leaves_nothing_and_can_be_seen_by_nobody(ssh, box, client):
    with subprocess.Popen(
        ssh.argv("sftp", "-b", "-", ssh.alias),
        env=ssh.environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        process.stdin.write(b"pwd\n")
        process.stdin.flush()
        while b"/sandbox" not in process.stdout.readline():
            pass
        look = "cd /proc/$(pgrep openshell-sftp) && cat environ maps mem; ls fd"
        seen = client.exec(box.id, ["sh", "-c", look])
        assert seen.stdout == ""
        assert seen.stderr.count("Permission denied") == 4
        process.kill()
    gone = ["sh", "-c", "while pgrep openshell-sftp; do sleep 0.05; done"]
    assert client.exec(box.id, gone, timeout_seconds=10).exit_code == 0
