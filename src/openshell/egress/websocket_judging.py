"""Judges the messages of one open WebSocket: policy first, on placeholders, then credentials.

Nothing here waits: what a message was judged under is what is in force when it is written. Every refusal
ends the WebSocket and has its event. Called by `websocket.messages` for every message of a client.
"""

from dataclasses import dataclass
from typing import Final

from openshell.egress.admission import Admitted
from openshell.egress.bodies.graphql_ws import read_graphql_message
from openshell.egress.connection import Services
from openshell.egress.credentials import (
    NEEDS_TLS,
    CredentialRefused,
    find_marker,
    first_placeholder,
    refuse_marker,
)
from openshell.egress.credentials.message import rewrite_message
from openshell.egress.generation import Generation
from openshell.egress.judging import Judged, must_scan
from openshell.egress.switch import holds_credentials
from openshell.egress.websocket.messages import Refusal as Refused
from openshell.egress.websocket_events import SocketEvents
from openshell.policy.decide import (
    EndpointConfig,
    L7Request,
    RequestAudited,
    RequestDenied,
)
from openshell.policy.messages import WebSocketMessage
from openshell.policy.protocols import WEBSOCKET_TEXT

__all__ = ["SocketJudge"]

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

    def __init__(self, services: Services, judged: Judged, events: SocketEvents) -> None:
        self._services = services
        self._judged = judged
        self._events = events
        self._seen: tuple[int, _InForce | None] = (-1, None)

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
        self._events.credential("binary_not_inspected", reason)
        return Refused(reason, credential=True)

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
            self._events.denied(verdict)
            return Refused(verdict.reason)
        if isinstance(verdict, RequestAudited):
            self._events.audited(verdict)
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
        self._events.credential("credential_in_message", reason)
        return Refused(reason, credential=True)

    def _unplaced(self, refused: CredentialRefused) -> Refused:
        if refused.is_mismatch:
            reason = "credential endpoint mismatch"
        elif refused.code == NEEDS_TLS:
            reason = "a credential is not sent in clear text to an endpoint that speaks TLS"
        else:
            reason = "a credential placeholder in a message could not be resolved"
        self._events.credential(refused.code, reason, mismatch=refused.is_mismatch)
        return Refused(reason, credential=True)
