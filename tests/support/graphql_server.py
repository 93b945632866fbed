"""A GraphQL server for tests: graphql-core executes a schema; `answer` serves one request of any form.

It takes what servers in use take, the query of a POST included, so that a test can show what would run.
"""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from graphql import build_schema, graphql_sync

__all__ = ["GraphqlServer"]

_SCHEMA = build_schema("""
type Query { me: String, secret: String, echo(text: String): String }
type Mutation { drop(id: ID): String, rename(id: ID): String }
""")


class GraphqlServer:
    """What ran, by root field."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.persisted = {"hash-of-me": "{ me }", "hash-of-drop": "mutation { drop }"}

    def __getattr__(self, name: str) -> object:
        if name not in ("me", "secret", "echo", "drop", "rename"):
            raise AttributeError(name)

        def resolve(_info: object, **arguments: str) -> str:
            self.ran.append(name)
            return arguments.get("text", name)

        return resolve

    def execute(self, method: str, target: str, body: bytes) -> bytes:
        given: dict[str, Any] = dict(parse_qsl(urlsplit(target).query))
        if method == "POST":
            document = json.loads(body)
            if isinstance(document, list):
                return json.dumps([self._run(item) for item in document]).encode()
            given = {**document, **given}
        for name in ("extensions", "variables"):
            if isinstance(given.get(name), str):
                given[name] = json.loads(given[name])
        return json.dumps(self._run(given)).encode()

    def _run(self, item: dict[str, Any]) -> object:
        extensions = item.get("extensions") or {}
        hashed = extensions.get("persistedQuery", {}).get("sha256Hash") or item.get("id")
        query = item.get("query") or self.persisted.get(str(hashed), "")
        name = item.get("operationName")
        result = graphql_sync(
            _SCHEMA,
            str(query),
            root_value=self,
            operation_name=str(name) if name else None,
            variable_values=item.get("variables"),
        )
        return result.formatted
