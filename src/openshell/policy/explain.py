"""Why a policy allows or refuses one request, step by step, without a sandbox.

Every verdict is a decision of the compiled policy (`trial`); the steps only say which part of the
question each decision answers. Called by `policy check`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from openshell.policy.compile import CompiledPolicy, compile_policy
from openshell.policy.decide import (
    ConnectionAllowed,
    ConnectionDenied,
    ConnectionRequest,
    EndpointConfig,
    L7Request,
    RequestAllowed,
)
from openshell.policy.hosts import normalize_host
from openshell.policy.model import JsonValue, SandboxPolicy
from openshell.policy.target import TargetRejected, canonicalize
from openshell.policy.trial import Outcome, Trial, is_opened, try_request

__all__ = ["AskedRequest", "Explanation", "RequestTextError", "Step", "Verdict", "explain"]

_PORTS: Final = {"http": 80, "https": 443}
_METHOD = re.compile(r"[A-Za-z][A-Za-z0-9!#$%&'*+.^_`|~-]{0,31}")
_HOST = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s\[\]:@/?#]+)(?::([0-9]{1,5}))?")
_EXAMPLE: Final = "write 'GET https://api.example.com/path', or host:port for a bare connection"
# Endpoints named in one step.
_MAX_NAMED: Final = 5


class RequestTextError(ValueError):
    """The text names no request; the message says what would be accepted."""


@dataclass(frozen=True, slots=True)
class AskedRequest:
    """What to ask about. `scheme` "" asks for the connection alone."""

    host: str
    port: int
    scheme: str = ""
    method: str = ""
    target: str = "/"

    @classmethod
    def parse(cls, text: str) -> AskedRequest:
        """Reads `[METHOD] URL` or `host:port`."""
        method, _, url = text.strip().rpartition(" ")
        method = method.strip() or "GET"
        if not _METHOD.fullmatch(method):
            raise RequestTextError(f"'{method[:40]}' is no method; {_EXAMPLE}")
        scheme, mark, rest = url.partition("://")
        if not mark:
            if " " in text.strip():
                raise RequestTextError(f"the URL needs http:// or https://; {_EXAMPLE}")
            host, port = _authority(url, None)
            return cls(host, port)
        scheme = scheme.lower()
        if scheme not in _PORTS:
            raise RequestTextError(f"only http and https can be asked about; {_EXAMPLE}")
        end = min((at for at in (rest.find(c) for c in "/?#") if at >= 0), default=len(rest))
        host, port = _authority(rest[:end], _PORTS[scheme])
        target = rest[end:].partition("#")[0]
        if not target.startswith("/"):
            target = f"/{target}"
        return cls(host, port, scheme, method, target)


def _authority(text: str, default: int | None) -> tuple[str, int]:
    if "@" in text:
        # Not echoed: what stands before the @ may be a password.
        raise RequestTextError(f"a user has no place in the URL; {_EXAMPLE}")
    found = _HOST.fullmatch(text)
    if found is None or (found[2] is None and default is None):
        raise RequestTextError(f"'{text[:80]}' is no host with a port; {_EXAMPLE}")
    port = int(found[2]) if found[2] else default or 0
    if not 1 <= port <= 65535:
        raise RequestTextError(f"port {port} is out of range; expected 1..65535")
    return normalize_host(found[1]), port


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
    outcome: Outcome
    steps: tuple[Step, ...]
    matched_policy: str | None = None
    reason_code: str = ""
    reason: str = ""
    nearest_rule: str | None = None
    suggestion: str = ""

    def to_json(self) -> dict[str, JsonValue]:
        return {
            "outcome": self.outcome.value,
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
    compiled = compile_policy(policy, generation=1)
    request = ConnectionRequest(
        asked.host, asked.port, binary, ancestors=ancestors, relaxed=binary is None
    )
    encrypted = asked.scheme == "https"
    connection = compiled.connect(request)
    steps = list(_connection_steps(compiled, request, connection))
    if isinstance(connection, ConnectionDenied):
        return _explained(Trial(connection, None), steps)
    steps += _treatment_steps(connection, encrypted=encrypted)
    if not asked.scheme:
        return _explained(Trial(connection, None), steps)
    opened = is_opened(connection, encrypted=encrypted)
    if not opened and encrypted:
        return _explained(Trial(connection, None), steps)
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
    trial = try_request(compiled, request, l7, encrypted=encrypted)
    steps += _request_steps(trial)
    return _explained(trial, steps)


def _target_bytes(target: str) -> bytes:
    # What a shell passes on that is no UTF-8 stays what it was, and is refused by name.
    return target.encode("utf-8", "surrogateescape")


def _explained(trial: Trial, steps: list[Step]) -> Explanation:
    connection, refusal = trial.connection, trial.refusal
    matched = connection.matched_policy if isinstance(connection, ConnectionAllowed) else None
    if refusal is None:
        return Explanation(trial.outcome, tuple(steps), matched)
    return Explanation(
        trial.outcome,
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
        f"{request.host}:{request.port} is named by {_named(anyone.endpoints)}",
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


def _request_steps(trial: Trial) -> Iterator[Step]:
    answer = trial.request
    if answer is None:
        return
    if answer.config is not None:
        yield Step("route", Verdict.PASS, f"{answer.config.location} governs this path")
    if isinstance(answer, RequestAllowed):
        yield Step("rules", Verdict.PASS, "an allow rule matches and no deny rule does")
        return
    name = "route" if answer.config is None else "rules"
    yield Step(name, Verdict.FAIL, answer.reason)
    if trial.outcome is Outcome.AUDITED:
        detail = "the endpoint only records: the request is forwarded and logged"
        yield Step("enforcement", Verdict.NOTE, detail)
    elif answer.config is not None:
        yield Step("enforcement", Verdict.FAIL, "the request is answered with 403")
