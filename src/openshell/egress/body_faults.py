"""Why a request body cannot be taken whole, and what it would have been taken for. Values only.

Made by `content` and `holding`, told by `refusing` and `denials`. A policy decision stands behind none.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["BodyFault", "BodyUse", "RefusedBody"]


class BodyUse(Enum):
    """What the proxy needs the whole body for; the value ends a sentence for people."""

    PLACING = "placeholders are replaced in them"
    SIGNING = "they are signed here"
    JUDGING = "the policy reads them"
    STAGES = "they are shown to the policy's middleware"


class BodyFault(Enum):
    """The value is the code of the answer."""

    SIZE = "request_body_too_large"
    TRAILERS = "request_trailers_not_supported"
    MEDIA = "unsupported_media_type"
    TIME = "request_body_timeout"
    LATE = "policy_changed"


@dataclass(frozen=True, slots=True)
class RefusedBody:
    """`detail` is a sentence that quotes nothing of the request. `protocol` of the endpoint that reads."""

    fault: BodyFault
    use: BodyUse
    detail: str
    protocol: str = ""

    @classmethod
    def held(
        cls, fault: BodyFault, use: BodyUse, limit: int, seconds: float, protocol: str
    ) -> RefusedBody:
        """Say why a body could not be held."""
        match fault:
            case BodyFault.SIZE:
                detail = f"bodies to this endpoint may have {limit} bytes, because {use.value}"
            case BodyFault.TRAILERS:
                detail = f"bodies to this endpoint may have no trailers, because {use.value}"
            case BodyFault.TIME:
                detail = f"a body must come within {seconds:g} seconds here, because {use.value}"
            case _:
                detail = f"the body is needed whole, because {use.value}"
        return cls(fault, use, detail, protocol)
