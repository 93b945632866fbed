"""One real sandbox in a process of its own, driven by JSON lines: what the e2e tests talk to.

Runs as root or, through unprivileged.py, as an ordinary user. Reads one request a line from
stdin, answers each with one line. Also runs probes without the sandbox's layers: `plain` as the
caller, `namespaced` as the all-powerful user of fresh namespaces.
"""

import asyncio
import base64
import contextlib
import errno
import fcntl
import json
import os
import runpy
import signal
import socket
import struct
import subprocess
import sys
from dataclasses import asdict, replace

from openshell.supervisor.environment import ProgramRole, child_environment
from openshell.supervisor.isolation import mounts
from openshell.supervisor.isolation.errors import IsolationError
from openshell.supervisor.isolation.launch import IsolatedSandbox, prepare, start
from openshell.supervisor.isolation.model import ExposedPath, LandlockMode, Limits, SandboxSpec
from openshell.supervisor.isolation.netlink import encode
from openshell.supervisor.isolation.syscalls import CLONE_NAMESPACES, call, clone_process
from openshell.supervisor.process import ProcessHost

HOST_ID = 200001
BASE = os.path.realpath(sys.base_prefix)
INSIDE_PYTHON = os.path.realpath(sys.executable)
# ioctl_ns(2): the network namespace of a socket, and the user namespace that owns another one.
SIOCGSKNS = 0x894C
NS_GET_USERNS = 0xB701


def build_spec(options):
    root = os.geteuid() == 0
    exposed = [ExposedPath(*pair) for pair in options.pop("exposed", [])]
    if not BASE.startswith("/usr"):
        exposed.append(ExposedPath(BASE))
    limits = Limits(**options.pop("limits", {}))
    mode = LandlockMode(options.pop("landlock", "best_effort"))
    defaults = {
        "id": f"e2e-{os.getpid()}",
        "name": "probe",
        "hostname": "sandbox-probe",
        "host_uid": HOST_ID if root else os.geteuid(),
        "host_gid": HOST_ID if root else os.getegid(),
        "read_only": ("/usr", "/lib", "/lib64", "/etc", "/proc"),
        "read_write": ("/tmp", "/var/tmp/in"),
    }
    return SandboxSpec(
        **{**defaults, **options}, exposed=tuple(exposed), limits=limits, landlock=mode
    )


def without_overlay(*_paths):
    raise OSError(errno.EINVAL, "no overlay")


def without_nftables(prepared):
    """A kernel without the rules: the batch is refused as a whole."""
    last = prepared.network.rules[-2]
    unknown = replace(last, body=last.body.replace(b"reject\0", b"nosuch\0"))
    rules = (*prepared.network.rules[:-2], unknown, prepared.network.rules[-1])
    network = replace(prepared.network, rules=rules, rules_datagram=encode(rules))
    return replace(prepared, network=network)


def forbid_user_namespaces():
    """Enter a user namespace in which no other may be made."""
    uid, gid = os.geteuid(), os.getegid()
    call("unshare", 0x10000000)
    for name, line in (
        ("setgroups", "deny"),
        ("uid_map", f"{uid} {uid} 1"),
        ("gid_map", f"{gid} {gid} 1"),
    ):
        with open(f"/proc/self/{name}", "wb", buffering=0) as file:
            file.write(line.encode())
    with open("/proc/sys/user/max_user_namespaces", "wb", buffering=0) as file:
        file.write(b"0")


def in_control_namespaces(argv):
    """Run a program as root of fresh namespaces, without any other layer; its output."""
    reading, writing = os.pipe()
    go_read, go_write = os.pipe()
    pid, pidfd = clone_process(CLONE_NAMESPACES)
    if pid == 0:
        try:
            os.read(go_read, 1)
            os.setresgid(0, 0, 0)
            os.setresuid(0, 0, 0)
            call("mount", b"none", b"/", b"", 0x44000, None)
            call("mount", b"proc", b"/proc", b"proc", 0, None)
            os.dup2(writing, 1)
            actions = [(os.POSIX_SPAWN_DUP2, writing, 1)]
            # Loopback up, as in a sandbox
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                fcntl.ioctl(sock, 0x8914, struct.pack("16sH14x", b"lo", 1))
            child = os.posix_spawn(
                argv[0], argv, {"PATH": os.environ["PATH"]}, file_actions=actions
            )
            os.waitpid(child, 0)
        finally:
            os._exit(0)
    os.close(writing)
    os.close(go_read)
    try:
        lines = [("uid_map", f"0 {os.geteuid()} 1"), ("gid_map", f"0 {os.getegid()} 1")]
        if os.geteuid():
            lines.insert(0, ("setgroups", "deny"))
        for name, line in lines:
            with open(f"/proc/{pid}/{name}", "wb", buffering=0) as file:
                file.write(line.encode())
        os.write(go_write, b"g")
        with os.fdopen(reading) as file:
            return file.read()
    finally:
        os.close(go_write)
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(pidfd)


def enter_network(sandbox: IsolatedSandbox, argv):
    """Run a probe in the sandbox's user and network namespaces, with all capabilities there."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            network = fcntl.ioctl(sandbox.listeners["proxy"], SIOCGSKNS)
            # The user namespace first: it gives the rights that the other one asks for.
            call("setns", fcntl.ioctl(network, NS_GET_USERNS), 0)
            call("setns", network, 0)
            os.dup2(writing, 1)
            # No exec: it would take the capabilities that setns gave.
            sys.argv = argv
            runpy.run_path(argv[0], run_name="__main__")
            sys.stdout.flush()
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading) as file:
        output = file.read()
    os.waitpid(pid, 0)
    return output


class Host:
    def __init__(self, sandbox, workspace):
        self.sandbox = sandbox
        self.processes = ProcessHost(sandbox)
        self.probe = f"{workspace}/probes.py"

    def environment(self):
        return child_environment(
            role=ProgramRole.EXEC,
            user_env={},
            provider_env={},
            terminal=None,
            path=f"{BASE}/bin:/usr/local/bin:/usr/bin:/bin",
        )

    async def run(self, argv, tty=None, stdin="", env=None, cwd="/sandbox"):
        process = await self.processes.spawn(argv, {**self.environment(), **(env or {})}, cwd, tty)
        out, err = b"", b""

        async def collect(reader):
            data = b""
            while chunk := await reader.read():
                data += chunk
            return data

        with contextlib.suppress(BrokenPipeError):
            if stdin:
                await process.stdin.write(stdin.encode())
        if tty is None:
            process.stdin.close()
            out, err = await asyncio.gather(collect(process.stdout), collect(process.stderr))
        else:
            out = await collect(process.stdout)
        record = await process.wait()
        process.close()
        return {
            "stdout": out.decode(errors="replace"),
            "stderr": err.decode(errors="replace"),
            **asdict(record),
        }

    async def handle(self, request):
        match request.pop("op"):
            case "probe":
                argv = [INSIDE_PYTHON, "-I", "-S", "/sandbox/probes.py", *request["argv"]]
                return await self.run(argv, tty=request.get("tty"))
            case "run":
                return await self.run(**request)
            case "plain":
                argv = [INSIDE_PYTHON, "-I", "-S", self.probe, *request["argv"]]
                run = subprocess.run(argv, capture_output=True, text=True, cwd="/tmp", check=False)
                return {"stdout": run.stdout, "stderr": run.stderr}
            case "network":
                argv = [self.probe, *request["argv"]]
                return {"stdout": enter_network(self.sandbox, argv)}
            case "counters":
                return self.sandbox.refused_packets()
            case "accept":
                return await self.accept(request["listener"], request["argv"])
            case "write_tree":
                return await self.write_tree()
            case "terminal":
                return await self.terminal()
            case "forward":
                return await self.forward()
            case "publish":
                return self.publish()
            case "freeze":
                return {"frozen": self.sandbox.freeze(), "thawed": self.sandbox.thaw()}
            case unknown:
                return {"error": f"unknown request {unknown}"}

    async def accept(self, listener, argv):
        """Accept on one of our listeners while a probe connects."""
        loop = asyncio.get_running_loop()
        probing = loop.create_task(self.handle({"op": "probe", "argv": argv}))
        try:
            async with asyncio.timeout(5):
                made, peer = await loop.sock_accept(self.sandbox.listeners[listener])
        except TimeoutError:
            return {"accepted": False, "probe": await probing}
        with made:
            result = {"accepted": True, "destination": made.getsockname()[:2], "peer": peer[:2]}
            return {**result, "probe": await probing}

    async def write_tree(self):
        """A program with offspring in and out of its session, and a daemon, killed as one."""
        daemon = "(setsid sh -c 'sleep 303 & :' & :)"
        script = f"sleep 300 & setsid sleep 301 & {daemon}; sleep 302"
        process = await self.processes.spawn(["sh", "-c", script], self.environment(), "/")
        bystander = await self.processes.spawn(["sleep", "304"], self.environment(), "/")
        await asyncio.sleep(0.2)
        listing = [
            "sh",
            "-c",
            "cat /proc/[0-9]*/cmdline | tr -d '\\0' | grep -o 'sleep30[0-9]' | sort",
        ]
        before = await self.run(listing)
        killed = await process.kill_tree()
        record = await process.wait()
        left = await self.run(listing)
        await bystander.kill_tree()
        process.close()
        bystander.close()
        return {
            "killed": killed,
            "exit_code": record.exit_code,
            "before": before["stdout"].split(),
            "left": left["stdout"].split(),
        }

    async def terminal(self):
        """Resize a terminal under a program, then hang it up."""
        script = "trap 'stty size' WINCH; trap 'touch hung-up; exit' HUP; echo up; while :; do sleep 0.01; done"
        process = await self.processes.spawn(
            ["sh", "-c", script], self.environment(), "/sandbox", (80, 24)
        )
        first = await process.stdout.read()
        await process.resize(132, 50)
        size = await process.stdout.read()
        process.close()
        record = await process.wait()
        return {"first": first.decode(), "size": size.decode(), "exit_code": record.exit_code}

    def publish(self):
        """Publish the CA files, and try it again."""
        self.sandbox.publish_trust({"ca-bundle.pem": b"all", "openshell-ca.pem": b"own"})
        try:
            self.sandbox.publish_trust({"openshell-ca.pem": b"other"})
        except KeyError:
            return {"again": False}
        return {"again": True}

    async def forward(self):
        """Reach a server inside through a socket made inside."""
        script = (
            "import socket,os\ns=socket.create_server(('127.0.0.1',8080))\n"
            "print('up',flush=True)\nc,_=s.accept()\nc.sendall(b'hello')\n"
        )
        argv = [INSIDE_PYTHON, "-I", "-S", "-c", script]
        process = await self.processes.spawn(argv, self.environment(), "/")
        await process.stdout.read()
        loop = asyncio.get_running_loop()
        with await self.processes.open_socket() as sock:
            await loop.sock_connect(sock, ("127.0.0.1", 8080))
            data = await loop.sock_recv(sock, 100)
        await process.wait()
        process.close()
        return {"data": data.decode()}


async def serve(sandbox, workspace, abstract):
    loop = asyncio.get_running_loop()
    host = Host(sandbox, workspace)
    reader = asyncio.StreamReader(limit=1 << 24)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        try:
            answer = await host.handle(json.loads(line))
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
    await host.processes.close()


def main():
    options = json.loads(base64.b64decode(sys.argv[1]))
    workspace = options["workspace_dir"]
    if os.geteuid() == 0:
        # As a login has: they must not reach the sandbox.
        os.setgroups([4, 24])
    prepared = prepare()
    if options.pop("without_overlay", False):
        mounts.overlay_read_only = without_overlay
    if options.pop("without_user_namespaces", False):
        forbid_user_namespaces()
    if options.pop("control", None):
        for line in sys.stdin:
            argv = [INSIDE_PYTHON, "-I", "-S", f"{workspace}/probes.py", *json.loads(line)]
            print(json.dumps({"stdout": in_control_namespaces(argv)}), flush=True)
        return
    if options.pop("without_nftables", False):
        prepared = without_nftables(prepared)
    abstract = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    abstract.bind(f"\0openshell-e2e-{os.getpid()}")
    abstract.listen(8)
    try:
        sandbox = start(build_spec(options), prepared)
    except IsolationError as error:
        print(json.dumps({"step": error.step, "errno": error.errno, "text": str(error)}))
        return
    greeting = {
        "pid": os.getpid(),
        "init_pid": sandbox.init_pid,
        "layers": [(layer.name, layer.status, layer.detail) for layer in sandbox.layers],
        "phases": [(p.name, p.started_ns, p.ended_ns) for p in sandbox.phases],
        "cgroups": sandbox.cgroups.paths,
        "listeners": sorted(sandbox.listeners),
    }
    print(json.dumps(greeting), flush=True)
    try:
        asyncio.run(serve(sandbox, workspace, abstract))
    finally:
        sandbox.close()
        abstract.close()


if __name__ == "__main__":
    main()
