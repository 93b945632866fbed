"""A hundred policy changes under load: nothing that both policies allow is refused or cut.

Kept connections ask 200 times a second in all, others come new, and one response streams on and on; every
policy allows all of it, each differs from the one before.
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
from support.private_gateway import FILESYSTEM, PYTHON, ready_sandbox, sandbox_spec
from support.upstream import ALIAS

RELOADS = 100
CLIENTS = 4
PER_SECOND = 50  # of each client

LOAD = """
import http.client, json, sys, threading, time
port, clients, rate = int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
stop, counts, wrong, events = threading.Event(), [0] * clients, [], [0]
def connect():
    c = http.client.HTTPConnection("10.200.0.1", 3128, timeout=20)
    c.set_tunnel("host.openshell.internal", port)
    return c
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
threads.append(threading.Thread(target=guarded, args=(listen,)))
for t in threads: t.start()
print("begun", flush=True)
sys.stdin.readline()
stop.set()
for t in threads: t.join()
print(json.dumps({"counts": counts, "wrong": wrong[:5], "events": events[0]}))
"""


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


def policy(port: int, number: int) -> str:
    return (
        "network_policies:\n  load:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {port}, protocol: rest, enforcement: enforce, rules: [\n"
        "          {allow: {method: GET, path: /events}}, {allow: {method: GET, path: /ask/*}},\n"
        f"          {{allow: {{method: GET, path: /extra/{number}}}}}]}}\n"
        f"    binaries: [{{path: {PYTHON}}}]\n"
    )


@pytest.mark.timeout(180)
def test_a_hundred_reloads_refuse_nothing(client: SandboxClient, streaming_port: int) -> None:
    policies = PolicyClient(client)
    spec = sandbox_spec(network=policy(streaming_port, 0))
    with ready_sandbox(client, spec) as ref, ThreadPoolExecutor(1) as pool:
        argv = [PYTHON, "-c", LOAD, str(streaming_port), str(CLIENTS), str(PER_SECOND)]
        go = threading.Event()
        begun = threading.Event()
        running = pool.submit(drive, client, ref.id, argv, begun, go)
        assert begun.wait(20)
        version = 0
        for number in range(1, RELOADS + 1):
            message = policy_to_proto(
                parse_policy(FILESYSTEM + policy(streaming_port, number), source="test")
            )
            version = policies.replace(ref.name, message, workspace="default").version
            while policies.revision(ref.name, version, workspace="default").revision.status == 1:
                pass
        go.set()
        told = json.loads(running.result(timeout=60))
    assert version == RELOADS + 1
    assert told["wrong"] == []
    assert all(count > RELOADS / 10 for count in told["counts"])
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
