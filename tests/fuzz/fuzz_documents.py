"""Invariants of documents: a text is read or refused by the one documented error; what was read is written
and read again the same, and judging it as to its content raises nothing. JSON that is read means the same to
a reader that takes the first of two keys and one that takes the last."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from openshell.egress.bodies.strict_json import MAX_DEPTH, JsonRejected, read_json
from openshell.egress.credentials import find_marker
from openshell.egress.policy_local.proposal import (
    MAX_INTENT_BYTES,
    MAX_OPERATIONS,
    ProposalRejected,
    read_proposal,
)
from openshell.policy.compile import compile_policy
from openshell.policy.parse import PolicyParseError, dump_policy, parse_policy
from openshell.policy.validate import check_authored, validate_policy
from openshell.providers.profile.document import (
    Format,
    ProfileDocumentError,
    dump_profile,
    local_findings,
    read_profile,
)
from openshell.providers.profile.lint import lint_profile


def fuzz_policy(data: bytes) -> None:
    text = data.decode(errors="replace")
    try:
        policy = parse_policy(text, source="fuzzed")
    except PolicyParseError as error:
        assert str(error).isprintable()
        return
    written = dump_policy(policy)
    assert parse_policy(written, source="written") == policy
    findings = (*validate_policy(policy), *check_authored(policy))
    for finding in findings:
        assert finding.message
    compile_policy(policy, generation=1)


def fuzz_profile_yaml(data: bytes) -> None:
    _profile(data, "yaml")


def fuzz_profile_json(data: bytes) -> None:
    _profile(data, "json")


def _profile(data: bytes, kind: Format) -> None:
    text = data.decode(errors="replace")
    try:
        profile = read_profile(text, source="fuzzed", format=kind)
    except ProfileDocumentError as error:
        assert str(error).isprintable()
        return
    local_findings(text, source="fuzzed", format=kind)
    lint_profile(profile)
    for form in ("yaml", "json"):
        assert read_profile(dump_profile(profile, form), source="written", format=form) == profile


def fuzz_proposal(data: bytes) -> None:
    try:
        submission = read_proposal(data)
    except ProposalRejected as error:
        assert "\n" not in str(error)
        return
    assert 1 <= len(submission.proposals) <= MAX_OPERATIONS
    assert len(submission.intent.encode()) <= MAX_INTENT_BYTES
    for proposal in submission.proposals:
        assert proposal.rule.endpoints
        assert not find_marker(repr(proposal).encode("utf-8", "surrogatepass"))
        repr(proposal).encode()


def fuzz_strict_json(data: bytes) -> None:
    try:
        document = read_json(data)
    except JsonRejected as error:
        assert "\n" not in str(error)
        return
    assert _depth(document) <= MAX_DEPTH
    assert _same(document, json.loads(data, object_pairs_hook=lambda pairs: dict(reversed(pairs))))
    written = json.dumps(document, allow_nan=True).encode()
    if b"Infinity" not in written:
        assert _same(read_json(written), document)
    try:
        strict = msgspec.json.decode(data)
    except msgspec.MsgspecError:
        # Lone surrogates and numbers out of its range.
        return
    assert _same(strict, document)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    return bool(one == other)


def _depth(document: Any) -> int:
    """Not by recursion: deep documents are the point."""
    deepest, open_ones = 0, [(document, 0)]
    while open_ones:
        item, depth = open_ones.pop()
        if isinstance(item, dict | list):
            deepest = max(deepest, depth + 1)
            inside = item.values() if isinstance(item, dict) else item
            open_ones += [(one, depth + 1) for one in inside]
    return deepest
