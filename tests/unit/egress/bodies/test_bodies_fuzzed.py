"""The fuzz targets for bodies, driven with texts that are almost right."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, cast

from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.fuzz_bodies import (
    fuzz_graphql,
    fuzz_graphql_get,
    fuzz_graphql_message,
    fuzz_media_type,
    fuzz_rpc,
)
from openshell.policy.decide import EndpointConfig

RPC_KEYS = [
    "jsonrpc",
    "method",
    "id",
    "params",
    "result",
    "error",
    "name",
    "Method",
    "paramſ",
    "NAME",
]
RPC_VALUES = ["2.0", "tools/call", "read", "drop", "1.0"]
GRAPHQL_KEYS = [
    "query", "Query", "operationName", "id", "documentId", "extensions", "persistedQuery",
    "sha256Hash", "sha256hash", "variables", "type", "payload",
]  # fmt: skip
GRAPHQL_VALUES = [
    "{me}", "mutation D{drop}", "query A{a} mutation B{b}", "B", "A", "h", "", "{...F} fragment F on Q{a}",
    "subscribe", "ping",
]  # fmt: skip


def written(keys: list[str], values: list[str]) -> st.SearchStrategy[str]:
    """JSON as text, so that keys can repeat."""
    leaves = st.sampled_from(values).map(json.dumps) | st.sampled_from(["1", "null", "true", "{}"])

    def inside(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        name = st.sampled_from(keys).map(json.dumps) | st.just('"\\u0071uery"')
        pair = st.builds("{}:{}".format, name, inner)
        return st.lists(pair, max_size=5).map(lambda p: "{" + ",".join(p) + "}") | st.lists(
            inner, max_size=3
        ).map(lambda i: "[" + ",".join(i) + "]")

    return st.recursive(leaves, inside, max_leaves=14)


def calls(params: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Calls that are mostly right."""
    more = st.sampled_from(["", ',"Method":"x"', ',"method":"x"', ',"id":2', ',"ID":2', ',"x":[]'])
    template = '{{"jsonrpc":"2.0","id":1,"method":"{}","params":{}{}}}'
    one = st.builds(template.format, st.sampled_from(["tools/call", "ping"]), params, more)
    return one | st.lists(one, max_size=3).map(lambda many: "[" + ",".join(many) + "]")


@given(written(RPC_KEYS, RPC_VALUES) | calls(written(RPC_KEYS, RPC_VALUES)), st.booleans())
@example('{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}', True)
@example('{"jsonrpc":"2.0","id":1,"method":"tools/call","paramſ":{"name":"a"}}', False)
def test_calls_are_the_same_to_every_reader(text: str, is_mcp: bool) -> None:
    fuzz_rpc(text.encode(), is_mcp)


@given(st.binary(max_size=60), st.booleans())
def test_any_bytes_of_a_call(body: bytes, is_mcp: bool) -> None:
    fuzz_rpc(body, is_mcp)


def requests() -> st.SearchStrategy[str]:
    more = st.sampled_from(
        [
            "",
            ',"Query":"{a}"',
            ',"query":"{a}"',
            ',"operationName":"B"',
            ',"id":"x"',
            ',"variables":{}',
        ]
    )
    one = st.builds(
        '{{"query":{}{}{}}}'.format, st.sampled_from(GRAPHQL_VALUES).map(json.dumps), more, more
    )
    return one | st.lists(one, max_size=3).map(lambda many: "[" + ",".join(many) + "]")


@given(requests() | written(GRAPHQL_KEYS, GRAPHQL_VALUES))
@example('{"extensions":{"persistedQuery":{"sha256Hash":"a","sha256hash":"b"}}}')
@example('{"id":"a","documentId":"b"}')
def test_operations_are_the_same_to_every_reader(text: str) -> None:
    fuzz_graphql(text.encode())
    fuzz_graphql_message(text)


@given(st.binary(max_size=60), st.text(max_size=40))
def test_any_bytes_of_an_operation(body: bytes, text: str) -> None:
    fuzz_graphql(body)
    fuzz_graphql_message(text)


pairs = st.builds(
    "{}={}".format,
    st.sampled_from(["query", "operationName", "id", "extensions", "x", "QUERY"]),
    st.sampled_from(["{me}", "mutation%7Bdrop%7D", "B", "%7B%7D", "", "a+b", "query+A%7Ba%7D"]),
)


@given(st.lists(pairs, max_size=4).map("&".join) | st.text("queryid=&{}+%7B;", max_size=30))
def test_queries_are_the_same_to_every_reader(query: str) -> None:
    fuzz_graphql_get(query.encode())


@dataclass(frozen=True)
class Reads:
    """As much of an endpoint as says how a body is read."""

    protocol: str = "graphql"
    body_bytes: int = 100


media = st.lists(
    st.sampled_from(
        ["application/json", "text/html", "APPLICATION/x+json", "; charset=", "utf-8", "utf-16", '"', ";",
         ",", " ", "charset=utf-8", "; a=b", "\\", "\t", "json", "application/", "; charset*=", "'"]
    ),
    max_size=6,
).map("".join)  # fmt: skip


@given(
    media, st.sampled_from(["", "\r\nContent-Encoding: identity", "\r\nContent-Encoding: gzip, "])
)
@example('application/json; a="; charset=utf-16"', "")
def test_a_media_type_is_the_same_to_every_reader(value: str, more: str) -> None:
    config: Any = Reads()
    fuzz_media_type(cast("EndpointConfig", config), f"Content-Type: {value}{more}".encode())
