"""All fuzz targets by name: functions of bytes that hold what they promise, or raise.

The same list is driven by Hypothesis in every test run, by replaying the corpus, and by atheris, guided by
coverage (`run.py`). Targets that take more than bytes get it from the first of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from fuzz import (
    fuzz_answers,
    fuzz_bodies,
    fuzz_credentials,
    fuzz_dns,
    fuzz_documents,
    fuzz_http1_body,
    fuzz_http1_head,
    fuzz_http1_peers,
    fuzz_http2,
    fuzz_lines,
    fuzz_placing,
    fuzz_targets_of_requests,
    fuzz_tls_hello,
    fuzz_websocket,
)

__all__ = ["MAX_LEN", "TARGETS", "Run"]

Run = Callable[[bytes], object]
MAX_LEN = 2048
"""Bytes of an input: most limits of what is fuzzed are near, or set lower for it."""

_VALUES = ("s3cr3t", "a&b=c", 'x"y\\z', "..", "a/b", "%2e%2e", "é", " ")


@dataclass(frozen=True)
class _Endpoint:
    """As much of an endpoint as says how a body is read."""

    protocol: str = "graphql"
    body_bytes: int = 100


def _with_value(target: Callable[[bytes, str], None]) -> Run:
    def run(data: bytes) -> None:
        value = _VALUES[data[0] % len(_VALUES)] if data else _VALUES[0]
        with contextlib.suppress(fuzz_placing.TooInvolved):
            target(data[1:], value)

    return run


def _rpc(data: bytes) -> None:
    fuzz_bodies.fuzz_rpc(data[1:], is_mcp=bool(data[:1] and data[0] & 1))


def _graphql_message(data: bytes) -> None:
    fuzz_bodies.fuzz_graphql_message(data.decode(errors="replace"))


def _media_type(data: bytes) -> None:
    config: Any = _Endpoint()
    fuzz_bodies.fuzz_media_type(cast("Any", config), data)


def _scanned_name(data: bytes) -> None:
    fuzz_placing.fuzz_scanned_name(data[1:], 1 + (data[0] % 9 if data else 0))


TARGETS: dict[str, Run] = {
    "http1_request_head": fuzz_http1_head.fuzz_request_head,
    "http1_response_head": fuzz_http1_head.fuzz_response_head,
    "http1_field_memory": fuzz_http1_head.fuzz_field_memory,
    "http1_chunked_body": fuzz_http1_body.fuzz_chunked_body,
    "http1_requests_and_peers": fuzz_http1_peers.fuzz_requests_and_peers,
    "http1_responses_and_peers": fuzz_http1_peers.fuzz_responses_and_peers,
    "path": fuzz_targets_of_requests.fuzz_path,
    "authority": fuzz_targets_of_requests.fuzz_authority,
    "first_bytes": fuzz_targets_of_requests.fuzz_first_bytes,
    "packet": fuzz_targets_of_requests.fuzz_packet,
    "tls_hello": fuzz_tls_hello.fuzz_tls_hello,
    "dns_query": fuzz_dns.fuzz_dns_query,
    "http2_frames": fuzz_http2.fuzz_frames,
    "http2_peer": fuzz_http2.fuzz_peer,
    "http2_fields": fuzz_http2.fuzz_fields,
    "websocket_client": fuzz_websocket.fuzz_client_frames,
    "websocket_server": fuzz_websocket.fuzz_server_frames,
    "websocket_inflate": fuzz_websocket.fuzz_inflate,
    "websocket_handshake": fuzz_websocket.fuzz_handshake,
    "strict_json": fuzz_documents.fuzz_strict_json,
    "rpc": _rpc,
    "graphql": fuzz_bodies.fuzz_graphql,
    "graphql_get": fuzz_bodies.fuzz_graphql_get,
    "graphql_message": _graphql_message,
    "media_type": _media_type,
    "credentials_head": fuzz_credentials.fuzz_rewrite,
    "credentials_scanner": fuzz_credentials.fuzz_scanner,
    "credentials_scanned_name": _scanned_name,
    "credentials_target": _with_value(fuzz_placing.fuzz_target),
    "credentials_form": _with_value(fuzz_placing.fuzz_form),
    "credentials_json": _with_value(fuzz_placing.fuzz_json),
    "inference_request": fuzz_answers.fuzz_inference_request,
    "inference_usage": fuzz_answers.fuzz_usage,
    "issued_token": fuzz_answers.fuzz_issued_token,
    "renewed_token": fuzz_answers.fuzz_renewed_token,
    "token_expiry": fuzz_answers.fuzz_token_expiry,
    "gateway_notice": fuzz_answers.fuzz_notice,
    "proposal": fuzz_documents.fuzz_proposal,
    "policy_document": fuzz_documents.fuzz_policy,
    "profile_yaml": fuzz_documents.fuzz_profile_yaml,
    "profile_json": fuzz_documents.fuzz_profile_json,
    "event_lines": fuzz_lines.fuzz_event_lines,
}
