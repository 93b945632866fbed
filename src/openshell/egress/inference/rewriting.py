"""What is sent to a model's provider for an agent's request. Pure.

Of the agent's fields only those go on that the provider's type names; whatever the agent holds for a
key does not. The model is the route's, whatever the agent asked for: a body in which we could not put
it would let the agent choose, so it is refused.
"""

from dataclasses import dataclass, field
from typing import Final
from urllib.parse import quote

import msgspec

from openshell.egress.http1 import Headers, RequestHead, render_fields
from openshell.egress.inference.patterns import Pattern
from openshell.egress.inference.routes import Route
from openshell.providers.inference_types import ANTHROPIC_MESSAGES, BEDROCK_INVOKE, Auth
from openshell.providers.inference_vertex import RAW_PREDICT

__all__ = ["BodyUnreadable", "Outgoing", "asked_model", "rewrite"]

_ALWAYS: Final = frozenset({"content-type", "accept", "accept-encoding", "user-agent"})
_VERTEX_VERSION: Final = msgspec.Raw(b'"vertex-2023-10-16"')
_STREAM_RAW_PREDICT: Final = ":streamRawPredict"

_DECODER: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_FLAG: Final = msgspec.json.Decoder(bool)


class BodyUnreadable(Exception):
    """The body is no JSON object, so the model in it cannot be the route's."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request as it is sent; it holds the key."""

    wire: bytes = field(repr=False)
    method: bytes
    wants_stream: bool


class _Named(msgspec.Struct):
    model: str | None = None


_NAMED: Final = msgspec.json.Decoder(_Named)


def asked_model(pattern: Pattern, path: str, body: bytes) -> str | None:
    """The model that the agent names; None where it names none that can be read."""
    if pattern.protocol == BEDROCK_INVOKE:
        return path.removeprefix("/model/").removesuffix("/invoke")
    try:
        return _NAMED.decode(body).model
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def rewrite(
    route: Route, pattern: Pattern, head: RequestHead, path: str, query: str, body: bytes
) -> Outgoing:
    """Write a request for a route. Raises BodyUnreadable."""
    wants_stream = False
    if pattern.has_body:
        fields = _read(body)
        wants_stream = pattern.can_stream and _is_true(fields.get("stream"))
        body = _write_body(route, pattern, fields, body)
    target = _target(route, pattern, path, query, wants_stream)
    headers = [(b"Host", route.endpoint.authority.encode("ascii")), *_fields(route, head)]
    if pattern.has_body:
        headers.append((b"Content-Length", b"%d" % len(body)))
    line = b"%b %b HTTP/1.1\r\n" % (head.method, target.encode("ascii"))
    wire = b"".join((line, render_fields(tuple(headers)), body if pattern.has_body else b""))
    return Outgoing(wire, head.method, wants_stream)


def _read(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        # Values are not looked into, so text that is none would go on unread.
        if not body.isascii():
            body.decode()
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise BodyUnreadable from None


def _is_true(value: msgspec.Raw | None) -> bool:
    if value is None:
        return False
    try:
        return _FLAG.decode(value)
    except msgspec.MsgspecError:
        return False


def _write_body(
    route: Route, pattern: Pattern, fields: dict[str, msgspec.Raw], body: bytes
) -> bytes:
    if pattern.protocol == BEDROCK_INVOKE:
        # The path names the model; the body is the model's own language.
        return body
    # Some servers match names without regard to case and take the last one.
    for name in [name for name in fields if name.casefold() == "model"]:
        del fields[name]
    if not route.model_in_path:
        fields["model"] = msgspec.Raw(msgspec.json.encode(route.model))
    elif pattern.protocol == ANTHROPIC_MESSAGES:
        fields.pop("context_management", None)
        fields["anthropic_version"] = _VERTEX_VERSION
    return msgspec.json.encode(fields)


def _target(route: Route, pattern: Pattern, path: str, query: str, wants_stream: bool) -> str:
    endpoint = route.endpoint
    if route.path_override is not None:
        override = route.path_override
        if override == RAW_PREDICT and wants_stream:
            override = _STREAM_RAW_PREDICT
        return endpoint.path + override
    if pattern.protocol == BEDROCK_INVOKE:
        return endpoint.target(f"/model/{quote(route.model, safe='')}/invoke")
    target = endpoint.target(path)
    return f"{target}?{query}" if query else target


def _fields(route: Route, head: RequestHead) -> Headers:
    kind = route.kind
    kept = _ALWAYS | kind.passthrough | kind.headers.keys()
    fields = [pair for pair in head.headers if pair[0].decode("latin-1").lower() in kept]
    present = {name.decode("latin-1").lower() for name, _ in fields}
    fields += [
        (name.encode(), value.encode())
        for name, value in kind.headers.items()
        if name not in present
    ]
    if route.key and kind.auth is Auth.BEARER:
        fields.append((b"Authorization", b"Bearer " + route.key.encode("ascii")))
    elif route.key and kind.auth is Auth.API_KEY:
        fields.append((b"X-Api-Key", route.key.encode("ascii")))
    return tuple(fields)
