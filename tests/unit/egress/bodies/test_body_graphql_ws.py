"""Messages of GraphQL over WebSocket."""

from __future__ import annotations

import pytest

from openshell.egress.bodies.graphql_ws import read_graphql_message
from openshell.policy.messages import GraphqlCall


@pytest.mark.parametrize("kind", ["subscribe", "start"])
def test_operations(kind: str) -> None:
    text = f'{{"type": "{kind}", "id": "1", "payload": {{"query": "mutation {{ drop }}"}}}}'
    found = read_graphql_message(text)
    assert found.graphql is not None
    assert found.graphql.operations == (GraphqlCall("mutation", "", ("drop",)),)
    assert not found.is_control


@pytest.mark.parametrize(
    "kind", ["connection_init", "connection_terminate", "ping", "pong", "complete", "stop"]
)
def test_control(kind: str) -> None:
    assert read_graphql_message(f'{{"type": "{kind}"}}').is_control


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "invalid JSON"),
        ("[]", "no type"),
        ('{"type": 1}', "no type"),
        ('{"type": "next", "id": "1", "payload": {}}', "unknown type"),
        ('{"type": "PING"}', "unknown type"),
        ('{"type": "subscribe", "payload": {"query": "{a}"}}', "no id"),
        ('{"type": "subscribe", "id": "", "payload": {"query": "{a}"}}', "no id"),
        ('{"type": "subscribe", "id": "1", "payload": []}', "no payload"),
        ('{"type": "subscribe", "id": "1", "payload": {}}', "neither"),
        ('{"type": "ping", "type": "subscribe"}', "twice"),
    ],
)
def test_everything_else_is_refused(text: str, error: str) -> None:
    found = read_graphql_message(text)
    assert found.graphql is not None
    assert error in found.graphql.error
    assert not found.is_control
