"""A hundred policy changes under load: nothing that both policies allow is refused or cut.

Kept connections and WebSockets ask 200 times a second in all, others come new, and one response streams
on and on; every policy allows all of it, each differs from the one before.
"""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from openshell.codec.policy import policy_to_proto
from openshell.policy.parse import parse_policy
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import PolicyClient
from support.echo_server import Echo, echo_server
from support.private_gateway import FILESYSTEM, PYTHON, ready_sandbox, sandbox_spec
from support.upstream import ALIAS

RELOADS = 100
# Of each kind: kept connections, WebSockets whose messages are read, WebSockets that are copied.
CLIENTS, READ, COPIED = 2, 1, 1
PER_SECOND = 50  # of each client

LOAD = """
import http.client, json, sys, threading, time
port, clients, rate, sockets = *map(int, sys.argv[1:4]), json.loads(sys.argv[4])
stop, counts, wrong, events = threading.Event(), [0] * clients, [], [0]
echoed = [0] * len(sockets)
def connect(to=port):
    c = http.client.HTTPConnection("10.200.0.1", 3128, timeout=20)
    c.set_tunnel("host.openshell.internal", to)
    return c
def frame(payload):
    return bytes((0x81, 0x80 | len(payload))) + bytes(4) + payload
def exactly(file, size):
    data = file.read(size)
    if len(data) < size: raise ConnectionError("the WebSocket ended")
    return data
def talk(number):
    c = connect(sockets[number][0])
    c.connect()
    file = c.sock.makefile("rb")
    c.sock.sendall((
        f"GET {sockets[number][1]} HTTP/1.1\\r\\nHost: host.openshell.internal:{sockets[number][0]}\\r\\n"
        "Connection: Upgrade\\r\\nUpgrade: websocket\\r\\nSec-WebSocket-Version: 13\\r\\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\n\\r\\n").encode())
    status = file.readline()
    if b" 101 " not in status: wrong.append(status.decode()); return
    while file.readline() != b"\\r\\n": pass
    while not stop.is_set():
        said = b"%d" % echoed[number]
        c.sock.sendall(frame(said))
        head = exactly(file, 2)
        heard = exactly(file, head[1])
        if (head[0], heard) != (0x81, said): wrong.append(repr((head, heard))); return
        echoed[number] += 1
        time.sleep(1 / rate)
def ask(number):
    c = connect()
    while not stop.is_set():
        # Every tenth request on a connection of its own.
        if counts[number] % 10 == 0:
            c.close()
            c = connect()
        c.request("GET", f"/ask/{number}")
        r = c.getresponse()
        r.read()
        if r.status != 200: wrong.append(r.status)
        counts[number] += 1
        time.sleep(1 / rate)
def listen():
    c = connect()
    c.request("GET", "/events")
    r = c.getresponse()
    while not stop.is_set():
        if not r.readline(): wrong.append("the stream ended"); return
        events[0] += 1
def guarded(run, *a):
    try: run(*a)
    except Exception as error: wrong.append(repr(error))
threads = [threading.Thread(target=guarded, args=(ask, n)) for n in range(clients)]
threads += [threading.Thread(target=guarded, args=(talk, n)) for n in range(len(sockets))]
threads.append(threading.Thread(target=guarded, args=(listen,)))
for t in threads: t.start()
print("begun", flush=True)
sys.stdin.readline()
stop.set()
for t in threads: t.join()
print(json.dumps({"counts": counts + echoed, "wrong": wrong[:5], "events": events[0]}))
"""


@pytest.fixture
def echo() -> Iterator[Echo]:
    with echo_server() as echo:
        yield echo


@pytest.fixture
def streaming_port() -> Iterator[int]:
    ended = threading.Event()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            if self.path != "/events":
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"ok")
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            while not ended.wait(0.05):
                self.wfile.write(b"data: x\n\n")

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 64

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server.server_address[1]
    ended.set()
    server.shutdown()
    thread.join()
    server.server_close()


def policy(port: int, echo: int, number: int) -> str:
    return (
        "network_policies:\n  load:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {echo}, path: /copied, protocol: rest, enforcement: enforce,\n"
        f"         rules: [{{allow: {{method: GET, path: '/{{copied,{number}}}'}}}}]}}\n"
        f"      - {{host: {ALIAS}, port: {echo}, path: /read, protocol: websocket, enforcement: enforce,\n"
        "         rules: [{allow: {method: GET, path: /read}},\n"
        f"           {{allow: {{method: WEBSOCKET_TEXT, path: '/{{read,{number}}}'}}}}]}}\n"
        f"      - {{host: {ALIAS}, port: {port}, protocol: rest, enforcement: enforce, rules: [\n"
        "          {allow: {method: GET, path: /events}}, {allow: {method: GET, path: /ask/*}},\n"
        f"          {{allow: {{method: GET, path: /extra/{number}}}}}]}}\n"
        f"    binaries: [{{path: {PYTHON}}}]\n"
    )


@pytest.mark.timeout(180)
def test_a_hundred_reloads_refuse_nothing(
    client: SandboxClient, streaming_port: int, echo: Echo
) -> None:
    policies = PolicyClient(client)
    spec = sandbox_spec(network=policy(streaming_port, echo.port, 0))
    sockets = [(echo.port, "/read")] * READ + [(echo.port, "/copied")] * COPIED
    with ready_sandbox(client, spec) as ref, ThreadPoolExecutor(1) as pool:
        load = [str(streaming_port), str(CLIENTS), str(PER_SECOND), json.dumps(sockets)]
        argv = [PYTHON, "-c", LOAD, *load]
        go = threading.Event()
        begun = threading.Event()
        running = pool.submit(drive, client, ref.id, argv, begun, go)
        assert begun.wait(20)
        version = 0
        for number in range(1, RELOADS + 1):
            message = policy_to_proto(
                parse_policy(FILESYSTEM + policy(streaming_port, echo.port, number), source="test")
            )
            version = policies.replace(ref.name, message, workspace="default").version
            while policies.revision(ref.name, version, workspace="default").revision.status == 1:
                pass
        go.set()
        told = json.loads(running.result(timeout=60))
    assert version == RELOADS + 1
    assert told["wrong"] == []
    assert len(told["counts"]) == CLIENTS + len(sockets)
    assert all(count > RELOADS / 10 for count in told["counts"])
    # One handshake each: no WebSocket was ended and opened again.
    assert sorted(echo.paths) == sorted(path for _, path in sockets)
    assert told["events"] > 10


def drive(
    client: SandboxClient,
    sandbox_id: str,
    argv: list[str],
    begun: threading.Event,
    go: threading.Event,
) -> str:
    from openshell._proto import openshell_pb2 as api

    def requests() -> Iterator[api.ExecSandboxInput]:
        start = api.ExecSandboxRequest(sandbox_id=sandbox_id, command=argv)
        yield api.ExecSandboxInput(start=start)
        go.wait(120)
        yield api.ExecSandboxInput(stdin=b"stop\n")

    said = b""
    for event in client.exec_interactive(requests()):
        match event.WhichOneof("payload"):
            case "stdout":
                said += event.stdout.data
                if b"begun\n" in said:
                    begun.set()
            case "stderr":
                raise AssertionError(event.stderr.data.decode())
            case "exit":
                assert event.exit.exit_code == 0
    return said.partition(b"begun\n")[2].decode()
