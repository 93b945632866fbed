"""Requests as a middleware service gets them, and its answers, from values to protobuf and back. Pure.

Nothing is checked here but what has no value: `egress.middleware` judges every answer, whoever gave it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from openshell._proto import supervisor_middleware_pb2 as pb
from openshell.codec.policy import struct_of
from openshell.egress.middleware import (
    Answer,
    Evaluation,
    Existing,
    Mutation,
    Noticed,
    Remove,
    StageFailed,
    StageFault,
    Write,
)

__all__ = ["SandboxFacts", "answer_of", "evaluation_of"]

# The contract's bound of what surrounds fields and body.
_MAX_CONTEXT: Final = 4 * 1024
_MAX_TARGET: Final = 32 * 1024
_MAX_CONFIG: Final = 64 * 1024

_EXISTING: Final = {
    pb.EXISTING_HEADER_ACTION_APPEND: Existing.APPEND,
    pb.EXISTING_HEADER_ACTION_OVERWRITE: Existing.OVERWRITE,
    pb.EXISTING_HEADER_ACTION_SKIP: Existing.SKIP,
}
_DECISIONS: Final = {pb.DECISION_ALLOW: True, pb.DECISION_DENY: False}


@dataclass(frozen=True, slots=True)
class SandboxFacts:
    """Whose requests they are."""

    sandbox_id: str
    name: str
    # Known once the gateway has said it.
    workspace: Callable[[], str] = str


def evaluation_of(
    evaluation: Evaluation, service: str, sandbox: SandboxFacts
) -> pb.HttpRequestEvaluation:
    """Write a request for `service`. Raises StageFailed where a part is larger than agreed."""
    message = pb.HttpRequestEvaluation(
        phase=pb.SUPERVISOR_MIDDLEWARE_PHASE_PRE_CREDENTIALS,
        context=pb.RequestContext(
            request_id=evaluation.request_id,
            sandbox_id=sandbox.sandbox_id,
            sandbox_name=sandbox.name,
            workspace=sandbox.workspace(),
        ),
        target=pb.HttpRequestTarget(
            scheme=evaluation.scheme,
            host=evaluation.host,
            port=evaluation.port,
            method=evaluation.method,
            path=evaluation.path,
            query=evaluation.query,
        ),
        headers=[pb.HttpHeader(name=name, value=value) for name, value in evaluation.headers],
        body=evaluation.body,
        middleware_name=service,
    )
    message.config.CopyFrom(struct_of(evaluation.config))
    sizes = (
        (message.context, _MAX_CONTEXT),
        (message.target, _MAX_TARGET),
        (message.config, _MAX_CONFIG),
    )
    if any(part.ByteSize() > limit for part, limit in sizes):
        raise StageFailed(StageFault.HEADERS)
    return message


def answer_of(result: pb.HttpRequestResult) -> Answer:
    """Read an answer, good or bad. A body without `has_body` contradicts itself."""
    if result.body and not result.has_body:
        raise StageFailed(StageFault.BODY)
    return Answer(
        allow=_DECISIONS.get(result.decision),
        reason=result.reason,
        reason_code=result.reason_code,
        body=result.body if result.has_body else None,
        mutations=tuple(map(_mutation, result.header_mutations)),
        noticed=tuple(
            Noticed(f.type, f.label, f.count, f.confidence, f.severity) for f in result.findings
        ),
        metadata=dict(result.metadata),
    )


def _mutation(sent: pb.HeaderMutation) -> Mutation:
    match sent.WhichOneof("operation"):
        case "write":
            existing = _EXISTING.get(sent.write.on_existing)
            return Write(sent.write.name, sent.write.value, existing)
        case "remove":
            return Remove(sent.remove.name)
        case _:
            return None
