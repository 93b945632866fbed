"""What a submitted proposal is worth: marked, tried on the sandbox's policy, judged. Pure.

The answer says what the policy would be and what stands against it; nothing is written and nothing is
allowed by it. The rules are those of every other change of a policy (`merge`, `validate`, `fitness`). What
only the prover could say is left open, in the contract's words for that. `drafts.py` stores the outcome.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from openshell._proto import openshell_pb2
from openshell.codec.policy import policy_hash, policy_to_proto, rule_from_proto
from openshell.gateway.errors import ApiError
from openshell.gateway.services.config_request import check_policy_size
from openshell.policy.merge import AddRule, MergeRefused, covers, merge_policy
from openshell.policy.model import PROVIDER_KEY_PREFIX, Endpoint, NetworkRule, SandboxPolicy
from openshell.policy.validate import errors_of, validate_policy
from openshell.providers.fitness import effective_policy, find_faults
from openshell.providers.situation import Situation

__all__ = ["NOT_PROVEN", "Evaluation", "Key", "evaluate", "key_of", "read_rule", "refusal_of"]

NOT_PROVEN: Final = "validation unavailable"
"""Verdict of a proposal that no prover has seen; never one that opens a gate."""

MAX_NAME: Final = 128
MAX_RULE_BYTES: Final = 8192
"""A rule that a person can still read. Bounds what all drafts of a sandbox take."""
_MAX_ERROR: Final = 1000

_OPEN_FIELDS: Final = frozenset(
    {
        "host",
        "ports",
        "protocol",
        "tls",
        "enforcement",
        "access",
        "rules",
        "deny_rules",
        "allowed_ips",
        "allow_encoded_slash",
        "advisor_proposed",
        # Cleared here, as in every other input.
        "provider_credentialed",
    }
)
"""What an agent may say of an endpoint; the rest a person adds."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a proposal is about; fixed for its life."""

    host: str
    port: int
    binary: str

    @property
    def text(self) -> str:
        return f"{self.host}|{self.port}|{self.binary}"

    @property
    def is_whole(self) -> bool:
        return bool(self.host and self.port and self.binary)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """`error` empty: the rule would take effect.

    `is_blocked`: it asks for what no policy can open; `is_covered`: for nothing that is not there.
    """

    current_hash: str
    candidate_hash: str = ""
    verdict: str = ""
    error: str = ""
    is_blocked: bool = False
    is_covered: bool = False


def refusal_of(chunk: openshell_pb2.PolicyChunk) -> str:
    """Why a chunk is not even looked at; "" when it is."""
    name = chunk.rule_name.strip()
    if not name:
        return "chunk missing rule_name"
    if len(name) > MAX_NAME or not name.isprintable():
        return f"chunk rule_name must be printable and at most {MAX_NAME} characters"
    if name.startswith(PROVIDER_KEY_PREFIX):
        return f"chunk '{name}' uses reserved '{PROVIDER_KEY_PREFIX}' rule-name prefix"
    if not chunk.HasField("proposed_rule"):
        return f"chunk '{name}' missing proposed_rule"
    if chunk.proposed_rule.ByteSize() > MAX_RULE_BYTES:
        return f"chunk '{name}': its rule is larger than {MAX_RULE_BYTES} bytes"
    return ""


def read_rule(chunk: openshell_pb2.PolicyChunk) -> NetworkRule | str:
    """The rule with the gateway's marks and nobody else's, or why it cannot be proposed."""
    name = chunk.rule_name.strip()
    rule = rule_from_proto(name, chunk.proposed_rule)
    default = Endpoint()
    for endpoint in rule.endpoints:
        for field in Endpoint.__dataclass_fields__:
            if field not in _OPEN_FIELDS and getattr(endpoint, field) != getattr(default, field):
                return f"chunk '{name}': endpoint field '{field}' cannot be proposed"
    return replace(
        rule,
        name=name,
        endpoints=tuple(_marked(endpoint) for endpoint in rule.endpoints),
        binaries=tuple(replace(binary, advisor_proposed=True) for binary in rule.binaries),
    )


def _marked(endpoint: Endpoint) -> Endpoint:
    # Without a word on enforcement every request would pass that the rule does not name.
    inspected = endpoint.protocol not in ("", "tcp")
    enforcement = endpoint.enforcement or ("enforce" if inspected else "")
    return replace(
        endpoint, enforcement=enforcement, advisor_proposed=True, provider_credentialed=False
    )


def key_of(rule: NetworkRule) -> Key:
    endpoint = rule.endpoints[0] if rule.endpoints else Endpoint()
    return Key(
        endpoint.host.lower(),
        endpoint.ports[0] if endpoint.ports else 0,
        rule.binaries[0].path if rule.binaries else "",
    )


def evaluate(situation: Situation, name: str, rule: NetworkRule) -> Evaluation:
    """Try the rule on the sandbox as it is."""
    current = effective_policy(situation)
    current_hash = policy_hash(current) if current is not None else ""

    def failed(text: str, *, is_blocked: bool = False) -> Evaluation:
        return Evaluation(current_hash, error=_one_line(text), is_blocked=is_blocked)

    if current is not None and covers(current, rule):
        text = "the policy in force covers the rule already"
        return Evaluation(current_hash, error=text, is_covered=True)
    base = situation.policy or SandboxPolicy()
    merged = merge_policy(base, (AddRule(name, rule),), by_user=False)
    if isinstance(merged, MergeRefused):
        blocked = merged.code == "always_blocked"
        return failed(f"merge failed: {merged.message}", is_blocked=blocked)
    problems = [finding.message for finding in errors_of(validate_policy(merged.policy))]
    known = find_faults(situation, gate=True)
    candidate = replace(situation, policy=merged.policy)
    problems += [f.message for f in find_faults(candidate, gate=True) if f not in known]
    if problems:
        return failed(f"candidate invalid: {'; '.join(problems)}")
    try:
        check_policy_size(policy_to_proto(merged.policy))
    except ApiError as error:
        return failed(f"candidate invalid: {error.message}")
    if not covers(merged.policy, rule):
        return failed(
            "candidate invalid: the rule would not take effect beside those that are there"
        )
    after = effective_policy(candidate)
    candidate_hash = policy_hash(after) if after is not None else ""
    return Evaluation(current_hash, candidate_hash, NOT_PROVEN)


def _one_line(text: str) -> str:
    lines: Sequence[str] = [line.strip() for line in text.splitlines()]
    return "; ".join(line for line in lines if line)[:_MAX_ERROR]
