"""Judges the messages of one open WebSocket: policy first, on placeholders, then credentials.

Nothing here waits: what a message was judged under is what is in force when it is written. Every refusal
ends the WebSocket and has its event; allowed messages have none, and what is only recorded is recorded
once for each reason. Called by `websocket.messages` for every message of a client.
"""

from dataclasses import dataclass
from typing import Final

from openshell.egress.admission import Admitted
from openshell.egress.bodies.graphql_ws import read_graphql_message
from openshell.egress.connection import ClientConnection, Services
from openshell.egress.credentials import (
    NEEDS_TLS,
    CredentialRefused,
    find_marker,
    first_placeholder,
    refuse_marker,
)
from openshell.egress.credentials.message import rewrite_message
from openshell.egress.events import Where
from openshell.egress.generation import Generation
from openshell.egress.judging import Judged, must_scan
from openshell.egress.switch import holds_credentials
from openshell.egress.websocket.frames import CloseCode, WebSocketFault
from openshell.egress.websocket.messages import Refusal as Refused
from openshell.ocsf import Refusal, Severity
from openshell.policy.decide import (
    EndpointConfig,
    L7Request,
    RequestAudited,
    RequestDenied,
    word_of,
)
from openshell.policy.messages import WebSocketMessage
from openshell.policy.protocols import WEBSOCKET_TEXT

__all__ = ["SocketJudge"]

_ENGINE: Final = "l7-websocket"
# Reasons that are recorded of one WebSocket; they come from rules, of which few cover one path.
_MAX_RECORDED: Final = 32
_CODES: Final = {
    CloseCode.PROTOCOL_ERROR: "websocket_protocol_error",
    CloseCode.BAD_TEXT: "websocket_text_not_utf8",
    CloseCode.TOO_BIG: "websocket_message_too_big",
    CloseCode.TRY_AGAIN: "websocket_no_capacity",
}
_GONE: Final = Refused("the policy changed")


@dataclass(frozen=True, slots=True)
class _InForce:
    """What one generation says about this WebSocket."""

    generation: Generation
    admitted: Admitted
    config: EndpointConfig | None

    @property
    def places(self) -> bool:
        config = self.config
        return (
            config is not None
            and config.protocol in ("rest", "websocket")
            and config.endpoint.websocket_credential_rewrite
        )


class SocketJudge:
    """Answers for one WebSocket."""

    def __init__(self, services: Services, connection: ClientConnection, judged: Judged) -> None:
        self._services = services
        self._connection = connection
        self._judged = judged
        shown = judged.where
        self._where = Where(WEBSOCKET_TEXT, shown.scheme, shown.host, shown.port, shown.path)
        self._seen: tuple[int, _InForce | None] = (-1, None)
        self._recorded: set[str] = set()

    def text(self, text: str) -> str | Refused:
        force = self._in_force()
        if force is None:
            return _GONE
        data = text.encode()
        marked = find_marker(data)
        credentials = force.generation.credentials
        guarded = holds_credentials(force.admitted.decision.endpoints)
        if marked and guarded and credentials.is_empty:
            return self._marker(force, data)
        refused = self._policy(force, text)
        if refused is not None or not marked:
            return text if refused is None else refused
        if not force.places:
            # As in a body: where nothing is placed a placeholder may not stand.
            scans = must_scan(force.admitted, force.generation)
            return self._marker(force, data) if scans else text
        return self._placed(force, data)

    def binary(self) -> Refused | None:
        force = self._in_force()
        if force is None:
            return _GONE
        if not holds_credentials(force.admitted.decision.endpoints):
            return None
        reason = "binary messages cannot be inspected for credentials"
        self._deny_credential("binary_not_inspected", reason)
        return Refused(reason, credential=True)

    def broken(self, fault: WebSocketFault) -> None:
        """Record that the client's frames ended the WebSocket; refused messages have their event."""
        code = _CODES.get(fault.code)
        if code is not None:
            self._services.log.request_denied(
                self._connection.actor,
                self._where,
                self._judged.decision.policy,
                engine=_ENGINE,
                reason=f"the client's frames were rejected: {fault.reason}",
                refusal=Refusal(code, group="l7_parse_rejection"),
            )

    def _in_force(self) -> _InForce | None:
        generation = self._services.holder.current
        if self._seen[0] != generation.number:
            self._seen = generation.number, self._look(generation)
        return self._seen[1]

    def _look(self, generation: Generation) -> _InForce | None:
        admission, judged = self._services.admission, self._judged
        admitted = admission.readmit(judged.route.admitted, generation)
        if not isinstance(admitted, Admitted):
            return None
        config = generation.policy.governing(admitted.decision, judged.request.path)
        return _InForce(generation, admitted, config)

    def _policy(self, force: _InForce, text: str) -> Refused | None:
        config = force.config
        if config is None or config.protocol != "websocket":
            # The handshake is all that such endpoints have rules for.
            return None
        content = read_graphql_message(text) if config.judges_graphql else WebSocketMessage()
        asked = self._judged.request
        verdict = force.generation.policy.authorize(
            force.admitted.decision,
            L7Request(WEBSOCKET_TEXT, asked.path, asked.query, content),
            trusted_only=force.admitted.plan.by_declaration,
        )
        if isinstance(verdict, RequestDenied):
            return self._denied(verdict)
        if isinstance(verdict, RequestAudited):
            self._audited(verdict)
        return None

    def _placed(self, force: _InForce, data: bytes) -> str | Refused:
        """Put credentials into a message that policy allows."""
        outcome = rewrite_message(
            force.generation.credentials,
            data,
            self._judged.scope,
            now_ms=self._services.now_ms(),
        )
        if not isinstance(outcome, CredentialRefused):
            if self._judged.route.is_downgraded:
                outcome = CredentialRefused(NEEDS_TLS, "websocket-message")
            else:
                text = outcome.data.decode()
                config = force.config
                if config is None or not config.judges_graphql:
                    return text
                # A value may not turn one operation into another.
                refused = self._policy(force, text)
                return text if refused is None else refused
        return self._unplaced(outcome)

    def _marker(self, force: _InForce, data: bytes) -> Refused:
        """Refuse a message in which a placeholder stands that nothing replaces."""
        found, _ = first_placeholder(data)
        refused = refuse_marker(
            force.generation.credentials,
            found,
            self._judged.scope,
            now_ms=self._services.now_ms(),
        )
        if refused.is_mismatch:
            return self._unplaced(refused)
        reason = "a credential placeholder stands in a message"
        self._deny_credential("credential_in_message", reason)
        return Refused(reason, credential=True)

    def _unplaced(self, refused: CredentialRefused) -> Refused:
        if refused.is_mismatch:
            reason = "credential endpoint mismatch"
        elif refused.code == NEEDS_TLS:
            reason = "a credential is not sent in clear text to an endpoint that speaks TLS"
        else:
            reason = "a credential placeholder in a message could not be resolved"
        self._deny_credential(refused.code, reason, mismatch=refused.is_mismatch)
        return Refused(reason, credential=True)

    def _deny_credential(self, code: str, reason: str, *, mismatch: bool = False) -> None:
        log, connection = self._services.log, self._connection
        log.request_denied(
            connection.actor,
            self._where,
            self._judged.decision.policy,
            engine="credential-binding" if mismatch else "credentials",
            reason=reason,
            refusal=Refusal(code, ancestors=connection.actor.ancestors),
            severity=Severity.HIGH,
        )
        if mismatch:
            log.finding(
                "openshell.credentials.endpoint_mismatch",
                "Credential used outside its endpoint",
                f"{self._where.place} is no endpoint of the credential",
            )

    def _denied(self, denied: RequestDenied) -> Refused:
        connection = self._connection
        self._services.log.request_denied(
            connection.actor,
            self._where,
            denied.policy,
            engine=_ENGINE,
            reason=denied.reason,
            refusal=Refusal(
                denied.reason_code,
                group="l7_policy",
                nearest_rule=denied.nearest_rule or "",
                suggestion=denied.suggestion,
                ancestors=connection.actor.ancestors,
                generation=denied.generation,
            ),
            message=self._message(denied),
        )
        return Refused(denied.reason)

    def _audited(self, audited: RequestAudited) -> None:
        if audited.reason in self._recorded or len(self._recorded) >= _MAX_RECORDED:
            return
        self._recorded.add(audited.reason)
        self._services.log.request_allowed(
            self._connection.actor,
            self._where,
            audited.policy,
            engine=_ENGINE,
            message=self._message(audited),
            detail=audited.reason,
        )

    def _message(self, decision: RequestDenied | RequestAudited) -> str:
        where = self._where
        return (
            f"WEBSOCKET_L7_REQUEST {word_of(decision)} {where.method} {where.place}{where.path}"
            f" reason={decision.reason}"
        )
