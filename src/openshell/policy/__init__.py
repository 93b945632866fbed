"""The policy language: schema, reading, checking, compiling, deciding. Values in, values out.

Pure: no I/O, no clock, no asyncio, no protobuf, nothing else of ours. What belongs here is what a
policy means; who stores, delivers or enforces it lives elsewhere. Names below are the front door.
"""

from openshell.policy.compile import CompiledPolicy, compile_policy, quarantine, quarantine_reason
from openshell.policy.decide import (
    ConnectionAllowed,
    ConnectionDecision,
    ConnectionDenied,
    ConnectionRequest,
    EndpointConfig,
    L7Request,
    RequestAllowed,
    RequestAudited,
    RequestDecision,
    RequestDenied,
)
from openshell.policy.findings import Finding, Severity, errors_of
from openshell.policy.model import SandboxPolicy
from openshell.policy.parse import PolicyParseError, dump_policy, parse_policy, policy_to_json
from openshell.policy.target import CanonicalTarget, TargetRejected, canonicalize
from openshell.policy.validate import check_authored, validate_policy

__all__ = [
    "CanonicalTarget",
    "CompiledPolicy",
    "ConnectionAllowed",
    "ConnectionDecision",
    "ConnectionDenied",
    "ConnectionRequest",
    "EndpointConfig",
    "Finding",
    "L7Request",
    "PolicyParseError",
    "RequestAllowed",
    "RequestAudited",
    "RequestDecision",
    "RequestDenied",
    "SandboxPolicy",
    "Severity",
    "TargetRejected",
    "canonicalize",
    "check_authored",
    "compile_policy",
    "dump_policy",
    "errors_of",
    "parse_policy",
    "policy_to_json",
    "quarantine",
    "quarantine_reason",
    "validate_policy",
]
