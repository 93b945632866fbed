"""What the supervisor gives up for good once process 1 is cloned and has its trees.

From then on it mounts nothing, traces nothing and becomes nobody else, while it reads bytes that
an agent and upstreams send. So it keeps the rights of an ordinary process of its user, and cannot
be looked into by others of that user. Called by `main` while there is one thread: capabilities
belong to threads, and every later one inherits what is left.
"""

import os
import resource
from collections.abc import Callable

from openshell.supervisor.isolation import privileges, seccomp
from openshell.supervisor.isolation.launch import Prepared
from openshell.supervisor.isolation.model import Layer, LayerStatus

__all__ = ["KEPT_CAPABILITIES", "harden"]

# As root the sandbox runs under an id of its own, and naming the program behind a connection means
# reading that id's /proc entries and hashing programs that only it may read. Everything else works
# without: whoever made a user namespace may signal and look at what is in it.
_CAP_DAC_READ_SEARCH = 2
KEPT_CAPABILITIES = 1 << _CAP_DAC_READ_SEARCH
# Four for each connection that the proxy takes at one time (client, upstream, a pipe between them),
# and as many again for programs. The usual soft limit is 1,024; programs inside keep theirs.
_DESCRIPTORS = 8192


def harden(prepared: Prepared) -> tuple[Layer, ...]:
    """Drop what is not needed any more; what the kernel refuses is reported.

    The agent is held by layers of its own: one that is off here makes the supervisor weaker, not
    the sandbox open.
    """
    _allow_descriptors()
    return (
        _layer("supervisor_privileges", _drop_privileges),
        _layer("supervisor_seccomp", lambda: _filter_calls(prepared)),
    )


def _allow_descriptors() -> None:
    """Raise our own soft limit: an agent must not be able to use our descriptors up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _DESCRIPTORS if hard == resource.RLIM_INFINITY else min(_DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _drop_privileges() -> str:
    # No core file and no debugger: from now on there are secrets in our memory.
    privileges.set_dumpable(dumpable=False)
    privileges.forbid_new_privileges()
    if os.geteuid() == 0:
        privileges.drop_capabilities(keep=KEPT_CAPABILITIES)
        return "no capability but DAC_READ_SEARCH, not dumpable"
    # The bounding set needs a right to be emptied; without new privileges it means nothing.
    privileges.clear_capabilities()
    return "no capability, not dumpable"


def _filter_calls(prepared: Prepared) -> str:
    seccomp.install(prepared.supervisor_program)
    return ""


def _layer(name: str, apply: Callable[[], str]) -> Layer:
    try:
        detail = apply()
    except OSError as error:
        return Layer(name, LayerStatus.OFF, error.strerror or "refused by the kernel")
    return Layer(name, LayerStatus.ENFORCED, detail)
