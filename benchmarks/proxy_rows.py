"""What the egress proxy adds: latency, CPU per request, CPU per gigabyte. nginx is the upstream."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from inside import ALIAS, cpu_seconds, on_host, run_inside, supervisor_pid
from peers import ProxyPeer, free_port, program, squid, tinyproxy, wait_port
from table import Peer, Row

from openshell.sdk.client import SandboxClient
from support.certificates import make_certificates
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, sandbox_spec

_REQUESTS = 5000
_ROUNDS = 5
_CLIENTS = 8
_SANDBOXES = 10
_BULK_BYTES = 512 * 1024 * 1024

_NGINX = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000; keepalive_timeout 600;
  client_body_temp_path {dir}/a; proxy_temp_path {dir}/b; fastcgi_temp_path {dir}/c;
  uwsgi_temp_path {dir}/d; scgi_temp_path {dir}/e;
  server {{ listen 127.0.0.1:{http}; listen 127.0.0.1:{raw}; root {dir}/www; }}
  server {{ listen 127.0.0.1:{https} ssl; ssl_certificate {dir}/leaf.pem; ssl_certificate_key {dir}/leaf.pem;
            root {dir}/www; }}
}}
"""

# Keep-alive requests, one at a time; prints microseconds of each.
_SMALL = """
import json, socket, sys, time
host, port, target, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
authority = sys.argv[5]
s = socket.create_connection((host, port)); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
request = f"GET {target} HTTP/1.1\\r\\nHost: {authority}\\r\\nAccept: */*\\r\\nUser-Agent: bench\\r\\n\\r\\n".encode()
def exchange():
    s.sendall(request)
    data = s.recv(65536)
    assert data.startswith(b"HTTP/1.1 200"), data
    head, _, body = data.partition(b"\\r\\n\\r\\n")
    need = int([l for l in head.lower().split(b"\\r\\n") if l.startswith(b"content-length")][0].split(b":")[1])
    while len(body) < need:
        more = s.recv(65536)
        assert more, "closed"
        body += more
for _ in range(200): exchange()
times = []
for _ in range(count):
    a = time.perf_counter_ns(); exchange(); times.append((time.perf_counter_ns() - a) / 1000)
print(json.dumps(times))
"""

# Keep-alive requests on several connections at once, so that the proxy never waits; prints the count.
_BUSY = """
import select, socket, sys
host, port, target, count = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
authority, clients = sys.argv[5], int(sys.argv[6])
request = f"GET {target} HTTP/1.1\\r\\nHost: {authority}\\r\\nAccept: */*\\r\\nUser-Agent: bench\\r\\n\\r\\n".encode()
poll = select.epoll(); sockets = {}; got = {}
for _ in range(clients):
    s = socket.create_connection((host, port)); s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sockets[s.fileno()] = s; got[s.fileno()] = b""; poll.register(s, select.EPOLLIN); s.sendall(request)
done = 0
while done < count:
    for fd, _ in poll.poll():
        data = got[fd] + sockets[fd].recv(65536)
        head, end, body = data.partition(b"\\r\\n\\r\\n")
        assert head.startswith(b"HTTP/1.1 200") or not end, head
        got[fd] = data
        if end and len(body) == 512:
            got[fd] = b""; done += 1; sockets[fd].sendall(request)
print(done)
"""

# One download through a CONNECT tunnel, with TLS or without; prints the seconds.
_BULK = """
import socket, ssl, sys, time
port, tls = int(sys.argv[1]), sys.argv[2] == "tls"
s = socket.create_connection(("10.200.0.1", 3128))
authority = f"host.openshell.internal:{port}"
s.sendall(f"CONNECT {authority} HTTP/1.1\\r\\nHost: {authority}\\r\\n\\r\\n".encode())
answer = s.recv(65536); assert answer.startswith(b"HTTP/1.1 200"), answer
if tls:
    s = ssl.create_default_context().wrap_socket(s, server_hostname="host.openshell.internal")
started = time.perf_counter()
s.sendall(f"GET /bulk HTTP/1.1\\r\\nHost: {authority}\\r\\nConnection: close\\r\\n\\r\\n".encode())
buffer = bytearray(1 << 20); total = 0
while (got := s.recv_into(buffer)): total += got
assert total > 500_000_000, total
print(time.perf_counter() - started)
"""


@dataclass(frozen=True)
class _Ports:
    http: int
    raw: int
    https: int


def rows() -> Iterator[Row]:
    if program("nginx") is None:
        print("  proxy rows need nginx: make system", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(prefix="osb-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        ports = _Ports(free_port(), free_port(), free_port())
        toml = f'[openshell.drivers.local]\nupstream_ca_bundle = "{directory}/ca.pem"\n'
        with (
            _upstream(directory, ports),
            squid(directory) as keeping,
            tinyproxy(directory) as closing,
            PrivateGateway(toml=toml) as gateway,
            gateway.client() as client,
            ready_sandbox(client, sandbox_spec(network=_policy(ports))) as ref,
        ):
            pid = supervisor_pid(gateway, ref.id)
            yield from _small(client, ref.id, pid, ports, keeping)
            yield from _new_connections(client, ref.id, ports, closing)
            yield from _bulk(client, ref.id, pid, ports)
            yield _memory_after_tls(gateway, client, ports)


@contextlib.contextmanager
def _upstream(directory: Path, ports: _Ports) -> Iterator[None]:
    (directory / "www").mkdir()
    (directory / "www/small").write_bytes(b"x" * 512)
    with (directory / "www/bulk").open("wb") as file:
        file.truncate(_BULK_BYTES)
    make_certificates(directory / "ca.pem", directory / "leaf.pem", ALIAS)
    user = "" if os.getuid() else "user root;"
    (directory / "nginx.conf").write_text(
        user + _NGINX.format(dir=directory, http=ports.http, raw=ports.raw, https=ports.https)
    )
    process = subprocess.Popen(
        [program("nginx") or "nginx", "-c", directory / "nginx.conf", "-p", directory],
        stderr=subprocess.DEVNULL,
    )
    try:
        for port in (ports.http, ports.https):
            wait_port(port)
        yield
    finally:
        process.terminate()
        process.wait()


def _policy(ports: _Ports) -> str:
    return (
        "network_policies:\n  bench:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {ports.http}, protocol: rest, enforcement: enforce, access: full}}\n"
        f"      - {{host: {ALIAS}, port: {ports.https}, protocol: rest, enforcement: enforce, access: full}}\n"
        f"      - {{host: {ALIAS}, port: {ports.raw}, tls: skip}}\n"
        "    binaries: [{path: /**}]\n"
    )


def _small(
    client: SandboxClient, sandbox: str, pid: int, ports: _Ports, peer: ProxyPeer | None
) -> Iterator[Row]:
    authority = f"{ALIAS}:{ports.http}"
    inside = ("10.200.0.1", "3128", f"http://{authority}/small", str(_REQUESTS), authority)
    direct = ("127.0.0.1", str(ports.http), "/small", str(_REQUESTS), authority)
    added, cpu, others, others_cpu = [], [], [], []
    for _ in range(_ROUNDS):
        base = _median(on_host((PYTHON, "-c", _SMALL, *direct)))
        before = cpu_seconds(pid)
        proxied = _median(run_inside(client, sandbox, (PYTHON, "-c", _SMALL, *inside)))
        cpu.append((cpu_seconds(pid) - before) / (_REQUESTS + 200) * 1e6)
        added.append((proxied - base) / 1000)
        if peer is not None:
            before = cpu_seconds(peer.pid)
            through = _median(on_host((PYTHON, "-c", _SMALL, *_through(peer, ports, _REQUESTS))))
            others_cpu.append((cpu_seconds(peer.pid) - before) / (_REQUESTS + 200) * 1e6)
            others.append((through - base) / 1000)
    yield Row(
        "added latency per proxied request, plain HTTP L7, keep-alive",
        0.3,
        "ms",
        added,
        _peers(peer, others),
    )
    yield Row(
        "CPU per proxied request, keep-alive, plain HTTP L7, one client that waits",
        100,
        "us",
        cpu,
        _peers(peer, others_cpu),
        note="the process sleeps and wakes twice for each",
    )
    yield _busy(client, sandbox, pid, inside, ports, peer)


def _through(peer: ProxyPeer, ports: _Ports, count: int) -> tuple[str, ...]:
    """Arguments of the clients for a proxy on the host."""
    authority = f"127.0.0.1:{ports.http}"
    return "127.0.0.1", str(peer.port), f"http://{authority}/small", str(count), authority


def _peers(peer: ProxyPeer | None, samples: list[float]) -> list[Peer]:
    return [] if peer is None else [Peer(peer.name, statistics.median(samples))]


def _busy(
    client: SandboxClient,
    sandbox: str,
    pid: int,
    arguments: tuple[str, ...],
    ports: _Ports,
    peer: ProxyPeer | None,
) -> Row:
    """What bounds the requests per second and core: the proxy has always something to do."""
    samples, others = [], []
    for _ in range(_ROUNDS):
        before = cpu_seconds(pid)
        done = int(run_inside(client, sandbox, (PYTHON, "-c", _BUSY, *arguments, str(_CLIENTS))))
        samples.append((cpu_seconds(pid) - before) / done * 1e6)
        if peer is not None:
            before = cpu_seconds(peer.pid)
            command = (PYTHON, "-c", _BUSY, *_through(peer, ports, _REQUESTS), str(_CLIENTS))
            done = int(on_host(command))
            others.append((cpu_seconds(peer.pid) - before) / done * 1e6)
    what = f"CPU per proxied request, keep-alive, plain HTTP L7, {_CLIENTS} clients at once"
    return Row(what, 100, "us", samples, _peers(peer, others))


_FRESH = """
import json, socket, sys, time
host, port, target, authority = sys.argv[1], int(sys.argv[2]), sys.argv[3], sys.argv[4]
request = f"GET {target} HTTP/1.1\\r\\nHost: {authority}\\r\\nConnection: close\\r\\n\\r\\n".encode()
times = []
for turn in range(400):
    a = time.perf_counter_ns()
    s = socket.create_connection((host, port)); s.sendall(request)
    data = b""
    while (more := s.recv(65536)): data += more
    s.close(); assert data[9:12] == b"200", data
    if turn >= 50: times.append((time.perf_counter_ns() - a) / 1000)
print(json.dumps(times))
"""


def _new_connections(
    client: SandboxClient, sandbox: str, ports: _Ports, peer: ProxyPeer | None
) -> Iterator[Row]:
    authority = f"{ALIAS}:{ports.http}"
    inside = (PYTHON, "-c", _FRESH, "10.200.0.1", "3128", f"http://{authority}/small", authority)
    direct = (PYTHON, "-c", _FRESH, "127.0.0.1", str(ports.http), "/small", authority)
    base = _median(on_host(direct))
    samples = [(_median(run_inside(client, sandbox, inside)) - base) / 1000 for _ in range(_ROUNDS)]
    others = []
    if peer is not None:
        host, port, target, _, named = _through(peer, ports, 1)
        others.append(
            (_median(on_host((PYTHON, "-c", _FRESH, host, port, target, named))) - base) / 1000
        )
    yield Row(
        "added latency, plain HTTP, new connection each", 2.0, "ms", samples, _peers(peer, others)
    )


def _bulk(client: SandboxClient, sandbox: str, pid: int, ports: _Ports) -> Iterator[Row]:
    gigabytes = _BULK_BYTES / 1e9
    for what, budget, port, mode in (
        ("opaque tunnel, CPU per GB", 0.35, ports.raw, "raw"),
        ("TLS-terminated download, CPU per GB", 2.5, ports.https, "tls"),
    ):
        samples = []
        for _ in range(3):
            before = cpu_seconds(pid)
            run_inside(client, sandbox, (PYTHON, "-c", _BULK, str(port), mode))
            samples.append((cpu_seconds(pid) - before) / gigabytes)
        yield Row(what, budget, "s", samples)


_TLS_ONCE = """
import socket, ssl, sys
authority = f"host.openshell.internal:{sys.argv[1]}"
s = socket.create_connection(("10.200.0.1", 3128))
s.sendall(f"CONNECT {authority} HTTP/1.1\\r\\nHost: {authority}\\r\\n\\r\\n".encode())
answer = s.recv(65536); assert answer.startswith(b"HTTP/1.1 200"), answer
s = ssl.create_default_context().wrap_socket(s, server_hostname="host.openshell.internal")
s.sendall(f"GET /small HTTP/1.1\\r\\nHost: {authority}\\r\\nConnection: close\\r\\n\\r\\n".encode())
data = b""
while (more := s.recv(65536)): data += more
assert data.startswith(b"HTTP/1.1 200"), data
"""


def _memory_after_tls(gateway: PrivateGateway, client: SandboxClient, ports: _Ports) -> Row:
    """Several sandboxes, as in the row of idle ones: what they share is divided among them."""
    samples = []
    with contextlib.ExitStack() as stack:
        spec = sandbox_spec(network=_policy(ports))
        refs = [stack.enter_context(ready_sandbox(client, spec)) for _ in range(_SANDBOXES)]
        for ref in refs:
            run_inside(client, ref.id, (PYTHON, "-c", _TLS_ONCE, str(ports.https)))
        time.sleep(1)
        samples = [_pss_mb(supervisor_pid(gateway, ref.id)) for ref in refs]
    return Row("memory per sandbox after its first TLS request", 15, "MB", samples)


def _pss_mb(pid: int) -> float:
    total = 0
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    for each in [str(pid), *children[:1]]:
        for line in Path(f"/proc/{each}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def _median(text: str) -> float:
    times = sorted(json.loads(text))
    return float(times[len(times) // 2])
