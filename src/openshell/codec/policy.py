"""Policy model to protobuf and back, and the hash that names a policy.

Nothing is judged here: a message that no person would write still becomes a model, which
`openshell.policy.validate` then refuses. Callers: gateway, supervisor and SDK at their edges.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from google.protobuf import struct_pb2

from openshell._proto import sandbox_pb2 as pb
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
)

__all__ = [
    "endpoint_from_proto",
    "endpoint_to_proto",
    "policy_from_proto",
    "policy_hash",
    "policy_to_proto",
    "rule_from_proto",
    "rule_to_proto",
    "struct_of",
]

# Plain values that have the same name and type on both sides.
_ENDPOINT_SCALARS: Final = (
    "host",
    "path",
    "protocol",
    "tls",
    "enforcement",
    "access",
    "allow_encoded_slash",
    "websocket_credential_rewrite",
    "request_body_credential_rewrite",
    "allow_uninspected_credentials",
    "persisted_queries",
    "graphql_max_body_bytes",
    "json_rpc_max_body_bytes",
    "credential_signing",
    "signing_service",
    "signing_region",
    "provider_credentialed",
    "advisor_proposed",
)
_RULE_SCALARS: Final = ("method", "path", "command", "operation_type", "operation_name")


def policy_hash(policy: SandboxPolicy) -> str:
    """Hex SHA-256 over the canonical encoding: maps at any depth in key order, lists as given.

    Gateway marks are part of it. Protobuf's deterministic encoding sorts map keys at every level,
    the ones inside a middleware's `Struct` too.
    """
    encoded = policy_to_proto(policy).SerializeToString(deterministic=True)
    return hashlib.sha256(encoded).hexdigest()


def policy_to_proto(policy: SandboxPolicy) -> pb.SandboxPolicy:
    message = pb.SandboxPolicy(version=policy.version)
    if policy.filesystem is not None:
        message.filesystem.SetInParent()
        message.filesystem.include_workdir = policy.filesystem.include_workdir
        message.filesystem.read_only.extend(policy.filesystem.read_only)
        message.filesystem.read_write.extend(policy.filesystem.read_write)
    if policy.landlock is not None:
        message.landlock.SetInParent()
        message.landlock.compatibility = policy.landlock.compatibility
    if policy.process is not None:
        message.process.SetInParent()
        message.process.run_as_user = policy.process.run_as_user
        message.process.run_as_group = policy.process.run_as_group
    for key, rule in sorted(policy.network_policies.items()):
        message.network_policies[key].CopyFrom(rule_to_proto(rule))
    for key, middleware in sorted(policy.network_middlewares.items()):
        message.network_middlewares[key].CopyFrom(_middleware_to_proto(middleware))
    return message


def policy_from_proto(message: pb.SandboxPolicy) -> SandboxPolicy:
    filesystem = landlock = process = None
    if message.HasField("filesystem"):
        filesystem = FilesystemPolicy(
            include_workdir=message.filesystem.include_workdir,
            read_only=tuple(message.filesystem.read_only),
            read_write=tuple(message.filesystem.read_write),
        )
    if message.HasField("landlock"):
        landlock = LandlockPolicy(message.landlock.compatibility)
    if message.HasField("process"):
        process = ProcessPolicy(message.process.run_as_user, message.process.run_as_group)
    return SandboxPolicy(
        version=message.version,
        filesystem=filesystem,
        landlock=landlock,
        process=process,
        network_policies=MappingProxyType(
            {
                key: rule_from_proto(key, message.network_policies[key])
                for key in sorted(message.network_policies)
            }
        ),
        network_middlewares=MappingProxyType(
            {
                key: _middleware_from_proto(key, message.network_middlewares[key])
                for key in sorted(message.network_middlewares)
            }
        ),
    )


def rule_to_proto(rule: NetworkRule) -> pb.NetworkPolicyRule:
    return pb.NetworkPolicyRule(
        name=rule.name,
        endpoints=[endpoint_to_proto(endpoint) for endpoint in rule.endpoints],
        binaries=[
            pb.NetworkBinary(path=binary.path, harness=binary.advisor_proposed)
            for binary in rule.binaries
        ],
    )


def rule_from_proto(key: str, message: pb.NetworkPolicyRule) -> NetworkRule:
    return NetworkRule(
        key=key,
        name=message.name or key,
        endpoints=tuple(endpoint_from_proto(endpoint) for endpoint in message.endpoints),
        binaries=tuple(
            Binary(binary.path, advisor_proposed=binary.harness) for binary in message.binaries
        ),
    )


def endpoint_to_proto(endpoint: Endpoint) -> pb.NetworkEndpoint:
    message = pb.NetworkEndpoint(
        # Older readers know only the single port.
        port=endpoint.ports[0] if endpoint.ports else 0,
        ports=endpoint.ports,
        rules=[pb.L7Rule(allow=_allow_to_proto(rule)) for rule in endpoint.rules],
        deny_rules=[_deny_to_proto(rule) for rule in endpoint.deny_rules],
        allowed_ips=endpoint.allowed_ips,
    )
    for name in _ENDPOINT_SCALARS:
        setattr(message, name, getattr(endpoint, name))
    for key, operation in sorted(endpoint.graphql_persisted_queries.items()):
        message.graphql_persisted_queries[key].CopyFrom(
            pb.GraphqlOperation(
                operation_type=operation.operation_type,
                operation_name=operation.operation_name,
                fields=operation.fields,
            )
        )
    if endpoint.mcp is not None:
        message.mcp.SetInParent()
        if endpoint.mcp.strict_tool_names is not None:
            message.mcp.strict_tool_names = endpoint.mcp.strict_tool_names
        if endpoint.mcp.allow_all_known_mcp_methods is not None:
            message.mcp.allow_all_known_mcp_methods = endpoint.mcp.allow_all_known_mcp_methods
    if endpoint.credential_binding is not None:
        message.credential_binding.SetInParent()
        message.credential_binding.provider = endpoint.credential_binding.provider
    return message


def endpoint_from_proto(message: pb.NetworkEndpoint) -> Endpoint:
    mcp = binding = None
    if message.HasField("mcp"):
        options = message.mcp
        mcp = McpOptions(
            strict_tool_names=options.strict_tool_names
            if options.HasField("strict_tool_names")
            else None,
            allow_all_known_mcp_methods=options.allow_all_known_mcp_methods
            if options.HasField("allow_all_known_mcp_methods")
            else None,
        )
    if message.HasField("credential_binding"):
        binding = CredentialBinding(message.credential_binding.provider)
    scalars = {name: getattr(message, name) for name in _ENDPOINT_SCALARS}
    scalars["protocol"] = message.protocol.lower()
    return Endpoint(
        **scalars,
        ports=tuple(message.ports) or ((message.port,) if message.port else ()),
        # An entry without `allow` allows nothing, which a blank rule says too.
        rules=tuple(_rule_from_proto(rule.allow) for rule in message.rules),
        deny_rules=tuple(_rule_from_proto(rule) for rule in message.deny_rules),
        allowed_ips=tuple(message.allowed_ips),
        graphql_persisted_queries=MappingProxyType(
            {
                key: GraphqlOperation(
                    operation.operation_type, operation.operation_name, tuple(operation.fields)
                )
                for key, operation in sorted(message.graphql_persisted_queries.items())
            }
        ),
        mcp=mcp,
        credential_binding=binding,
    )


def _matcher_to_proto(matcher: Matcher) -> pb.L7QueryMatcher:
    return pb.L7QueryMatcher(glob=matcher.glob, any=matcher.any_of)


def _allow_to_proto(rule: L7Rule) -> pb.L7Allow:
    message = pb.L7Allow(fields=rule.fields)
    _fill_rule(message, rule)
    return message


def _deny_to_proto(rule: L7Rule) -> pb.L7DenyRule:
    message = pb.L7DenyRule(fields=rule.fields)
    _fill_rule(message, rule)
    return message


def _fill_rule(message: pb.L7Allow | pb.L7DenyRule, rule: L7Rule) -> None:
    for name in _RULE_SCALARS:
        setattr(message, name, getattr(rule, name))
    for key, matcher in sorted(rule.query.items()):
        message.query[key].CopyFrom(_matcher_to_proto(matcher))
    for key, matcher in sorted(rule.params.items()):
        message.params[key].CopyFrom(_matcher_to_proto(matcher))


def _matchers(messages: Mapping[str, pb.L7QueryMatcher]) -> Mapping[str, Matcher]:
    return MappingProxyType(
        {key: Matcher(value.glob, tuple(value.any)) for key, value in sorted(messages.items())}
    )


def _rule_from_proto(message: pb.L7Allow | pb.L7DenyRule) -> L7Rule:
    return L7Rule(
        method=message.method,
        path=message.path,
        command=message.command,
        query=_matchers(message.query),
        operation_type=message.operation_type,
        operation_name=message.operation_name,
        fields=tuple(message.fields),
        params=_matchers(message.params),
    )


def _fill_value(message: struct_pb2.Value, value: JsonValue) -> None:
    if value is None:
        message.null_value = struct_pb2.NULL_VALUE
    elif isinstance(value, bool):
        message.bool_value = value
    elif isinstance(value, (int, float)):
        message.number_value = value
    elif isinstance(value, str):
        message.string_value = value
    elif isinstance(value, tuple):
        message.list_value.SetInParent()
        for item in value:
            _fill_value(message.list_value.values.add(), item)
    else:
        message.struct_value.SetInParent()
        _fill_struct(message.struct_value, value)


def _fill_struct(message: struct_pb2.Struct, values: Mapping[str, JsonValue]) -> None:
    for key, value in sorted(values.items()):
        _fill_value(message.fields[key], value)


def struct_of(values: Mapping[str, JsonValue]) -> struct_pb2.Struct:
    """Free-form settings as protobuf holds them."""
    message = struct_pb2.Struct()
    _fill_struct(message, values)
    return message


def _from_value(value: struct_pb2.Value) -> JsonValue:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _from_struct(value.struct_value)
    if kind == "list_value":
        return tuple(_from_value(item) for item in value.list_value.values)
    if kind == "number_value":
        # JSON numbers travel as doubles; whole ones are shown as they were written.
        number = value.number_value
        return int(number) if number.is_integer() and abs(number) <= 2**53 else number
    if kind == "string_value":
        return value.string_value
    return value.bool_value if kind == "bool_value" else None


def _from_struct(message: struct_pb2.Struct) -> Mapping[str, JsonValue]:
    return MappingProxyType(
        {key: _from_value(message.fields[key]) for key in sorted(message.fields)}
    )


def _middleware_to_proto(middleware: MiddlewareConfig) -> pb.NetworkMiddlewareConfig:
    message = pb.NetworkMiddlewareConfig(
        name=middleware.name,
        middleware=middleware.middleware,
        on_error=middleware.on_error,
        order=middleware.order,
    )
    if middleware.config:
        _fill_struct(message.config, middleware.config)
    if middleware.has_selector:
        message.endpoints.SetInParent()
        message.endpoints.include.extend(middleware.include)
        message.endpoints.exclude.extend(middleware.exclude)
    return message


def _middleware_from_proto(key: str, message: pb.NetworkMiddlewareConfig) -> MiddlewareConfig:
    return MiddlewareConfig(
        key=key,
        middleware=message.middleware,
        name=message.name or key,
        order=message.order,
        config=_from_struct(message.config),
        on_error=message.on_error,
        include=tuple(message.endpoints.include),
        exclude=tuple(message.endpoints.exclude),
        has_selector=message.HasField("endpoints"),
    )
