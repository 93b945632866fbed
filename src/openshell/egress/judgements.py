"""What judging a request may come to: it goes, it does not, or something must be had first. Values only.

Made by `judging` and `staged`; acted on by `exchange` and `http2`, told by `refusing` and `recording`.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

import msgspec

from openshell.egress.admission import NotAdmitted
from openshell.egress.body_faults import BodyFault, BodyUse, RefusedBody
from openshell.egress.credentials import CredentialRefused, EndpointScope, TokenGrant, Tokens
from openshell.egress.events import Where
from openshell.egress.middleware import Passage, Refusing, StageFault, StageRefused, Unseen
from openshell.egress.route import Route
from openshell.egress.signing_plan import SigningFault
from openshell.egress.switch import Switch
from openshell.policy.decide import L7Request, RequestAllowed, RequestAudited, RequestDenied

__all__ = [
    "TRANSFORMED",
    "Fault",
    "Judged",
    "Judgement",
    "NeedsBody",
    "NeedsStage",
    "NeedsToken",
    "Refused",
    "RefusedRequest",
    "TokenRefused",
]

# The detail of a refusal that is about what a stage made of the request.
TRANSFORMED = "middleware transformation"


class Fault(Enum):
    """Refusals that no policy decision stands behind; the value is the code of the answer."""

    AUTHORITY = "request_authority_mismatch"
    TARGET = "invalid_request_target"
    PLACEHOLDER = "invalid_credential_placeholder"
    H2C = "h2c_upgrade"
    WEBSOCKET = "invalid_websocket_upgrade"


@dataclass(frozen=True, slots=True)
class TokenRefused:
    """The token that a grant stands for could not be had. The reason is for the log only."""

    grant: str
    reason: str


RefusedRequest: TypeAlias = (
    NotAdmitted
    | RequestDenied
    | CredentialRefused
    | TokenRefused
    | SigningFault
    | RefusedBody
    | StageRefused
    | Fault
)


@dataclass(frozen=True, slots=True)
class Refused:
    """The request goes nowhere. `where` is as much of it as may be shown."""

    route: Route
    why: RefusedRequest
    where: Where
    detail: str = ""


class Judged(msgspec.Struct, frozen=True):
    """The request may go: the bytes of the head to send, and what must be watched while it runs."""

    route: Route
    wire: bytes
    request: L7Request
    decision: RequestAllowed | RequestAudited
    where: Where
    scope: EndpointScope
    generation: int
    scan_body: bool
    # The client's Expect stays here, so that it is answered here.
    is_signed: bool = False
    # What becomes of the connection if the server answers with 101.
    switch: Switch | None = None
    # Why its chain did not see it, where there is one.
    unseen: Unseen | None = None

    def __repr__(self) -> str:
        return f"<Judged {self.where}, generation {self.generation}>"


@dataclass(frozen=True, slots=True)
class NeedsToken:
    """The request may go once there is a token for it."""

    route: Route
    where: Where
    grant: TokenGrant
    tokens: Tokens = field(repr=False)


@dataclass(frozen=True, slots=True)
class NeedsBody:
    """The request may go once its body is whole; `protocol` reads it where policy judges it."""

    route: Route
    where: Where
    use: BodyUse
    limit: int
    protocol: str = ""

    @property
    def wire_limit(self) -> int:
        """How much may be sent, chunk framing included."""
        return self.limit * 2 if self.use in (BodyUse.JUDGING, BodyUse.STAGES) else self.limit

    def refused(self, fault: BodyFault, seconds: float) -> Refused:
        """The refusal of a body that could not be held."""
        if self.use is BodyUse.STAGES and fault is BodyFault.SIZE:
            why = StageRefused(Refusing.FAILED, reason_code=StageFault.CAPACITY.value)
            return Refused(self.route, why, self.where)
        told = RefusedBody.held(fault, self.use, self.limit, seconds, self.protocol)
        return Refused(self.route, told, self.where)


@dataclass(frozen=True, slots=True)
class NeedsStage:
    """The request may go once the next stage of its chain has let it through."""

    route: Route
    where: Where
    passage: Passage
    path: str
    query: str = field(repr=False)


Judgement: TypeAlias = Judged | Refused | NeedsToken | NeedsBody | NeedsStage
