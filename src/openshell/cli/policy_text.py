"""Policies between messages and the text that people write and read."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from openshell._proto import sandbox_pb2
from openshell.cli.failures import CliError
from openshell.cli.output import note
from openshell.codec.policy import policy_from_proto, policy_to_proto
from openshell.policy.defaults import check_startable
from openshell.policy.document import read_document
from openshell.policy.findings import Severity
from openshell.policy.parse import PolicyParseError, dump_policy, parse_policy, policy_to_json
from openshell.policy.validate import check_authored, errors_of, validate_policy

if TYPE_CHECKING:
    from openshell.policy.model import SandboxPolicy

__all__ = [
    "parse_policy_file",
    "policy_document",
    "policy_yaml",
    "read_policy",
    "source_name",
    "usable_policy",
]

_METADATA_STARTS = ("Scope: ", "Version: ")


def parse_policy_file(path: str) -> SandboxPolicy:
    """Reads a policy file without judging what it says.

    Raises:
        CliError: it cannot be read or parsed; the message names file, line and key.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise CliError(f"failed to read sandbox policy from {path}: {reason}") from error
    try:
        return parse_policy(_without_metadata(text), source=path)
    except PolicyParseError as error:
        hint = ""
        if _is_profile(text, path):
            lint = f"openshell provider profile lint -f {shlex.quote(path)}"
            hint = f"\nThis looks like a provider profile:  {lint}"
        raise CliError(f"{error}{hint}") from error


def _is_profile(text: str, path: str) -> bool:
    """Whether a document that is no policy has the keys that every profile has."""
    try:
        keys = read_document(text, source=path).key_lines()
    except PolicyParseError:
        return False
    return "id" in keys and ("display_name" in keys or "credentials" in keys)


def _without_metadata(text: str) -> str:
    """Blanks the lines that `policy get --full` prints above the policy; line numbers stay."""
    if not text.startswith(_METADATA_STARTS):
        return text
    above, separator, policy = text.partition("\n---\n")
    return "\n" * (above.count("\n") + 2) + policy if separator else text


def read_policy(path: str, *, is_first: bool = False) -> sandbox_pb2.SandboxPolicy:
    """Reads and checks a policy file, for sending. `is_first`: a sandbox begins with it.

    Raises:
        CliError: it cannot be read, parsed or would be refused.
    """
    return policy_to_proto(usable_policy(path, is_first=is_first))


def usable_policy(path: str, *, is_first: bool = False) -> SandboxPolicy:
    """Reads and checks a policy file; warnings go to the person.

    Raises:
        CliError: it cannot be read, parsed or would be refused.
    """
    policy = parse_policy_file(path)
    findings = (
        *check_authored(policy),
        *validate_policy(policy),
        *(check_startable(policy) if is_first else ()),
    )
    for finding in findings:
        if finding.severity is Severity.WARNING:
            note(f"Warning: {path}: {finding.location}: {finding.message}")
    errors = errors_of(findings)
    if errors:
        lines = [f"  {path}: {finding.location}: {finding.message}" for finding in errors]
        raise CliError("\n".join(["the policy is not valid", *lines]))
    return policy


def _policy(message: sandbox_pb2.SandboxPolicy) -> SandboxPolicy:
    return policy_from_proto(message)


def policy_yaml(message: sandbox_pb2.SandboxPolicy) -> str:
    """The policy as YAML, in the form that `policy set` takes."""
    return dump_policy(_policy(message))


def policy_document(message: sandbox_pb2.SandboxPolicy) -> dict[str, Any]:
    """The policy as a JSON document of the same shape."""
    return policy_to_json(_policy(message))


def source_name(source: int) -> str:
    """`sandbox`, `global` or `unspecified`."""
    name = sandbox_pb2.PolicySource.Name(source)  # type: ignore[arg-type]  # the stub wants the enum's type
    return name.removeprefix("POLICY_SOURCE_").lower()
