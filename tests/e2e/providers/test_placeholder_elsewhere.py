"""A placeholder at a host that its credential is not for: refused wherever it stands in the request.

The policy allows both hosts alike, body placement included, so that it is the binding alone that
refuses. Every place is first shown to take the credential at the host that it is for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from e2e.providers.asking import OTHER_NAME, Talker, asker, document, endpoint, item
from openshell.sdk.client import SandboxClient
from openshell.sdk.profiles import ProfileClient
from openshell.sdk.providers import ProviderClient
from support.private_gateway import PYTHON, ready_sandbox, sandbox_spec
from support.upstream import ALIAS, Received, Upstream

SECRET = "hunter2-not-to-be-seen"
PLACED = ", request_body_credential_rewrite: true"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}
TEXT = {"Content-Type": "text/plain"}

# The request; what of it the upstream must have got with the value in its place.
PLACES: dict[str, tuple[dict[str, Any], Any]] = {
    "bearer": (
        {"headers": {"Authorization": "Bearer $WORK_KEY"}},
        lambda got: got.headers["Authorization"] == f"Bearer {SECRET}",
    ),
    "header": (
        {"headers": {"X-Api-Key": "$WORK_KEY"}},
        lambda got: got.headers["X-Api-Key"] == SECRET,
    ),
    "Basic, the password": (
        {"basic": "me:$WORK_KEY"},
        lambda got: basic(got) == f"me:{SECRET}",
    ),
    "Basic, the user": (
        {"basic": "$WORK_KEY:x"},
        lambda got: basic(got) == f"{SECRET}:x",
    ),
    "query": ({"path": "/q?key=$WORK_KEY"}, lambda got: got.path == f"/q?key={SECRET}"),
    "path": ({"path": "/p/$WORK_KEY/x"}, lambda got: got.path == f"/p/{SECRET}/x"),
    "part of a segment": ({"path": "/bot$WORK_KEY"}, lambda got: got.path == f"/bot{SECRET}"),
    "form": (
        {"method": "POST", "body": "a=1&key=$WORK_KEY", "headers": FORM},
        lambda got: got.body == f"a=1&key={SECRET}".encode(),
    ),
    "JSON": (
        {"method": "POST", "body": '{"key": "$WORK_KEY"}', "headers": JSON},
        lambda got: json.loads(got.body) == {"key": SECRET},
    ),
    "text": (
        {"method": "POST", "body": "key $WORK_KEY", "headers": TEXT},
        lambda got: got.body == f"key {SECRET}".encode(),
    ),
}


def basic(got: Received) -> str:
    return base64.b64decode(got.headers["Authorization"].removeprefix("Basic ")).decode()


@pytest.fixture(scope="module")
def process(client: SandboxClient, upstream: Upstream, elsewhere: Upstream) -> Iterator[Talker]:
    """Something inside that holds the placeholder."""
    text = document("held", endpoint(upstream, more=PLACED))
    assert ProfileClient(client).import_([item(text)], workspace="default").imported
    ProviderClient(client).create("held", "held", {"WORK_KEY": SECRET}, workspace="default")
    spec = sandbox_spec(
        network="network_policies:\n  others:\n    endpoints:\n"
        f"      - {endpoint(elsewhere, host=OTHER_NAME, more=PLACED)}\n"
        f"      - {endpoint(elsewhere, more=PLACED)}\n"
        f"      - {endpoint(upstream, host=OTHER_NAME, more=PLACED)}\n"
        f"    binaries: [{{path: {PYTHON}}}]\n",
        providers=("held",),
    )
    with ready_sandbox(client, spec) as ref, asker(client, ref.id) as talker:
        yield talker


def send(process: Talker, place: str, request: dict[str, Any]) -> tuple[int, str]:
    path = request.get("path", "/ok")
    rest = {key: value for key, value in request.items() if key != "path"}
    return process.ask(f"http://{place}{path}", **rest)


@pytest.mark.parametrize(("request_", "arrived"), PLACES.values(), ids=PLACES)
def test_it_is_placed_where_it_is_for(
    process: Talker, upstream: Upstream, request_: dict[str, Any], arrived: Any
) -> None:
    status, said = send(process, f"{ALIAS}:{upstream.port}", request_)
    assert status == 200, said
    assert arrived(upstream.received[-1])


# The same server by another name, and another port of the same host, count as elsewhere, too.
@pytest.mark.parametrize("where", ["another host", "the same port", "another port"])
@pytest.mark.parametrize(("request_", "_arrived"), PLACES.values(), ids=PLACES)
def test_it_is_refused_elsewhere(
    process: Talker,
    upstream: Upstream,
    elsewhere: Upstream,
    request_: dict[str, Any],
    _arrived: Any,
    where: str,
) -> None:
    place, server = {
        "another host": (f"{OTHER_NAME}:{elsewhere.port}", elsewhere),
        "the same port": (f"{OTHER_NAME}:{upstream.port}", upstream),
        "another port": (f"{ALIAS}:{elsewhere.port}", elsewhere),
    }[where]
    before = len(server.received)
    assert process.ask(f"http://{place}/control")[0] == 200, "the policy allows the place"
    status, said = send(process, place, request_)
    assert status == 403
    assert json.loads(said)["error"] == "credential_endpoint_mismatch"
    assert SECRET not in said
    assert "resolve" not in said
    assert [got.path for got in server.received[before:]] == ["/control"]
