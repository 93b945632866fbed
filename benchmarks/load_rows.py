"""What the proxy adds to HTTPS requests and to WebSocket messages, with one connection and with 64.

Every request and every message is judged. The upstream is nginx for requests and a server of the library
`websockets` for messages. The peer is nginx between the same client and upstream: it ends TLS on both sides, too, and
judges nothing.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from inside import ALIAS, PROXY, cpu_seconds, on_host, pss_mb, run_inside, supervisor_pid
from peers import free_port, program, wait_port
from table import Peer, Row

from support.certificates import make_certificates
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, sandbox_spec

_ROUNDS = 3
_COUNT = {1: 3000, 64: 10_000}
_CLIENT = (Path(__file__).parent / "load_client.py").read_text()
_NGINX = """
daemon off; master_process off; pid {dir}/{role}.pid; error_log {dir}/{role}.log; worker_processes 1;
events {{ worker_connections 1024; }}
http {{
  access_log off; keepalive_requests 1000000; keepalive_timeout 600;
  client_body_temp_path {dir}/{role}a; proxy_temp_path {dir}/{role}b; fastcgi_temp_path {dir}/{role}c;
  uwsgi_temp_path {dir}/{role}d; scgi_temp_path {dir}/{role}e;
  upstream behind {{ server 127.0.0.1:{upstream}; keepalive 128; }}
  server {{ listen 127.0.0.1:{port} ssl; ssl_certificate {dir}/leaf.pem; ssl_certificate_key {dir}/leaf.pem;
            root {dir}/www; {location} }}
}}
"""
_PASS = (
    "location / { proxy_pass https://behind; proxy_http_version 1.1; proxy_set_header Host $host; "
    "proxy_read_timeout 600; proxy_set_header Upgrade $http_upgrade; "
    "proxy_set_header Connection $upgrading; } "
)
_MAP = 'map $http_upgrade $upgrading { default upgrade; "" ""; }'
_ECHO = """
import asyncio, ssl, sys
from websockets.asyncio.server import serve
async def echo(connection):
    async for message in connection:
        await connection.send(message)
async def main():
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
    async with serve(echo, "127.0.0.1", int(sys.argv[1]), ssl=context, compression=None):
        await asyncio.get_running_loop().create_future()
asyncio.run(main())
"""


def rows() -> Iterator[Row]:
    if program("nginx") is None:
        print("  HTTPS and WebSocket rows need nginx: make system", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory(prefix="osb-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "www").mkdir()
        (directory / "www/small").write_bytes(b"x" * 512)
        make_certificates(directory / "ca.pem", directory / "leaf.pem", ALIAS)
        yield from _rows(directory, "http", "/small", "rest", "access: full")
        allowed = (
            "rules: [{allow: {method: GET, path: /}}, {allow: {method: WEBSOCKET_TEXT, path: /}}]"
        )
        yield from _rows(directory, "ws", "/", "websocket", allowed)


def _rows(directory: Path, kind: str, path: str, protocol: str, rules: str) -> Iterator[Row]:
    port, peer = free_port(), free_port()
    toml = f'[openshell.drivers.local]\nupstream_ca_bundle = "{directory}/ca.pem"\n'
    policy = (
        "network_policies:\n  bench:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {port}, protocol: {protocol}, enforcement: enforce, {rules}}}\n"
        "    binaries: [{path: /**}]\n"
    )
    with (
        _upstream(directory, kind, port),
        _nginx(directory, f"{kind}peer", peer, port, _PASS) as peer_pid,
        PrivateGateway(toml=toml) as gateway,
        gateway.client() as client,
        ready_sandbox(client, sandbox_spec(network=policy)) as ref,
    ):
        pid = supervisor_pid(gateway, ref.id)

        def ours(connections: int) -> tuple[list[float], float]:
            before = cpu_seconds(pid)
            arguments = _arguments(kind, port, port, path, connections, PROXY, "")
            found = json.loads(run_inside(client, ref.id, (PYTHON, "-c", _CLIENT, *arguments)))
            return found, cpu_seconds(pid) - before

        def others(at: int, connections: int) -> tuple[list[float], float]:
            before = cpu_seconds(peer_pid)
            roots = str(directory / "ca.pem")
            arguments = _arguments(kind, at, port, path, connections, "", roots)
            found = json.loads(on_host((PYTHON, "-c", _CLIENT, *arguments)))
            return found, cpu_seconds(peer_pid) - before

        for connections in _COUNT:
            rounds = [
                (ours(connections), others(peer, connections), others(port, connections))
                for _ in range(_ROUNDS)
            ]
            yield from _table(kind, connections, rounds)
        what = f"memory of a supervisor after 64 connections of {_NAMES[kind][0]}"
        yield Row(what, 40, "MB", [pss_mb(pid)], [Peer("nginx", pss_mb(peer_pid))])


_NAMES = {"http": ("HTTPS", "request"), "ws": ("WebSocket", "message")}
_Round = tuple[tuple[list[float], float], ...]


def _table(kind: str, connections: int, rounds: list[_Round]) -> Iterator[Row]:
    name, unit = _NAMES[kind]
    shown = f"{name}, {connections} connection{'s' if connections > 1 else ''}"
    count = _COUNT[connections]

    def of(which: int, measure: object) -> list[float]:
        assert callable(measure)
        return [measure(*one[which]) for one in rounds]

    def row(what: str, budget: float, unit_: str, measure: object, *, more: bool = False) -> Row:
        theirs = statistics.median(of(1, measure))
        return Row(
            what, budget, unit_, of(0, measure), [Peer("nginx", theirs)], more_is_better=more
        )

    yield row(f"{shown}: {unit}s per second", 1000, "1/s", lambda t, _: count / t[0], more=True)
    for percent, budget in ((50, 0.6), (99, 3.0)):
        # With many at once the client's own queue is most of it; the difference is what counts.
        added = [
            [(_at(one[w][0], percent) - _at(one[2][0], percent)) / 1000 for one in rounds]
            for w in (0, 1)
        ]
        yield Row(
            f"{shown}: added latency, p{percent}",
            budget * (1 if connections == 1 else 60),
            "ms",
            added[0],
            [Peer("nginx", statistics.median(added[1]))],
        )
    yield row(f"{shown}: CPU per {unit}", 150, "us", lambda _, cpu: cpu / count * 1e6)


def _at(found: list[float], percent: int) -> float:
    times = sorted(found[1:])
    return times[len(times) * percent // 100]


def _arguments(
    kind: str, at: int, named: int, path: str, connections: int, proxy: str, roots: str
) -> tuple[str, ...]:
    authority = f"{ALIAS}:{named}"
    return (
        kind,
        str(at),
        authority,
        path,
        str(_COUNT[connections]),
        str(connections),
        proxy,
        roots,
    )


@contextlib.contextmanager
def _upstream(directory: Path, kind: str, port: int) -> Iterator[None]:
    if kind == "http":
        with _nginx(directory, "upstream", port, port, ""):
            yield
        return
    argv = [sys.executable, "-c", _ECHO, str(port), str(directory / "leaf.pem")]
    with subprocess.Popen(argv, stderr=subprocess.DEVNULL) as process:
        try:
            wait_port(port)
            yield
        finally:
            process.terminate()


@contextlib.contextmanager
def _nginx(directory: Path, role: str, port: int, upstream: int, location: str) -> Iterator[int]:
    config = directory / f"{role}.conf"
    text = _NGINX.format(dir=directory, role=role, port=port, upstream=upstream, location=location)
    config.write_text(text.replace("http {", f"http {{ {_MAP}", 1))
    argv = [program("nginx") or "nginx", "-c", str(config), "-p", str(directory)]
    process = subprocess.Popen(argv, stderr=subprocess.DEVNULL, env={**os.environ})
    try:
        wait_port(port)
        yield process.pid
    finally:
        process.terminate()
        process.wait()
