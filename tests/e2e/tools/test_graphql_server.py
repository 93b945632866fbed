"""A GraphQL server of other people's making, asked from a sandbox over HTTP and over a WebSocket."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets

from support.private_gateway import PYTHON
from support.strawberry_server import Shop, shop_server
from support.tool_box import ToolBox
from support.upstream import ALIAS

CURL = "/usr/bin/curl"
SUBSCRIBE = """
import importlib.util, json, sys
# Only the library itself is shown inside, not the directory that it is in.
spec = importlib.util.spec_from_file_location("websockets", sys.argv[1] + "/__init__.py")
sys.modules["websockets"] = library = importlib.util.module_from_spec(spec)
spec.loader.exec_module(library)
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect
heard = []
with connect(sys.argv[2], subprotocols=["graphql-transport-ws"], open_timeout=20) as socket:
    socket.send(json.dumps({"type": "connection_init"}))
    socket.recv(timeout=20)
    socket.send(json.dumps({"type": "subscribe", "id": "1", "payload": {"query": sys.argv[3]}}))
    try:
        while True:
            message = json.loads(socket.recv(timeout=20))
            if message["type"] == "complete": break
            heard.append(message["payload"]["data"])
    except ConnectionClosed as end:
        heard.append(end.rcvd.code)
print(json.dumps(heard))
"""


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with shop_server() as shop:
        yield shop


def policy(shop: Shop, protocol: str, program: str, *rules: str) -> str:
    return (
        "network_policies:\n  shop:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {shop.port}, path: /, protocol: {protocol},\n"
        f"         enforcement: enforce, rules: [{', '.join(rules)}]}}\n"
        f"    binaries: [{{path: {program}}}]\n"
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl: package curl (make system)")
def test_a_query_runs_and_a_mutation_does_not(box: ToolBox, shop: Shop) -> None:
    def ask(query: str) -> dict[str, object]:
        body, kind = json.dumps({"query": query}), "Content-Type: application/json"
        ran = box.run(CURL, "-sS", "-H", kind, "-d", body, f"http://{ALIAS}:{shop.port}/")
        answer: dict[str, object] = json.loads(ran.stdout)
        return answer

    query = "{allow: {operation_type: query, fields: [price]}}"
    box.follow(policy(shop, "graphql", CURL, query, "{allow: {operation_type: mutation}}"))
    shop.ran.clear()
    assert ask('mutation { buy(item: "apple") }') == {"data": {"buy": "apple"}}
    box.follow(policy(shop, "graphql", CURL, query))
    assert ask('{ price(item: "apple") }') == {"data": {"price": 5}}
    refused = ask('mutation { buy(item: "apple") }')
    assert refused["error"] == "policy_denied"
    assert "mutation" in str(refused["suggestion"])
    assert shop.ran == ["buy", "price"]


def test_a_subscription_runs_and_another_operation_does_not(box: ToolBox, shop: Shop) -> None:
    library = str(Path(websockets.__file__).parent)

    def ask(query: str) -> object:
        url = f"ws://{ALIAS}:{shop.port}/"
        ran = box.run(PYTHON, "-c", SUBSCRIBE, library, url, query)
        assert ran.exit_code == 0, ran.stderr
        return json.loads(ran.stdout)

    shake = "{allow: {method: GET, path: /}}"
    prices = "{allow: {operation_type: subscription, fields: [prices]}}"
    box.follow(policy(shop, "websocket", PYTHON, shake, prices))
    shop.ran.clear()
    assert ask("subscription { prices(count: 3) }") == [{"prices": n} for n in range(3)]
    assert ask('mutation { buy(item: "apple") }') == [1008]
    assert shop.ran == ["prices"]
