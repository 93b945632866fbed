"""One request on an admitted route: may it go, and in which form? Pure; the order is the contract's.

generation, authority, upgrade, canonical target, redaction, policy, credentials. The result is what
to send or why not; a refusal carries the values that its answer and its event are made from. No
I/O: between the last look at the generation and the bytes handed to the upstream nothing can
change, because nothing here waits.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import TypeAlias

import msgspec

from openshell.egress.admission import Admission, Admitted, NotAdmitted
from openshell.egress.credentials import (
    NEEDS_TLS,
    CredentialRefused,
    CredentialSet,
    EndpointScope,
    Rewritten,
    find_marker,
    redact_placeholders,
    rewrite_head,
)
from openshell.egress.events import Where
from openshell.egress.generation import Generation
from openshell.egress.http1 import (
    Headers,
    HeadRejected,
    NoBody,
    RequestHead,
    end_to_end,
    lowered,
    parse_host_field,
    render_fields,
    render_request_head,
)
from openshell.policy.decide import (
    EndpointConfig,
    L7Request,
    RequestAllowed,
    RequestAudited,
    RequestDenied,
)
from openshell.policy.target import TargetRejected, canonicalize

__all__ = [
    "Fault",
    "Judged",
    "Judgement",
    "Refused",
    "RefusedRequest",
    "Route",
    "may_stay",
]

_DEFAULT_PORTS = {"http": 80, "https": 443}
# What an author writes at an endpoint that speaks TLS.
_TLS_WORDS = frozenset({"terminate", "passthrough"})
# A request that names no host gets no value: a marker in it is refused.
_NO_CREDENTIALS = CredentialSet()
_VIA = (b"Via", b"1.1 openshell-sandbox")
# A path longer than this is shown cut; it is judged whole before.
_SHOWN_PATH = 256


class Fault(Enum):
    """Refusals that no policy decision stands behind; the value is the code of the answer."""

    AUTHORITY = "request_authority_mismatch"
    TARGET = "invalid_request_target"
    PLACEHOLDER = "invalid_credential_placeholder"
    H2C = "h2c_upgrade"
    WEBSOCKET = "websocket"


class KeptFields:
    """The fields of a route's last request that held nothing to replace, as they went upstream.

    Recognised by being the very same object (see `http1.FieldMemory`), so that a client which repeats
    its fields has them written once. No value of a credential is ever kept here.
    """

    __slots__ = ("headers", "wire")

    def __init__(self) -> None:
        self.headers: Headers | None = None
        self.wire = b""


@dataclass(frozen=True, slots=True)
class Route:
    """Requests of one client to one upstream. `absolute` is the form of plain proxy requests."""

    admitted: Admitted
    scheme: str
    absolute: bool
    hosts: frozenset[bytes] = field(init=False)
    # The shortest spelling, written upstream.
    host_field: bytes = field(init=False)
    configs: tuple[EndpointConfig, ...] = field(init=False)
    keeps_slash: bool = field(init=False)
    # Clear text where TLS belongs: whoever downgraded it must not get a value of a credential.
    is_downgraded: bool = field(init=False)
    kept: KeptFields = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare what every request needs: spellings of the Host field, inspecting endpoints."""
        host, port = self.admitted.request.host.lower(), self.admitted.request.port
        shown = f"[{host}]" if ":" in host else host
        hosts = {f"{shown}:{port}".encode()}
        if _DEFAULT_PORTS[self.scheme] == port:
            hosts.add(shown.encode())
        configs = self.admitted.decision.l7_configs
        object.__setattr__(self, "hosts", frozenset(hosts))
        object.__setattr__(self, "host_field", min(hosts, key=len))
        object.__setattr__(self, "configs", configs)
        # Nobody judges paths on a route that is not inspected.
        keeps_slash = not configs or any(config.allow_encoded_slash for config in configs)
        object.__setattr__(self, "keeps_slash", keeps_slash)
        downgraded = self.scheme == "http" and _expects_tls(self.admitted)
        object.__setattr__(self, "is_downgraded", downgraded)
        object.__setattr__(self, "kept", KeptFields())

    def renewed(self, admitted: Admitted) -> "Route":
        return Route(admitted, self.scheme, self.absolute)


RefusedRequest: TypeAlias = NotAdmitted | RequestDenied | CredentialRefused | Fault


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
    generation: int
    scan_body: bool

    def __repr__(self) -> str:
        return f"<Judged {self.where}, generation {self.generation}>"


Judgement: TypeAlias = Judged | Refused


def judge(
    admission: Admission, generation: Generation, route: Route, head: RequestHead, *, now_ms: int
) -> Judgement:
    """Judge a request under `generation`, which must be the current one."""
    if route.admitted.generation != generation.number:
        renewed = admission.readmit(route.admitted, generation)
        if not isinstance(renewed, Admitted):
            return Refused(route, renewed, _where(route, head, "/"))
        route = route.renewed(renewed)
    admitted = route.admitted
    if not _names(route, head):
        return Refused(route, Fault.AUTHORITY, _where(route, head, "/"))
    decision = admitted.decision
    fault = _refused_upgrade(route, head)
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
    request = L7Request(where.method, path, target.params)
    verdict = generation.policy.authorize(
        decision, request, trusted_only=admitted.plan.by_declaration
    )
    if isinstance(verdict, RequestDenied):
        return Refused(route, verdict, where)
    scope = EndpointScope(decision.host, decision.port, path)
    written = target.origin_form.encode("ascii")
    wire = _write(route, head, written, generation.credentials, scope, now_ms)
    if isinstance(wire, CredentialRefused):
        return Refused(route, wire, where)
    return Judged(
        route,
        wire,
        request,
        verdict,
        where,
        generation.number,
        not isinstance(head.framing, NoBody) and _must_scan(admitted, generation),
    )


def may_stay(
    admission: Admission, generation: Generation, judged: Judged
) -> NotAdmitted | RequestDenied | None:
    """Judge a running exchange under a new generation; None when it may go on."""
    admitted = admission.readmit(judged.route.admitted, generation)
    if not isinstance(admitted, Admitted):
        return admitted
    verdict = generation.policy.authorize(
        admitted.decision, judged.request, trusted_only=admitted.plan.by_declaration
    )
    return verdict if isinstance(verdict, RequestDenied) else None


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
    port = _DEFAULT_PORTS[route.scheme] if named.port is None else named.port
    return port == request.port and named.host.rstrip(".") == request.host.lower().rstrip(".")


def _refused_upgrade(route: Route, head: RequestHead) -> Fault | None:
    """Name the upgrade that is refused; others are dropped with the fields that ask for them."""
    # Kept fields have passed here before, on this very route.
    if head.headers is route.kept.headers or b"upgrade" not in lowered(head.headers):
        return None
    tokens = head.upgrade_tokens()
    if b"websocket" in tokens:
        return Fault.WEBSOCKET
    return Fault.H2C if b"h2c" in tokens and route.configs else None


def _write(
    route: Route,
    head: RequestHead,
    target: bytes,
    credentials: CredentialSet,
    scope: EndpointScope,
    now_ms: int,
) -> bytes | CredentialRefused:
    """Write the head for the upstream, with credentials in it."""
    kept = route.kept
    if head.headers is kept.headers:
        line = b"%b %b %b\r\n" % (head.method, target, head.version)
        # A marker here takes the long way, to be refused there.
        if not find_marker(line):
            return line + kept.wire
    names = lowered(head.headers)
    plain = _prepare(route, head, names, target)
    if not (route.absolute or b"host" in names):
        credentials = _NO_CREDENTIALS
    rewritten = rewrite_head(credentials, plain, scope, now_ms=now_ms)
    if not isinstance(rewritten, Rewritten):
        return rewritten
    if rewritten.used and route.is_downgraded:
        return CredentialRefused(NEEDS_TLS, "header")
    if rewritten.head is plain:
        kept.headers, kept.wire = head.headers, render_fields(plain.headers)
    return render_request_head(rewritten.head)


def _prepare(route: Route, head: RequestHead, names: list[bytes], target: bytes) -> RequestHead:
    """Write the head for the upstream; `names` are its field names in lower case."""
    headers = end_to_end(head.headers)
    if len(headers) != len(names):
        names = lowered(headers)
    # The Host field goes out in our spelling, so that upstream reads what was judged.
    kept = [pair for pair, name in zip(headers, names, strict=True) if name != b"host"]
    kept.insert(0, (b"Host", route.host_field))
    if route.absolute and b"via" not in names:
        kept.append(_VIA)
    return RequestHead(head.method, target, head.version, tuple(kept), head.framing)


def _expects_tls(admitted: Admitted) -> bool:
    endpoints = admitted.decision.endpoints
    return admitted.request.port == _DEFAULT_PORTS["https"] or any(
        config.endpoint.tls.lower() in _TLS_WORDS for config in endpoints
    )


def _must_scan(admitted: Admitted, generation: Generation) -> bool:
    endpoints = admitted.decision.endpoints
    if generation.credentials.is_empty and not any(e.provider_credentialed for e in endpoints):
        return False
    return not all(e.endpoint.allow_uninspected_credentials for e in endpoints)


def _where(route: Route, head: RequestHead, path: str) -> Where:
    request = route.admitted.request
    return Where(
        head.method.decode("ascii"), route.scheme, request.host, request.port, path[:_SHOWN_PATH]
    )
