"""Mounting, in the few shapes a sandbox's root needs.

Read-only trees are cloned detached, made read-only with all their submounts and only then put in
place, so that nothing is ever visible writable. Called by process 1 inside its mount namespace
and, for trees that its identity cannot reach, by a privileged supervisor outside.
"""

from __future__ import annotations

import os

from openshell.supervisor.isolation import syscalls

__all__ = [
    "attach",
    "bind",
    "clone_tree",
    "detach",
    "enter_root",
    "file_system",
    "make_private",
    "overlay_read_only",
    "set_read_only",
    "tmpfs",
]

_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_AT_SYMLINK_NOFOLLOW = 0x100
_OPEN_TREE_CLONE = 1
_OPEN_TREE_CLOEXEC = 0o2000000
_MOVE_FROM_EMPTY = 0x4
_ATTR_RDONLY, _ATTR_NOSUID, _ATTR_NODEV, _ATTR_NOEXEC, _ATTR_IDMAP = 1, 2, 4, 8, 0x10_0000

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC = 1, 2, 4, 8
_MS_REC, _MS_PRIVATE = 0x4000, 0x4_0000
_MNT_DETACH = 2


def make_private() -> None:
    """Cut every mount of this namespace off from the host's propagation."""
    syscalls.mount("none", "/", "", _MS_REC | _MS_PRIVATE)


def clone_tree(
    path: str,
    *,
    read_only: bool,
    devices: bool = False,
    follow: bool = True,
    user_namespace: int | None = None,
) -> int:
    """Return a detached copy of the tree at `path`, restricted as asked, as a descriptor.

    With a user namespace the copy is id-mapped: what its map calls X on disk appears as the id
    outside the map.
    """
    flags = _OPEN_TREE_CLONE | _OPEN_TREE_CLOEXEC | _AT_RECURSIVE
    if not follow:
        flags |= _AT_SYMLINK_NOFOLLOW
    tree = syscalls.open_tree(_AT_FDCWD, path, flags)
    try:
        bits = _ATTR_NOSUID
        if read_only:
            bits |= _ATTR_RDONLY
        if not devices:
            bits |= _ATTR_NODEV
        syscalls.mount_setattr(tree, "", _AT_EMPTY_PATH | _AT_RECURSIVE, set_bits=bits)
        if user_namespace is not None:
            syscalls.mount_setattr(
                tree, "", _AT_EMPTY_PATH, set_bits=_ATTR_IDMAP, user_namespace=user_namespace
            )
    except BaseException:
        os.close(tree)
        raise
    return tree


def attach(tree: int, target: str) -> None:
    """Put a detached tree in place and close its descriptor."""
    try:
        syscalls.move_mount(tree, _AT_FDCWD, target, _MOVE_FROM_EMPTY)
    finally:
        os.close(tree)


def detach(target: str) -> None:
    """Take away what is mounted at a place, and all below; who uses it keeps it."""
    syscalls.umount(target, _MNT_DETACH)


def bind(
    source: str, target: str, *, read_only: bool, devices: bool = False, follow: bool = True
) -> None:
    attach(clone_tree(source, read_only=read_only, devices=devices, follow=follow), target)


def tmpfs(target: str, *, size: int, mode: int, read_only: bool = False) -> None:
    flags = MS_NOSUID | MS_NODEV | (MS_RDONLY if read_only else 0)
    syscalls.mount("tmpfs", target, "tmpfs", flags, f"size={size},mode={mode:o}")


def overlay_read_only(target: str, *layers: str) -> None:
    """Merge directories, the first on top; without an upper layer nothing can be written."""
    flags = MS_NOSUID | MS_NODEV | MS_RDONLY
    syscalls.mount("overlay", target, "overlay", flags, f"lowerdir={':'.join(layers)},userxattr")


def file_system(kind: str, target: str, data: str = "", *, read_only: bool = False) -> None:
    """Mount a kernel file system (proc, sysfs, devpts): no set-uid, no programs."""
    flags = MS_NOSUID | MS_NOEXEC | (MS_RDONLY if read_only else 0)
    if kind != "devpts":
        flags |= MS_NODEV
    syscalls.mount(kind, target, kind, flags, data)


def set_read_only(path: str) -> None:
    """Make the one mount at `path` read-only; those on it stay as they are."""
    syscalls.mount_setattr(_AT_FDCWD, path, 0, set_bits=_ATTR_RDONLY | _ATTR_NOSUID | _ATTR_NODEV)


def enter_root(root: str) -> None:
    """Make `root` the root of this namespace and let the old one go."""
    os.chdir(root)
    syscalls.pivot_root(".", ".")
    syscalls.umount(".", _MNT_DETACH)
    os.chdir("/")
