"""One request put to a compiled policy, in the order in which the proxy asks: connection, request.

The answers are the compiled policy's own. What only a running sandbox knows (addresses, protocol
seen on the wire, credential values) is not asked. Callers: `explain`, and `heads` for requests that
are known in part.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from openshell.policy.compile import CompiledPolicy
from openshell.policy.decide import (
    ConnectionAllowed,
    ConnectionDecision,
    ConnectionDenied,
    ConnectionRequest,
    L7Request,
    RequestAudited,
    RequestDecision,
    RequestDenied,
)

__all__ = ["Outcome", "Trial", "is_opened", "try_request"]


class Outcome(StrEnum):
    ALLOWED = "allowed"
    # Forwarded, and recorded as what enforcement would have refused.
    AUDITED = "audited"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class Trial:
    connection: ConnectionDecision
    # None when the connection was refused, or nobody looks into it.
    request: RequestDecision | None

    @property
    def outcome(self) -> Outcome:
        if isinstance(self.connection, ConnectionDenied) or isinstance(self.request, RequestDenied):
            return Outcome.DENIED
        return Outcome.AUDITED if isinstance(self.request, RequestAudited) else Outcome.ALLOWED

    @property
    def refusal(self) -> ConnectionDenied | RequestDenied | RequestAudited | None:
        """What stands against it, also where it is only recorded."""
        if isinstance(self.connection, ConnectionDenied):
            return self.connection
        return self.request if isinstance(self.request, RequestDenied | RequestAudited) else None


def is_opened(connection: ConnectionAllowed, *, encrypted: bool) -> bool:
    """Whether single requests are seen: `tls: skip` keeps encrypted ones closed."""
    return bool(connection.l7_configs) and not (encrypted and connection.tls_mode == "skip")


def try_request(
    policy: CompiledPolicy,
    connection: ConnectionRequest,
    request: L7Request | None,
    *,
    encrypted: bool,
) -> Trial:
    """`request` None asks for the connection alone."""
    answer = policy.connect(connection)
    if (
        request is None
        or isinstance(answer, ConnectionDenied)
        or not is_opened(answer, encrypted=encrypted)
    ):
        return Trial(answer, None)
    return Trial(answer, policy.authorize(answer, request))
