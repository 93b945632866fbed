"""Why sandboxes cannot start on this machine: the kernel's settings, in words.

Reads a few files and changes nothing. The driver asks before it accepts a sandbox, so that a
machine that forbids user namespaces says so at once and names the setting to change.
"""

import os

__all__ = ["missing_prerequisite"]

_MAX_NAMESPACES = "sys/user/max_user_namespaces"
_UNPRIVILEGED = "sys/kernel/unprivileged_userns_clone"
_APPARMOR = "sys/kernel/apparmor_restrict_unprivileged_userns"


def missing_prerequisite(proc: str = "/proc", *, uid: int | None = None) -> str:
    """The first thing that is missing, as a sentence that says what to change; empty if none."""
    unprivileged = (os.geteuid() if uid is None else uid) != 0
    if not os.path.exists(f"{proc}/self/ns/user"):
        return (
            "this kernel has no user namespaces: use a kernel with CONFIG_USER_NS, "
            "or another compute driver"
        )
    if _read(proc, _MAX_NAMESPACES) == "0":
        return (
            "this machine allows no user namespaces: run "
            "'sysctl -w user.max_user_namespaces=15000' as root"
        )
    if unprivileged and _read(proc, _UNPRIVILEGED) == "0":
        return (
            "this machine forbids user namespaces to ordinary users: run "
            "'sysctl -w kernel.unprivileged_userns_clone=1' as root, or run the gateway as root"
        )
    if unprivileged and _read(proc, _APPARMOR) == "1" and not _has_own_profile(proc):
        return (
            "AppArmor restricts user namespaces of ordinary users: run "
            "'sysctl -w kernel.apparmor_restrict_unprivileged_userns=0' as root, or give the "
            "gateway's interpreter an AppArmor profile with 'userns,'"
        )
    return ""


def _has_own_profile(proc: str) -> bool:
    """Confined by a profile: that profile decides, not the restriction for the unconfined."""
    label = _read(proc, "self/attr/apparmor/current") or _read(proc, "self/attr/current")
    return bool(label) and not label.startswith("unconfined")


def _read(proc: str, name: str) -> str:
    try:
        with open(f"{proc}/{name}", encoding="utf-8", errors="replace") as file:
            return file.read(256).strip("\0\n ")
    except OSError:
        return ""
