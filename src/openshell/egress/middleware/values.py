"""What a middleware stage is asked, what it may answer, and why an answer does not count. Values only.

Made by `staging` and by implementations, in process or remote; judged by `checking`. Nothing here holds a
value of a credential: stages run before any is put in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias

from openshell.policy.model import JsonValue

__all__ = [
    "Answer",
    "Evaluation",
    "Existing",
    "Mutation",
    "Noticed",
    "Remove",
    "StageFailed",
    "StageFault",
    "Write",
]


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


class StageFault(Enum):
    """Why a stage failed. The value is all that anybody is told; what the stage itself said is not."""

    TIMEOUT = "middleware_timeout"
    CHAIN_TIMEOUT = "middleware_chain_timeout"
    CAPACITY = "request_body_over_capacity"
    HEADERS = "request_headers_over_capacity"
    CONTENT = "request_body_not_readable"
    SERVICE = "external_service_error"
    NOT_DESCRIBED = "binding_not_described"
    DECISION = "invalid_response_decision"
    REASON = "invalid_response_reason"
    BODY = "invalid_response_body"
    BODY_SIZE = "response_body_over_capacity"
    MUTATION = "invalid_header_mutation"
    FINDING = "invalid_response_finding"
    METADATA = "invalid_response_metadata"
    BUSY = "middleware_queue_full"
    INTERNAL = "middleware_internal_error"


class StageFailed(Exception):
    """Raised by an implementation that has no answer."""

    def __init__(self, fault: StageFault) -> None:
        super().__init__(fault.value)
        self.fault = fault


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A request as a stage sees it. Placeholders stand for credentials, and targets show not even these."""

    request_id: str
    method: str
    scheme: str
    host: str
    port: int
    path: str
    query: str = field(repr=False)
    headers: tuple[tuple[str, str], ...] = field(repr=False)
    body: bytes = field(repr=False)
    config: Mapping[str, JsonValue] = field(repr=False)


class Existing(Enum):
    """What a write does where the field is there already."""

    APPEND = "append"
    OVERWRITE = "overwrite"
    SKIP = "skip"


@dataclass(frozen=True, slots=True)
class Write:
    name: str
    value: str = field(repr=False)
    existing: Existing | None


@dataclass(frozen=True, slots=True)
class Remove:
    name: str


# None: the stage sent an operation that we do not know.
Mutation: TypeAlias = Write | Remove | None


@dataclass(frozen=True, slots=True)
class Noticed:
    """Something a stage noticed, for the log; it decides nothing."""

    kind: str
    label: str = ""
    count: int = 1
    confidence: str = ""
    severity: str = ""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a stage says, unchecked. `allow` None: neither yes nor no; `body` None: no new one."""

    allow: bool | None
    reason: str = field(default="", repr=False)
    reason_code: str = ""
    body: bytes | None = field(default=None, repr=False)
    mutations: tuple[Mutation, ...] = ()
    noticed: tuple[Noticed, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=_nothing, repr=False)
