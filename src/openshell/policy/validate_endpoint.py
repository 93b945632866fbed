"""Checks of one endpoint by itself: host, ports, inspection, rules, credentials.

Called by `validate` only. Messages begin with the rule's display name, those about inspection name
the endpoint's position; codes are stable.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from openshell.policy.findings import Finding, Severity
from openshell.policy.globs import GlobError, check_glob
from openshell.policy.hosts import is_acceptable_host, is_wildcard_host
from openshell.policy.model import Endpoint, L7Rule, NetworkRule
from openshell.policy.rest import ACCESS_PRESETS

__all__ = ["check_endpoint"]

_PROTOCOLS: Final = ("tcp", "rest", "websocket", "graphql", "sql", "json-rpc", "mcp")
# What the evaluator and the proxy carry out; the other protocols are refused by name.
_BUILT: Final = ("", "rest")
_REST_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "*")
# Shorter prefixes open much more than one network.
_BROAD_PREFIX: Final = 16


class _Report:
    """Makes findings that know their rule and endpoint."""

    def __init__(self, rule: NetworkRule, index: int) -> None:
        self._name = rule.display_name
        self._index = index
        self._where = f"network_policies.{rule.key}.endpoints[{index}]"

    def error(self, code: str, field: str, message: str) -> Finding:
        text = f"network policy '{self._name}': {message}"
        return Finding(code, Severity.ERROR, self._at(field), text)

    def warning(self, code: str, field: str, message: str) -> Finding:
        text = f"network policy '{self._name}': endpoint {self._index}: {message}"
        return Finding(code, Severity.WARNING, self._at(field), text)

    def l7(self, code: str, field: str, reason: str) -> Finding:
        return self.error(
            code, field, f"endpoint {self._index} has invalid L7 configuration: {reason}"
        )

    def unbuilt(self, field: str, what: str) -> Finding:
        return self.error(
            "not_supported_yet",
            field,
            f"endpoint {self._index}: {what} is not supported yet by this version; remove it",
        )

    def _at(self, field: str) -> str:
        return f"{self._where}.{field}" if field else self._where


def check_endpoint(endpoint: Endpoint, rule: NetworkRule, index: int) -> Iterator[Finding]:
    report = _Report(rule, index)
    yield from _check_host(endpoint, report)
    yield from _check_ports(endpoint, report)
    yield from _check_allowed_ips(endpoint, report)
    yield from _check_unbuilt_keys(endpoint, report)
    yield from _check_binding(endpoint, report)
    yield from _check_words(endpoint, report)
    protocol = endpoint.protocol.lower()
    if protocol and protocol not in _PROTOCOLS:
        yield report.l7(
            "unknown_protocol",
            "protocol",
            f"unknown protocol '{endpoint.protocol[:40]}' "
            "(expected tcp, rest, websocket, graphql, sql, json-rpc, or mcp)",
        )
    elif protocol not in _BUILT:
        yield report.unbuilt("protocol", f"protocol '{protocol}'")
    else:
        yield from _check_l7(endpoint, report)
        yield from _check_rules(endpoint, report)


def _check_host(endpoint: Endpoint, report: _Report) -> Iterator[Finding]:
    host = endpoint.host
    if not host:
        if endpoint.protocol == "tcp":
            yield report.error("tcp_host", "host", "protocol tcp requires a DNS hostname")
        elif not endpoint.allowed_ips:
            yield report.error(
                "empty_host", "host", "endpoint host must not be empty unless allowed_ips is set"
            )
        return
    if not is_wildcard_host(host):
        bare = host.removeprefix("[").removesuffix("]")
        if not is_acceptable_host(host) or "/" in host or ("]:" in host) or _has_port(bare):
            yield report.warning(
                "host_never_matches",
                "host",
                f"host '{host[:80]}' can match nothing; write a name or an address without "
                "scheme, port or path",
            )
        return
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
            f"invalid host wildcard '{host[:80]}'; '*' may stand for one label or be part of the "
            "first, '**' only for the first labels, and two literal labels must follow",
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


def _check_ports(endpoint: Endpoint, report: _Report) -> Iterator[Finding]:
    if not endpoint.ports:
        yield report.error("no_port", "port", "endpoint must declare at least one port")
    for port in endpoint.ports:
        if not 1 <= port <= 65535:
            yield report.error(
                "port_range", "ports", f"endpoint has invalid port {port}; expected 1..=65535"
            )


def _check_allowed_ips(endpoint: Endpoint, report: _Report) -> Iterator[Finding]:
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


def _check_unbuilt_keys(endpoint: Endpoint, report: _Report) -> Iterator[Finding]:
    keys: tuple[tuple[str, object], ...] = (
        ("websocket_credential_rewrite", endpoint.websocket_credential_rewrite),
        ("request_body_credential_rewrite", endpoint.request_body_credential_rewrite),
        ("persisted_queries", endpoint.persisted_queries),
        ("graphql_persisted_queries", endpoint.graphql_persisted_queries),
        ("graphql_max_body_bytes", endpoint.graphql_max_body_bytes),
        ("json_rpc", endpoint.mcp is None and endpoint.json_rpc_max_body_bytes),
        ("mcp", endpoint.mcp is not None),
        ("credential_signing", endpoint.credential_signing),
        ("signing_service", endpoint.signing_service),
        ("signing_region", endpoint.signing_region),
    )
    for key, value in keys:
        if value:
            yield report.unbuilt(key, key)


def _check_binding(endpoint: Endpoint, report: _Report) -> Iterator[Finding]:
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


def _check_words(endpoint: Endpoint, report: _Report) -> Iterator[Finding]:
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


def _check_l7(endpoint: Endpoint, report: _Report) -> Iterator[Finding]:
    if endpoint.path and not endpoint.path.startswith("/") and endpoint.path != "**":
        yield report.l7("endpoint_path", "path", "path must start with '/' or be '**'")
    if endpoint.rules and endpoint.access:
        yield report.l7("rules_and_access", "rules", "rules and access are mutually exclusive")
    if not endpoint.protocol:
        if endpoint.deny_rules:
            yield report.l7("deny_without_protocol", "deny_rules", "deny_rules require protocol")
        if endpoint.rules or endpoint.access:
            yield report.warning(
                "rules_without_protocol",
                "protocol",
                "rules and access do not restrict a connection without protocol; "
                "add protocol: rest",
            )
        return
    if not endpoint.rules and not endpoint.access:
        yield report.l7(
            "no_rules", "rules", "protocol requires rules or access to define allowed traffic"
        )
        if endpoint.deny_rules:
            yield report.l7("deny_without_base", "deny_rules", "deny_rules require rules or access")
    if endpoint.rules and all(rule.is_blank for rule in endpoint.rules):
        yield report.l7("deny_all", "rules", "rules would deny all traffic")


def _check_rules(endpoint: Endpoint, report: _Report) -> Iterator[Finding]:
    if endpoint.path:
        yield from _check_glob(endpoint.path, "path", report)
    for name, rules in (("rules", endpoint.rules), ("deny_rules", endpoint.deny_rules)):
        suffix = ".allow" if name == "rules" else ""
        for index, rule in enumerate(rules):
            yield from _check_rule(rule, f"{name}[{index}]{suffix}", report)


def _check_rule(rule: L7Rule, field: str, report: _Report) -> Iterator[Finding]:
    keys: tuple[tuple[str, object], ...] = (
        ("command", rule.command),
        ("operation_type", rule.operation_type),
        ("operation_name", rule.operation_name),
        ("fields", rule.fields),
        ("params", rule.params),
    )
    for key, value in keys:
        if value:
            yield report.unbuilt(f"{field}.{key}", "tool or params" if key == "params" else key)
    if rule.method and rule.method.upper() not in _REST_METHODS:
        yield report.warning(
            "unknown_method", f"{field}.method", f"expected one of {' '.join(_REST_METHODS)}"
        )
    if not rule.method or not rule.path:
        yield report.warning(
            "rule_never_matches", field, "the rule never matches: method and path are both needed"
        )
    if rule.path:
        yield from _check_glob(rule.path, f"{field}.path", report)
    for name, matcher in sorted(rule.query.items()):
        if matcher.glob and matcher.any_of:
            yield report.l7(
                "matcher", f"{field}.query.{name}", "a matcher is one glob or any, not both"
            )
        for glob in matcher.globs:
            yield from _check_glob(glob, f"{field}.query.{name}", report)


def _check_glob(glob: str, field: str, report: _Report) -> Iterator[Finding]:
    try:
        check_glob(glob)
    except GlobError as error:
        message = f"the pattern cannot be read ({error}): requests that meet it are refused"
        yield report.warning("unreadable_glob", field, message)
