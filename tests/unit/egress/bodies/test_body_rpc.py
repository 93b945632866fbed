"""JSON-RPC and MCP bodies: every row of the contract's table, and bytes of every kind."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.bodies.rpc import MAX_CALLS, read_rpc
from openshell.egress.bodies.strict_json import MAX_DEPTH
from openshell.policy.messages import RpcCall, RpcRequest

CALL = {"jsonrpc": "2.0", "id": 1, "method": "a/b"}
TOOL = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "read"}}


def read(document: object, *, is_mcp: bool = False) -> RpcRequest:
    return read_rpc(json.dumps(document).encode(), is_mcp=is_mcp)


@pytest.mark.parametrize(
    ("body", "error"),
    [
        pytest.param(b"{", "invalid JSON", id="not JSON"),
        pytest.param(b"", "invalid JSON", id="no body"),
        pytest.param(b"\xff", "invalid JSON", id="not UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"jsonrpc":"2.0"}', "invalid JSON", id="byte order mark"),
        pytest.param(b"NaN", "invalid JSON", id="NaN"),
        pytest.param(b"[" * (MAX_DEPTH + 1), "nested deeper", id="nesting"),
        pytest.param(b"[" * 100_000, "nested deeper", id="nesting without end"),
        pytest.param(b'"' + b'\\"' * 50_000 + b"[" * 200, "invalid JSON", id="a string without end"),
        pytest.param(b'{"a":"' + b"]" * 200 + b'","b":' + b"[" * 200, "nested deeper",
                     id="brackets in a string do not count"),
        pytest.param(b"9" * 5000, "invalid JSON", id="too many digits"),
        pytest.param(
            b'{"jsonrpc":"2.0","id":1,"method":"a","method":"b"}', "a key twice", id="repeated key"
        ),
        pytest.param(b'{"jsonrpc":"2.0","method":"tools/call","params":{"name":"a","name":"b"}}',
                     "a key twice", id="repeated tool name"),
        pytest.param(b"[]", "empty batch", id="empty batch"),
        pytest.param(b"3", "not an object", id="no object"),
        pytest.param(b"{}", "missing or non-string 'jsonrpc' field", id="no version"),
        pytest.param(b'{"jsonrpc":2}', "missing or non-string 'jsonrpc' field", id="number"),
        pytest.param(b'{"jsonrpc":"1.0"}', "unsupported JSON-RPC version", id="version"),
        pytest.param(b'{"jsonrpc":"2.0"}', "missing or non-string 'method' field", id="nothing"),
        pytest.param(b'{"jsonrpc":"2.0","method":7}', "non-string 'method'", id="method type"),
        pytest.param(b'{"jsonrpc":"2.0","method":"a","id":[]}', "'id' is neither", id="id type"),
        pytest.param(b'{"jsonrpc":"2.0","method":"a","id":true}', "'id' is neither", id="bool id"),
        pytest.param(b'{"jsonrpc":"2.0","method":"a","result":1}', "both", id="call and result"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"result":1,"error":{}}', "both", id="two answers"),
        pytest.param(b'{"jsonrpc":"2.0","id":1,"error":"x"}', "must be an object", id="error type"),
        pytest.param(b'{"jsonrpc":"2.0","result":1}', "needs an 'id'", id="answer without id"),
        pytest.param(b'[{"jsonrpc":"2.0","method":"a"},1]', "batch item invalid: not an object",
                     id="bad batch item"),
    ],
)  # fmt: skip
def test_what_is_no_request(body: bytes, error: str) -> None:
    assert error in read_rpc(body, is_mcp=False).error


def test_calls_answers_and_batches() -> None:
    assert read(CALL) == RpcRequest((RpcCall("a/b", None, True),))
    assert read({"jsonrpc": "2.0", "method": "n"}).calls == (RpcCall("n", None, False),)
    answer: dict[str, object] = {"jsonrpc": "2.0", "id": None, "result": {}}
    assert read(answer) == RpcRequest(responses=1)
    assert read([TOOL, answer, CALL]) == RpcRequest(
        (RpcCall("tools/call", "read"), RpcCall("a/b")), responses=1
    )
    assert "more than" in read([CALL] * (MAX_CALLS + 1)).error
    assert len(read([CALL] * MAX_CALLS).calls) == MAX_CALLS


@pytest.mark.parametrize(
    ("message", "error"),
    [
        pytest.param({**TOOL, "params": None}, "params.name", id="tool without params"),
        pytest.param({**TOOL, "params": {"name": 3}}, "params.name", id="tool by number"),
        pytest.param({**CALL, "params": []}, "params must be an object", id="positional params"),
        pytest.param(
            {**CALL, "method": "resources/read", "params": {}}, "params.uri", id="resource"
        ),
    ],
)
def test_mcp_checks_what_it_knows(message: object, error: str) -> None:
    assert error in read(message, is_mcp=True).error
    assert not read(message).error


@pytest.mark.parametrize(
    ("message", "name"),
    [
        pytest.param({**CALL, "Method": "tools/call"}, "method", id="method"),
        pytest.param({**TOOL, "paramſ": {"name": "drop"}}, "params", id="a long s"),
        pytest.param({**TOOL, "params": {"name": "read", "NAME": "drop"}}, "name", id="tool"),
        pytest.param({**CALL, "ID": 2}, "id", id="id"),
    ],
)
def test_what_readers_that_fold_case_would_take_for_another_call(
    message: dict[str, object], name: str
) -> None:
    assert f"'{name}' must be spelled" in read(message).error
    assert f"'{name}' must be spelled" in read([CALL, message], is_mcp=True).error


def test_unknown_methods_stay_addressable() -> None:
    assert read({**CALL, "params": {"any": [1]}}, is_mcp=True).calls == (RpcCall("a/b"),)
    # Only calls of tools have a tool.
    assert read({**CALL, "params": {"name": "x"}}, is_mcp=True).calls[0].tool is None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["jsonrpc", "method", "id", "params", "result", "error", "name", "x"]),
            inner | st.sampled_from(["2.0", "tools/call"]),
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(json_values | st.binary(max_size=40), st.booleans())
def test_any_bytes_are_an_answer(value: object, is_mcp: bool) -> None:
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    found = read_rpc(body, is_mcp=is_mcp)
    assert found.error or found.calls or found.responses
    assert not (found.error and found.calls)
