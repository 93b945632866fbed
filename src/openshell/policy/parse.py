"""Policy YAML to the model: strict keys, strict types, errors that say what would be accepted.

What the values mean (hosts, globs, combinations) is `validate`'s; writing is `dump`'s. Callers: the
CLI, the gateway for files, the supervisor for the policy of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, TypeVar

from openshell.policy.document import Cursor, PolicyParseError, read_document, short
from openshell.policy.dump import dump_policy, policy_to_json
from openshell.policy.fields import names_of
from openshell.policy.model import (
    Binary,
    CredentialBinding,
    Endpoint,
    FilesystemPolicy,
    GraphqlOperation,
    JsonValue,
    L7Rule,
    LandlockPolicy,
    Matcher,
    McpOptions,
    MiddlewareConfig,
    NetworkRule,
    ProcessPolicy,
    SandboxPolicy,
    implied_method,
)

__all__ = ["PolicyParseError", "dump_policy", "parse_policy", "policy_to_json"]

_Value = TypeVar("_Value")

_U32: Final = 2**32 - 1
_TOP: Final = names_of("policy")
_ENDPOINT: Final = names_of("endpoint")
_RULE: Final = names_of("l7_rule")
_MIDDLEWARE: Final = names_of("middleware")


def parse_policy(text: str, *, source: str) -> SandboxPolicy:
    """Reads one policy. `source` names the file in errors. Raises `PolicyParseError`."""
    fields = read_document(text, source=source).fields(_TOP, required=("version",))
    return SandboxPolicy(
        version=fields["version"].integer(0, _U32),
        filesystem=_optional(fields, "filesystem_policy", _filesystem),
        landlock=_optional(fields, "landlock", _landlock),
        process=_optional(fields, "process", _process),
        network_policies=_map(fields, "network_policies", _network_rule),
        network_middlewares=_map(fields, "network_middlewares", _middleware),
    )


def _optional(
    fields: Mapping[str, Cursor], name: str, read: Callable[[Cursor], _Value]
) -> _Value | None:
    return read(fields[name]) if name in fields else None


def _map(
    fields: Mapping[str, Cursor], name: str, read: Callable[[str, Cursor], _Value]
) -> Mapping[str, _Value]:
    entries = fields[name].entries() if name in fields else []
    return MappingProxyType({key: read(key, value) for key, value in sorted(entries, key=_first)})


def _first(entry: tuple[str, Cursor]) -> str:
    return entry[0]


def _string(fields: Mapping[str, Cursor], name: str) -> str:
    return fields[name].string() if name in fields else ""


def _strings(fields: Mapping[str, Cursor], name: str) -> tuple[str, ...]:
    return fields[name].strings() if name in fields else ()


def _boolean(fields: Mapping[str, Cursor], name: str) -> bool:
    return fields[name].boolean() if name in fields else False


def _size(fields: Mapping[str, Cursor], name: str) -> int:
    return fields[name].integer(0, _U32) if name in fields else 0


def _list(
    fields: Mapping[str, Cursor], name: str, read: Callable[[Cursor], _Value]
) -> tuple[_Value, ...]:
    return tuple(read(item) for item in fields[name].items()) if name in fields else ()


def _filesystem(at: Cursor) -> FilesystemPolicy:
    fields = at.fields(names_of("filesystem_policy"))
    return FilesystemPolicy(
        include_workdir=_boolean(fields, "include_workdir"),
        read_only=_strings(fields, "read_only"),
        read_write=_strings(fields, "read_write"),
    )


def _landlock(at: Cursor) -> LandlockPolicy:
    return LandlockPolicy(_string(at.fields(names_of("landlock")), "compatibility"))


def _process(at: Cursor) -> ProcessPolicy:
    fields = at.fields(names_of("process"))
    return ProcessPolicy(_string(fields, "run_as_user"), _string(fields, "run_as_group"))


def _network_rule(key: str, at: Cursor) -> NetworkRule:
    fields = at.fields(names_of("network_rule"))
    return NetworkRule(
        key=key,
        name=_string(fields, "name") or key,
        endpoints=_list(fields, "endpoints", _endpoint),
        binaries=_list(fields, "binaries", _binary),
    )


def _binary(at: Cursor) -> Binary:
    if at.is_text:
        raise at.fail(f"expected a mapping, got text; write `- path: {short(at.string())}`")
    fields = at.fields(names_of("binary"), required=("path",))
    # Accepted for old files; provenance is the gateway's to set, so the value is dropped.
    _boolean(fields, "harness")
    return Binary(fields["path"].string())


def _ports(fields: Mapping[str, Cursor]) -> tuple[int, ...]:
    """`ports` wins over `port`; a single port 0 is the same as none."""
    single = fields["port"].integer(0, 65535) if "port" in fields else 0
    several = (
        tuple(p.integer(0, 65535) for p in fields["ports"].items()) if "ports" in fields else ()
    )
    return several or ((single,) if single else ())


def _endpoint(at: Cursor) -> Endpoint:
    fields = at.fields(_ENDPOINT)
    mcp, body_limit = _json_rpc_family(fields)
    endpoint = Endpoint(
        host=_string(fields, "host"),
        ports=_ports(fields),
        path=_string(fields, "path"),
        protocol=_string(fields, "protocol").lower(),
        tls=_string(fields, "tls"),
        enforcement=_string(fields, "enforcement"),
        access=_string(fields, "access"),
        rules=_list(fields, "rules", _allow),
        deny_rules=_list(fields, "deny_rules", _l7_rule),
        allowed_ips=_strings(fields, "allowed_ips"),
        allow_encoded_slash=_boolean(fields, "allow_encoded_slash"),
        websocket_credential_rewrite=_boolean(fields, "websocket_credential_rewrite"),
        request_body_credential_rewrite=_boolean(fields, "request_body_credential_rewrite"),
        allow_uninspected_credentials=_boolean(fields, "allow_uninspected_credentials"),
        persisted_queries=_string(fields, "persisted_queries"),
        graphql_persisted_queries=_map(fields, "graphql_persisted_queries", _graphql_operation),
        graphql_max_body_bytes=_size(fields, "graphql_max_body_bytes"),
        json_rpc_max_body_bytes=body_limit,
        mcp=mcp,
        credential_signing=_string(fields, "credential_signing"),
        signing_service=_string(fields, "signing_service"),
        signing_region=_string(fields, "signing_region"),
        credential_binding=_optional(fields, "credential_binding", _binding),
    )
    if endpoint.protocol != "mcp":
        return endpoint
    return replace(
        endpoint,
        rules=tuple(_with_method(rule, endpoint) for rule in endpoint.rules),
        deny_rules=tuple(_with_method(rule, endpoint) for rule in endpoint.deny_rules),
    )


def _with_method(rule: L7Rule, endpoint: Endpoint) -> L7Rule:
    return rule if rule.method else replace(rule, method=implied_method(rule, endpoint))


def _json_rpc_family(fields: Mapping[str, Cursor]) -> tuple[McpOptions | None, int]:
    """Both blocks share one limit; an `mcp` block wins, even with the default."""
    limit = 0
    if "json_rpc" in fields:
        limit = _size(fields["json_rpc"].fields(names_of("json_rpc")), "max_body_bytes")
    if "mcp" not in fields:
        return None, limit
    block = fields["mcp"].fields(names_of("mcp"))
    strict = block.get("strict_tool_names")
    known = block.get("allow_all_known_mcp_methods")
    options = McpOptions(
        strict_tool_names=strict.boolean() if strict else None,
        allow_all_known_mcp_methods=known.boolean() if known else None,
    )
    return options, _size(block, "max_body_bytes")


def _binding(at: Cursor) -> CredentialBinding:
    return CredentialBinding(
        at.fields(names_of("credential_binding"), required=("provider",))["provider"].string()
    )


def _graphql_operation(_key: str, at: Cursor) -> GraphqlOperation:
    fields = at.fields(names_of("graphql_operation"))
    return GraphqlOperation(
        _string(fields, "operation_type"),
        _string(fields, "operation_name"),
        _strings(fields, "fields"),
    )


def _allow(at: Cursor) -> L7Rule:
    return _l7_rule(at.fields(("allow",), required=("allow",))["allow"])


def _l7_rule(at: Cursor) -> L7Rule:
    fields = at.fields(_RULE)
    params: dict[str, Matcher] = {}
    if "tool" in fields:
        params["name"] = _matcher(fields["tool"])
    if "params" in fields:
        params.update(_flatten(fields["params"], ""))
    query = fields["query"].entries() if "query" in fields else []
    return L7Rule(
        method=_string(fields, "method"),
        path=_string(fields, "path"),
        command=_string(fields, "command"),
        query=MappingProxyType({key: _matcher(value) for key, value in query}),
        operation_type=_string(fields, "operation_type"),
        operation_name=_string(fields, "operation_name"),
        fields=_strings(fields, "fields"),
        params=MappingProxyType(params),
    )


def _matcher(at: Cursor) -> Matcher:
    if not at.is_mapping:
        return Matcher(glob=at.string())
    globs = at.fields(names_of("matcher"), required=("any",))["any"]
    values = globs.strings()
    if not values:
        raise globs.fail("expected at least one glob")
    return Matcher(any_of=values)


def _flatten(at: Cursor, prefix: str) -> dict[str, Matcher]:
    """`a: {b: x}` is the parameter `a.b`; `{any: [...]}` is always a matcher, never a name."""
    out: dict[str, Matcher] = {}
    for key, value in at.entries():
        name = prefix + key
        nested = value.is_mapping and "any" not in dict(value.entries())
        found = _flatten(value, f"{name}.") if nested else {name: _matcher(value)}
        for dotted, matcher in found.items():
            if dotted in out:
                raise value.fail(f"parameter '{dotted}' is given twice")
            out[dotted] = matcher
    return out


def _middleware(key: str, at: Cursor) -> MiddlewareConfig:
    fields = at.fields(_MIDDLEWARE, required=("middleware",))
    selector: Mapping[str, Cursor] = {}
    if "endpoints" in fields:
        selector = fields["endpoints"].fields(names_of("selector"))
    config: Mapping[str, JsonValue] = {}
    if "config" in fields:
        config = {name: value.json() for name, value in fields["config"].entries()}
    return MiddlewareConfig(
        key=key,
        middleware=fields["middleware"].string(),
        name=_string(fields, "name") or key,
        order=fields["order"].integer(-(2**31), 2**31 - 1) if "order" in fields else 0,
        config=MappingProxyType(dict(config)),
        on_error=_string(fields, "on_error"),
        include=_strings(selector, "include"),
        exclude=_strings(selector, "exclude"),
        has_selector="endpoints" in fields,
    )
