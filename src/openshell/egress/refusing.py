"""From a refusal's values to the two things everybody sees of it: the answer and the event.

The wording comes from the decision and from `denials`; this module chooses which answer, which
event class, and the labels (engine, stage, group) of the contract's tables. It writes nothing to
the client.
"""

from dataclasses import replace
from typing import Final

from openshell.egress.admission import DestinationRefused
from openshell.egress.body_faults import BodyUse, RefusedBody
from openshell.egress.connection import ClientConnection, Services
from openshell.egress.credentials import MARKER_PLACE, NEEDS_TLS, CredentialRefused
from openshell.egress.denials import Denial, RequestFacts, bare
from openshell.egress.events import Where, l7_engine, l7_labels
from openshell.egress.http1 import BodyRejected, RequestHead
from openshell.egress.judgements import TRANSFORMED
from openshell.egress.judging import Fault, Judged, Refused, TokenRefused
from openshell.egress.middleware import StageRefused
from openshell.egress.route import Route
from openshell.egress.signing_plan import SigningFault
from openshell.ocsf import HostPort, NetActivity, Refusal, Severity
from openshell.policy.decide import ConnectionDenied, RequestDenied

__all__ = [
    "body_rejected",
    "forward_denied",
    "marker_in_body",
    "refuse_connection",
    "refuse_request",
]

_H2C_REASON: Final = "HTTP/2 cleartext upgrade not supported for L7-inspected endpoints"
# Decisions that say nothing about the policy: somebody could not be named.
_UNKNOWN_IDENTITY: Final = "identity_unknown"
# Under which activity a refused connection counts, by the stage at which it was refused.
_GROUPS: Final = {
    "connect": "connect_policy",
    "transparent-tcp": "connect_policy",
    "bypass": "bypass",
}


def refuse_connection(
    services: Services,
    connection: ClientConnection,
    why: ConnectionDenied | DestinationRefused,
    host: str,
    port: int,
    stage: str = "connect",
) -> Denial:
    """Record and word the refusal of a CONNECT or of a captured connection."""
    activity = NetActivity.REFUSE if connection.is_captured else NetActivity.OPEN
    if isinstance(why, ConnectionDenied):
        services.log.connection_denied(
            connection.actor,
            HostPort(host, port),
            engine="opa",
            reason=why.reason,
            activity=activity,
            refusal=_of_connection(why, connection, stage, _GROUPS[stage]),
        )
        return services.denials.connect_denied(why)
    services.log.connection_denied(
        connection.actor,
        HostPort(host, port),
        engine="ssrf",
        policy=why.decision.matched_policy,
        reason=why.refused.reason,
        activity=activity,
        refusal=_of_destination(why, connection),
    )
    return services.denials.destination_refused("CONNECT", host, port, why.refused.reason)


def refuse_request(services: Services, connection: ClientConnection, refused: Refused) -> Denial:
    """Record and word the refusal of one request."""
    where, route = refused.where, refused.route
    request = route.admitted.request
    facts = RequestFacts(where.method, where.path, request.host, request.port, request.binary)
    policy = route.admitted.decision.matched_policy
    match refused.why:
        case ConnectionDenied() as denied:
            labels = ("forward", "forward_policy") if route.absolute else ("", "policy_stale")
            refusal = _of_connection(denied, connection, *labels)
            _deny(services, connection, where, "-", "opa", denied.reason, refusal, 403)
            if route.absolute:
                return services.denials.forward_denied(denied, facts)
            return services.denials.connect_denied(denied)
        case DestinationRefused() as denied:
            reason = denied.refused.reason
            refusal = _of_destination(denied, connection)
            _deny(services, connection, where, policy, "ssrf", reason, refusal, 403)
            return services.denials.destination_refused(
                where.method, request.host, request.port, reason
            )
        case RequestDenied() as denied:
            return _deny_l7(services, connection, refused, denied, facts)
        case CredentialRefused() as credential:
            return _refuse_credential(services, connection, refused, credential)
        case TokenRefused() as token:
            return _refuse_token(services, connection, refused, token)
        case SigningFault() as unsigned:
            return _refuse_unsigned(services, connection, refused, unsigned)
        case StageRefused() as stage:
            return _refuse_stage(services, connection, refused, stage)
        case RefusedBody() as body:
            return _refuse_body(services, connection, refused, body)
        case Fault() as fault:
            return _refuse_fault(services, connection, refused, fault, facts)


def _refuse_stage(
    services: Services, connection: ClientConnection, refused: Refused, stage: StageRefused
) -> Denial:
    policy = refused.route.admitted.decision.matched_policy
    reason = ": ".join(filter(None, (stage.how.detail, stage.stage, stage.reason_code)))
    refusal = Refusal(stage.how.value, group="l7_policy", ancestors=connection.actor.ancestors)
    denial = services.denials.stage_refused(stage)
    _deny(services, connection, refused.where, policy, "middleware", reason, refusal, denial.status)
    return denial


def forward_denied(
    services: Services,
    connection: ClientConnection,
    why: ConnectionDenied | DestinationRefused,
    where: Where,
) -> Denial:
    """Record and word the refusal of a plain proxy request before a route to it existed."""
    binary = why.binary if isinstance(why, ConnectionDenied) else why.request.binary
    facts = RequestFacts(where.method, where.path, where.host, where.port, binary)
    if isinstance(why, ConnectionDenied):
        refusal = _of_connection(why, connection, "forward", "forward_policy")
        _deny(services, connection, where, "-", "opa", why.reason, refusal, 403)
        return services.denials.forward_denied(why, facts)
    reason, policy = why.refused.reason, why.decision.matched_policy
    refusal = _of_destination(why, connection)
    _deny(services, connection, where, policy, "ssrf", reason, refusal, 403)
    return services.denials.destination_refused(where.method, where.host, where.port, reason)


def _deny_l7(
    services: Services,
    connection: ClientConnection,
    refused: Refused,
    denied: RequestDenied,
    facts: RequestFacts,
) -> Denial:
    where = refused.where
    if refused.detail == TRANSFORMED and denied.reason_code == "evaluation_error":
        services.log.finding(
            "openshell.middleware.transformation_not_evaluated",
            "Middleware made a request that policy cannot evaluate",
            f"{where.method} {facts.where}{where.path}",
        )
    stage = "forward-l7-deny" if refused.route.absolute else ""
    refusal = _of_request(denied, connection, stage)
    engine, name = l7_labels(denied.config)
    message = f"{name} deny {where.method} {facts.where}{where.path} reason={denied.reason}"
    services.log.request_denied(
        connection.actor,
        where,
        denied.policy,
        engine=engine,
        reason=denied.reason,
        refusal=refusal,
        code=403,
        message=message,
    )
    if refused.route.absolute:
        reason = f"{where.method} {facts.where}{where.path} denied by L7 policy: {denied.reason}"
        denied = replace(denied, reason=reason)
    return services.denials.request_denied(denied, facts)


def _refuse_credential(
    services: Services,
    connection: ClientConnection,
    refused: Refused,
    credential: CredentialRefused,
) -> Denial:
    policy = refused.route.admitted.decision.matched_policy
    denial = services.denials.credential_refused(credential, tunnel=not refused.route.absolute)
    in_clear = credential.code == NEEDS_TLS
    if in_clear:
        reason = "a credential would have gone in clear text to an endpoint that speaks TLS"
    elif credential.is_mismatch:
        reason = "a credential is not authorized for this request endpoint"
    else:
        reason = f"a credential placeholder in the {credential.place} could not be resolved"
    services.log.request_denied(
        connection.actor,
        refused.where,
        policy,
        engine="credential-binding" if credential.is_mismatch else "credentials",
        reason=reason,
        refusal=Refusal(credential.code, ancestors=connection.actor.ancestors),
        code=denial.status,
        severity=Severity.HIGH,
    )
    if credential.is_mismatch:
        _mismatch(services, refused.where)
    elif credential.place == MARKER_PLACE:
        _in_body(services)
    if in_clear:
        services.log.finding(
            "openshell.credentials.clear_text",
            "Credential used without TLS",
            f"{refused.where.place} was spoken to in clear text",
        )
    return denial


def marker_in_body(
    services: Services, connection: ClientConnection, judged: Judged, refused: CredentialRefused
) -> Denial:
    """Record and word the refusal of a body in which a placeholder stands."""
    services.log.request_denied(
        connection.actor,
        judged.where,
        judged.decision.policy,
        engine="credential-binding" if refused.is_mismatch else "credentials",
        reason="a credential placeholder stands in the request body",
        refusal=Refusal(
            refused.code if refused.is_mismatch else "credential_in_body",
            ancestors=connection.actor.ancestors,
        ),
        severity=Severity.HIGH,
    )
    if refused.is_mismatch:
        _mismatch(services, judged.where)
    else:
        _in_body(services)
    return services.denials.credential_refused(refused, tunnel=not judged.route.absolute)


def body_rejected(
    services: Services,
    connection: ClientConnection,
    route: Route,
    head: RequestHead,
    rejected: BodyRejected,
) -> Denial:
    """Record and word the refusal of a body that is not framed as we accept it."""
    place, path = route.admitted.request, "/"
    if connection.judged is not None:
        path = connection.judged.where.path
    services.log.request_denied(
        connection.actor,
        Where(head.method.decode("ascii"), route.scheme, place.host, place.port, path),
        route.admitted.decision.matched_policy,
        engine="http-parser",
        reason=f"the request body was rejected: {rejected.reason.value}",
        refusal=Refusal(rejected.reason.value, group="l7_parse_rejection"),
        code=400,
    )
    return bare(400)


def _refuse_token(
    services: Services, connection: ClientConnection, refused: Refused, token: TokenRefused
) -> Denial:
    services.log.request_denied(
        connection.actor,
        refused.where,
        refused.route.admitted.decision.matched_policy,
        engine="credentials",
        reason=f"no token for {token.grant}: {token.reason}",
        refusal=Refusal("token_grant_failed", ancestors=connection.actor.ancestors),
        code=502,
        severity=Severity.HIGH,
    )
    return services.denials.token_refused() if refused.route.absolute else bare(502)


def _refuse_unsigned(
    services: Services, connection: ClientConnection, refused: Refused, fault: SigningFault
) -> Denial:
    denial = services.denials.not_signed(fault)
    services.log.request_denied(
        connection.actor,
        refused.where,
        refused.route.admitted.decision.matched_policy,
        engine="credentials",
        reason=f"the request cannot be signed: {fault.value}",
        refusal=Refusal(f"signing_{fault.name.lower()}", ancestors=connection.actor.ancestors),
        code=denial.status,
        severity=Severity.HIGH,
    )
    return denial


def _refuse_body(
    services: Services, connection: ClientConnection, refused: Refused, body: RefusedBody
) -> Denial:
    """A body that is needed whole cannot be had like that."""
    denial = services.denials.body_refused(body)
    judges = body.use is BodyUse.JUDGING
    group = "l7_parse_rejection"
    _deny(
        services,
        connection,
        refused.where,
        refused.route.admitted.decision.matched_policy,
        l7_engine(body.protocol) if judges else "credentials",
        body.detail,
        Refusal(body.fault.value, group=group, ancestors=connection.actor.ancestors),
        denial.status,
    )
    return denial


def _in_body(services: Services) -> None:
    services.log.finding(
        "openshell.credentials.placeholder_in_body",
        "Credential placeholder in a request body",
        "surface http-request-body: the endpoint does not ask for placeholders to be replaced there",
    )


def _mismatch(services: Services, where: Where) -> None:
    services.log.finding(
        "openshell.credentials.endpoint_mismatch",
        "Credential used outside its endpoint",
        f"{where.place} is no endpoint of the credential",
    )


def _refuse_fault(
    services: Services,
    connection: ClientConnection,
    refused: Refused,
    fault: Fault,
    facts: RequestFacts,
) -> Denial:
    where, policy = refused.where, refused.route.admitted.decision.matched_policy
    refusal = Refusal(fault.value, group="l7_parse_rejection", ancestors=connection.actor.ancestors)
    denials = services.denials
    match fault:
        case Fault.AUTHORITY:
            reason = "the request's authority is not the endpoint that was authorized"
            services.log.request_denied(
                connection.actor,
                where,
                policy,
                engine="request-authority",
                reason=reason,
                refusal=refusal,
                code=403,
                severity=Severity.HIGH,
            )
            services.log.finding(
                "openshell.http.request_authority_mismatch",
                "Request authority mismatch",
                f"a request to {facts.where} named another host",
            )
            return denials.authority_mismatch()
        case Fault.TARGET:
            reason = refused.detail
            _deny(services, connection, where, policy, "http-parser", reason, refusal, 400)
            return denials.invalid_target(encoded_slash="allow_encoded_slash" in reason)
        case Fault.PLACEHOLDER:
            reason = "the request target holds a malformed credential placeholder"
            _deny(services, connection, where, policy, "credentials", reason, refusal, 400)
            return denials.invalid_placeholder()
        case Fault.WEBSOCKET:
            reason = "the request is no WebSocket handshake that this endpoint takes"
            _deny(services, connection, where, policy, "l7-websocket", reason, refusal, 400)
            return denials.invalid_upgrade(fault.value, reason)
        case Fault.H2C:
            number = refused.route.admitted.generation
            denied = RequestDenied(policy, None, fault.value, _H2C_REASON, True, None, "", number)
            return _deny_l7(services, connection, refused, denied, facts)


def _deny(
    services: Services,
    connection: ClientConnection,
    where: Where,
    policy: str,
    engine: str,
    reason: str,
    refusal: Refusal,
    code: int,
) -> None:
    services.log.request_denied(
        connection.actor, where, policy, engine=engine, reason=reason, refusal=refusal, code=code
    )


def _of_connection(
    denied: ConnectionDenied, connection: ClientConnection, stage: str, group: str
) -> Refusal:
    return Refusal(
        denied.reason_code,
        # Nobody can be granted anything while the program has no name.
        stage="" if denied.reason_code == _UNKNOWN_IDENTITY else stage,
        group=group,
        nearest_rule=denied.nearest_rule or "",
        suggestion=denied.suggestion,
        ancestors=connection.actor.ancestors,
        generation=denied.generation,
    )


def _of_destination(denied: DestinationRefused, connection: ClientConnection) -> Refusal:
    return Refusal(
        denied.refused.code,
        stage="ssrf",
        # A declared host that resolves to a forbidden address is the author's mistake, not an
        # attempt of the agent, and does not count as one.
        group="unknown" if denied.refused.row == "declared" else "ssrf",
        ancestors=connection.actor.ancestors,
        generation=denied.generation,
    )


def _of_request(denied: RequestDenied, connection: ClientConnection, stage: str) -> Refusal:
    return Refusal(
        denied.reason_code,
        stage=stage,
        group="l7_policy",
        nearest_rule=denied.nearest_rule or "",
        suggestion=denied.suggestion,
        ancestors=connection.actor.ancestors,
        generation=denied.generation,
    )
