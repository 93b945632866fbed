"""Checks of one endpoint by itself: host, ports, addresses, credentials, words.

Called by `validate` for rules of policies and by the lint of provider profiles; what concerns
inspection is in `validate_inspection`, single rules in `validate_rules`. Codes are stable.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from typing import Final

from openshell.policy.findings import Finding
from openshell.policy.globs import GlobError, check_glob
from openshell.policy.hosts import is_acceptable_host, is_wildcard_host
from openshell.policy.model import Endpoint
from openshell.policy.protocols import PROTOCOLS
from openshell.policy.rest import ACCESS_PRESETS
from openshell.policy.validate_inspection import check_inspection, check_tcp
from openshell.policy.validate_report import Report, shortened
from openshell.policy.validate_rules import check_rules

__all__ = ["check_endpoint"]

# Shorter prefixes open much more than one network.
_BROAD_PREFIX: Final = 16
# A label and a name, as DNS carries them.
_MAX_LABEL: Final = 63
_MAX_NAME: Final = 253
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]*[a-z0-9_])?")
_SIGNING: Final = ("sigv4", "sigv4:body", "sigv4:no_body")


def check_endpoint(endpoint: Endpoint, report: Report) -> Iterator[Finding]:
    protocol = endpoint.protocol.lower()
    yield from _check_host(endpoint, protocol, report)
    yield from _check_ports(endpoint, report)
    yield from _check_allowed_ips(endpoint, report)
    yield from _check_signing(endpoint, report)
    yield from _check_binding(endpoint, report)
    yield from _check_words(endpoint, report)
    if protocol and protocol not in PROTOCOLS:
        yield report.l7(
            "unknown_protocol",
            "protocol",
            f"unknown protocol '{endpoint.protocol[:40]}' "
            "(expected tcp, rest, websocket, graphql, sql, json-rpc, or mcp)",
        )
    elif protocol == "tcp":
        yield from check_tcp(endpoint, report)
    else:
        yield from check_inspection(endpoint, protocol, report)
        yield from check_rules(endpoint, protocol, report)


def _check_host(endpoint: Endpoint, protocol: str, report: Report) -> Iterator[Finding]:
    host = endpoint.host
    if not host:
        if protocol == "tcp":
            yield report.error("tcp_host", "host", "protocol tcp requires a DNS hostname")
        elif protocol == "mcp":
            yield report.l7(
                "mcp_host", "host", "an mcp endpoint needs a host: protocol alone is not a wildcard"
            )
        elif not endpoint.allowed_ips:
            yield report.error(
                "empty_host", "host", "endpoint host must not be empty unless allowed_ips is set"
            )
        return
    if protocol == "tcp":
        yield from _check_tcp_host(host, report)
    if is_wildcard_host(host):
        yield from _check_wildcard(host, report)
    elif protocol != "tcp":
        bare = host.removeprefix("[").removesuffix("]")
        if not is_acceptable_host(host) or "/" in host or ("]:" in host) or _has_port(bare):
            yield report.warning(
                "host_never_matches",
                "host",
                f"host '{shortened(host)}' can match nothing; write a name or an address without "
                "scheme, port or path",
            )


def _check_wildcard(host: str, report: Report) -> Iterator[Finding]:
    labels = host.split(".")
    if len(labels) <= 2 and host.startswith(("*.", "**.")):
        yield report.error(
            "tld_wildcard",
            "host",
            f"TLD wildcard '{host}' is not allowed; name at least two labels after the wildcard",
        )
    elif len(labels) <= 2 or _is_bad_wildcard(labels) or not _is_readable_host(host):
        yield report.error(
            "host_wildcard",
            "host",
            f"invalid host wildcard '{shortened(host)}'; '*' may stand for one label or be part of "
            "the first, '**' only for the first labels, and two literal labels must follow",
        )


def _has_port(host: str) -> bool:
    """One colon: neither a name nor an IPv6 address."""
    return host.count(":") == 1


def _is_bad_wildcard(labels: list[str]) -> bool:
    for position, label in enumerate(labels):
        if "**" in label and (position or label != "**"):
            return True
        if position and "*" in label and label != "*":
            return True
    return False


def _is_readable_host(host: str) -> bool:
    try:
        check_glob(host)
    except GlobError:
        return False
    return True


def _check_tcp_host(host: str, report: Report) -> Iterator[Finding]:
    """Names only, because policy DNS answers for them."""
    if _is_address(host):
        yield report.error(
            "tcp_host_literal", "host", "protocol tcp must use a DNS hostname, not an IP literal"
        )
        return
    reason = _why_no_name(host)
    if reason:
        yield report.error(
            "tcp_host_selector",
            "host",
            f"invalid DNS host selector '{shortened(host)}': {reason}",
        )


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True


def _why_no_name(host: str) -> str:
    """What keeps a selector from naming hosts of DNS; wildcards stand for one letter."""
    if host != host.strip():
        return "white space around it"
    if any(char.isspace() for char in host):
        return "white space inside"
    if host.endswith("."):
        return "trailing dot"
    if "{" in host or "}" in host:
        return "braces are not supported"
    labels = host.lower().replace("**", "x").replace("*", "x").split(".")
    if not all(labels):
        return "empty label"
    if any(len(label) > _MAX_LABEL for label in labels):
        return f"a label is longer than {_MAX_LABEL} characters"
    if len(host) > _MAX_NAME or not all(_LABEL.fullmatch(label) for label in labels):
        return "not a DNS name"
    return ""


def _check_ports(endpoint: Endpoint, report: Report) -> Iterator[Finding]:
    if not endpoint.ports:
        yield report.error("no_port", "port", "endpoint must declare at least one port")
    for port in endpoint.ports:
        if not 1 <= port <= 65535:
            yield report.error(
                "port_range", "ports", f"endpoint has invalid port {port}; expected 1..=65535"
            )


def _check_allowed_ips(endpoint: Endpoint, report: Report) -> Iterator[Finding]:
    for index, text in enumerate(endpoint.allowed_ips):
        field = f"allowed_ips[{index}]"
        try:
            network = ipaddress.ip_network(text.strip(), strict=False)
        except ValueError:
            message = "not an address or a CIDR range; every connection will be refused"
            yield report.warning("allowed_ip", field, message)
            continue
        if network.prefixlen < _BROAD_PREFIX:
            message = f"the range is broader than /{_BROAD_PREFIX}"
            yield report.warning("allowed_ip_broad", field, message)


def _check_signing(endpoint: Endpoint, report: Report) -> Iterator[Finding]:
    signing = endpoint.credential_signing
    if not signing:
        return
    if signing not in _SIGNING:
        yield report.error(
            "signing_unknown",
            "credential_signing",
            f"unrecognized credential_signing value '{signing[:40]}' "
            f"(expected {', '.join(_SIGNING)})",
        )
    if not endpoint.signing_service:
        yield report.error(
            "signing_service",
            "signing_service",
            "credential_signing set but signing_service is empty",
        )
    elif signing in _SIGNING and (not endpoint.protocol or endpoint.tls.lower() == "skip"):
        yield report.warning(
            "signing_uninspected",
            "credential_signing",
            "connections that nobody inspects are refused where requests should be signed; "
            "set protocol: rest and no tls: skip",
        )
    if endpoint.request_body_credential_rewrite:
        yield report.error(
            "signing_and_rewrite",
            "request_body_credential_rewrite",
            "credential_signing and request_body_credential_rewrite are mutually exclusive",
        )


def _check_binding(endpoint: Endpoint, report: Report) -> Iterator[Finding]:
    if endpoint.credential_binding is None:
        return
    provider = endpoint.credential_binding.provider
    field = "credential_binding.provider"
    if not provider or provider != provider.strip():
        yield report.error(
            "binding_provider", field, "credential_binding.provider must be a provider's name"
        )
    if not endpoint.host:
        yield report.error(
            "binding_host", field, "an endpoint with credential_binding needs a host"
        )


def _check_words(endpoint: Endpoint, report: Report) -> Iterator[Finding]:
    """Values that mean something, though perhaps not what was meant."""
    if endpoint.tls.lower() in ("terminate", "passthrough"):
        yield report.warning(
            "tls_deprecated", "tls", f"tls: {endpoint.tls} has no effect; remove it"
        )
    elif endpoint.tls and endpoint.tls.lower() != "skip":
        yield report.warning("tls_unknown", "tls", "unknown value has no effect; expected skip")
    if endpoint.enforcement.lower() not in ("", "audit", "enforce"):
        # The reference takes any other word as audit: a slip of the pen would then block nothing.
        yield report.error(
            "enforcement_unknown", "enforcement", "unknown value; expected enforce or audit"
        )
    if endpoint.access and endpoint.access not in ACCESS_PRESETS:
        yield report.warning(
            "access_unknown",
            "access",
            "unknown value allows nothing; expected read-only, read-write or full",
        )
    if endpoint.tls.lower() == "skip" and endpoint.protocol not in ("", "tcp"):
        yield report.warning(
            "tls_skip_l7",
            "tls",
            "tls: skip leaves encrypted traffic uninspected: rules do not apply",
        )
