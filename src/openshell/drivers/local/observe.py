"""What is seen of a local sandbox, in the contract's conditions. Pure: facts in, conditions out."""

from dataclasses import dataclass
from enum import StrEnum

from openshell.drivers.base import Condition
from openshell.drivers.local.state import FailureRecord

__all__ = ["Backend", "Facts", "conditions_of"]


class Backend(StrEnum):
    """Where the compute of a sandbox is."""

    PREPARING = "preparing"
    RUNNING = "running"
    GONE = "gone"


@dataclass(frozen=True, slots=True)
class Facts:
    """What the driver knows about one sandbox."""

    backend: Backend
    # Stopped on request: the marker is written before anything is ended.
    stopped: bool = False
    # Exit status of the supervisor, 128 + signal; None when nobody saw it end.
    exit_code: int | None = None
    # Why the last start failed.
    failure: FailureRecord | None = None


def conditions_of(facts: Facts) -> tuple[Condition, ...]:
    """The conditions to report. Reasons are words of the contract: unknown ones are terminal."""
    match facts.backend:
        case Backend.PREPARING:
            return (Condition("Ready", "False", "Starting", "the supervisor is being started"),)
        case Backend.RUNNING:
            return (Condition("Ready", "True", "BackendReady", "the supervisor runs"),)
        case Backend.GONE:
            return _gone(facts)


def _gone(facts: Facts) -> tuple[Condition, ...]:
    if facts.stopped:
        return (
            Condition("Suspended", "True", "Stopped", "stopped on request"),
            Condition("Ready", "False", "ContainerStopped", "stopped on request"),
        )
    if facts.failure is not None:
        return (Condition("Ready", "False", "ContainerStartFailed", facts.failure.message),)
    if facts.exit_code is None:
        message = (
            "the supervisor is gone; it ended while no gateway watched, or the machine restarted"
        )
    elif facts.exit_code > 128:
        message = f"the supervisor was ended by signal {facts.exit_code - 128}"
    else:
        message = f"the supervisor ended with exit code {facts.exit_code}"
    return (Condition("Ready", "False", "ContainerExited", message),)
