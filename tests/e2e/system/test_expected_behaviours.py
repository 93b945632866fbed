"""What an agent sees at the network, scenario by scenario, by the explicit proxy and by capture.

One row for each scenario of the contract's list. Rows that another module tries end to end are named in
`ELSEWHERE`, and it is checked that they are there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from openshell.codec.policy import policy_to_proto
from openshell.policy.parse import parse_policy
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import LogClient, PolicyClient, ProviderClient
from openshell.sdk.refs import SandboxRef
from support import inside
from support.certificates import make_certificates
from support.echo_server import Echo, echo_server
from support.private_gateway import (
    FILESYSTEM,
    PREFIX,
    PYTHON,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
    wait_until,
)
from support.streams import stream_server
from support.upstream import ALIAS, Upstream, http_upstream

ROOT = Path(__file__).parents[3]
CLIENT = Path(inside.__file__).read_text()
SECRET = "expected-behaviours-secret-value"
OTHER_PROGRAM = "/sandbox/python"

ELSEWHERE = {
    "wildcard host resolving to a private address": "tests/unit/egress/test_destination.py::test_plan",
    "a question to inference.local": "tests/e2e/inference/test_inference_in_a_sandbox.py::test_a_dummy_key_is_enough",
    "another path of inference.local": "tests/e2e/inference/test_inference_in_a_sandbox.py"
    "::test_what_is_no_question_to_a_model_is_refused",
    "curl by its own name": "tests/e2e/tools/test_tools.py::test_it_works_with_what_it_needs",
}


@dataclass
class World:
    """A sandbox with its upstreams, and what reached them."""

    client: SandboxClient
    plain: Upstream
    tls: Upstream
    other: Upstream
    stream_port: int
    echo: Echo
    sandbox: SandboxRef = field(init=False)

    def fill(self, text: str) -> str:
        for word, value in (
            ("<plain>", f"{ALIAS}:{self.plain.port}"),
            ("<tls>", f"{ALIAS}:{self.tls.port}"),
            ("<other>", f"{ALIAS}:{self.other.port}"),
            ("<port>", str(self.plain.port)),
            ("<tls port>", str(self.tls.port)),
            ("<other port>", str(self.other.port)),
            ("<stream port>", str(self.stream_port)),
            ("<echo port>", str(self.echo.port)),
        ):
            text = text.replace(word, value)
        return text

    def ask(self, *steps: dict[str, str], program: str = PYTHON) -> list[str]:
        prepared = [{key: self.fill(value) for key, value in step.items()} for step in steps]
        ran = self.client.exec(
            self.sandbox.id,
            [program, "-S", "-c", CLIENT],
            env={"PYTHONHOME": PREFIX, "LD_LIBRARY_PATH": f"{PREFIX}/lib"},
            stdin=json.dumps(prepared).encode(),
            timeout_seconds=40,
        )
        assert ran.exit_code == 0, ran.stderr
        results: list[str] = json.loads(ran.stdout)
        return results

    def seen(self) -> list[str]:
        every = (self.plain, self.tls, self.other)
        return [f"{item.method} {item.path}" for up in every for item in up.received]

    def events(self) -> list[str]:
        lines = LogClient(self.client).read(self.sandbox.id, workspace="default", lines=5000)
        return [line.message for line in lines]

    def follow(self, network: str) -> None:
        policies = PolicyClient(self.client)
        message = policy_to_proto(parse_policy(FILESYSTEM + network, source="test"))
        version = policies.replace(self.sandbox.name, message, workspace="default").version

        def enforced() -> bool:
            answer = policies.revision(self.sandbox.name, version, workspace="default")
            return answer.active_version == version

        wait_until(enforced)


def endpoint(port: str, more: str, host: str = ALIAS) -> str:
    return f"      - {{host: '{host}', port: {port}{more}}}\n"


REST = ", protocol: rest, enforcement: enforce"
BOUND = f"{REST}, access: read-write, credential_binding: {{provider: work}}"
POLICY = (
    "network_policies:\n  web:\n    endpoints:\n"
    + endpoint("<port>", f"{REST}, access: read-only")
    + endpoint("<tls port>", BOUND)
    + endpoint("<other port>", f"{REST}, access: full")
    + endpoint("6443", f"{REST}, access: full")
    + endpoint("80", f"{REST}, access: full", "169.254.169.254")
    + endpoint("<port>", f"{REST}, access: full", "127.0.0.1")
    + f"    binaries: [{{path: {PYTHON}}}]\n"
)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("certificates")
    paths = directory / "ca.pem", directory / "key.pem"
    make_certificates(*paths, ALIAS)
    return paths


@pytest.fixture(scope="module")
def gateway(certificate: tuple[Path, Path]) -> Iterator[PrivateGateway]:
    toml = f'[openshell.drivers.local]\nupstream_ca_bundle = "{certificate[0]}"\n'
    with PrivateGateway(toml=toml) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def world(client: SandboxClient, certificate: tuple[Path, Path]) -> Iterator[World]:
    ProviderClient(client).create("work", "generic", {"TOKEN": SECRET}, workspace="default")
    with (
        http_upstream() as plain,
        http_upstream(certificate[1]) as tls,
        http_upstream() as other,
        stream_server() as stream_port,
        echo_server() as echo,
    ):
        made = World(client, plain, tls, other, stream_port, echo)
        spec = sandbox_spec(network=made.fill(POLICY), providers=("work",))
        with ready_sandbox(client, spec) as made.sandbox:
            copied = client.exec(made.sandbox.id, ["cp", PYTHON, OTHER_PROGRAM])
            assert copied.exit_code == 0, copied.stderr
            yield made


DOORS = ("forward", "tunnel", "tls", "captured", "captured tls")
PLAIN, TLS = ("forward", "tunnel", "captured"), ("tls", "captured tls")


def through(door: str, request: str, *, target: str = "") -> dict[str, str]:
    """One step that sends `request` by a door; `<at>` is the upstream's authority."""
    secure = door.endswith("tls")
    at = target or ("<tls>" if secure else "<plain>")
    host, _, port = at.partition(":") if target else (ALIAS, "", "")
    port = port or ("<tls port>" if secure else "<port>")
    text = request.replace("<at>", at)
    match door:
        case "forward":
            method, path, rest = text.split(" ", 2)
            return {"op": "raw", "send": f"{method} http://{at}{path} {rest}"}
        case "tunnel":
            return {"op": "tunnel", "target": at, "send": text}
        case "tls":
            return {"op": "tunnel", "target": at, "sni": ALIAS, "send": text}
        case "captured":
            return {"op": "raw", "host": host, "port": port, "send": text}
        case _:
            return {"op": "direct_tls", "host": host, "port": port, "sni": ALIAS, "send": text}


def http(line: str, fields: str = "", body: str = "", close: str = "Connection: close\r\n") -> str:
    return f"{line} HTTP/1.1\r\nHost: <at>\r\n{fields}{close}\r\n{body}"


@dataclass(frozen=True)
class Row:
    """A request by some doors: the answer's status (0 is none), words in it, what reaches an upstream."""

    request: str
    status: int
    words: tuple[str, ...] = ()
    sent: tuple[str, ...] = ()
    doors: tuple[str, ...] = DOORS
    target: str = ""
    program: str = PYTHON


LENGTHS = "Content-Length: 5\r\nContent-Length: 6\r\n"
BOTH = "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"
JSON_TOKEN = '{"a": "$TOKEN"}'
ROWS = {
    "an allowed request": Row(http("GET /a"), 200, ("GET /a",), ("GET /a",)),
    "the same by another program": Row(
        http("GET /a"), 403, ("policy_denied",), doors=("forward", "tunnel", "tls"), program=OTHER_PROGRAM
    ),
    "an undeclared host": Row(
        http("GET /a"), 403, ("policy_denied",), doors=("forward", "tunnel"), target="elsewhere.example.com:80"
    ),
    "the metadata service, though declared": Row(
        http("GET /a"), 403, ("ssrf_denied",), doors=("forward", "tunnel"), target="169.254.169.254:80"
    ),
    "loopback, though declared": Row(
        http("GET /a"), 403, ("ssrf_denied",), doors=("forward", "tunnel"), target="127.0.0.1:<port>"
    ),
    "a control-plane port, though declared": Row(
        http("GET /a"), 403, ("ssrf_denied",), doors=("forward", "tunnel"), target=f"{ALIAS}:6443"
    ),
    "reading where only reading is allowed": Row(http("GET /r"), 200, (), ("GET /r",), PLAIN),
    "writing where only reading is allowed": Row(
        http("POST /r", "Content-Length: 0\r\n"), 403, ("policy_denied", '"layer": "l7"', "rule_missing"), doors=PLAIN
    ),
    "a path with dots": Row(http("GET /public/../secret"), 200, (), ("GET /secret",)),
    "two lengths": Row(http("POST /a", LENGTHS, "12345"), 400),
    "length and coding": Row(http("POST /a", BOTH, "0\r\n\r\n"), 400),
    "a placeholder to the bound host": Row(
        http("GET /k", "X-Key: $TOKEN\r\n"), 200, (), ("GET /k",), TLS
    ),
    "the same placeholder to another host": Row(
        http("GET /k", "X-Key: $TOKEN\r\n"), 403, ("credential_endpoint_mismatch",),
        doors=("forward", "tunnel", "captured"), target=f"{ALIAS}:<other port>",
    ),
    "a placeholder of an unknown key": Row(
        http("GET /k", "X-Key: openshell:resolve:env:NOBODYS\r\n"), 500, ("credential_",), doors=TLS
    ),
    "a placeholder in a body without opt-in": Row(
        http("POST /k", "Content-Type: application/json\r\nContent-Length: <length>\r\n", JSON_TOKEN), -1, doors=TLS
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ROWS)
def test_a_request(world: World, name: str) -> None:
    row = ROWS[name]
    before = world.seen()
    request = row.request
    if "<length>" in request:
        ran = world.client.exec(world.sandbox.id, ["printenv", "TOKEN"])
        length = len(JSON_TOKEN) - len("$TOKEN") + len(ran.stdout.strip())
        request = request.replace("<length>", str(length))
    answers = world.ask(
        *(through(door, request, target=row.target) for door in row.doors), program=row.program
    )
    for door, answer in zip(row.doors, answers, strict=True):
        if row.status == -1:
            assert not answer.startswith("HTTP/1.1 2"), (door, answer)
        else:
            assert answer.startswith(f"HTTP/1.1 {row.status} "), (door, answer)
        assert all(word in answer for word in row.words), (door, answer)
        assert SECRET not in answer, door
    after = world.seen()
    for line in row.sent:
        assert after.count(line) - before.count(line) == len(row.doors), line
    assert len(after) - len(before) == len(row.sent) * len(row.doors)


def test_the_bound_host_got_the_secret_and_no_other(world: World) -> None:
    world.ask(through("tls", http("GET /bound", "X-Key: $TOKEN\r\n")))
    assert world.tls.received[-1].headers["X-Key"] == SECRET
    for up in (world.plain, world.other):
        assert not any(SECRET in str(item) for item in up.received)


def test_the_agents_variable_is_a_placeholder(world: World) -> None:
    ran = world.client.exec(world.sandbox.id, ["printenv", "TOKEN"])
    assert ran.stdout.startswith("openshell:resolve:env:")
    assert SECRET not in ran.stdout


def test_of_two_pipelined_absolute_requests_each_is_judged(world: World) -> None:
    """Keep-alive is ours: the second one is a request like any other, never bytes that ride along."""
    first = http("GET http://<plain>/first", close="").replace("<at>", "<plain>")
    second = http("POST http://<plain>/second", "Content-Length: 0\r\n").replace("<at>", "<plain>")
    before = world.seen()
    (answer,) = world.ask({"op": "raw", "send": first + second})
    assert answer.startswith("HTTP/1.1 200 ")
    assert sorted(world.seen()) == sorted([*before, "GET /first"])


def test_an_allowed_connection_is_an_event(world: World) -> None:
    world.ask(through("tls", http("GET /logged")))
    wait_until(lambda: any("NET:OPEN" in e and f"ALLOWED {PYTHON}" in e for e in world.events()))
    wait_until(lambda: any("/logged" in event and "ALLOWED" in event for event in world.events()))


def test_a_direct_dial_to_an_address_is_refused_and_recorded(world: World) -> None:
    before = len(world.seen())
    control, refused = world.ask(
        through("captured", http("GET /a")),
        {"op": "raw", "host": "192.0.2.55", "port": "7777", "send": "no HTTP\r\n"},
    )
    assert control.startswith("HTTP/1.1 200 ")
    assert "HTTP/1.1 2" not in refused
    assert len(world.seen()) == before + 1
    wait_until(lambda: any("DENIED" in e and "192.0.2.55:7777" in e for e in world.events()))


STREAMS = """
import json, os, socket, sys, threading
stream, echo = sys.argv[1], sys.argv[2]
ended = {}
def exactly(file, size):
    data = file.read(size)
    if len(data) < size: raise EOFError
    return data
def tunnel(port, text):
    s = socket.create_connection(("10.200.0.1", 3128), 20)
    file = s.makefile("rb")
    s.sendall(f"CONNECT host.openshell.internal:{port} HTTP/1.1\\r\\nHost: x:{port}\\r\\n\\r\\n".encode())
    status = file.readline()
    while file.readline() not in (b"\\r\\n", b""): pass
    if b" 200 " not in status: raise SystemExit(status.decode())
    s.sendall(text.replace("<at>", f"host.openshell.internal:{port}").encode("latin-1"))
    return s, file
def events(path):
    s, file = tunnel(stream, f"GET {path} HTTP/1.1\\r\\nHost: <at>\\r\\n\\r\\n")
    while b"tick" not in file.readline(): pass
    return s, file
def raw():
    s, file = tunnel(os.environ["RAW"], "begin\\n")
    assert b"tick" in file.readline()
    return s, file
def websocket():
    s, file = tunnel(echo, "GET /chat HTTP/1.1\\r\\nHost: <at>\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n"
        "Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\\r\\n\\r\\n")
    while file.readline() != b"\\r\\n": pass
    s.sendall(b"\\x81\\x82\\0\\0\\0\\0hi")
    assert exactly(file, 4)[2:] == b"hi"
    return s, file
def until_end(name, s, file):
    s.settimeout(30)
    try:
        if name == "websocket":
            head = exactly(file, 2)
            ended[name] = int.from_bytes(exactly(file, head[1])[:2], "big")
        else:
            while file.readline(): pass
            ended[name] = "closed"
    except (EOFError, ConnectionError): ended[name] = "closed"
    except TimeoutError: ended[name] = "open"
kept = events("/kept")
threads = []
for name, opened in (("events", events("/revoked")), ("raw", raw()), ("websocket", websocket())):
    threads.append(threading.Thread(target=until_end, args=(name, *opened)))
    threads[-1].start()
open("/tmp/begun", "w").close()
for t in threads: t.join()
# What came while the others ended is more than the buffers hold only if it lives on.
kept[0].settimeout(10)
os.unlink("/tmp/begun")
while not os.path.exists("/tmp/ask"): pass
lines = [kept[1].readline() for _ in range(2000)]
ended["kept"] = "alive" if all(lines) else "closed"
print(json.dumps(ended))
"""


SOCKET = (
    ", protocol: websocket, enforcement: enforce, rules: [{allow: {method: GET, path: /chat}},"
    " {allow: {method: WEBSOCKET_TEXT, path: /chat}}]"
)


def test_a_policy_update_ends_what_it_no_longer_allows_and_nothing_else(world: World) -> None:
    with stream_server() as raw_port, ThreadPoolExecutor(1) as pool:
        kept = (
            "network_policies:\n  streams:\n    endpoints:\n"
            + endpoint("<stream port>", f"{REST}, rules: [{{allow: {{method: GET, path: /kept}}}}%s]")
            + "%s"
            + f"    binaries: [{{path: {PYTHON}}}]\n"
        )  # fmt: skip
        more = endpoint("<echo port>", SOCKET) + endpoint(str(raw_port), "")
        world.follow(world.fill(kept % (", {allow: {method: GET, path: /revoked}}", more)))
        argv = [PYTHON, "-c", STREAMS, str(world.stream_port), str(world.echo.port)]
        running = pool.submit(
            world.client.exec,
            world.sandbox.id,
            argv,
            env={"RAW": str(raw_port)},
            timeout_seconds=60,
        )
        try:

            def begun() -> bool:
                look = world.client.exec(world.sandbox.id, ["test", "-e", "/tmp/begun"])
                return running.done() or look.exit_code == 0

            wait_until(begun, seconds=20)
            assert not running.done(), running.result()
            world.follow(world.fill(kept % ("", "")))
            world.client.exec(world.sandbox.id, ["touch", "/tmp/ask"])
            ran = running.result(timeout=50)
            assert ran.exit_code == 0, ran.stderr
            told = json.loads(ran.stdout)
            assert told == {"events": "closed", "raw": "closed", "websocket": 1012, "kept": "alive"}
            ends = [event for event in world.events() if "NET:CLOSE" in event]
            assert len(ends) == 3, ends
            assert all("[reason:the policy changed: " in event for event in ends)
            # A retry follows the new policy.
            target = f"{ALIAS}:{world.stream_port}"
            (answer,) = world.ask(through("tunnel", http("GET /revoked"), target=target))
            assert answer.startswith("HTTP/1.1 403 ")
        finally:
            world.follow(world.fill(POLICY))


def test_rows_tried_elsewhere_are_there() -> None:
    for row, place in ELSEWHERE.items():
        path, _, name = place.partition("::")
        text = (ROOT / path).read_text()
        assert re.search(rf"^(async )?def {name}\(", text, re.MULTILINE), row
