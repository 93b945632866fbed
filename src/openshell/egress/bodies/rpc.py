"""JSON-RPC 2.0 bodies, and those of MCP, as the calls that policy judges (`proxy.md` 11.2).

Only method, tool name and the presence of an id matter to policy. On MCP endpoints the parameters of
known methods are checked for their type, so that no server has to guess.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from openshell.egress.bodies.strict_json import JsonRejected, misspelled, read_json, spellings
from openshell.policy.messages import RpcCall, RpcRequest

__all__ = ["MAX_CALLS", "read_rpc"]

MAX_CALLS: Final = 256
"""Messages of one batch: each is judged on its own."""

_VERSION: Final = "2.0"
_TOOLS_CALL: Final = "tools/call"

# Methods of MCP with parameters that must be text, by name. Others take an object or nothing.
_TEXT_PARAMETERS: Final[Mapping[str, tuple[str, ...]]] = {
    _TOOLS_CALL: ("name",),
    "prompts/get": ("name",),
    "resources/read": ("uri",),
    "resources/subscribe": ("uri",),
    "resources/unsubscribe": ("uri",),
    "logging/setLevel": ("level",),
    "initialize": ("protocolVersion",),
}

_NAMES: Final = spellings("jsonrpc", "id", "method", "params", "result", "error")
_PARAMETER_NAMES: Final = spellings("name", "uri", "level", "protocolVersion")


class _Rejected(Exception):
    """What is wrong with a message, in words that quote nothing of it but a short method."""


def read_rpc(body: bytes, *, is_mcp: bool) -> RpcRequest:
    """The calls of one POST; `error` says what is wrong with it."""
    try:
        document = read_json(body)
        items = document if isinstance(document, list) else [document]
        if not items:
            raise _Rejected("empty batch")
        if len(items) > MAX_CALLS:
            raise _Rejected(f"batch of more than {MAX_CALLS} messages")
        messages = [_message(item, is_mcp=is_mcp) for item in items]
    except JsonRejected as rejected:
        return RpcRequest(error=str(rejected))
    except _Rejected as rejected:
        in_batch = isinstance(document, list) and 0 < len(document) <= MAX_CALLS
        return RpcRequest(error=f"batch item invalid: {rejected}" if in_batch else str(rejected))
    calls = tuple(message for message in messages if message is not None)
    return RpcRequest(calls=calls, responses=len(messages) - len(calls))


def _message(item: Any, *, is_mcp: bool) -> RpcCall | None:
    """One call; None for an answer to a call of the server."""
    if not isinstance(item, dict):
        raise _Rejected("not an object")
    _check_spelling(item, _NAMES)
    version = item.get("jsonrpc")
    if not isinstance(version, str):
        raise _Rejected("missing or non-string 'jsonrpc' field")
    if version != _VERSION:
        raise _Rejected("unsupported JSON-RPC version")
    is_answer = "result" in item or "error" in item
    if is_answer and "method" in item:
        raise _Rejected("both 'method' and 'result' or 'error'")
    if is_answer:
        _check_answer(item)
        return None
    return _call(item, is_mcp=is_mcp)


def _call(item: dict[str, Any], *, is_mcp: bool) -> RpcCall:
    method = item.get("method")
    if not isinstance(method, str):
        raise _Rejected("missing or non-string 'method' field")
    if "id" in item and not _is_id(item["id"]):
        raise _Rejected("'id' is neither text, nor a number, nor null")
    params = item.get("params")
    if is_mcp:
        _check_mcp(method, params)
    if method in _TEXT_PARAMETERS and isinstance(params, dict):
        _check_spelling(params, _PARAMETER_NAMES)
    name = params.get("name") if isinstance(params, dict) else None
    tool = name if method == _TOOLS_CALL and isinstance(name, str) else None
    return RpcCall(method, tool, "id" in item)


def _check_mcp(method: str, params: Any) -> None:
    if params is not None and not isinstance(params, dict):
        raise _Rejected("params must be an object")
    for name in _TEXT_PARAMETERS.get(method, ()):
        if not isinstance((params or {}).get(name), str):
            raise _Rejected(f"{method} needs params.{name} of text")


def _check_spelling(found: Mapping[str, Any], names: Mapping[str, str]) -> None:
    meant = misspelled(found, names)
    if meant:
        raise _Rejected(f"'{meant}' must be spelled like this")


def _check_answer(item: dict[str, Any]) -> None:
    if "result" in item and "error" in item:
        raise _Rejected("both 'result' and 'error'")
    if "error" in item and not isinstance(item["error"], dict):
        raise _Rejected("'error' must be an object")
    if "id" not in item or not _is_id(item["id"]):
        raise _Rejected("an answer needs an 'id' of text, a number or null")


def _is_id(value: Any) -> bool:
    return value is None or (isinstance(value, str | int | float) and not isinstance(value, bool))
