"""Events about the messages of one open WebSocket.

Every refused message has one, allowed messages have none, and what is only recorded is recorded once for
each reason. Called by `websocket_judging`, and by `websocket_reading` for frames that are none.
"""

from typing import Final

from openshell.egress.connection import ClientConnection, Services
from openshell.egress.events import Where
from openshell.egress.judging import Judged
from openshell.egress.websocket.frames import CloseCode, WebSocketFault
from openshell.ocsf import Refusal, Severity
from openshell.policy.decide import RequestAudited, RequestDenied, word_of
from openshell.policy.protocols import WEBSOCKET_TEXT

__all__ = ["SocketEvents"]

_ENGINE: Final = "l7-websocket"
# Reasons that are recorded of one WebSocket; they come from rules, of which few cover one path.
_MAX_RECORDED: Final = 32
_CODES: Final = {
    CloseCode.PROTOCOL_ERROR: "websocket_protocol_error",
    CloseCode.BAD_TEXT: "websocket_text_not_utf8",
    CloseCode.TOO_BIG: "websocket_message_too_big",
    CloseCode.TRY_AGAIN: "websocket_no_capacity",
}


class SocketEvents:
    """Writes about one WebSocket."""

    def __init__(self, services: Services, connection: ClientConnection, judged: Judged) -> None:
        self._log = services.log
        self._connection = connection
        self._policy = judged.decision.policy
        shown = judged.where
        self._where = Where(WEBSOCKET_TEXT, shown.scheme, shown.host, shown.port, shown.path)
        self._recorded: set[str] = set()

    def denied(self, denied: RequestDenied) -> None:
        connection = self._connection
        self._log.request_denied(
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

    def audited(self, audited: RequestAudited) -> None:
        if audited.reason in self._recorded or len(self._recorded) >= _MAX_RECORDED:
            return
        self._recorded.add(audited.reason)
        self._log.request_allowed(
            self._connection.actor,
            self._where,
            audited.policy,
            engine=_ENGINE,
            message=self._message(audited),
            detail=audited.reason,
        )

    def credential(self, code: str, reason: str, *, mismatch: bool = False) -> None:
        """Record a message that is refused because of a credential."""
        connection = self._connection
        self._log.request_denied(
            connection.actor,
            self._where,
            self._policy,
            engine="credential-binding" if mismatch else "credentials",
            reason=reason,
            refusal=Refusal(code, ancestors=connection.actor.ancestors),
            severity=Severity.HIGH,
        )
        if mismatch:
            self._log.finding(
                "openshell.credentials.endpoint_mismatch",
                "Credential used outside its endpoint",
                f"{self._where.place} is no endpoint of the credential",
            )

    def broken(self, fault: WebSocketFault) -> None:
        """Record that the client's frames ended the WebSocket; refused messages have their event."""
        code = _CODES.get(fault.code)
        if code is not None:
            self._log.request_denied(
                self._connection.actor,
                self._where,
                self._policy,
                engine=_ENGINE,
                reason=f"the client's frames were rejected: {fault.reason}",
                refusal=Refusal(code, group="l7_parse_rejection"),
            )

    def _message(self, decision: RequestDenied | RequestAudited) -> str:
        where = self._where
        return (
            f"WEBSOCKET_L7_REQUEST {word_of(decision)} {where.method} {where.place}{where.path}"
            f" reason={decision.reason}"
        )
