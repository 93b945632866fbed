"""`policy.local`: what an agent may read of its policy, and where it proposes a change.

Reading a request, reading a proposal and wording answers are pure; `service` is the shell that reads bodies
and waits. Everything that knows the gateway is behind `Desk`, which the supervisor provides with plain
values: nothing here imports protobuf, and nothing here allows anything.
"""

from openshell.egress.policy_local.desk import (
    Desk,
    DeskFault,
    Draft,
    Fault,
    Proposal,
    Submission,
    Submitted,
)
from openshell.egress.policy_local.service import HOST, policy_local

__all__ = [
    "HOST",
    "Desk",
    "DeskFault",
    "Draft",
    "Fault",
    "Proposal",
    "Submission",
    "Submitted",
    "policy_local",
]
