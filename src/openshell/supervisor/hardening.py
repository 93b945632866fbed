"""The supervisor's own filter: what it needs no more after the start, it cannot do any more."""

from openshell.supervisor.isolation import privileges, seccomp
from openshell.supervisor.isolation.launch import Prepared
from openshell.supervisor.isolation.model import Layer, LayerStatus

__all__ = ["harden"]

_NAME = "supervisor_seccomp"


def harden(prepared: Prepared) -> Layer:
    """Forbid new privileges and filter system calls of all our threads, once.

    Last in the start, because the start needs what is forbidden. The agent is held by layers of
    its own; a kernel that refuses this one makes the supervisor weaker, not the sandbox open.
    """
    try:
        privileges.forbid_new_privileges()
        seccomp.install(prepared.supervisor_program, all_threads=True)
    except OSError as error:
        return Layer(_NAME, LayerStatus.OFF, error.strerror or "refused by the kernel")
    return Layer(_NAME, LayerStatus.ENFORCED)
