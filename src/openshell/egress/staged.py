"""What a request says beyond its head, and its way through the stages of its host. Pure.

The two parts of judging that look at bodies. What a stage made of a request is read and judged like what
the client sent, before the next stage and before the upstream sees it; both must be allowed. Called by
`judging` under every generation anew, `staging` waits for the stages.
"""

from dataclasses import dataclass, replace

from openshell.egress.admission import Admitted
from openshell.egress.body_faults import BodyFault, BodyUse, RefusedBody
from openshell.egress.content import Wanted, read_content
from openshell.egress.events import Where
from openshell.egress.generation import Generation
from openshell.egress.http1 import Length
from openshell.egress.judgements import TRANSFORMED, NeedsBody, NeedsStage, Refused
from openshell.egress.middleware import (
    Chain,
    Passage,
    Refusing,
    StageFault,
    StageRefused,
    Unseen,
    has_body,
)
from openshell.egress.route import Pending, Route
from openshell.policy.decide import L7Request, RequestAllowed, RequestAudited, RequestDenied

__all__ = ["Staged", "must_be_seen", "pass_stages", "with_content"]

_LATE = "the policy changed while the request was on its way; send it again"


@dataclass(frozen=True, slots=True)
class Staged:
    """A request that policy allows, as it is by now."""

    pending: Pending
    request: L7Request
    verdict: RequestAllowed | RequestAudited
    unseen: Unseen | None = None


def with_content(
    route: Route,
    generation: Generation,
    pending: Pending,
    written: bytes,
    where: Where,
    request: L7Request,
) -> L7Request | Refused | NeedsBody:
    """Add to the request what it says beyond its head, where the endpoint that governs it looks there."""
    config = generation.policy.governing(route.admitted.decision, request.path)
    if config is None or not config.body_bytes:
        return request
    query = written.decode("ascii").partition("?")[2]
    content = read_content(config, pending, request, query)
    if isinstance(content, Wanted):
        return NeedsBody(route, where, BodyUse.JUDGING, content.limit, config.protocol)
    if isinstance(content, RefusedBody):
        return Refused(route, content, where)
    return L7Request(request.method, request.path, request.query, content)


def must_be_seen(generation: Generation, admitted: Admitted) -> bool:
    """Whether some stage of the host demands to see its traffic."""
    if generation.middleware is None:
        return False
    chain = generation.middleware.chain_for(admitted.decision.host)
    return chain is not None and chain.must_see


def pass_stages(
    route: Route,
    generation: Generation,
    seen: Staged,
    written: bytes,
    where: Where,
    *,
    switches: bool,
) -> Staged | Refused | NeedsBody | NeedsStage:
    """Say what the chain of the host makes of a request, or what it needs to go on with it."""
    middleware = generation.middleware
    chain = middleware.chain_for(route.admitted.decision.host) if middleware else None
    if chain is None:
        return seen
    pending = seen.pending
    if switches:
        # Nobody will see what is said after the handshake.
        if chain.must_see:
            return Refused(route, StageRefused(Refusing.REQUIRED), where)
        return replace(seen, unseen=Unseen.TRAFFIC)
    bodily = _body(route, chain, pending, where)
    if isinstance(bodily, Refused | NeedsBody):
        return bodily
    if bodily is not None:
        return replace(seen, unseen=bodily)
    passage = pending.passage
    if passage is None or passage.chain != chain:
        passage = pending.passage = Passage.begin(chain, pending.head, pending.body)
    child = _child(pending, passage)
    staged = Staged(child, seen.request, seen.verdict)
    if passage.is_changed:
        judged = _judge_again(route, generation, staged, written, where)
        if isinstance(judged, Refused):
            return judged
        staged = judged
    if passage.stage is not None:
        query = written.decode("ascii").partition("?")[2]
        return NeedsStage(route, where, passage, seen.request.path, query)
    return staged


def _body(
    route: Route, chain: Chain, pending: Pending, where: Where
) -> Refused | NeedsBody | Unseen | None:
    """See to it that the body is there, if there is one; say why it cannot be."""
    head, limit = pending.head, chain.body_limit
    if not has_body(head):
        return None
    declared = isinstance(head.framing, Length)
    size = head.framing.octets if isinstance(head.framing, Length) else len(pending.body or b"")
    if size > limit:
        if declared and not chain.must_see:
            return Unseen.BODY
        refused = StageRefused(Refusing.FAILED, reason_code=StageFault.CAPACITY.value)
        return Refused(route, refused, where)
    if pending.body is not None:
        return None
    if not pending.is_streaming:
        return NeedsBody(route, where, BodyUse.STAGES, limit)
    if chain.must_see:
        return Refused(route, RefusedBody(BodyFault.LATE, BodyUse.STAGES, _LATE), where)
    return Unseen.BODY


def _child(pending: Pending, passage: Passage) -> Pending:
    """The request as its stages have left it; it keeps what was got for it."""
    if passage.head is pending.head and passage.body is pending.body:
        return pending
    child = pending.staged
    if child is None or child.head is not passage.head or child.body is not passage.body:
        child = pending.staged = Pending(passage.head)
        child.body = passage.body
    child.token, child.is_streaming = pending.token, pending.is_streaming
    return child


def _judge_again(
    route: Route, generation: Generation, staged: Staged, written: bytes, where: Where
) -> Staged | Refused:
    """Judge what a stage made of a request; a body that cannot be read is refused under audit, too."""
    admitted = route.admitted
    request = staged.request
    if route.reads_content:
        known = with_content(route, generation, staged.pending, written, where, request)
        if isinstance(known, Refused):
            return _as_transformed(known)
        if isinstance(known, NeedsBody):
            failed = StageRefused(Refusing.FAILED, reason_code=StageFault.INTERNAL.value)
            return Refused(route, failed, where)
        request = known
    verdict = generation.policy.authorize(
        admitted.decision, request, trusted_only=admitted.plan.by_declaration
    )
    if isinstance(verdict, RequestDenied):
        how = "rejected" if verdict.hard else "denied by policy"
        verdict = replace(verdict, reason=f"{TRANSFORMED} {how}: {verdict.reason}")
        return Refused(route, verdict, where, TRANSFORMED)
    return Staged(staged.pending, request, verdict)


def _as_transformed(refused: Refused) -> Refused:
    if not isinstance(refused.why, RefusedBody):
        return refused
    why = replace(refused.why, detail=f"{TRANSFORMED} rejected: {refused.why.detail}")
    return replace(refused, why=why)
