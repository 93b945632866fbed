"""The plain values that the client library hands out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, Self

from openshell._proto import openshell_pb2

__all__ = ["ExecChunk", "ExecResult", "SandboxRef", "SandboxStatusRef", "sandbox_ref"]


class _FrozenLabels(dict[str, str]):
    """A dict that refuses changes, so that a frozen ref is frozen all through."""

    def _refuse(self, *_args: object, **_kwargs: object) -> NoReturn:
        raise TypeError("labels of a SandboxRef cannot be changed; copy them with dict(...)")

    __setitem__ = __delitem__ = __ior__ = _refuse
    clear = pop = popitem = setdefault = update = _refuse

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return type(self)(copy.deepcopy(dict(self), memo))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self),)


@dataclass(frozen=True)
class SandboxStatusRef:
    """How a sandbox was when the gateway answered.

    Attributes:
        phase: A value of `openshell.v1.SandboxPhase`.
        current_policy_version: Revision that the supervisor has loaded; 0 before the first.
        exit_code: Of the main process, once it has ended.
    """

    phase: int
    current_policy_version: int
    exit_code: int | None = None


@dataclass(frozen=True)
class SandboxRef:
    """One sandbox: its identity and how it was when the gateway answered."""

    id: str
    name: str
    workspace: str
    status: SandboxStatusRef
    labels: Mapping[str, str] = field(default_factory=dict, compare=False)

    @property
    def phase(self) -> int:
        return self.status.phase

    @property
    def current_policy_version(self) -> int:
        return self.status.current_policy_version


@dataclass(frozen=True)
class ExecChunk:
    """A piece of output, as it came."""

    stream: Literal["stdout", "stderr"]
    data: bytes


@dataclass(frozen=True)
class ExecResult:
    """A finished command: exit status (128 + n after signal n, 124 after a timeout) and output."""

    exit_code: int
    stdout: str
    stderr: str


def sandbox_ref(sandbox: openshell_pb2.Sandbox) -> SandboxRef:
    """Makes a ref of the gateway's message."""
    status = sandbox.status
    return SandboxRef(
        id=sandbox.metadata.id,
        name=sandbox.metadata.name,
        workspace=sandbox.metadata.workspace,
        status=SandboxStatusRef(
            phase=status.phase,
            current_policy_version=status.current_policy_version,
            exit_code=status.exit_code if status.HasField("exit_code") else None,
        ),
        labels=_FrozenLabels(sandbox.metadata.labels),
    )
