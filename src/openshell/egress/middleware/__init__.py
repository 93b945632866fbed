"""Stages that see requests after policy and before credentials: the core, without I/O.

`chain` says which stages a host has, `passage` what they are shown and what their answers do, `regex` is the
built-in one. Waiting for answers is `staging`'s part; services elsewhere are the supervisor's.
"""

from openshell.egress.middleware.chain import (
    PLATFORM_BODY_LIMIT,
    Chain,
    Implementation,
    Middlewares,
    Stage,
    Unavailable,
)
from openshell.egress.middleware.checking import has_body
from openshell.egress.middleware.passage import (
    CHAIN_SECONDS,
    Passage,
    Refusing,
    StageRefused,
    Unseen,
)
from openshell.egress.middleware.queue import WorkQueue
from openshell.egress.middleware.regex import RegexRedaction
from openshell.egress.middleware.values import (
    Answer,
    Evaluation,
    Existing,
    Mutation,
    Noticed,
    Remove,
    StageFailed,
    StageFault,
    Write,
)

__all__ = [
    "CHAIN_SECONDS",
    "PLATFORM_BODY_LIMIT",
    "Answer",
    "Chain",
    "Evaluation",
    "Existing",
    "Implementation",
    "Middlewares",
    "Mutation",
    "Noticed",
    "Passage",
    "Refusing",
    "RegexRedaction",
    "Remove",
    "Stage",
    "StageFailed",
    "StageFault",
    "StageRefused",
    "Unavailable",
    "Unseen",
    "WorkQueue",
    "Write",
    "has_body",
]
