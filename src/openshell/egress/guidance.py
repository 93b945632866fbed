"""What a refused agent may do next while agents may propose changes: steps and a sentence. Values only.

Part of refusals (`denials`), so it names only what is there for every agent: the skill that the supervisor
puts into the sandbox and the routes of `policy.local`.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final

__all__ = ["AGENT_GUIDANCE", "NEXT_STEPS", "SKILL_PATH"]

SKILL_PATH: Final = "/etc/openshell/skills/policy_advisor.md"

NEXT_STEPS: Final[Sequence[Mapping[str, str]]] = tuple(
    MappingProxyType(step)
    for step in (
        {"action": "read_skill", "path": SKILL_PATH},
        {
            "action": "inspect_policy",
            "method": "GET",
            "url": "http://policy.local/v1/policy/current",
        },
        {
            "action": "inspect_recent_denials",
            "method": "GET",
            "url": "http://policy.local/v1/denials?last=5",
        },
        {
            "action": "submit_proposal",
            "method": "POST",
            "url": "http://policy.local/v1/proposals",
            "body_type": "PolicyMergeOperation",
        },
    )
)

AGENT_GUIDANCE: Final = (
    f"Read {SKILL_PATH}, propose the narrowest rule that would allow this request with POST "
    "http://policy.local/v1/proposals, keep the returned ids, wait with GET "
    "http://policy.local/v1/proposals/ID/wait until it answers policy_reloaded: true, then send "
    "the request again."
)
