"""Why a policy allows or refuses one request, step by step, without a sandbox.

Every verdict is a decision of the compiled policy (`trial`); the steps only say which part of the
question each decision answers. What a request line cannot tell (a body, the messages of a WebSocket)
is named, and left open where the answer hangs on it. Called by `policy check`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from openshell.policy.advice import place
from openshell.policy.asked import AskedRequest
from openshell.policy.compile import CompiledPolicy
from openshell.policy.decide import (
    ConnectionAllowed,
    ConnectionDenied,
    ConnectionRequest,
    EndpointConfig,
    L7Request,
    RequestAllowed,
    RequestAudited,
    RequestDenied,
)
from openshell.policy.heads import HeadPolicy, HeadTrial
from openshell.policy.messages import WebSocketMessage
from openshell.policy.model import JsonValue, SandboxPolicy
from openshell.policy.protocols import WEBSOCKET_TEXT
from openshell.policy.target import TargetRejected, canonicalize
from openshell.policy.trial import Outcome, Trial, is_opened, try_request

__all__ = ["Explanation", "Step", "Verdict", "explain"]

# What decides where a head does not, by protocol.
_BODY: Final = {
    "graphql": "its operations decide: type, name and root fields of each must be allowed",
    "json-rpc": "its calls decide: the method of each must be allowed",
    "mcp": "its calls decide: the method of each, and the tool it names, must be allowed",
}
_STREAM: Final = "passes only as an MCP client that waits for events: Accept: text/event-stream"
# Endpoints named in one step.
_MAX_NAMED: Final = 5


class Verdict(StrEnum):
    PASS = "pass"  # noqa: S105 (a verdict)
    FAIL = "fail"
    # Worth knowing, decides nothing.
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    verdict: Verdict
    detail: str


@dataclass(frozen=True, slots=True)
class Explanation:
    # None where what was asked about does not decide it: a step says what would.
    outcome: Outcome | None
    steps: tuple[Step, ...]
    matched_policy: str | None = None
    reason_code: str = ""
    reason: str = ""
    nearest_rule: str | None = None
    suggestion: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "outcome": self.outcome.value if self.outcome else None,
            "matched_policy": self.matched_policy,
            "reason_code": self.reason_code,
            "reason": self.reason,
            "nearest_rule": self.nearest_rule,
            "suggestion": self.suggestion,
            "steps": tuple(
                {"step": step.name, "verdict": step.verdict.value, "detail": step.detail}
                for step in self.steps
            ),
        }


def explain(
    policy: SandboxPolicy,
    asked: AskedRequest,
    *,
    binary: str | None,
    ancestors: tuple[str, ...] = (),
) -> Explanation:
    """`binary` None asks what any program could do: identity is left out, as in relaxed mode."""
    head = HeadPolicy(policy, knows_query=True)
    # With the query known, that is the policy itself.
    compiled = head.worst
    request = ConnectionRequest(
        asked.host, asked.port, binary, ancestors=ancestors, relaxed=binary is None
    )
    encrypted = asked.scheme == "https"
    connection = compiled.connect(request)
    steps = list(_connection_steps(compiled, request, connection))
    if isinstance(connection, ConnectionDenied):
        return _explained(HeadTrial(Trial(connection, None)), steps)
    steps += _treatment_steps(connection, encrypted=encrypted)
    opened = is_opened(connection, encrypted=encrypted)
    if not asked.scheme or (encrypted and not opened):
        return _explained(HeadTrial(Trial(connection, None)), steps)
    keeps_slash = not opened or any(c.allow_encoded_slash for c in connection.l7_configs)
    try:
        target = canonicalize(_target_bytes(asked.target), allow_encoded_slash=keeps_slash)
    except TargetRejected as rejected:
        steps.append(Step("target", Verdict.FAIL, f"{rejected} (refused even in audit mode)"))
        return Explanation(
            Outcome.DENIED,
            tuple(steps),
            connection.matched_policy,
            reason_code="invalid_request_target",
            reason=str(rejected),
        )
    steps.append(Step("target", Verdict.PASS, f"judged as {target.path}"))
    l7 = L7Request(asked.method, target.path, target.params)
    # Whoever asks about a GET at a websocket endpoint means the handshake.
    tried = head.ask(request, l7, encrypted=encrypted, upgrade=True)
    steps += _request_steps(tried, asked.method)
    steps += _message_steps(compiled, request, tried, l7)
    return _explained(tried, steps)


def _target_bytes(target: str) -> bytes:
    # What a shell passes on that is no UTF-8 stays what it was, and is refused by name.
    return target.encode("utf-8", "surrogateescape")


def _explained(tried: HeadTrial, steps: list[Step]) -> Explanation:
    connection, refusal = tried.trial.connection, tried.trial.refusal
    matched = connection.matched_policy if isinstance(connection, ConnectionAllowed) else None
    if refusal is None:
        return Explanation(tried.outcome, tuple(steps), matched)
    return Explanation(
        tried.outcome,
        tuple(steps),
        matched,
        reason_code=refusal.reason_code,
        reason=refusal.reason,
        nearest_rule=refusal.nearest_rule,
        suggestion=refusal.suggestion,
    )


def _connection_steps(
    compiled: CompiledPolicy,
    request: ConnectionRequest,
    answer: ConnectionAllowed | ConnectionDenied,
) -> Iterator[Step]:
    anyone = compiled.connect(
        ConnectionRequest(request.host, request.port, request.binary, relaxed=True)
    )
    if isinstance(anyone, ConnectionDenied):
        yield Step("endpoint", Verdict.FAIL, anyone.reason)
        return
    yield Step(
        "endpoint",
        Verdict.PASS,
        f"{place(request.host, request.port)} is named by {_named(anyone.endpoints)}",
    )
    if request.binary is None:
        yield Step("binary", Verdict.NOTE, "not asked: give --binary to check which program may")
    elif isinstance(answer, ConnectionDenied):
        yield Step("binary", Verdict.FAIL, answer.reason)
    else:
        detail = f"{request.binary} is allowed by {_named(answer.endpoints)}"
        yield Step("binary", Verdict.PASS, detail)


def _named(configs: tuple[EndpointConfig, ...]) -> str:
    shown = [config.location for config in configs[:_MAX_NAMED]]
    more = len(configs) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def _treatment_steps(connection: ConnectionAllowed, *, encrypted: bool) -> Iterator[Step]:
    if connection.allowed_ips:
        listed = ", ".join(connection.allowed_ips)
        yield Step("destination", Verdict.NOTE, f"only if the host resolves into {listed}")
    elif connection.exact_declared_host:
        detail = "public addresses, and private ones since the host is named exactly"
        yield Step("destination", Verdict.NOTE, detail)
    else:
        yield Step("destination", Verdict.NOTE, "public addresses only")
    opened = is_opened(connection, encrypted=encrypted)
    if opened:
        yield Step(
            "inspection", Verdict.PASS, f"requests are judged by {_named(connection.l7_configs)}"
        )
    elif connection.is_tcp:
        detail = "protocol: tcp: bytes pass unseen, TLS stays closed, no credential is put in"
        yield Step("inspection", Verdict.NOTE, detail)
    elif connection.l7_configs:
        detail = "tls: skip leaves encrypted traffic closed: rules do not apply"
        yield Step("inspection", Verdict.NOTE, detail)
    else:
        yield Step("inspection", Verdict.NOTE, "no protocol is set: any traffic passes unseen")
    yield from _credential_steps(connection, opened=opened)


def _credential_steps(connection: ConnectionAllowed, *, opened: bool) -> Iterator[Step]:
    for config in connection.endpoints:
        if config.credential_binding is None:
            continue
        provider = config.credential_binding.provider
        if opened and config.is_inspected:
            detail = f"credentials of provider '{provider}' are put in at {config.location}"
        elif config.endpoint.allow_uninspected_credentials:
            detail = f"{config.location} binds provider '{provider}', its traffic is not inspected"
        else:
            detail = (
                f"{config.location} binds provider '{provider}' without inspection: the gateway "
                "refuses such a policy; set protocol: rest, or allow_uninspected_credentials: true"
            )
        yield Step("credentials", Verdict.NOTE, detail)


def _request_steps(tried: HeadTrial, method: str) -> Iterator[Step]:
    answer = tried.trial.request
    if answer is None:
        return
    config = answer.config
    if config is not None:
        yield Step("route", Verdict.PASS, f"{config.location} governs this path")
        if config.protocol == "websocket" and method.upper() == "GET":
            detail = "taken for a WebSocket handshake; any other request is refused here"
            yield Step("handshake", Verdict.NOTE, detail)
    if not isinstance(answer, RequestAllowed):
        name = "route" if config is None else "rules"
        yield Step(name, Verdict.FAIL, answer.reason)
        if isinstance(answer, RequestAudited):
            detail = "the endpoint only records: the request is forwarded and logged"
            yield Step("enforcement", Verdict.NOTE, detail)
        elif config is not None:
            yield Step("enforcement", Verdict.FAIL, "the request is answered with 403")
    elif tried.unseen is None:
        yield Step("rules", Verdict.PASS, "an allow rule matches and no deny rule does")
    if tried.unseen is not None and config is not None:
        streams = config.protocol == "mcp" and method.upper() == "GET"
        detail = _STREAM if streams else _BODY[config.protocol]
        hard = "; one that cannot be read is refused even in audit mode"
        yield Step("body", Verdict.NOTE, detail if streams else f"{detail}{hard}")


def _message_steps(
    compiled: CompiledPolicy, request: ConnectionRequest, tried: HeadTrial, handshake: L7Request
) -> Iterator[Step]:
    """What becomes of messages once the handshake has passed."""
    answer = tried.trial.request
    if isinstance(answer, RequestDenied) or answer is None or answer.config is None:
        return
    if answer.config.protocol != "websocket":
        return
    if answer.config.judges_graphql:
        detail = f"each text message is judged as GraphQL: {_BODY['graphql']}"
        yield Step("messages", Verdict.NOTE, detail)
        return
    message = L7Request(WEBSOCKET_TEXT, handshake.path, handshake.query, WebSocketMessage())
    trial = try_request(compiled, request, message, encrypted=False)
    detail = f"text messages of the client: {trial.outcome.value}"
    if trial.refusal is not None:
        detail += f" ({trial.refusal.reason})"
    yield Step("messages", Verdict.NOTE, detail)
