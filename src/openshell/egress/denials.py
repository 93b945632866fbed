"""What a client is told when the proxy refuses: status, fields and JSON body, made from decision values.

Pure. One wording for every surface: reason, nearest rule and suggestion come from the decision, the command
is the one that would change the policy. Callers pass paths with placeholders redacted; nothing here sees a
credential. Which refusal applies, and writing it, is the pipeline's business. `proxy.md` 2.4, 3, 4, 9.7, 10.4.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeAlias

from openshell.egress.body_faults import BodyFault, RefusedBody
from openshell.egress.credentials import NEEDS_TLS, CredentialRefused
from openshell.egress.guidance import AGENT_GUIDANCE, NEXT_STEPS
from openshell.egress.http1 import Headers
from openshell.egress.middleware import StageRefused
from openshell.egress.signing_plan import SigningFault
from openshell.ocsf import HostPort
from openshell.policy.advice import comes_with_provider
from openshell.policy.decide import ConnectionDenied, RequestDenied

__all__ = ["Denial", "Denials", "RequestFacts", "bare"]

_JSON: Final = (b"Content-Type", b"application/json")
_CLOSE: Final = (b"Connection", b"close")
# A policy name is free text; in a field only printable ASCII of it may appear.
_POLICY_NAME_LIMIT: Final = 128

# What is said about places of `CredentialRefused` where a client can do better.
_PLACE_ADVICE: Final = {
    "request-target": ": in a target it may stand in a path segment or a query value",
    "request-body": ": in bodies it is replaced at endpoints with "
    "request_body_credential_rewrite: true only, otherwise use a header",
    "placed-body": ": in a body it may stand in the values of valid JSON, of a form, or in text",
    "method": ": no credential is sent with a method whose answer repeats the request",
}

# Signing that fails because of the request; everything else is the operator's to mend.
_SIGNING_STATUS: Final = {
    SigningFault.BODY_LENGTH: 411,
    SigningFault.BODY_SIZE: 413,
    SigningFault.LATE: 503,
    SigningFault.METHOD: 400,
    SigningFault.OWN_SIGNATURE: 400,
    SigningFault.PATH: 400,
    SigningFault.SIGNED_CHUNKS: 400,
    SigningFault.UPGRADE: 400,
}

_BODY_STATUS: Final = {
    BodyFault.SIZE: 413,
    BodyFault.TRAILERS: 400,
    BodyFault.MEDIA: 415,
    BodyFault.TIME: 408,
    BodyFault.LATE: 503,
}

# What a command line may hold as it is: a name or IPv4 address, a path without glob or shell meaning.
_PLAIN_HOST: Final = re.compile(r"[A-Za-z0-9.-]+")
_PLAIN_PATH: Final = re.compile(r"(/[A-Za-z0-9._~%@+,=-]*)+")
_NO_ENDPOINT: Final = frozenset({"no_policy", "endpoint_not_allowed"})

_JsonBody: TypeAlias = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Denial:
    """An answer after which the connection closes."""

    status: int
    headers: Headers
    body: bytes

    def render(self, *, with_body: bool = True) -> bytes:
        """The bytes to send; without the body in answer to HEAD."""
        phrase = HTTPStatus(self.status).phrase
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self.headers)
        head = f"HTTP/1.1 {self.status} {phrase}\r\n".encode() + lines + b"\r\n"
        return head + self.body if with_body else head


@dataclass(frozen=True, slots=True)
class RequestFacts:
    """What is said about a request: the path is redacted and without its query."""

    method: str
    path: str
    host: str
    port: int
    binary: str | None

    @property
    def where(self) -> str:
        return _where(self.host, self.port)


def bare(status: int) -> Denial:
    """An answer without body, for peers that did not speak HTTP well enough to be told more."""
    return Denial(status, ((b"Content-Length", b"0"), _CLOSE), b"")


class Denials:
    """Makes the answers of one sandbox."""

    __slots__ = ("_may_propose", "_sandbox")

    def __init__(self, sandbox: str, may_propose: Callable[[], bool] = lambda: False) -> None:
        """`may_propose`: whether its agent may propose changes at this moment."""
        # The sandbox's own name is all that is needed to make a command one that can be pasted.
        self._sandbox = shlex.quote(sandbox)
        self._may_propose = may_propose

    # Connections: CONNECT, absolute form, captured.

    def connect_denied(self, decision: ConnectionDenied) -> Denial:
        where = _where(decision.host, decision.port)
        return self._connection(decision, f"CONNECT {where} not permitted by policy")

    def forward_denied(self, decision: ConnectionDenied, request: RequestFacts) -> Denial:
        detail = f"{request.method} {request.where}{request.path} not permitted by policy"
        return self._connection(decision, detail)

    def destination_refused(self, method: str, host: str, port: int, why: str) -> Denial:
        return _json(
            403, {"error": "ssrf_denied", "detail": f"{method} {_where(host, port)} blocked: {why}"}
        )

    def tls_unavailable(self) -> Denial:
        return _json(
            503,
            {
                "error": "tls_termination_unavailable",
                "detail": "the sandbox has no certificate authority, so TLS cannot be inspected",
            },
        )

    def uninspected_credentials(self, host: str, port: int) -> Denial:
        return _json(
            403,
            {
                "error": "uninspected_credentials",
                "detail": f"{_where(host, port)} is a credentialed endpoint: it requires L7 inspection and a "
                "raw tunnel is not allowed",
            },
        )

    def unsupported_protocol(self, *, prior_knowledge_h2c: bool) -> Denial:
        what = (
            "prior-knowledge h2c not supported"
            if prior_knowledge_h2c
            else "unsupported tunnel protocol"
        )
        return _json(
            403,
            {"error": "unsupported_l7_protocol", "detail": f"{what} for L7-inspected endpoint"},
        )

    def upstream_unreachable(
        self, host: str, port: int, reason: str = "", code: str = ""
    ) -> Denial:
        body = {
            "error": "upstream_unreachable",
            "detail": f"connection to {_where(host, port)} failed",
        }
        body |= {"reason": reason} if reason else {}
        return _json(502, body | ({"reason_code": code} if code else {}))

    def upstream_invalid(self, host: str, port: int, reason: str) -> Denial:
        """The upstream answered something that is no HTTP/1 we accept."""
        detail = f"{_where(host, port)} sent an invalid response"
        return _json(
            502, {"error": "upstream_invalid_response", "detail": detail, "reason": reason}
        )

    def upstream_timeout(self, host: str, port: int) -> Denial:
        """The upstream took the request and did not answer it in time."""
        detail = f"{_where(host, port)} did not answer in time"
        return _json(504, {"error": "upstream_timeout", "detail": detail})

    # Requests in the absolute form.

    def https_needs_connect(self) -> Denial:
        body = b"Use CONNECT for HTTPS URLs\n"
        headers = ((b"Content-Type", b"text/plain"), (b"Content-Length", b"%d" % len(body)), _CLOSE)
        return Denial(400, headers, body)

    def unsupported_scheme(self) -> Denial:
        return _json(
            400,
            {
                "error": "unsupported_proxy_scheme",
                "detail": "only http URLs can be sent to the proxy",
            },
        )

    def invalid_upgrade(self, code: str, why: str) -> Denial:
        return _json(400, {"error": code, "detail": why})

    def not_supported(self, what: str) -> Denial:
        """A part of the contract that is not built: named, never ignored."""
        return _json(501, {"error": "not_supported_yet", "detail": f"{what} is not supported yet"})

    # Requests, in tunnels and in the absolute form.

    def request_denied(self, decision: RequestDenied, request: RequestFacts) -> Denial:
        """The L7 refusal with everything that helps to change it."""
        known = {"host": request.host, "port": request.port, "binary": request.binary}
        place = {"method": request.method, "path": request.path} | {
            k: v for k, v in known.items() if v
        }
        body: dict[str, object] = {
            "error": "policy_denied",
            "policy": decision.policy,
            "rule": f"{request.method} {request.path}",
            "detail": decision.reason,
            "layer": "l7",
            "protocol": "rest",
            **place,
            "rule_missing": {"type": "rest_allow", "layer": "l7", **place},
            # The contract's form of "off"; what is there while they are on comes with the advice.
            "next_steps": [],
        }
        change = ""
        plain = request.method.isalpha() and _PLAIN_PATH.fullmatch(request.path)
        # Only rest endpoints take a rule of method and path alone.
        is_rest = decision.config is None or decision.config.protocol == "rest"
        if decision.reason_code == "no_allow" and plain and is_rest:
            change = f"--add-allow {request.host}:{request.port}:{request.method}:{request.path}"
        body |= self._advice(decision, request.host, change)
        policy = decision.policy.encode("ascii", "replace")[:_POLICY_NAME_LIMIT]
        shown = bytes(byte if 0x20 <= byte < 0x7F else 0x3F for byte in policy)
        return _json(403, body, (b"X-OpenShell-Policy", shown))

    def unmapped_address(self, reason: str) -> Denial:
        """An address that the sandbox's resolver once gave, or never did."""
        return _json(403, {"error": "policy_denied", "detail": reason})

    def invalid_target(self, *, encoded_slash: bool = False) -> Denial:
        body = {"error": "invalid_request_target", "detail": "request-target must be canonical"}
        if encoded_slash:
            body["suggestion"] = (
                "set allow_encoded_slash: true at the endpoint to accept %2F in paths"
            )
        return _json(400, body)

    def invalid_placeholder(self) -> Denial:
        return _json(
            400,
            {
                "error": "invalid_credential_placeholder",
                "detail": "request-target holds a malformed credential placeholder",
            },
        )

    def authority_mismatch(self) -> Denial:
        return _message(
            403,
            "request_authority_mismatch",
            "HTTP request authority does not match the authorized tunnel endpoint",
        )

    def credential_refused(self, refused: CredentialRefused, *, tunnel: bool) -> Denial:
        if refused.is_mismatch:
            text = "Credential is not authorized for this request endpoint"
            if tunnel:
                return _message(403, refused.code, text)
            return _json(403, {"error": refused.code, "detail": text, "message": text})
        if refused.code == NEEDS_TLS:
            text = (
                "Credentials are not sent in clear text to an endpoint that speaks TLS: use https:// "
                "(in a tunnel, start TLS); a plain service needs a port of its own, other than 443"
            )
            return _json(403, {"error": refused.code, "detail": text, "message": text})
        text = "Credential placeholder could not be resolved"
        text += _PLACE_ADVICE.get(refused.place, "")
        if tunnel:
            return _message(500, refused.code, text)
        return _json(500, {"error": "credential_injection_failed", "detail": text})

    def token_refused(self) -> Denial:
        """For plain proxy requests; why stands in the log, which the agent does not see."""
        return _json(502, {"error": "token_grant_failed", "detail": "dynamic token grant failed"})

    def not_signed(self, fault: SigningFault) -> Denial:
        """The endpoint's requests are signed on their way out, and this one cannot be."""
        code = (
            "credential_unavailable" if fault is SigningFault.KEYS else "credential_signing_failed"
        )
        return _json(
            _SIGNING_STATUS.get(fault, 500),
            {"error": code, "reason_code": f"signing_{fault.name.lower()}", "detail": fault.value},
        )

    def stage_refused(self, refused: StageRefused) -> Denial:
        """Tell what middleware decided, in codes: its own words are for whoever runs it."""
        said: dict[str, object] = {"error": refused.how.value, "detail": refused.how.detail}
        if refused.stage:
            said["middleware"] = refused.stage
        if refused.reason_code:
            said["reason_code"] = refused.reason_code
        return _json(refused.status, said)

    def body_refused(self, body: RefusedBody) -> Denial:
        """The body is needed whole, and cannot be had or read like that."""
        status = _BODY_STATUS[body.fault]
        return _json(status, {"error": body.fault.value, "detail": body.detail})

    def _connection(self, decision: ConnectionDenied, detail: str) -> Denial:
        body: dict[str, object] = {"error": "policy_denied", "detail": detail}
        if decision.reason:
            body["reason"] = decision.reason
        change = ""
        if decision.reason_code in _NO_ENDPOINT and decision.binary:
            endpoint = f"{decision.host}:{decision.port}"
            change = f"--add-endpoint {endpoint} --binary {shlex.quote(decision.binary)}"
        body |= self._advice(decision, decision.host, change)
        return _json(403, body)

    def _advice(
        self, decision: ConnectionDenied | RequestDenied, host: str, change: str
    ) -> dict[str, object]:
        """What came nearest, the command that makes the smallest change, what an agent may do."""
        advice: dict[str, object] = {"reason_code": decision.reason_code}
        if self._may_propose():
            advice["next_steps"] = [dict(step) for step in NEXT_STEPS]
            advice["agent_guidance"] = AGENT_GUIDANCE
        if decision.nearest_rule:
            advice["nearest_rule"] = decision.nearest_rule
        if decision.suggestion:
            advice["suggestion"] = decision.suggestion
            by_profile = comes_with_provider(decision.nearest_rule or "")
            # Whatever an agent chose stands in the command only if no shell and no glob reads it.
            if by_profile:
                advice["command"] = "openshell provider profile update ID -f FILE"
            elif change and _PLAIN_HOST.fullmatch(host):
                advice["command"] = f"openshell policy update {self._sandbox} {change}"
            else:
                advice["command"] = f"openshell policy set {self._sandbox} --policy FILE"
        return advice


def _where(host: str, port: int) -> str:
    return str(HostPort(host, port))


def _json(status: int, body: _JsonBody, *extra: tuple[bytes, bytes]) -> Denial:
    # People read these with curl: without the newline their prompt would follow the brace.
    text = json.dumps(body).encode() + b"\n"
    return Denial(status, (_JSON, (b"Content-Length", b"%d" % len(text)), _CLOSE, *extra), text)


def _message(status: int, code: str, text: str) -> Denial:
    return _json(status, {"error": code, "message": text})
