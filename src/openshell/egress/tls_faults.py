"""What went wrong in a TLS handshake with an upstream: one code for each cause, and what to do about it.

Pure: an exception in, a value out. The words go to the agent, the log and the event; they hold nothing that
the upstream sent, only OpenSSL's own names. Revocation is not checked (no lists are fetched, no responders
asked), so it is a cause only where an operator's bundle brings lists. Called by `upstream` alone.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from openshell.egress.stream import RESET, Stream, StreamLost, TlsStream

__all__ = ["TlsCause", "TlsFailure", "explain_tls_error", "late_failure"]


class TlsCause(StrEnum):
    """The value is the reason code in the answer and in the event."""

    EXPIRED = "certificate_expired"
    NOT_YET_VALID = "certificate_not_yet_valid"
    UNKNOWN_ISSUER = "certificate_unknown_issuer"
    SELF_SIGNED = "certificate_self_signed"
    OTHER_HOST = "certificate_other_host"
    REVOKED = "certificate_revoked"
    REJECTED = "certificate_rejected"
    VERSION = "tls_version"
    NOT_TLS = "tls_not_spoken"
    CLIENT_CERTIFICATE = "client_certificate_refused"
    ALERT = "tls_alert"
    RESET = "tls_reset"
    CLOSED = "tls_closed"
    TIMEOUT = "tls_timeout"
    HANDSHAKE = "tls_handshake"


@dataclass(frozen=True, slots=True)
class TlsFailure:
    """`reason` is one sentence with the advice in it."""

    cause: TlsCause
    reason: str


_BUNDLE: Final = "add it to the gateway's upstream_ca_bundle"
_WORDS: Final = {
    TlsCause.EXPIRED: "the certificate of {host} is not valid now: it has expired; its operator must renew"
    " it, or this machine's clock is wrong",
    TlsCause.NOT_YET_VALID: "the certificate of {host} is not valid now: it begins in the future; check this"
    " machine's clock",
    TlsCause.UNKNOWN_ISSUER: "the certificate of {host} is not signed by a root that is trusted here; if its"
    f" CA is yours, {_BUNDLE}; if not, the server may have left out an intermediate certificate",
    TlsCause.SELF_SIGNED: "the certificate of {host} is not signed by a root that is trusted here: it or its"
    f" root is self-signed; if you trust it, {_BUNDLE}",
    TlsCause.OTHER_HOST: "the upstream's certificate is not for {host}; use the name that it is for, in the"
    " request and in the policy",
    TlsCause.REVOKED: "the certificate of {host} was revoked; its operator must replace it",
    TlsCause.REJECTED: "the certificate of {host} was not accepted: {detail}",
    TlsCause.VERSION: "{host} and the proxy have no TLS version in common; it must speak TLS 1.2 or 1.3",
    TlsCause.NOT_TLS: "{host} does not speak TLS on this port; use http:// or the port that does",
    TlsCause.CLIENT_CERTIFICATE: "{host} wants a client certificate and did not take what it was given, if"
    " anything; attach a provider whose profile has a client_certificate for it, or renew its credentials",
    TlsCause.ALERT: "{host} refused the TLS handshake: {detail}",
    TlsCause.RESET: "{host} reset the connection during the TLS handshake; check host and port, and what"
    " stands between",
    TlsCause.CLOSED: "{host} closed the connection during the TLS handshake; check host and port",
    TlsCause.TIMEOUT: "the TLS handshake with {host} took too long; try again later",
    TlsCause.HANDSHAKE: "the TLS handshake with {host} failed: {detail}",
}
# OpenSSL's verification results (x509_vfy.h).
_VERIFIED: Final = {
    9: TlsCause.NOT_YET_VALID,
    10: TlsCause.EXPIRED,
    2: TlsCause.UNKNOWN_ISSUER,
    20: TlsCause.UNKNOWN_ISSUER,
    21: TlsCause.UNKNOWN_ISSUER,
    18: TlsCause.SELF_SIGNED,
    19: TlsCause.SELF_SIGNED,
    23: TlsCause.REVOKED,
    62: TlsCause.OTHER_HOST,
    64: TlsCause.OTHER_HOST,
}
_VERSIONS: Final = frozenset(
    {"TLSV1_ALERT_PROTOCOL_VERSION", "UNSUPPORTED_PROTOCOL", "WRONG_SSL_VERSION"}
)
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST"})
# Alerts by which servers say that they want a certificate, or another one. The first is all of TLS 1.2's.
_CLIENT: Final = (
    "CERTIFICATE_REQUIRED",
    "ALERT_BAD_CERTIFICATE",
    "ALERT_UNSUPPORTED_CERTIFICATE",
    "ALERT_CERTIFICATE_REVOKED",
    "ALERT_CERTIFICATE_EXPIRED",
    "ALERT_CERTIFICATE_UNKNOWN",
    "ALERT_UNKNOWN_CA",
    "ALERT_ACCESS_DENIED",
)
# How OpenSSL's names for alerts that were received begin.
_ALERTS: Final = ("SSLV3_ALERT_", "TLSV1_", "TLSV13_")


def explain_tls_error(error: BaseException, host: str) -> TlsFailure:
    """Say why there is no TLS connection to an upstream."""
    cause, detail = _classify(error)
    return TlsFailure(cause, _WORDS[cause].format(host=host, detail=detail))


def late_failure(stream: Stream, host: str) -> TlsFailure | None:
    """Say what an upstream objected to when our half of the handshake was over, if it did."""
    if not isinstance(stream, TlsStream) or stream.fault is None:
        return None
    return explain_tls_error(stream.fault, host)


def _classify(error: BaseException) -> tuple[TlsCause, str]:
    match error:
        case ssl.SSLCertVerificationError():
            return _VERIFIED.get(error.verify_code, TlsCause.REJECTED), error.verify_message
        case TimeoutError():
            return TlsCause.TIMEOUT, ""
        case ssl.SSLError():
            # OpenSSL's own word, such as WRONG_VERSION_NUMBER: the same whatever the upstream sent.
            word = error.reason or "no reason given"
            return _of_word(word), word
        case StreamLost() | ConnectionResetError():
            is_reset = str(error) == RESET or isinstance(error, ConnectionResetError)
            return (TlsCause.RESET if is_reset else TlsCause.CLOSED), ""
        case _:
            return TlsCause.CLOSED, ""


def _of_word(word: str) -> TlsCause:
    if word in _VERSIONS:
        return TlsCause.VERSION
    if word in _NOT_TLS:
        return TlsCause.NOT_TLS
    if any(sign in word for sign in _CLIENT):
        return TlsCause.CLIENT_CERTIFICATE
    return TlsCause.ALERT if word.startswith(_ALERTS) else TlsCause.HANDSHAKE
