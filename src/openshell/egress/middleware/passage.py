"""One request on its way through a chain: what the next stage is shown, and what becomes of its answer.

Pure. `judging` begins a passage once policy allows the request and asks for one stage at a time, so that
what a stage changed is judged before the next one sees it, under the generation then in force. A passage
that another chain began counts for nothing: the request passes the new one from its start.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, Final

from openshell.egress.credentials import redact_placeholders
from openshell.egress.http1 import RequestHead
from openshell.egress.middleware.chain import Chain, Stage
from openshell.egress.middleware.checking import apply_answer
from openshell.egress.middleware.fields import visible_fields, without_own_fields
from openshell.egress.middleware.values import Answer, Evaluation, Noticed, StageFault

if TYPE_CHECKING:
    from openshell.egress.events import Where

__all__ = [
    "CHAIN_SECONDS",
    "Passage",
    "Refusing",
    "StageRefused",
    "Step",
    "Unseen",
]

# All stages of one request together; the contract's number.
CHAIN_SECONDS: Final = 30.0


class Unseen(Enum):
    """Why a request passed without its chain, which is allowed where every stage fails open."""

    BODY = "openshell.middleware.body_unavailable"
    TRAFFIC = "openshell.middleware.traffic_uninspectable"


class Refusing(Enum):
    """The value is the code of the answer."""

    DENIED = "middleware_denied"
    FAILED = "middleware_failed"
    REQUIRED = "middleware_required"

    @property
    def detail(self) -> str:
        """The same for people."""
        return _DETAILS[self]


_DETAILS: Final = {
    Refusing.DENIED: "middleware of the policy denied the request",
    Refusing.FAILED: "middleware of the policy must see the request and could not process it",
    Refusing.REQUIRED: "middleware of the policy must see this traffic, and it cannot be inspected",
}


@dataclass(frozen=True, slots=True)
class StageRefused:
    """A request that a chain does not let through. No word in it is from a remote service."""

    how: Refusing
    # Of the attachment; empty where it was no single stage.
    stage: str = ""
    # A code, checked for its form.
    reason_code: str = ""

    @property
    def status(self) -> int:
        return 503 if self.reason_code == StageFault.BUSY.value else 403


@dataclass(frozen=True, slots=True)
class Passage:
    """How far a request has come, and what it is by now."""

    chain: Chain
    head: RequestHead = field(repr=False)
    # None: it has none.
    body: bytes | None = field(repr=False)
    position: int = 0
    is_changed: bool = False
    # When the first stage was asked, by the shell's clock.
    began: float | None = None

    @classmethod
    def begin(cls, chain: Chain, head: RequestHead, body: bytes | None) -> Passage:
        headers = without_own_fields(head.headers)
        if headers is not head.headers:
            head = RequestHead(head.method, head.target, head.version, headers, head.framing)
        return cls(chain, head, body)

    @property
    def stage(self) -> Stage | None:
        """The stage to be asked next; None at the end."""
        stages = self.chain.stages
        return stages[self.position] if self.position < len(stages) else None

    def show(self, where: Where, path: str, query: str, request_id: str) -> Evaluation | StageFault:
        """What the next stage sees; `path` and `query` may hold placeholders, which go."""
        fields = visible_fields(self.head.headers)
        if fields is None:
            return StageFault.HEADERS
        shown = redact_placeholders(query.encode())
        stage = self.chain.stages[self.position]
        return Evaluation(
            request_id,
            where.method,
            where.scheme,
            where.host,
            where.port,
            path,
            "" if shown is None else shown.decode(),
            fields,
            self.body or b"",
            stage.config,
        )

    def answered(self, answer: Answer) -> Step:
        """Go on with what a stage answered."""
        stage = self.chain.stages[self.position]
        changed = apply_answer(answer, self.head, self.body, self.chain.body_limit)
        if isinstance(changed, StageFault):
            return self.failed(changed)
        if not answer.allow:
            refused = StageRefused(Refusing.DENIED, stage.name, answer.reason_code)
            return Step(refused, answer.noticed)
        is_changed = changed.head is not self.head or changed.body is not self.body
        passed = replace(
            self,
            head=changed.head,
            body=changed.body,
            position=self.position + 1,
            is_changed=self.is_changed or is_changed,
        )
        return Step(passed, answer.noticed)

    def failed(self, fault: StageFault) -> Step:
        """Go on without the stage, if it may be left out."""
        stage = self.chain.stages[self.position]
        if not stage.fails_open:
            return Step(StageRefused(Refusing.FAILED, stage.name, fault.value), fault=fault)
        return Step(replace(self, position=self.position + 1), fault=fault)


@dataclass(frozen=True, slots=True)
class Step:
    """What became of a request at one stage; `fault` where the stage itself failed."""

    passed: Passage | StageRefused
    noticed: tuple[Noticed, ...] = ()
    fault: StageFault | None = None
