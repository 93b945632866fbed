"""Merge operations to protobuf and back.

A message that names no operation becomes a refusal value, like one that the merge refuses itself;
everything else is judged by `openshell.policy.merge`. Callers: the gateway for `UpdateConfig`, the
SDK for sending.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from openshell._proto import openshell_pb2 as pb
from openshell._proto import sandbox_pb2
from openshell.codec.policy import (
    endpoint_from_proto,
    endpoint_to_proto,
    rule_from_proto,
    rule_to_proto,
)
from openshell.policy.merge_operations import (
    AddAllowRules,
    AddDenyRules,
    AddRule,
    MergeOperation,
    MergeRefused,
    RefusalKind,
    RemoveBinary,
    RemoveEndpoint,
    RemoveRule,
)
from openshell.policy.model import Endpoint

__all__ = ["operation_from_proto", "operation_to_proto", "operations_from_proto"]


def operation_to_proto(operation: MergeOperation) -> pb.PolicyMergeOperation:
    match operation:
        case AddRule(rule_name=name, rule=rule):
            added = pb.AddNetworkRule(rule_name=name, rule=rule_to_proto(rule))
            return pb.PolicyMergeOperation(add_rule=added)
        case RemoveEndpoint(host=host, port=port, rule_name=name):
            endpoint = pb.RemoveNetworkEndpoint(rule_name=name, host=host, port=port)
            return pb.PolicyMergeOperation(remove_endpoint=endpoint)
        case RemoveRule(rule_name=name):
            return pb.PolicyMergeOperation(remove_rule=pb.RemoveNetworkRule(rule_name=name))
        case AddAllowRules(host=host, port=port, rules=rules):
            carrier = endpoint_to_proto(Endpoint(rules=rules))
            allow = pb.AddAllowRules(host=host, port=port, rules=carrier.rules)
            return pb.PolicyMergeOperation(add_allow_rules=allow)
        case AddDenyRules(host=host, port=port, deny_rules=rules):
            carrier = endpoint_to_proto(Endpoint(deny_rules=rules))
            deny = pb.AddDenyRules(host=host, port=port, deny_rules=carrier.deny_rules)
            return pb.PolicyMergeOperation(add_deny_rules=deny)
        case RemoveBinary(rule_name=name, binary_path=path):
            binary = pb.RemoveNetworkBinary(rule_name=name, binary_path=path)
            return pb.PolicyMergeOperation(remove_binary=binary)


def operation_from_proto(message: pb.PolicyMergeOperation) -> MergeOperation | MergeRefused:
    match message.WhichOneof("operation"):
        case "add_rule":
            name = message.add_rule.rule_name
            return AddRule(name, rule_from_proto(name.strip(), message.add_rule.rule))
        case "remove_endpoint":
            gone = message.remove_endpoint
            return RemoveEndpoint(gone.host, gone.port, gone.rule_name)
        case "remove_rule":
            return RemoveRule(message.remove_rule.rule_name)
        case "add_allow_rules":
            allow = message.add_allow_rules
            carrier = endpoint_from_proto(sandbox_pb2.NetworkEndpoint(rules=allow.rules))
            return AddAllowRules(allow.host, allow.port, carrier.rules)
        case "add_deny_rules":
            deny = message.add_deny_rules
            carrier = endpoint_from_proto(sandbox_pb2.NetworkEndpoint(deny_rules=deny.deny_rules))
            return AddDenyRules(deny.host, deny.port, carrier.deny_rules)
        case "remove_binary":
            return RemoveBinary(message.remove_binary.rule_name, message.remove_binary.binary_path)
    return MergeRefused(
        "no_operation", RefusalKind.INVALID, "the merge operation names nothing to do"
    )


def operations_from_proto(
    messages: Iterable[pb.PolicyMergeOperation],
) -> tuple[MergeOperation, ...] | MergeRefused:
    """All operations of a request, or the refusal of the first that is none."""
    operations: list[MergeOperation] = []
    for index, message in enumerate(messages):
        operation = operation_from_proto(message)
        if isinstance(operation, MergeRefused):
            return replace(operation, index=index)
        operations.append(operation)
    return tuple(operations)
