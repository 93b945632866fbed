"""What the proxy adds to HTTP/2: latency, CPU per request with one stream and with many, CPU per gigabyte.

nginx is the upstream. The peer is nginx once more, between client and upstream: it ends both TLS connections, too,
but speaks HTTP/1.1 to its upstream, because that is all it can; it looks at no policy.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from inside import ALIAS, PROXY, cpu_seconds, on_host, run_inside, supervisor_pid
from peers import free_port, program, wait_port
from table import Peer, Row

from openshell.sdk.client import SandboxClient
from support.certificates import make_certificates
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, sandbox_spec

_ROUNDS = 3
_REQUESTS = {1: 2000, 64: 6000}
_BULK_BYTES = 512 * 1024 * 1024
_CLIENT = (Path(__file__).parent / "http2_client.py").read_text()

_NGINX = """
daemon off; master_process off; pid {dir}/{role}.pid; error_log {dir}/{role}.log; worker_processes 1;
events {{ worker_connections 512; }}
http {{
  access_log off; sendfile on; keepalive_requests 1000000; keepalive_timeout 600;
  client_body_temp_path {dir}/{role}a; proxy_temp_path {dir}/{role}b; fastcgi_temp_path {dir}/{role}c;
  uwsgi_temp_path {dir}/{role}d; scgi_temp_path {dir}/{role}e; proxy_max_temp_file_size 0;
  upstream behind {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {dir}/leaf.pem;
            ssl_certificate_key {dir}/leaf.pem; root {dir}/www; {location} }}
}}
"""
_PASS = (
    "location / {{ proxy_pass https://behind; proxy_http_version 1.1; "
    'proxy_set_header Connection ""; }}'
)


def rows() -> Iterator[Row]:
    if program("nginx") is None:
        print("  HTTP/2 rows need nginx: make system", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(prefix="osb-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "www").mkdir()
        (directory / "www/small").write_bytes(b"x" * 512)
        with (directory / "www/bulk").open("wb") as file:
            file.truncate(_BULK_BYTES)
        make_certificates(directory / "ca.pem", directory / "leaf.pem", ALIAS)
        port, peer = free_port(), free_port()
        toml = f'[openshell.drivers.local]\nupstream_ca_bundle = "{directory}/ca.pem"\n'
        policy = (
            "network_policies:\n  bench:\n    endpoints:\n"
            f"      - {{host: {ALIAS}, port: {port}, protocol: rest, enforcement: enforce, access: full}}\n"
            "    binaries: [{path: /**}]\n"
        )
        with (
            _nginx(directory, "upstream", port, port, ""),
            _nginx(directory, "peer", peer, port, _PASS.format()) as peer_pid,
            PrivateGateway(toml=toml) as gateway,
            gateway.client() as client,
            ready_sandbox(client, sandbox_spec(network=policy)) as ref,
        ):
            bench = _Bench(directory, client, ref.id, supervisor_pid(gateway, ref.id), peer_pid)
            yield from bench.rows(port, peer)


@contextlib.contextmanager
def _nginx(directory: Path, role: str, port: int, upstream: int, location: str) -> Iterator[int]:
    config = directory / f"{role}.conf"
    config.write_text(
        _NGINX.format(dir=directory, role=role, port=port, upstream=upstream, location=location)
    )
    process = subprocess.Popen(
        [program("nginx") or "nginx", "-c", config, "-p", directory], stderr=subprocess.DEVNULL
    )
    try:
        wait_port(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait()


class _Bench:
    """One sandbox, one peer, the same client through both."""

    def __init__(
        self, directory: Path, client: SandboxClient, sandbox: str, pid: int, peer_pid: int
    ) -> None:
        self._roots = str(directory / "ca.pem")
        self._client, self._sandbox = client, sandbox
        self._pid, self._peer_pid = pid, peer_pid

    def rows(self, port: int, peer: int) -> Iterator[Row]:
        yield from self._latency(port, peer)
        for streams, count in _REQUESTS.items():
            yield from self._requests(port, peer, streams, count)
        ours, theirs = [], []
        for _ in range(_ROUNDS):
            (size, _), cpu = self._ours(port, "/bulk", 1, 1, "bulk")
            ours.append(cpu / size * 1e9)
            (size, _), cpu = self._theirs(peer, "/bulk", 1, 1, "bulk")
            theirs.append(cpu / size * 1e9)
        what = "download by HTTP/2, TLS on both sides, CPU per GB"
        yield Row(what, 2.0, "s", ours, _peer(theirs))

    def _latency(self, port: int, peer: int) -> Iterator[Row]:
        count = _REQUESTS[1]
        added: dict[int, list[float]] = {50: [], 99: []}
        others: dict[int, list[float]] = {50: [], 99: []}
        for _ in range(_ROUNDS):
            base, _ = self._theirs(port, "/small", count, 1, "latency")
            ours, _ = self._ours(port, "/small", count, 1, "latency")
            theirs, _ = self._theirs(peer, "/small", count, 1, "latency")
            for percent, samples in added.items():
                least = _percentile(base, percent)
                samples.append((_percentile(ours, percent) - least) / 1000)
                others[percent].append((_percentile(theirs, percent) - least) / 1000)
        for percent, budget in ((50, 0.6), (99, 3.0)):
            what = f"added latency per HTTP/2 request, 1 stream, p{percent}"
            yield Row(what, budget, "ms", added[percent], _peer(others[percent]))

    def _requests(self, port: int, peer: int, streams: int, count: int) -> Iterator[Row]:
        rates, costs, other_rates, other_costs = [], [], [], []
        for _ in range(_ROUNDS):
            (seconds,), cpu = self._ours(port, "/small", count, streams, "busy")
            rates.append(count / seconds)
            costs.append(cpu / count * 1e6)
            (seconds,), cpu = self._theirs(peer, "/small", count, streams, "busy")
            other_rates.append(count / seconds)
            other_costs.append(cpu / count * 1e6)
        shown = "1 stream" if streams == 1 else f"{streams} streams"
        what = f"CPU per HTTP/2 request, {shown}"
        yield Row(what, 250, "us", costs, _peer(other_costs))
        what = f"HTTP/2 requests per second, {shown}"
        yield Row(what, 1000, "1/s", rates, _peer(other_rates), more_is_better=True)

    def _ours(
        self, port: int, path: str, count: int, streams: int, mode: str
    ) -> tuple[list[float], float]:
        arguments = (str(port), f"{ALIAS}:{port}", path, str(count), str(streams), mode)
        before = cpu_seconds(self._pid)
        command = (PYTHON, "-c", _CLIENT, *arguments, PROXY, "")
        text = run_inside(self._client, self._sandbox, command)
        return json.loads(text), cpu_seconds(self._pid) - before

    def _theirs(
        self, port: int, path: str, count: int, streams: int, mode: str
    ) -> tuple[list[float], float]:
        arguments = (str(port), f"{ALIAS}:{port}", path, str(count), str(streams), mode)
        before = cpu_seconds(self._peer_pid)
        text = on_host((PYTHON, "-c", _CLIENT, *arguments, "", self._roots))
        return json.loads(text), cpu_seconds(self._peer_pid) - before


def _peer(samples: list[float]) -> list[Peer]:
    return [Peer("nginx (HTTP/1.1 upstream)", statistics.median(samples))]


def _percentile(samples: list[float], percent: int) -> float:
    return sorted(samples)[len(samples) * percent // 100]
