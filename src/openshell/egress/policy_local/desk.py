"""What `policy.local` needs of the world outside the proxy, as values and one interface.

The supervisor implements `Desk`; tests write their own. A fault is a value: each has the status and code of
the contract, and a sentence that names no path, address or text of the gateway's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from openshell.policy.model import NetworkRule

__all__ = ["Desk", "DeskFault", "Draft", "Fault", "Proposal", "Submission", "Submitted"]


class Fault(Enum):
    """Why the desk cannot do what was asked: status and code."""

    GATEWAY_UNAVAILABLE = 503, "gateway_unavailable"
    NAME_UNAVAILABLE = 503, "sandbox_name_unavailable"
    WORKSPACE_UNAVAILABLE = 503, "workspace_unavailable"
    CONNECT_FAILED = 502, "gateway_connect_failed"
    SUBMIT_FAILED = 502, "proposal_submit_failed"
    LOOKUP_FAILED = 502, "gateway_lookup_failed"

    @property
    def status(self) -> int:
        return self.value[0]

    @property
    def code(self) -> str:
        return self.value[1]


@dataclass(frozen=True, slots=True)
class DeskFault:
    fault: Fault
    detail: str


@dataclass(frozen=True, slots=True)
class Proposal:
    """One rule that an agent would like to have. It has no marks: those are the gateway's to set."""

    rule_name: str
    rule: NetworkRule


@dataclass(frozen=True, slots=True)
class Submission:
    intent: str
    proposals: tuple[Proposal, ...]


@dataclass(frozen=True, slots=True)
class Submitted:
    """What the gateway made of a submission; the identifiers in the order of the proposals."""

    accepted: int
    rejected: int
    reasons: tuple[str, ...]
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Draft:
    """A stored proposal as its agent may see it."""

    id: str
    status: str
    rule_name: str
    binary: str
    rejection_reason: str
    validation_result: str
    application_error: str
    review_token: str
    current_hash: str
    candidate_hash: str


class Desk(Protocol):
    """The sandbox's own matters; there is no way to name another sandbox."""

    def is_open(self) -> bool:
        """Whether agents may propose, as the setting says now."""

    def policy_yaml(self) -> str | None:
        """The policy in force; None while there is none. Raises ValueError if it cannot be written."""

    def denials(self, last: int) -> Sequence[str]:
        """The newest refusals, newest first, one line each."""

    def fault(self) -> DeskFault | None:
        """Why nothing can be asked of the gateway at all."""

    async def submit(self, submission: Submission) -> Submitted | DeskFault: ...

    async def find(self, draft_id: str) -> Draft | DeskFault | None:
        """The sandbox's own draft of that name; None when there is none."""

    def is_in_force(self, draft_id: str) -> bool:
        """Whether the policy that is in force here covers what the draft asks for."""

    def decided(self, draft: Draft) -> None:
        """Record that a waiting agent learned of a decision."""
