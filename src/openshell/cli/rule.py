"""`openshell rule`: what agents have proposed. Reading only: deciding about proposals is not built yet."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import click

from openshell.cli.connection import session
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.output import (
    output_option,
    print_structured,
    print_table,
    printable,
    timestamp,
)
from openshell.cli.policy_wait import HASH_SHOWN

if TYPE_CHECKING:
    from openshell._proto import openshell_pb2, sandbox_pb2

__all__ = ["get", "history", "rule"]

_ID_SHOWN = 8

rule = LazyGroup(
    "rule",
    help="Read the rules that agents propose; nothing is allowed by them.",
    entries={
        "get": Entry("openshell.cli.rule:get", "Show the proposals of a sandbox."),
        "history": Entry("openshell.cli.rule:history", "Show what was proposed and decided."),
    },
)


@command("get")
@click.argument("name", required=False)
@click.option(
    "--status",
    type=click.Choice(["pending", "approved", "rejected"]),
    help="Only proposals with this status.",
)
@output_option("table", "json")
def get(name: str | None, status: str | None, output: str) -> None:
    """Show what the agent of a sandbox has proposed, newest first."""
    from openshell.sdk.nouns import DraftClient

    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        answer = DraftClient(opened.client).get(
            chosen, status=status or "", workspace=opened.workspace
        )
    if output == "json":
        print_structured(_document(answer), output)
        return
    if not answer.chunks:
        print(f"No network rules for sandbox '{printable(chosen)}'")
        return
    count = len(answer.chunks)
    print(f"Network Rules:  (version {answer.draft_version}, {count} chunk{'s'[: count != 1]})")
    for chunk in answer.chunks:
        print()
        for label, value in _lines(chunk):
            if value:
                print(f"  {label + ':':<13}{printable(value)}")


@command("history")
@click.argument("name", required=False)
@output_option("table", "json")
def history(name: str | None, output: str) -> None:
    """Show what was proposed and decided, oldest first."""
    from openshell.sdk.nouns import DraftClient

    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        entries = DraftClient(opened.client).history(chosen, workspace=opened.workspace)
    if output == "json":
        print_structured([_plain(entry) for entry in entries], output)
        return
    if not entries:
        print(f"No rule history for sandbox '{printable(chosen)}'")
        return
    print_table(
        ["TIME", "EVENT", "CHUNK", "DESCRIPTION"],
        (
            [
                timestamp(entry.timestamp_ms),
                entry.event_type,
                entry.chunk_id[:_ID_SHOWN],
                printable(entry.description),
            ]
            for entry in entries
        ),
    )


def _lines(chunk: openshell_pb2.PolicyChunk) -> Iterator[tuple[str, str]]:
    yield "Chunk", chunk.id
    yield "Status", chunk.status
    yield "Rule", chunk.rule_name
    yield "Binary", chunk.binary
    yield "Confidence", f"{chunk.confidence:.0%}"
    yield "Rationale", chunk.rationale
    yield "Security", chunk.security_notes
    yield "Prover", chunk.validation_result
    yield "Application", chunk.application_error
    yield "Rejected", chunk.rejection_reason
    yield "Candidate", chunk.candidate_effective_policy_hash[:HASH_SHOWN]
    yield "Endpoints", "; ".join(map(_endpoint, chunk.proposed_rule.endpoints))
    yield "Binaries", ", ".join(binary.path for binary in chunk.proposed_rule.binaries)
    if chunk.hit_count > 1:
        seen = f"{timestamp(chunk.first_seen_ms)} to {timestamp(chunk.last_seen_ms)}"
        yield "Hits", f"{chunk.hit_count} ({seen})"


def _endpoint(endpoint: sandbox_pb2.NetworkEndpoint) -> str:
    """All of an endpoint that an agent may ask for: what is not shown would not be judged."""
    ports = ",".join(map(str, endpoint.ports or [endpoint.port]))
    parts = [f"L7 {endpoint.protocol}" if endpoint.protocol else "L4"]
    words = (
        ("tls", endpoint.tls),
        ("enforcement", endpoint.enforcement),
        ("access", endpoint.access),
    )
    parts += [f"{label}={value}" for label, value in words if value]
    parts += [_rule("allow", entry.allow) for entry in endpoint.rules]
    parts += [_rule("deny", entry) for entry in endpoint.deny_rules]
    if endpoint.allowed_ips:
        parts.append(f"allowed_ips={','.join(endpoint.allowed_ips)}")
    if endpoint.allow_encoded_slash:
        parts.append("allow_encoded_slash")
    return f"{endpoint.host}:{ports} [{', '.join(parts)}]"


def _rule(word: str, entry: Any) -> str:
    return " ".join(part for part in (word, entry.method, entry.path, entry.command) if part)


def _document(answer: openshell_pb2.GetDraftPolicyResponse) -> dict[str, Any]:
    return {
        "draft_version": answer.draft_version,
        "last_analyzed_at_ms": answer.last_analyzed_at_ms,
        "chunks": [_plain(chunk) for chunk in answer.chunks],
    }


def _plain(message: Any) -> Any:
    from google.protobuf.json_format import MessageToDict

    return MessageToDict(message, preserving_proto_field_name=True)
