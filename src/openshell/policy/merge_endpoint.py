"""One endpoint folded into another of the same host and path, field by field.

What is there wins; what is missing is filled; lists grow by what is unseen; flags are only ever
set. What of the incoming endpoint has no effect is said in a warning. Whether the result may be
granted at all is `merge_rule`'s to decide, which also finds the pair.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from openshell.policy.merge_operations import MergeRefused, MergeWarning, RefusalKind
from openshell.policy.merge_scope import expand_access, mcp_contract, unseen
from openshell.policy.model import Endpoint

__all__ = ["Notes", "fold", "normalize_endpoint"]

# Never taken over from an incoming endpoint: each binds credentials or a trusted registry to a
# place, which a person should write where it can be read.
_DROPPED: Final = (
    "credential_signing",
    "signing_service",
    "signing_region",
    "credential_binding",
    "persisted_queries",
    "graphql_persisted_queries",
    "graphql_max_body_bytes",
)


@dataclass(slots=True)
class Notes:
    """Collects warnings of one operation."""

    index: int
    warnings: list[MergeWarning] = field(default_factory=list)

    def add(self, code: str, location: str, message: str) -> None:
        self.warnings.append(MergeWarning(code, location, message, self.index))


def normalize_endpoint(endpoint: Endpoint) -> Endpoint:
    return replace(
        endpoint,
        ports=tuple(sorted(set(endpoint.ports))),
        rules=unseen((), endpoint.rules),
        deny_rules=unseen((), endpoint.deny_rules),
        allowed_ips=tuple(dict.fromkeys(endpoint.allowed_ips)),
    )


def fold(
    existing: Endpoint, incoming: Endpoint, where: str, notes: Notes
) -> Endpoint | MergeRefused:
    """The existing endpoint with what the incoming one adds. The mark stays what it was."""
    refused = _check_contract(existing, incoming)
    if refused is not None:
        return refused
    promoted = not existing.protocol and incoming.protocol.lower() == "mcp"
    out = _fold_words(existing, incoming, where, notes)
    granted = _fold_rules(out, incoming, where, notes)
    if isinstance(granted, MergeRefused):
        return granted
    out = replace(
        granted,
        ports=tuple(sorted({*existing.ports, *incoming.ports})),
        deny_rules=existing.deny_rules + unseen(existing.deny_rules, incoming.deny_rules),
        allowed_ips=tuple(dict.fromkeys((*existing.allowed_ips, *incoming.allowed_ips))),
        allow_encoded_slash=existing.allow_encoded_slash or incoming.allow_encoded_slash,
        websocket_credential_rewrite=(
            existing.websocket_credential_rewrite or incoming.websocket_credential_rewrite
        ),
        request_body_credential_rewrite=(
            existing.request_body_credential_rewrite or incoming.request_body_credential_rewrite
        ),
        allow_uninspected_credentials=(
            existing.allow_uninspected_credentials or incoming.allow_uninspected_credentials
        ),
    )
    if promoted:
        out = replace(
            out, mcp=incoming.mcp, json_rpc_max_body_bytes=incoming.json_rpc_max_body_bytes
        )
    _note_dropped(out, incoming, where, notes)
    return out


def _check_contract(existing: Endpoint, incoming: Endpoint) -> MergeRefused | None:
    if not existing.protocol or not incoming.protocol:
        return None
    one, two = mcp_contract(existing), mcp_contract(incoming)
    if one == two:
        return None
    ports = ",".join(map(str, sorted({*existing.ports} & {*incoming.ports})))
    return MergeRefused(
        "mcp_contract",
        RefusalKind.PRECONDITION,
        f"cannot combine MCP contracts at {incoming.host}:{ports}; use the protocol and mcp options "
        "of the endpoint that is there, or remove it first",
    )


def _fold_words(existing: Endpoint, incoming: Endpoint, where: str, notes: Notes) -> Endpoint:
    def word(name: str, mine: str, theirs: str) -> str:
        if theirs and mine and theirs.strip().lower() != mine.strip().lower():
            message = f"{name} stays '{mine}'; '{theirs}' is ignored"
            notes.add(f"{name}_kept", f"{where}.{name}", message)
        return mine or theirs

    return replace(
        existing,
        protocol=word("protocol", existing.protocol, incoming.protocol),
        enforcement=word("enforcement", existing.enforcement, incoming.enforcement),
        tls=word("tls", existing.tls, incoming.tls),
    )


def _fold_rules(
    existing: Endpoint, incoming: Endpoint, where: str, notes: Notes
) -> Endpoint | MergeRefused:
    if incoming.rules:
        expanded = expand_access(existing)
        if isinstance(expanded, MergeRefused):
            return expanded
        if existing.access:
            notes.add(
                "access_expanded",
                f"{where}.access",
                f"access '{existing.access}' was written out as rules to add to it",
            )
        if incoming.access:
            notes.add(
                "access_ignored",
                f"{where}.access",
                f"access '{incoming.access}' is ignored beside rules",
            )
        return replace(expanded, rules=expanded.rules + unseen(expanded.rules, incoming.rules))
    if not incoming.access or incoming.access == existing.access:
        return existing
    if existing.rules:
        notes.add(
            "access_ignored",
            f"{where}.access",
            f"access '{incoming.access}' is ignored: the endpoint has rules",
        )
        return existing
    if existing.access:
        notes.add(
            "access_kept",
            f"{where}.access",
            f"access stays '{existing.access}'; '{incoming.access}' is ignored",
        )
        return existing
    return replace(existing, access=incoming.access)


def _note_dropped(out: Endpoint, incoming: Endpoint, where: str, notes: Notes) -> None:
    names = [*_DROPPED]
    if incoming.protocol.lower() != "mcp":
        names += ["mcp", "json_rpc_max_body_bytes"]
    for name in names:
        value = getattr(incoming, name)
        if value and value != getattr(out, name):
            notes.add(
                "field_dropped",
                f"{where}.{name}",
                f"{name} is not merged into an endpoint that exists; set the whole policy for that",
            )
