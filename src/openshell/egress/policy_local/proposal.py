"""Reads the body of a proposal: JSON in, rules out, or the one sentence that says what is wrong.

The whole request is refused for any fault. A key that this version of the language does not know is passed
over; one that it knows and a proposal cannot carry is refused by its name, because a rule without it would
ask for more than the agent meant. Placeholders of credentials have no business in a rule. Whether a rule
fits the policy is the gateway's question.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from openshell.egress.bodies.strict_json import JsonRejected, read_json
from openshell.egress.credentials import find_marker
from openshell.egress.policy_local.desk import Proposal, Submission
from openshell.policy.model import Binary, Endpoint, L7Rule, NetworkRule

__all__ = ["MAX_OPERATIONS", "ProposalRejected", "read_proposal"]

# A person reads every one of them. The gateway takes 64 in one call.
MAX_OPERATIONS: Final = 16
MAX_INTENT_BYTES: Final = 4096
MAX_PORT: Final = 65535

_UNSUPPORTED_ENDPOINT: Final = frozenset(
    {
        "path",
        "websocket_credential_rewrite",
        "request_body_credential_rewrite",
        "allow_uninspected_credentials",
        "persisted_queries",
        "graphql_persisted_queries",
        "graphql_max_body_bytes",
        "json_rpc_max_body_bytes",
        "mcp",
        "credential_signing",
        "signing_service",
        "signing_region",
        "credential_binding",
    }
)
_UNSUPPORTED_RULE: Final = frozenset(
    {"query", "operation_type", "operation_name", "fields", "params", "tool"}
)


class ProposalRejected(ValueError):
    """What is wrong with the body, without a word of what it holds."""


def read_proposal(body: bytes) -> Submission:
    """The proposals of a body. Raises ProposalRejected."""
    try:
        document = read_json(body)
    except JsonRejected as error:
        raise ProposalRejected(str(error)) from None
    _refuse_markers(document)
    top = _object(document, "the body")
    intent = _text(top, "intent_summary", "")
    if len(intent.encode("utf-8", "surrogatepass")) > MAX_INTENT_BYTES:
        raise ProposalRejected(f"intent_summary is longer than {MAX_INTENT_BYTES} bytes")
    operations = _list(top, "operations", "")
    if not operations:
        raise ProposalRejected("operations must hold at least one operation")
    if len(operations) > MAX_OPERATIONS:
        raise ProposalRejected(f"more than {MAX_OPERATIONS} operations")
    return Submission(
        intent,
        tuple(_operation(item, f"operations[{index}]") for index, item in enumerate(operations)),
    )


def _operation(value: Any, where: str) -> Proposal:
    operation = _object(value, where)
    if set(operation) != {"addRule"}:
        raise ProposalRejected(f"{where} must be an addRule; nothing else can be proposed")
    where = f"{where}.addRule"
    add = _object(operation["addRule"], where)
    rule = _object(add.get("rule"), f"{where}.rule")
    shown = _text(rule, "name", f"{where}.rule").strip()
    name = _text(add, "ruleName", where).strip() or shown
    if not name:
        raise ProposalRejected(f"{where} needs a ruleName or a rule.name")
    endpoints = _list(rule, "endpoints", f"{where}.rule")
    if not endpoints:
        raise ProposalRejected(f"{where}.rule needs at least one endpoint")
    return Proposal(
        name,
        NetworkRule(
            key=name,
            name=shown or name,
            endpoints=tuple(
                _endpoint(item, f"{where}.rule.endpoints[{index}]")
                for index, item in enumerate(endpoints)
            ),
            binaries=tuple(
                _binary(item, f"{where}.rule.binaries[{index}]")
                for index, item in enumerate(_list(rule, "binaries", f"{where}.rule"))
            ),
        ),
    )


def _endpoint(value: Any, where: str) -> Endpoint:
    fields = _object(value, where)
    _refuse_known(fields, _UNSUPPORTED_ENDPOINT, where)
    host = _text(fields, "host", where).strip()
    if not host:
        raise ProposalRejected(f"{where} needs a host")
    rules = []
    for index, item in enumerate(_list(fields, "rules", where)):
        place = f"{where}.rules[{index}]"
        rule = _rule(_object(item, place).get("allow"), f"{place}.allow")
        if "?" in rule.path:
            raise ProposalRejected(f"{place}.allow.path must not hold a query")
        rules.append(rule)
    return Endpoint(
        host=host,
        ports=_ports(fields, where),
        protocol=_text(fields, "protocol", where).strip().lower(),
        tls=_text(fields, "tls", where),
        enforcement=_text(fields, "enforcement", where),
        access=_text(fields, "access", where),
        rules=tuple(rules),
        deny_rules=tuple(
            _rule(item, f"{where}.deny_rules[{index}]")
            for index, item in enumerate(_list(fields, "deny_rules", where))
        ),
        allowed_ips=tuple(
            _string(item, f"{where}.allowed_ips[{index}]")
            for index, item in enumerate(_list(fields, "allowed_ips", where))
        ),
        allow_encoded_slash=_flag(fields, "allow_encoded_slash", where),
    )


def _ports(fields: Mapping[str, Any], where: str) -> tuple[int, ...]:
    found = _list(fields, "ports", where) or [fields[key] for key in ("port",) if key in fields]
    ports = tuple(port for port in found if type(port) is int and 0 < port <= MAX_PORT)
    if not ports or len(ports) != len(found):
        raise ProposalRejected(f"{where} needs a port from 1 to {MAX_PORT}")
    return ports


def _rule(value: Any, where: str) -> L7Rule:
    fields = _object(value, where)
    _refuse_known(fields, _UNSUPPORTED_RULE, where)
    return L7Rule(
        method=_text(fields, "method", where),
        path=_text(fields, "path", where),
        command=_text(fields, "command", where),
    )


def _binary(value: Any, where: str) -> Binary:
    path = _text(_object(value, where), "path", where).strip()
    if not path:
        raise ProposalRejected(f"{where} needs a path")
    return Binary(path)


def _refuse_known(fields: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    found = sorted(known & set(fields))
    if found:
        raise ProposalRejected(
            f"{where}.{found[0]} cannot be proposed; ask a person to add it to the policy"
        )


def _refuse_markers(value: Any) -> None:
    """Placeholders wherever they stand, keys included; the depth of the document is bounded."""
    if isinstance(value, str):
        if find_marker(value.encode("utf-8", "surrogatepass")):
            raise ProposalRejected("a proposal must not hold a credential placeholder")
    elif isinstance(value, list):
        for item in value:
            _refuse_markers(item)
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_markers(key)
            _refuse_markers(item)


def _object(value: Any, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise ProposalRejected(f"{where} must be an object")
    return value


def _list(fields: Mapping[str, Any], key: str, where: str) -> Sequence[Any]:
    value = fields.get(key)
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ProposalRejected(f"{_place(where, key)} must be a list")
    return value


def _text(fields: Mapping[str, Any], key: str, where: str) -> str:
    value = fields.get(key)
    return "" if value is None else _string(value, _place(where, key))


def _string(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise ProposalRejected(f"{where} must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        # A lone half of a pair: JSON can write it, nothing behind us can store it.
        raise ProposalRejected(f"{where} must be Unicode text") from None
    return value


def _flag(fields: Mapping[str, Any], key: str, where: str) -> bool:
    value = fields.get(key)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise ProposalRejected(f"{_place(where, key)} must be true or false")


def _place(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key
