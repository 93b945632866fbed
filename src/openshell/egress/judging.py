"""One request on an admitted route: may it go, and in which form? Pure; the order is the contract's.

generation, authority, upgrade, canonical target, redaction, content, policy, stages, token grant, signature or
placeholders. The result is what to send, or why not, or what must be had first: a token, the whole body, a
stage's answer. Whoever called gets it and asks again. A refusal carries the values that its answer and its event are made
from. No I/O: between the last look at the generation and the bytes handed to the upstream nothing
can change, because nothing here waits.
"""

from typing import Final

from openshell.egress.admission import Admission, Admitted, NotAdmitted
from openshell.egress.body_faults import BodyUse
from openshell.egress.credentials import (
    BODY_LIMIT,
    NEEDS_TLS,
    CredentialRefused,
    CredentialSet,
    EndpointScope,
    TokenGrant,
    is_echoed,
    redact_placeholders,
)
from openshell.egress.events import Where, shown_method
from openshell.egress.generation import Generation
from openshell.egress.http1 import (
    HeadRejected,
    Length,
    NoBody,
    RequestHead,
    lowered,
    parse_host_field,
)
from openshell.egress.judgements import (
    Fault,
    Judged,
    Judgement,
    NeedsBody,
    NeedsStage,
    NeedsToken,
    Refused,
    RefusedRequest,
    TokenRefused,
)
from openshell.egress.route import DEFAULT_PORTS, Pending, Route
from openshell.egress.signed_request import Lacking, write_signed
from openshell.egress.signing_plan import SIGNED_BODY_LIMIT, SigningFault, signing_endpoint
from openshell.egress.staged import Staged, must_be_seen, pass_stages, with_content
from openshell.egress.switch import Switch, must_read, plan_switch
from openshell.egress.websocket.handshake import Attempt, Upgrade, read_upgrade
from openshell.egress.writing import Writing, write_request, write_whole
from openshell.policy.decide import L7Request, RequestDenied
from openshell.policy.messages import WebSocketUpgrade
from openshell.policy.target import TargetRejected, canonicalize

__all__ = [
    "Fault",
    "Judged",
    "Judgement",
    "NeedsBody",
    "NeedsStage",
    "NeedsToken",
    "Refused",
    "RefusedRequest",
    "TokenRefused",
    "judge",
    "may_stay",
    "must_scan",
]

# A request that names no host gets no value: a marker in it is refused.
_NO_CREDENTIALS = CredentialSet()
_EMPTY: Final = Length(0)
_UPGRADE: Final = WebSocketUpgrade()
# A path longer than this is shown cut; it is judged whole before.
_SHOWN_PATH = 256


def judge(
    admission: Admission, generation: Generation, route: Route, pending: Pending, *, now_ms: int
) -> Judgement:
    """Judge a request under `generation`, which must be the current one."""
    head = pending.head
    if route.admitted.generation != generation.number:
        renewed = admission.readmit(route.admitted, generation)
        if not isinstance(renewed, Admitted):
            return Refused(route, renewed, _where(route, head, "/"))
        route = route.renewed(renewed)
    admitted = route.admitted
    # Kept fields have passed here before, on this very route.
    attempt = Attempt.NONE if head.headers is route.kept.headers else read_upgrade(head)
    target = _target(route, head, attempt)
    if isinstance(target, Refused):
        return target
    written, where, request = target
    if route.reads_content:
        known = with_content(route, generation, pending, written, where, request)
        if not isinstance(known, L7Request):
            return known
        request = known
    verdict = generation.policy.authorize(
        admitted.decision, request, trusted_only=admitted.plan.by_declaration
    )
    if isinstance(verdict, RequestDenied):
        return Refused(route, verdict, where)
    switch = plan_switch(attempt, verdict.config, admitted.decision.endpoints)
    if switch is False:
        return Refused(route, Fault.WEBSOCKET, where)
    unseen = None
    if generation.middleware is not None:
        switches = isinstance(switch, Switch)
        seen = Staged(pending, request, verdict)
        staged = pass_stages(route, generation, seen, written, where, switches=switches)
        if not isinstance(staged, Staged):
            return staged
        pending, request, verdict = staged.pending, staged.request, staged.verdict
        head, unseen = pending.head, staged.unseen
    scope = EndpointScope(admitted.decision.host, admitted.decision.port, request.path)
    credentials = generation.credentials
    is_nameless = head.version != b"HTTP/1.1" and not route.absolute and head.host is None
    if is_nameless or admitted.decision.is_tcp:
        # The author of a plain TCP endpoint has asked for bytes that nobody changes.
        credentials = _NO_CREDENTIALS
    granted = _granted(route, where, credentials, scope, pending) if credentials.grants else None
    if isinstance(granted, NeedsToken | Refused):
        return granted
    config = verdict.config
    places_body = config is not None and config.endpoint.request_body_credential_rewrite
    if places_body and _body_is_wanted(pending, generation, admitted):
        return NeedsBody(route, where, BodyUse.PLACING, BODY_LIMIT)
    scan_body = not isinstance(head.framing, NoBody) and must_scan(admitted, generation)
    signing = signing_endpoint(admitted.decision, config, request.path) if route.signs else None
    wire: bytes | Lacking | CredentialRefused | SigningFault
    if signing is None and granted is None and pending.body is None and attempt is Attempt.NONE:
        wire = write_request(route, head, written, credentials, scope, now_ms)
    else:
        opened = switch if isinstance(switch, Switch) else None
        writing = Writing(route, credentials, scope, now_ms, granted, opened)
        if signing is None:
            wire = write_whole(writing, pending, written, places_body, scan_body)
        else:
            wire = write_signed(writing, signing, pending, written, scan_body=scan_body)
    if isinstance(wire, Lacking):
        return NeedsBody(route, where, BodyUse.SIGNING, SIGNED_BODY_LIMIT)
    if isinstance(wire, CredentialRefused | SigningFault):
        return Refused(route, wire, where)
    return Judged(
        route,
        wire,
        request,
        verdict,
        where,
        scope,
        generation.number,
        scan_body,
        signing is not None,
        switch if isinstance(switch, Switch) else None,
        unseen,
    )


def _target(
    route: Route, head: RequestHead, attempt: Upgrade | Attempt
) -> tuple[bytes, Where, L7Request] | Refused:
    """Read whom and what the request is for: the target to send, and what policy and people see."""
    fault = None if _names(route, head) else Fault.AUTHORITY
    fault = fault or _refused_upgrade(route, head)
    if fault is not None:
        return Refused(route, fault, _where(route, head, "/"))
    try:
        target = canonicalize(head.target, allow_encoded_slash=route.keeps_slash)
    except TargetRejected as rejected:
        return Refused(route, Fault.TARGET, _where(route, head, "/"), rejected.reason.value)
    path = target.path
    if b"%" in head.target or b"esolve" in head.target or b"ESOLVE" in head.target:
        redacted = redact_placeholders(target.path.encode())
        if redacted is None or redact_placeholders(target.query.encode()) is None:
            return Refused(route, Fault.PLACEHOLDER, _where(route, head, "/"))
        path = redacted.decode()
    where = _where(route, head, path)
    return (
        target.origin_form.encode("ascii"),
        where,
        L7Request(
            head.method.decode("ascii"),
            path,
            target.params,
            _UPGRADE if isinstance(attempt, Upgrade) else None,
        ),
    )


def _granted(
    route: Route, where: Where, credentials: CredentialSet, scope: EndpointScope, pending: Pending
) -> tuple[TokenGrant, str] | NeedsToken | Refused | None:
    """Find the token that goes with the request; None where no grant covers it."""
    grant = credentials.grants.choose(scope)
    if grant is None:
        return None
    if grant.fault:
        return Refused(route, TokenRefused(grant.owner, grant.fault), where)
    if route.is_downgraded:
        return Refused(route, CredentialRefused(NEEDS_TLS, "token-grant"), where)
    if is_echoed(pending.head.method):
        return Refused(route, CredentialRefused("credential_unavailable", "method"), where)
    held = pending.token
    if held is not None and held[0].cache_key == grant.cache_key:
        return grant, held[1]
    tokens = credentials.grants.tokens
    ready = tokens.ready(grant)
    return (grant, ready) if ready is not None else NeedsToken(route, where, grant, tokens)


def _body_is_wanted(pending: Pending, generation: Generation, admitted: Admitted) -> bool:
    if pending.body is not None or pending.is_streaming:
        return False
    if isinstance(pending.head.framing, NoBody) or pending.head.framing == _EMPTY:
        return False
    # Without any value there is nothing to place: the body goes as it comes.
    return not generation.credentials.is_empty or any(
        config.provider_credentialed for config in admitted.decision.endpoints
    )


def may_stay(
    admission: Admission, generation: Generation, judged: Judged
) -> Admitted | NotAdmitted | RequestDenied | None:
    """Judge a running exchange under a new generation; None when it may go on.

    Admitted as it is and still not to go on is a WebSocket whose messages would be read now.
    """
    admitted = admission.readmit(judged.route.admitted, generation)
    if not isinstance(admitted, Admitted):
        return admitted
    verdict = generation.policy.authorize(
        admitted.decision, judged.request, trusted_only=admitted.plan.by_declaration
    )
    if isinstance(verdict, RequestDenied):
        return verdict
    switch, endpoints = judged.switch, admitted.decision.endpoints
    if switch is not None and must_be_seen(generation, admitted):
        return admitted
    if switch is None or switch.reads or not must_read(verdict.config, endpoints):
        return None
    return admitted


def _names(route: Route, head: RequestHead) -> bool:
    """Say whether the request's own authority is the one that was admitted."""
    if route.absolute:
        # The route was made from the target itself, and the Host field is replaced by it.
        return True
    host = head.host
    # Only HTTP/1.0 comes without; it is bound to this route by the connection it came on.
    if host is not None and host not in route.hosts and not _same_authority(route, host):
        return False
    if head.target.startswith(b"/"):
        return True
    _, scheme, rest = head.target.partition(b"://")
    if not scheme:
        return True
    authority = rest.partition(b"/")[0].partition(b"?")[0]
    return authority in route.hosts or _same_authority(route, authority)


def _same_authority(route: Route, value: bytes) -> bool:
    try:
        named = parse_host_field(value)
    except HeadRejected:
        return False
    request = route.admitted.request
    port = DEFAULT_PORTS[route.scheme] if named.port is None else named.port
    return port == request.port and named.host.rstrip(".") == request.host.lower().rstrip(".")


def _refused_upgrade(route: Route, head: RequestHead) -> Fault | None:
    """Name the upgrade that is refused; others are dropped with the fields that ask for them."""
    if head.headers is route.kept.headers or b"upgrade" not in lowered(head.headers):
        return None
    return Fault.H2C if b"h2c" in head.upgrade_tokens() and route.configs else None


def must_scan(admitted: Admitted, generation: Generation) -> bool:
    """Say whether a placeholder may not stand where nothing replaces it."""
    endpoints = admitted.decision.endpoints
    if generation.credentials.is_empty and not any(e.provider_credentialed for e in endpoints):
        return False
    return not all(e.endpoint.allow_uninspected_credentials for e in endpoints)


def _where(route: Route, head: RequestHead, path: str) -> Where:
    request = route.admitted.request
    return Where(
        shown_method(head.method.decode("ascii")),
        route.scheme,
        request.host,
        request.port,
        path[:_SHOWN_PATH],
    )
