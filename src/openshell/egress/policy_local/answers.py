"""The words of `policy.local`: every answer is JSON, of a length that is said, and the last of its connection.

Pure. The shape of errors is that of all answers of the proxy: `error` and `detail`.
"""

import json
from collections.abc import Sequence
from typing import Final

from openshell.egress.denials import Denial
from openshell.egress.policy_local.desk import DeskFault, Draft, Submitted

__all__ = [
    "accepted",
    "answer",
    "current_policy",
    "draft",
    "error",
    "faulty",
    "no_such_draft",
    "recent_denials",
    "wrong_place",
]

_NOTE: Final = "the newest are kept in memory; openshell logs shows all of them"


def answer(status: int, body: object) -> Denial:
    text = json.dumps(body).encode() + b"\n"
    headers = (
        (b"Content-Type", b"application/json"),
        (b"Content-Length", b"%d" % len(text)),
        # A page that a browser shows in the sandbox has no business here, and what is read changes.
        (b"Cache-Control", b"no-store"),
        (b"Connection", b"close"),
    )
    return Denial(status, headers, text)


def error(status: int, code: str, detail: str) -> Denial:
    return answer(status, {"error": code, "detail": detail})


def faulty(fault: DeskFault) -> Denial:
    return error(fault.fault.status, fault.fault.code, fault.detail)


def wrong_place() -> Denial:
    return error(400, "invalid_policy_local_scheme", "Use http://policy.local only")


def no_such_draft() -> Denial:
    return error(404, "chunk_not_found", "this sandbox has no proposal with that id")


def current_policy(text: str) -> Denial:
    return answer(200, {"format": "yaml", "policy_yaml": text})


def recent_denials(lines: Sequence[str]) -> Denial:
    return answer(200, {"denials": list(lines), "log_available": True, "note": _NOTE})


def accepted(submitted: Submitted) -> Denial:
    return answer(
        202,
        {
            "status": "submitted",
            "accepted_chunks": submitted.accepted,
            "rejected_chunks": submitted.rejected,
            "rejection_reasons": submitted.reasons,
            "accepted_chunk_ids": submitted.ids,
        },
    )


def draft(found: Draft, *, policy_reloaded: bool | None = None, timed_out: bool = False) -> Denial:
    """A draft; `policy_reloaded` None says nothing about that."""
    body: dict[str, object] = {
        "chunk_id": found.id,
        "status": found.status,
        "rule_name": found.rule_name,
        "binary": found.binary,
        "rejection_reason": found.rejection_reason,
        "validation_result": found.validation_result,
        "application_error": found.application_error,
        "review_token": found.review_token,
        "current_effective_policy_hash": found.current_hash,
        "candidate_effective_policy_hash": found.candidate_hash,
    }
    if policy_reloaded is not None:
        body["policy_reloaded"] = policy_reloaded
    if timed_out:
        body["timed_out"] = True
    return answer(200, body)
