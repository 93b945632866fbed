"""Checks of how an endpoint inspects: which keys go with which protocol, and with each other.

The tables of the contract for tcp and for the inspected protocols; an offline check of provider
profiles may use them as well. Single rules are `validate_rules`' matter.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from openshell.policy.findings import Finding
from openshell.policy.model import Endpoint, L7Rule
from openshell.policy.protocols import OPERATION_TYPES, RPC_PROTOCOLS, allows_known_methods
from openshell.policy.validate_report import Report

__all__ = ["allows_nothing", "check_inspection", "check_tcp"]

_DNS_PORT: Final = 53
_PERSISTED: Final = ("", "deny", "allow_registered")
# Keys of bodies, and the protocols on which they count.
_GRAPHQL_KEYS: Final = (
    "persisted_queries",
    "graphql_persisted_queries",
    "graphql_max_body_bytes",
)


def allows_nothing(rule: L7Rule) -> bool:
    """An allow entry without anything that could match; blank text is no text."""
    return not (
        rule.method
        or rule.path
        or rule.command
        or rule.operation_type
        or rule.operation_name
        or rule.params.get("name")
    )


def check_tcp(endpoint: Endpoint, report: Report) -> Iterator[Finding]:
    if endpoint.access or endpoint.rules or endpoint.deny_rules:
        yield report.l7(
            "tcp_rules", "protocol", "protocol tcp does not support access, rules, or deny_rules"
        )
    fields: tuple[tuple[str, object], ...] = (
        ("enforcement", endpoint.enforcement),
        ("path", endpoint.path),
        ("allow_encoded_slash", endpoint.allow_encoded_slash),
        ("websocket_credential_rewrite", endpoint.websocket_credential_rewrite),
        ("request_body_credential_rewrite", endpoint.request_body_credential_rewrite),
        *((key, getattr(endpoint, key)) for key in _GRAPHQL_KEYS),
        ("json_rpc", endpoint.mcp is None and endpoint.json_rpc_max_body_bytes),
        ("mcp", endpoint.mcp is not None),
        ("credential_signing", endpoint.credential_signing),
        ("signing_service", endpoint.signing_service),
        ("signing_region", endpoint.signing_region),
        ("credential_binding", endpoint.credential_binding),
    )
    if _DNS_PORT in endpoint.ports:
        yield report.warning(
            "tcp_port_53",
            "ports",
            f"direct connections to port {_DNS_PORT} end at the sandbox's own resolver; "
            "this one is reached by CONNECT only",
        )
    found = [name for name, value in fields if value]
    if found:
        yield report.l7(
            "tcp_fields",
            "protocol",
            f"protocol tcp does not support L7-only fields: {', '.join(found)}",
        )


def check_inspection(endpoint: Endpoint, protocol: str, report: Report) -> Iterator[Finding]:
    if endpoint.path and not endpoint.path.startswith("/") and endpoint.path != "**":
        yield report.l7("endpoint_path", "path", "path must start with '/' or be '**'")
    if endpoint.path:
        yield from report.glob(endpoint.path, "path")
    yield from _check_foreign(endpoint, protocol, report)
    if protocol:
        yield from _check_base(endpoint, protocol, report)
    else:
        yield from _check_without_protocol(endpoint, report)
    if protocol in ("graphql", "websocket"):
        yield from _check_graphql(endpoint, protocol, report)
    if protocol == "sql" and endpoint.enforcement.lower() == "enforce":
        yield report.l7(
            "sql_enforce",
            "enforcement",
            "SQL enforcement requires full SQL parsing; use enforcement: audit",
        )


def _check_without_protocol(endpoint: Endpoint, report: Report) -> Iterator[Finding]:
    if endpoint.rules and endpoint.access:
        yield report.l7("rules_and_access", "rules", "rules and access are mutually exclusive")
    if endpoint.deny_rules:
        yield report.l7("deny_without_protocol", "deny_rules", "deny_rules require protocol")
    if endpoint.rules or endpoint.access:
        yield report.warning(
            "rules_without_protocol",
            "protocol",
            "rules and access do not restrict a connection without protocol; add protocol: rest",
        )


def _check_base(endpoint: Endpoint, protocol: str, report: Report) -> Iterator[Finding]:
    """What says which traffic is allowed at all. One mistake gives one message."""
    profile = protocol == "mcp" and allows_known_methods(endpoint)
    if endpoint.access and protocol in RPC_PROTOCOLS:
        yield report.l7(
            "access_not_for_protocol",
            "access",
            f"protocol {protocol} does not support access presets; write rules with allow.method",
        )
    elif endpoint.rules and endpoint.access:
        yield report.l7("rules_and_access", "rules", "rules and access are mutually exclusive")
    elif not endpoint.rules and not endpoint.access and not profile:
        missing = {
            "json-rpc": "protocol json-rpc requires explicit rules with allow.method",
            "mcp": "protocol mcp requires rules when mcp.allow_all_known_mcp_methods is false",
        }
        yield report.l7(
            "no_rules",
            "rules",
            missing.get(protocol, "protocol requires rules or access to define allowed traffic"),
        )
        if endpoint.deny_rules and protocol != "mcp":
            yield report.l7("deny_without_base", "deny_rules", "deny_rules require rules or access")
    if endpoint.rules and not profile and all(allows_nothing(rule) for rule in endpoint.rules):
        yield report.l7("deny_all", "rules", "rules would deny all traffic")


def _check_graphql(endpoint: Endpoint, protocol: str, report: Report) -> Iterator[Finding]:
    if endpoint.persisted_queries not in _PERSISTED:
        yield report.l7(
            "persisted_queries",
            "persisted_queries",
            "persisted_queries must be deny or allow_registered",
        )
    expected = f"{', '.join(OPERATION_TYPES[:-1])}, or {OPERATION_TYPES[-1]}"
    for key, operation in sorted(endpoint.graphql_persisted_queries.items()):
        if operation.operation_type not in OPERATION_TYPES:
            yield report.l7(
                "operation_type",
                f"graphql_persisted_queries.{key}.operation_type",
                f"operation_type must be {expected}",
            )
    if protocol != "graphql":
        return
    for name, rules in (("rules", endpoint.rules), ("deny_rules", endpoint.deny_rules)):
        suffix = ".allow" if name == "rules" else ""
        for index, rule in enumerate(rules):
            if rule.operation_type not in OPERATION_TYPES:
                yield report.l7(
                    "operation_type",
                    f"{name}[{index}]{suffix}.operation_type",
                    f"operation_type must be {expected}",
                )


def _check_foreign(endpoint: Endpoint, protocol: str, report: Report) -> Iterator[Finding]:
    """Keys that do nothing here. One of mcp that loosens a check is an error instead."""
    if endpoint.websocket_credential_rewrite and protocol not in ("rest", "websocket"):
        name = "websocket_credential_rewrite"
        yield report.foreign(name, name, protocol)
    if endpoint.request_body_credential_rewrite and protocol != "rest":
        name = "request_body_credential_rewrite"
        yield report.foreign(name, name, protocol)
    if protocol not in ("graphql", "websocket"):
        for name in _GRAPHQL_KEYS:
            if getattr(endpoint, name):
                yield report.foreign(name, name, protocol)
    options = endpoint.mcp
    if options is not None and protocol != "mcp":
        if options.strict_tool_names is None and options.allow_all_known_mcp_methods is None:
            yield report.foreign("mcp", "mcp", protocol)
        else:
            yield report.l7("mcp_options", "mcp", "mcp options are only valid for protocol mcp")
    elif endpoint.json_rpc_max_body_bytes and protocol not in RPC_PROTOCOLS:
        yield report.foreign("json_rpc", "json_rpc", protocol)
