"""Building the root file system of a sandbox from its plan (`rootfs`), inside its mount namespace.

Runs in process 1 while it still has its capabilities. It decides nothing but what to do where the
kernel offers less than the plan hopes for, and says so.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from openshell.supervisor.isolation import mounts
from openshell.supervisor.isolation.model import TRUST_FILES, Layer, LayerStatus
from openshell.supervisor.isolation.rootfs import (
    MASK_NAME,
    AttachSource,
    BindHost,
    MakeDirectory,
    MakeFile,
    MakeLink,
    MaskDirectory,
    MaskFile,
    MountDevpts,
    MountEtc,
    MountFiles,
    MountScratch,
    MountTrust,
    Operation,
)

__all__ = ["BuiltRoot", "build_rootfs"]

_ROOT_BYTES = 4 << 20
# The system's bundle is a quarter of a megabyte; an operator may add his own.
_TRUST_BYTES = 16 << 20
# Texts of ours, a page or two.
_FILES_BYTES = 1 << 18
_STAGE_NAME = "/.stage"
# Empty files and their directories; inodes are not counted.
_STAGE_BYTES = 4 << 20


def _make_directories(path: str, mode: int) -> None:
    if os.path.isdir(path):
        return
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    os.mkdir(path, mode)
    if mode & 0o1000:
        os.chmod(path, mode)


def _make_file(path: str, content: str, mode: int) -> None:
    if os.path.lexists(path):
        return
    os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        if content:
            os.write(made, content.encode())
    finally:
        os.close(made)


def _copy_etc(target: str) -> None:
    """Without overlay: link, copy or bind each entry of /etc that we do not bring ourselves."""
    for entry in os.scandir("/etc"):
        path = f"{target}/{entry.name}"
        if os.path.lexists(path):
            continue
        if entry.is_symlink():
            os.symlink(os.readlink(entry.path), path)
        elif entry.is_dir():
            os.mkdir(path, 0o755)
            mounts.bind(entry.path, path, read_only=True)
        elif entry.is_file() and os.access(entry.path, os.R_OK):
            _make_file(path, "", 0o444)
            mounts.bind(entry.path, path, read_only=True)


def _mount_etc(root: str) -> None:
    target = f"{root}/etc"
    try:
        mounts.overlay_read_only(target, target, "/etc")
    except OSError:
        # Kernels before 5.11, or an /etc that is itself too deep an overlay.
        _copy_etc(target)


def _mask_path(root: str, path: str) -> None:
    """Cover one file or directory, if it is there and reachable at all."""
    target = root + path
    try:
        is_directory = os.path.isdir(target)
        if os.path.islink(target) or not os.path.lexists(target):
            return
    except OSError:
        return
    if is_directory:
        mounts.tmpfs(target, size=4096, mode=0o555, read_only=True)
    else:
        mounts.bind(root + MASK_NAME, target, read_only=True)


def _mount_files(target: str, files: tuple[tuple[str, str], ...]) -> None:
    mounts.tmpfs(target, size=_FILES_BYTES, mode=0o755)
    for name, content in files:
        _make_file(f"{target}/{name}", content, 0o444)
    mounts.set_read_only(target)


def _mount_trust(target: str) -> list[int]:
    """Make the files and keep them open for writing, then cover them with a read-only view.

    They are made here because the host's root has no identity in this file system.
    """
    mounts.tmpfs(target, size=_TRUST_BYTES, mode=0o755)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    writers = [os.open(f"{target}/{name}", flags, 0o444) for name in TRUST_FILES]
    mounts.bind(target, target, read_only=True)
    return writers


class _Stage:
    """Where layers are prepared; gone when the root is built, while what they made keeps them."""

    def __init__(self, root: str) -> None:
        self._root = root
        self._path = root + _STAGE_NAME
        self._count = 0
        # Shown without a layer, because the kernel would not make it.
        self.plain: list[str] = []

    def attach(self, tree: int, path: str, hidden: tuple[str, ...]) -> None:
        """Show a tree through a layer, without some of its names.

        An empty file in a layer above hides a name for good. A mount hides a file, and goes when
        the host replaces that file by a rename, as every tool does that renews its credentials.
        And a read-only mount stops no program from connecting to a socket; a layer has none.
        """
        if not self._count:
            os.mkdir(self._path)
            mounts.tmpfs(self._path, size=_STAGE_BYTES, mode=0o755)
        self._count += 1
        below, above = (f"{self._path}/{name}{self._count}" for name in ("below", "above"))
        os.mkdir(below)
        os.mkdir(above)
        mounts.attach(tree, below)
        for name in hidden:
            _make_file(f"{above}/{name}", "", 0o444)
        try:
            mounts.overlay_read_only(self._root + path, above, below)
        except OSError:
            # An old kernel, a file system that cannot be a layer, or others mounted in the tree.
            mounts.bind(below, self._root + path, read_only=True)
            for name in hidden:
                _mask_path(self._root, f"{path}/{name}")
            self.plain.append(path)

    def close(self) -> list[Layer]:
        if self._count:
            mounts.detach(self._path)
            os.rmdir(self._path)
        if not self.plain:
            return []
        detail = (
            "sockets can be reached and a credential that the host replaces is seen in "
            + ", ".join(self.plain)
        )
        return [Layer("exposed_directories", LayerStatus.PARTLY, detail)]


@dataclass(frozen=True, slots=True)
class BuiltRoot:
    """What building the root left behind: descriptors that write TRUST_FILES, and how it went."""

    trust: list[int]
    layers: list[Layer]


def build_rootfs(
    root: str, operations: tuple[Operation, ...], sources: Mapping[str, int]
) -> BuiltRoot:
    """Carry the plan out on a fresh tmpfs at `root`.

    `sources` are detached trees by their place, each used once and closed.
    """
    mounts.tmpfs(root, size=_ROOT_BYTES, mode=0o755)
    stage = _Stage(root)
    trust: list[int] = []
    for operation in operations:
        match operation:
            case MakeDirectory(path, mode):
                _make_directories(root + path, mode)
            case MakeLink(path, target):
                os.symlink(target, root + path)
            case MakeFile(path, content, mode):
                _make_file(root + path, content, mode)
            case BindHost(path, devices):
                mounts.bind(path, root + path, read_only=not devices, devices=devices)
            case AttachSource(_, path, _, hidden):
                if hidden is None:
                    mounts.attach(sources[path], root + path)
                else:
                    stage.attach(sources[path], path, hidden)
            case MountEtc():
                _mount_etc(root)
            case MountScratch(path, size, mode):
                mounts.tmpfs(root + path, size=size, mode=mode)
            case MountDevpts(path):
                mounts.file_system("devpts", root + path, "newinstance,ptmxmode=0666,mode=620")
            case MaskDirectory(path) | MaskFile(path):
                _mask_path(root, path)
            case MountFiles(path, files):
                _mount_files(root + path, files)
            case MountTrust(path):
                trust = _mount_trust(root + path)
    os.unlink(root + MASK_NAME)
    return BuiltRoot(trust, stage.close())
