"""What can go wrong while a sandbox is isolated, as one typed error.

A step that must hold and does not stops the start. The error carries the step's name, the
kernel's errno and one sentence that says what to do; the caller maps it to a condition or to text.
"""

from __future__ import annotations

import errno as errno_module

__all__ = ["IsolationError", "explain_namespaces"]

_USERNS_HINT = (
    "this kernel does not let the caller create a user namespace: allow it with "
    "`sysctl kernel.unprivileged_userns_clone=1` (Debian), "
    "`sysctl kernel.apparmor_restrict_unprivileged_userns=0` or an AppArmor profile with "
    "`userns,` (Ubuntu), and `sysctl user.max_user_namespaces` above 0, or run as root"
)


class IsolationError(Exception):
    """One step of isolation failed; nothing of the sandbox runs any more."""

    def __init__(self, step: str, errno: int, message: str) -> None:
        super().__init__(step, errno, message)
        self.step = step
        self.errno = errno
        self.message = message

    def __str__(self) -> str:
        name = errno_module.errorcode.get(self.errno, str(self.errno))
        return f"isolation step {self.step} failed ({name}): {self.message}"


def explain_namespaces(errno: int) -> str:
    """Say what to change when the clone into new namespaces is refused."""
    if errno in (errno_module.EPERM, errno_module.EACCES):
        return _USERNS_HINT
    if errno == errno_module.ENOSPC:
        return f"the limit of namespaces is reached or zero; {_USERNS_HINT}"
    if errno == errno_module.EINVAL:
        return (
            "the kernel lacks one of the namespaces (user, mount, pid, net, ipc, uts, cgroup) "
            "or the process already has threads"
        )
    return "the kernel refused new namespaces; see the errno"
