"""The root file system of a sandbox: what is where, decided first, built after.

`plan_rootfs` is pure: it turns the host's view and the spec into a list of operations below an
empty tmpfs; `rootbuild` carries them out inside the new mount namespace. Nothing of a home, of
/var, /run, /tmp, /opt or of an engine's socket is there unless exposed by name. /proc, the masks
over it and the pivot follow in init.py.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from openshell.supervisor.isolation.etc import (
    MASKED_DIRECTORIES,
    MASKED_FILES,
    OWN_DIRECTORY,
    OWN_FILES,
    etc_files,
)
from openshell.supervisor.isolation.model import (
    TRUST_DIRECTORY,
    WORKSPACE,
    SandboxSpec,
)

__all__ = [
    "MASK_NAME",
    "AttachSource",
    "BindHost",
    "HostView",
    "MakeDirectory",
    "MakeFile",
    "MakeLink",
    "MaskDirectory",
    "MaskFile",
    "MountDevpts",
    "MountEtc",
    "MountFiles",
    "MountScratch",
    "MountTrust",
    "Operation",
    "plan_rootfs",
    "sources_of",
]

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh")
# Package stores outside /usr whose programs are found through links in it.
_STORES = ("/nix/store", "/gnu/store")
# An empty file that covers others while the root is built.
MASK_NAME = "/.mask"


@dataclass(frozen=True, slots=True)
class HostView:
    """What of the host's root matters: read once, before any sandbox exists."""

    links: tuple[tuple[str, str], ...]
    directories: tuple[str, ...]
    shell: str
    etc_masks: tuple[str, ...]
    etc_masked_files: tuple[str, ...]

    @classmethod
    def read(cls) -> HostView:
        links, directories = [], []
        for name in sorted(os.listdir("/")):
            if name not in {"usr", "bin", "sbin"} and not name.startswith("lib"):
                continue
            path = f"/{name}"
            if os.path.islink(path):
                links.append((path, os.readlink(path)))
            elif os.path.isdir(path):
                directories.append(path)
        directories += [store for store in _STORES if os.path.isdir(store)]
        return cls(
            links=tuple(links),
            directories=tuple(directories),
            shell=next((s for s in _SHELLS if os.access(s, os.X_OK)), "/bin/sh"),
            etc_masks=tuple(n for n in MASKED_DIRECTORIES if os.path.isdir(f"/etc/{n}")),
            etc_masked_files=tuple(n for n in MASKED_FILES if os.path.lexists(f"/etc/{n}")),
        )


@dataclass(frozen=True, slots=True)
class MakeDirectory:
    path: str
    mode: int = 0o755


@dataclass(frozen=True, slots=True)
class MakeLink:
    path: str
    target: str


@dataclass(frozen=True, slots=True)
class MakeFile:
    path: str
    content: str = ""
    mode: int = 0o444


@dataclass(frozen=True, slots=True)
class BindHost:
    path: str
    devices: bool = False


@dataclass(frozen=True, slots=True)
class AttachSource:
    """Put the tree of host path `source`, cloned beforehand, at `path`."""

    source: str
    path: str
    read_only: bool
    # Names below it that are left out, where it is a directory of the caller's: then it is shown
    # through a layer, behind which its sockets lead nowhere either.
    hidden: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class MountEtc:
    """Lay what lies at /etc of the new root over the host's /etc."""


@dataclass(frozen=True, slots=True)
class MountScratch:
    path: str
    size: int
    mode: int


@dataclass(frozen=True, slots=True)
class MountDevpts:
    path: str


@dataclass(frozen=True, slots=True)
class MaskDirectory:
    path: str


@dataclass(frozen=True, slots=True)
class MaskFile:
    path: str


@dataclass(frozen=True, slots=True)
class MountFiles:
    """A read-only directory with these files and nothing else, over what is there."""

    path: str
    files: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class MountTrust:
    """A read-only directory whose files only the supervisor writes, through descriptors."""

    path: str


Operation = (
    MakeDirectory
    | MakeLink
    | MakeFile
    | BindHost
    | AttachSource
    | MountEtc
    | MountScratch
    | MountDevpts
    | MaskDirectory
    | MaskFile
    | MountFiles
    | MountTrust
)


def _within(path: str, roots: tuple[str, ...]) -> bool:
    return any(path == root or path.startswith(f"{root}/") for root in roots)


def sources_of(operations: tuple[Operation, ...]) -> tuple[AttachSource, ...]:
    """The host trees that must be cloned before the root is built, keyed by their place."""
    return tuple(o for o in operations if isinstance(o, AttachSource))


def _plan_etc(host: HostView, spec: SandboxSpec) -> list[Operation]:
    operations: list[Operation] = [MakeDirectory("/etc")]
    operations += [
        MakeFile(f"/etc/{name}", content)
        for name, content in etc_files(spec.hostname, host.shell).items()
    ]
    operations += [MakeFile(f"/etc/{name}") for name in host.etc_masked_files]
    operations += [MakeDirectory(TRUST_DIRECTORY), MakeDirectory(OWN_DIRECTORY), MountEtc()]
    operations += [MountTrust(TRUST_DIRECTORY), MountFiles(OWN_DIRECTORY, OWN_FILES)]
    operations += [MaskDirectory(f"/etc/{name}") for name in host.etc_masks]
    return operations


def _plan_dev(scratch: int) -> list[Operation]:
    operations: list[Operation] = [MakeDirectory("/dev")]
    for name in _DEVICES:
        operations += [MakeFile(f"/dev/{name}"), BindHost(f"/dev/{name}", devices=True)]
    operations += [MakeDirectory("/dev/pts"), MountDevpts("/dev/pts")]
    operations += [MakeDirectory("/dev/shm"), MountScratch("/dev/shm", scratch, 0o1777)]
    for name, link in (
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ):
        operations.append(MakeLink(f"/dev/{name}", link))
    return operations


def plan_rootfs(
    host: HostView, spec: SandboxSpec, kinds: Mapping[str, bool]
) -> tuple[Operation, ...]:
    """Decide the whole root; `kinds` says of each source whether it is a directory."""
    scratch = spec.limits.scratch_bytes
    operations: list[Operation] = [MakeFile(MASK_NAME)]
    operations += [MakeLink(path, target) for path, target in host.links]
    for path in host.directories:
        operations += [MakeDirectory(path), BindHost(path)]
    operations += _plan_etc(host, spec)
    operations += _plan_dev(scratch)
    for path, mode in (("/tmp", 0o1777), ("/var", 0o755), ("/run", 0o755)):
        operations += [MakeDirectory(path), MountScratch(path, scratch, mode)]
    operations += [
        MakeDirectory("/var/tmp", 0o1777),
        *(MakeDirectory(f"/var/{name}") for name in ("cache", "lib", "log", "spool")),
        MakeLink("/var/run", "/run"),
        MakeDirectory("/run/lock", 0o1777),
        *(MakeDirectory(path) for path in ("/home", "/root", "/opt", "/proc", "/sys")),
        MakeDirectory(WORKSPACE),
        AttachSource(spec.workspace_dir, WORKSPACE, read_only=False),
    ]
    fixed = (*host.directories, *(path for path, _ in host.links), "/etc", "/dev", "/proc", "/sys")
    for exposed in sorted(spec.exposed, key=lambda e: e.path):
        if _within(exposed.path, (*fixed, WORKSPACE)):
            continue
        if kinds.get(exposed.real, True):
            start = f"{exposed.path}/"
            hidden = tuple(m.removeprefix(start) for m in spec.masks if m.startswith(start))
            attached = AttachSource(exposed.real, exposed.path, read_only=True, hidden=hidden)
            operations += [MakeDirectory(exposed.path), attached]
        else:
            attached = AttachSource(exposed.real, exposed.path, read_only=True)
            operations += [MakeFile(exposed.path), attached]
    # Directories the policy makes writable exist; outside the scratch areas each is its own.
    writable: tuple[str, ...] = (WORKSPACE, "/tmp", "/var", "/run", "/dev/shm")
    shown = (*fixed, *(e.path for e in spec.exposed))
    for path in sorted({os.path.normpath(p) for p in spec.read_write}):
        if path == "/" or _within(path, shown):
            continue
        operations.append(MakeDirectory(path))
        if not _within(path, writable):
            operations.append(MountScratch(path, scratch, 0o755))
            writable = (*writable, path)
    hidden_in = tuple(o.path for o in sources_of(tuple(operations)) if o.hidden is not None)
    operations += [
        MaskFile(path) for path in spec.masks if path in hidden_in or not _within(path, hidden_in)
    ]
    return tuple(operations)
