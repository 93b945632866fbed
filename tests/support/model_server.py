"""A server of models on loopback that speaks as OpenAI's and Anthropic's do, streams included.

It insists on its key and on its one model, remembers every request, and does what the last word of a
prompt says: `status=429`, `sleep=0.5`, `cut`, `huge`. Official client libraries can talk to it.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.upstream import Received

KEY = "sk-real-key-of-the-operator-0123456789"
MODEL = "real-model"
TEXT = "Hello from the model"
WORDS = ["Hello ", "from ", "the ", "model"]


@dataclass
class ModelServer:
    """Its port and what it received, in order; it may be taught another key or model."""

    port: int = 0
    key: str = KEY
    model: str = MODEL
    received: list[Received] = field(default_factory=list)

    @property
    def last(self) -> Received:
        return self.received[-1]

    @property
    def last_body(self) -> Any:
        return json.loads(self.last.body)


@contextlib.contextmanager
def model_server(certificate: Path | None = None) -> Iterator[ModelServer]:
    """Serves until the block ends; with a certificate over TLS."""
    state = ModelServer()

    class Handler(_Handler):
        server_state = state

    class Server(http.server.ThreadingHTTPServer):
        request_queue_size = 256

        def handle_error(self, request: object, client_address: object) -> None:
            pass

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    state.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server_state: ModelServer

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        self._take()
        if self._may_ask():
            self._json(200, {"object": "list", "data": [_model(self.server_state.model)]})

    def do_POST(self) -> None:
        body = self._take()
        if not self._may_ask():
            return
        asked = json.loads(body)
        if asked.get("model") != self.server_state.model:
            self._json(404, _error("no such model", "invalid_request_error"))
            return
        word = _prompt(asked).rpartition(" ")[2]
        verb, _, value = word.partition("=")
        if verb == "status":
            self._json(int(value), _error("as you wish", "invalid_request_error"))
            return
        if verb == "sleep":
            time.sleep(float(value))
        path = self.path.partition("?")[0]
        if asked.get("stream"):
            self._stream(_EVENTS[path](asked), verb)
        elif verb == "huge":
            self._json(200, {"text": "x" * (33 << 20)})
        else:
            self._json(200, _ANSWERS[path](asked))

    def _take(self) -> bytes:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server_state.received.append(Received(self.command, self.path, headers, body))
        return body

    def _may_ask(self) -> bool:
        key = self.server_state.key
        if self.path.startswith("/v1/messages"):
            allowed = self.headers.get("x-api-key") == key
        else:
            allowed = key in (
                self.headers.get("x-api-key"),
                (self.headers.get("authorization") or "").removeprefix("Bearer "),
            )
        if not allowed:
            self._json(401, _error("the key is wrong", "authentication_error"))
        return allowed

    def _json(self, status: int, document: Any) -> None:
        body = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("X-Request-Id", "req_1")
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, events: Sequence[tuple[str, Any]], verb: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for number, (name, data) in enumerate(events):
            if verb == "cut" and number == 2:
                self.close_connection = True
                return
            lines = f"event: {name}\n" if name else ""
            text = data if isinstance(data, str) else json.dumps(data)
            self._chunk(f"{lines}data: {text}\n\n".encode())
            time.sleep(0.01)
        self.wfile.write(b"0\r\n\r\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))


def _prompt(asked: Any) -> str:
    found = asked.get("messages") or asked.get("input") or asked.get("prompt") or ""
    if isinstance(found, list):
        found = found[-1]
    content = found.get("content", "") if isinstance(found, dict) else found
    return content if isinstance(content, str) else ""


def _error(message: str, kind: str) -> Any:
    return {"type": "error", "error": {"message": message, "type": kind}}


def _model(name: str) -> Any:
    return {"id": name, "object": "model", "created": 1, "owned_by": "test", "type": "model"}


def _chat(asked: Any) -> Any:
    return {
        "id": "chat-1",
        "object": "chat.completion",
        "created": 1,
        "model": asked["model"],
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "message": {"role": "assistant", "content": TEXT},
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


def _chat_events(asked: Any) -> list[tuple[str, Any]]:
    shared = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": asked["model"]}
    events: list[tuple[str, Any]] = [
        ("", {**shared, "choices": [{"index": 0, "delta": {"content": word}}]}) for word in WORDS
    ]
    usage = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}
    return [*events, ("", {**shared, "choices": [], "usage": usage}), ("", "[DONE]")]


def _completion(asked: Any) -> Any:
    return {
        "id": "c",
        "object": "text_completion",
        "created": 1,
        "model": asked["model"],
        "choices": [{"index": 0, "text": TEXT, "finish_reason": "stop", "logprobs": None}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
    }


def _response(asked: Any) -> Any:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1,
        "status": "completed",
        "model": asked["model"],
        "parallel_tool_calls": False,
        "tool_choice": "auto",
        "tools": [],
        "output": [
            {
                "id": "msg_1",
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": TEXT, "annotations": []}],
            }
        ],
        "usage": {
            "input_tokens": 3,
            "output_tokens": 4,
            "total_tokens": 7,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens_details": {"reasoning_tokens": 0},
        },
    }


def _response_events(asked: Any) -> list[tuple[str, Any]]:
    def event(kind: str, number: int, **more: Any) -> tuple[str, Any]:
        return kind, {"type": kind, "sequence_number": number, **more}

    begun = {**_response(asked), "status": "in_progress", "output": [], "usage": None}
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0, "logprobs": []}
    return [
        event("response.created", 0, response=begun),
        *(
            event("response.output_text.delta", number, delta=word, **place)
            for number, word in enumerate(WORDS, 1)
        ),
        event("response.completed", 9, response=_response(asked)),
    ]


def _embeddings(asked: Any) -> Any:
    return {
        "object": "list",
        "model": asked["model"],
        "data": [{"object": "embedding", "index": 0, "embedding": [0.25, -0.5]}],
        "usage": {"prompt_tokens": 3, "total_tokens": 3},
    }


def _message(asked: Any) -> Any:
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": asked["model"],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "content": [{"type": "text", "text": TEXT}],
        "usage": {"input_tokens": 3, "output_tokens": 4},
    }


def _message_events(asked: Any) -> list[tuple[str, Any]]:
    def event(kind: str, **more: Any) -> tuple[str, Any]:
        return kind, {"type": kind, **more}

    begun = {**_message(asked), "content": [], "stop_reason": None}
    begun["usage"] = {"input_tokens": 3, "output_tokens": 1}
    return [
        event("message_start", message=begun),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        *(
            event("content_block_delta", index=0, delta={"type": "text_delta", "text": word})
            for word in WORDS
        ),
        event("content_block_stop", index=0),
        event("message_delta", delta={"stop_reason": "end_turn"}, usage={"output_tokens": 4}),
        event("message_stop"),
    ]


_ANSWERS = {
    "/v1/chat/completions": _chat,
    "/v1/completions": _completion,
    "/v1/responses": _response,
    "/v1/embeddings": _embeddings,
    "/v1/messages": _message,
}
_EVENTS = {
    "/v1/chat/completions": _chat_events,
    "/v1/responses": _response_events,
    "/v1/messages": _message_events,
}
