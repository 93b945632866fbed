"""A WebSocket library in a sandbox works with the rules it needs, and fails closed one rule short."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets

from openshell.codec.policy import policy_to_proto
from openshell.policy.parse import parse_policy
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import PolicyClient
from openshell.sdk.refs import SandboxRef
from support.echo_server import Echo, echo_server
from support.private_gateway import FILESYSTEM, PREFIX, PYTHON, ready_sandbox, sandbox_spec
from support.upstream import ALIAS

LIBRARY = Path(websockets.__file__).parent
# The library finds the proxy by itself, as any program does.
CLIENT = """
import importlib.util, json, sys
# Only the library itself is shown inside, not the directory that it is in.
spec = importlib.util.spec_from_file_location("websockets", sys.argv[1] + "/__init__.py")
sys.modules["websockets"] = library = importlib.util.module_from_spec(spec)
spec.loader.exec_module(library)
from websockets.exceptions import ConnectionClosed, InvalidProxyStatus, InvalidStatus
from websockets.sync.client import connect
heard = []
try:
    with connect(sys.argv[2], open_timeout=20) as socket:
        for message in sys.argv[3:]:
            socket.send(message)
            heard.append(socket.recv(timeout=20))
    heard.append(socket.protocol.close_code)
except ConnectionClosed as end:
    heard.append(end.rcvd.code if end.rcvd else None)
except (InvalidStatus, InvalidProxyStatus) as refused:
    heard.append(refused.response.status_code)
print(json.dumps(heard))
"""
HANDSHAKE = "{allow: {method: GET, path: /chat}}"
TEXT = "{allow: {method: WEBSOCKET_TEXT, path: /chat}}"
QUERY = "{allow: {operation_type: query, fields: [user]}}"
ASKING = '{"type": "subscribe", "id": "1", "payload": {"query": "{ user { name } }"}}'
CHANGING = '{"type": "subscribe", "id": "1", "payload": {"query": "mutation { drop }"}}'


def policy(port: int, *rules: str, program: str = PYTHON) -> str:
    return (
        "network_policies:\n  chat:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {port}, protocol: websocket, enforcement: enforce,\n"
        f"         rules: [{', '.join(rules)}]}}\n"
        f"    binaries: [{{path: {program}}}]\n"
    )


@pytest.fixture(scope="module")
def echo() -> Iterator[Echo]:
    with echo_server() as echo:
        yield echo


@pytest.fixture(scope="module")
def box(client: SandboxClient, echo: Echo) -> Iterator[SandboxRef]:
    spec = sandbox_spec(network=policy(echo.port, HANDSHAKE, TEXT))
    paths = [str(LIBRARY), *([] if PREFIX.startswith("/usr") else [PREFIX])]
    spec.template.driver_config.update({"local": {"host_paths": paths}})
    with ready_sandbox(client, spec) as ref:
        yield ref


def follow(client: SandboxClient, ref: SandboxRef, network: str) -> None:
    """Put a policy in force and wait until the sandbox has it."""
    policies = PolicyClient(client)
    message = policy_to_proto(parse_policy(FILESYSTEM + network, source="test"))
    version = policies.replace(ref.name, message, workspace="default").version
    while policies.revision(ref.name, version, workspace="default").revision.status == 1:
        pass


def talk(client: SandboxClient, ref: SandboxRef, echo: Echo, *messages: str) -> list[object]:
    ran = client.exec(
        ref.id,
        [PYTHON, "-c", CLIENT, str(LIBRARY), f"ws://{ALIAS}:{echo.port}/chat", *messages],
        timeout_seconds=40,
    )
    assert ran.exit_code == 0, ran.stderr
    heard = json.loads(ran.stdout)
    assert isinstance(heard, list)
    return heard


ENOUGH = {
    "text": ((HANDSHAKE, TEXT), ("hello", "ü" * 1000)),
    "GraphQL": ((HANDSHAKE, QUERY), ('{"type": "connection_init"}', ASKING)),
}


@pytest.mark.parametrize(("rules", "messages"), ENOUGH.values(), ids=ENOUGH.keys())
def test_it_works_with_what_it_needs(
    client: SandboxClient,
    box: SandboxRef,
    echo: Echo,
    rules: tuple[str, ...],
    messages: tuple[str, ...],
) -> None:
    follow(client, box, policy(echo.port, *rules))
    assert talk(client, box, echo, *messages) == [*messages, 1000]


SHORT = {
    "no handshake": ((TEXT,), PYTHON, "hello", 403, False),
    "no text": ((HANDSHAKE,), PYTHON, "hello", 1008, True),
    "another operation": ((HANDSHAKE, QUERY), PYTHON, CHANGING, 1008, True),
    "another program": ((HANDSHAKE, TEXT), "/usr/bin/curl", "hello", 403, False),
}


@pytest.mark.parametrize(
    ("rules", "program", "message", "told", "opens"), SHORT.values(), ids=SHORT.keys()
)
def test_it_fails_closed_one_rule_short(
    client: SandboxClient,
    box: SandboxRef,
    echo: Echo,
    rules: tuple[str, ...],
    program: str,
    message: str,
    told: int,
    opens: bool,
) -> None:
    follow(client, box, policy(echo.port, HANDSHAKE, TEXT))
    assert talk(client, box, echo, "probe") == ["probe", 1000]
    follow(client, box, policy(echo.port, *rules, program=program))
    before = len(echo.paths)
    assert talk(client, box, echo, message) == [told]
    assert echo.messages[-1] == "probe"
    assert len(echo.paths) == before + opens
