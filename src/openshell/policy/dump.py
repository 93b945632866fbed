"""The model back to YAML and JSON, in the key names and order that people write.

Defaults are left out and what only the gateway may set is never written, so parse, dump and parse
again give the same model (marks apart). Callers: `policy get`, dry runs, the JSON views.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, TypeAlias

import yaml

from openshell.policy.document import is_plain_text
from openshell.policy.model import (
    Endpoint,
    JsonValue,
    L7Rule,
    Matcher,
    MiddlewareConfig,
    NetworkRule,
    SandboxPolicy,
    implied_method,
)

__all__ = ["dump_policy", "dump_yaml", "inspection_of", "only_set", "policy_to_json"]

_Json: TypeAlias = dict[str, JsonValue]


def policy_to_json(policy: SandboxPolicy) -> _Json:
    """Plain dicts, lists and scalars of the same shape as the YAML."""
    out: _Json = {"version": policy.version}
    if policy.filesystem is not None:
        out["filesystem_policy"] = {
            "include_workdir": policy.filesystem.include_workdir,
            **only_set(
                read_only=policy.filesystem.read_only, read_write=policy.filesystem.read_write
            ),
        }
    if policy.landlock is not None:
        out["landlock"] = only_set(compatibility=policy.landlock.compatibility)
    if policy.process is not None and policy.process.run_as_user + policy.process.run_as_group:
        out["process"] = only_set(
            run_as_user=policy.process.run_as_user, run_as_group=policy.process.run_as_group
        )
    if policy.network_policies:
        out["network_policies"] = {
            key: _rule(rule) for key, rule in sorted(policy.network_policies.items())
        }
    if policy.network_middlewares:
        out["network_middlewares"] = {
            key: _middleware(item) for key, item in sorted(policy.network_middlewares.items())
        }
    return out


def only_set(**values: JsonValue) -> _Json:
    """Only what differs from the default (empty, zero, false, absent)."""
    return {key: value for key, value in values.items() if value}


def _sorted(value: JsonValue) -> JsonValue:
    """Settings of somebody else: maps at any depth in key order."""
    if isinstance(value, Mapping):
        return {key: _sorted(item) for key, item in sorted(value.items())}
    if isinstance(value, (tuple, list)):
        return tuple(_sorted(item) for item in value)
    return value


def _rule(rule: NetworkRule) -> _Json:
    return {
        "name": rule.display_name,
        **only_set(
            endpoints=tuple(_endpoint(endpoint) for endpoint in rule.endpoints),
            binaries=tuple({"path": binary.path} for binary in rule.binaries),
        ),
    }


def _endpoint(endpoint: Endpoint) -> _Json:
    one_port = endpoint.ports[0] if len(endpoint.ports) == 1 and endpoint.ports[0] else 0
    out = only_set(
        host=endpoint.host,
        port=one_port,
        ports=() if one_port else endpoint.ports,
        path=endpoint.path,
        protocol=endpoint.protocol,
        tls=endpoint.tls,
        enforcement=endpoint.enforcement,
        access=endpoint.access,
    )
    out.update(inspection_of(endpoint, lambda rule: _l7_rule(rule, endpoint)))
    out.update(_json_rpc_family(endpoint))
    out.update(
        only_set(
            credential_signing=endpoint.credential_signing,
            signing_service=endpoint.signing_service,
            signing_region=endpoint.signing_region,
        )
    )
    if endpoint.credential_binding is not None:
        out["credential_binding"] = {"provider": endpoint.credential_binding.provider}
    return out


def inspection_of(endpoint: Endpoint, rule: Callable[[L7Rule], JsonValue]) -> _Json:
    """What an endpoint says of single requests, but for what policies and profiles spell differently."""
    return only_set(
        rules=tuple({"allow": rule(entry)} for entry in endpoint.rules),
        deny_rules=tuple(rule(entry) for entry in endpoint.deny_rules),
        allowed_ips=endpoint.allowed_ips,
        allow_encoded_slash=endpoint.allow_encoded_slash,
        websocket_credential_rewrite=endpoint.websocket_credential_rewrite,
        request_body_credential_rewrite=endpoint.request_body_credential_rewrite,
        allow_uninspected_credentials=endpoint.allow_uninspected_credentials,
        persisted_queries=endpoint.persisted_queries,
        graphql_persisted_queries={
            key: only_set(
                operation_type=operation.operation_type,
                operation_name=operation.operation_name,
                fields=operation.fields,
            )
            for key, operation in sorted(endpoint.graphql_persisted_queries.items())
        },
        graphql_max_body_bytes=endpoint.graphql_max_body_bytes,
    )


def _json_rpc_family(endpoint: Endpoint) -> _Json:
    limit = only_set(max_body_bytes=endpoint.json_rpc_max_body_bytes)
    if endpoint.mcp is None:
        # The limit has one field for both protocols, so the block follows the protocol.
        name = "mcp" if endpoint.protocol == "mcp" else "json_rpc"
        return {name: limit} if limit else {}
    if endpoint.mcp.strict_tool_names is not None:
        limit["strict_tool_names"] = endpoint.mcp.strict_tool_names
    if endpoint.mcp.allow_all_known_mcp_methods is not None:
        limit["allow_all_known_mcp_methods"] = endpoint.mcp.allow_all_known_mcp_methods
    return {"mcp": limit}


def _matcher(matcher: Matcher) -> JsonValue:
    return {"any": matcher.any_of} if matcher.any_of else matcher.glob


def _l7_rule(rule: L7Rule, endpoint: Endpoint) -> _Json:
    params = dict(rule.params)
    tool = params.pop("name", None) if endpoint.protocol == "mcp" else None
    method = "" if rule.method == implied_method(rule, endpoint) else rule.method
    out = only_set(method=method, path=rule.path, command=rule.command)
    if rule.query:
        out["query"] = {key: _matcher(value) for key, value in sorted(rule.query.items())}
    out.update(
        only_set(
            operation_type=rule.operation_type,
            operation_name=rule.operation_name,
            fields=rule.fields,
        )
    )
    if tool is not None:
        out["tool"] = _matcher(tool)
    if params:
        out["params"] = {key: _matcher(value) for key, value in sorted(params.items())}
    return out


def _middleware(item: MiddlewareConfig) -> _Json:
    out: _Json = {"name": item.name or item.key, "middleware": item.middleware}
    out.update(only_set(order=item.order, config=_sorted(item.config), on_error=item.on_error))
    if item.has_selector:
        out["endpoints"] = only_set(include=item.include, exclude=item.exclude)
    return out


class _Dumper(yaml.SafeDumper):
    """Quotes whatever would not be read back as text, and indents lists below their key."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        del indentless
        super().increase_indent(flow, False)


# Line ends of Unicode, which the reader folds into spaces unless they are escaped.
_LINE_ENDS: Final = frozenset("\x85\u2028\u2029")


def _represent_str(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    style = None if is_plain_text(value) and _LINE_ENDS.isdisjoint(value) else '"'
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)


_Dumper.add_representer(str, _represent_str)
_Dumper.add_representer(tuple, yaml.SafeDumper.represent_list)


def dump_policy(policy: SandboxPolicy) -> str:
    """One YAML document, ending with a newline."""
    return dump_yaml(policy_to_json(policy))


def dump_yaml(document: JsonValue) -> str:
    """Any tree in the manner of policies; `document.read_document` reads it back the same."""
    return yaml.dump(
        document,
        Dumper=_Dumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=False,
        width=100,
    )
