"""What there is to transfer: a list of entries with names of bytes, from a local tree or a remote one.

Local trees follow Git's rules for ignored files where there is a work tree. Nothing is ever followed: a link
is an entry of its own.
"""

from __future__ import annotations

import enum
import os
import stat
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from openshell.sdk.errors import SandboxError

__all__ = ["Entry", "Kind", "is_contained", "is_plain_name", "kind_of", "local_entries", "run_git"]

NAME_MAX = 255
"""Bytes of one component: the kernel's bound."""
GIT_SECONDS = 60.0
"""For listing a work tree; the largest public ones take two."""


class Kind(enum.Enum):
    DIRECTORY = "directory"
    FILE = "file"
    LINK = "link"


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing below a root. `path` has no empty, `.` or `..` component; empty is the root itself."""

    path: tuple[bytes, ...]
    kind: Kind
    size: int = 0
    mode: int = 0o644
    mtime: int = 0
    target: bytes = b""

    @property
    def shown(self) -> str:
        return os.fsdecode(b"/".join(self.path))


def kind_of(mode: int) -> Kind | None:
    """None for devices, pipes and sockets."""
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY
    return Kind.LINK if stat.S_ISLNK(mode) else None


def is_plain_name(name: bytes) -> bool:
    """Whether a component can only mean an entry of its directory."""
    return (
        bool(name)
        and name not in (b".", b"..")
        and len(name) <= NAME_MAX
        and not (b"/" in name or b"\0" in name)
    )


def is_contained(directory: tuple[bytes, ...], target: bytes) -> bool:
    """Whether a link in `directory` cannot lead out of the root, whatever else is a link there.

    Steps up are allowed at the beginning only: there they are taken from a real directory. After a name
    they could be taken from wherever that leads.
    """
    if not target or target.startswith(b"/") or b"\0" in target:
        return False
    parts = [part for part in target.split(b"/") if part not in (b"", b".")]
    ups = 0
    while ups < len(parts) and parts[ups] == b"..":
        ups += 1
    return ups <= len(directory) and b".." not in parts[ups:]


def local_entries(
    root: str, *, git_ignore: bool, environ: Mapping[str, str]
) -> tuple[list[Entry], bool]:
    """Everything below `root` in order, and whether Git's rules left something out.

    Raises:
        SandboxError: something of it is no file, directory or link.
        OSError: it cannot be read.
    """
    top = os.lstat(root)
    if kind_of(top.st_mode) is not Kind.DIRECTORY:
        return [_entry(os.fsencode(root), (), top)], False
    listed = _git_listing(root, environ) if git_ignore else None
    if listed:
        return list(_selected(os.fsencode(root), listed)), True
    return list(_walk(os.fsencode(root), ())), False


def _walk(directory: bytes, path: tuple[bytes, ...]) -> Iterator[Entry]:
    yield _entry(directory, path, os.lstat(directory))
    for name in sorted(os.listdir(directory)):
        inner = os.path.join(directory, name)
        found = os.lstat(inner)
        if stat.S_ISDIR(found.st_mode):
            yield from _walk(inner, (*path, name))
        else:
            yield _entry(inner, (*path, name), found)


def _selected(root: bytes, listed: Iterable[bytes]) -> Iterator[Entry]:
    """The files that Git names, with the directories that lead to them."""
    made: set[tuple[bytes, ...]] = set()
    for name in sorted(listed):
        parts = tuple(name.rstrip(b"/").split(b"/"))
        for depth in range(len(parts)):
            above = parts[:depth]
            if above not in made:
                made.add(above)
                yield _entry(root, above, os.lstat(os.path.join(root, *above)))
        inner = os.path.join(root, *parts)
        try:
            found = os.lstat(inner)
        except FileNotFoundError:
            # Deleted, but still in the index.
            continue
        if stat.S_ISDIR(found.st_mode):
            # A repository within the repository: Git names it and not what it holds.
            yield from _walk(inner, parts)
        else:
            yield _entry(inner, parts, found)


def _entry(place: bytes, path: tuple[bytes, ...], found: os.stat_result) -> Entry:
    kind = kind_of(found.st_mode)
    if kind is None:
        shown = os.fsdecode(place)
        raise SandboxError(f"{shown} is neither file, directory nor link and cannot be uploaded")
    return Entry(
        path,
        kind,
        size=found.st_size if kind is Kind.FILE else 0,
        mode=stat.S_IMODE(found.st_mode) & 0o777,
        mtime=int(found.st_mtime),
        target=os.readlink(place) if kind is Kind.LINK else b"",
    )


def _git_listing(root: str, environ: Mapping[str, str]) -> list[bytes] | None:
    """Files of a work tree that are not ignored; None outside of one, or without Git."""
    return run_git(root, ["ls-files", "-coz", "--exclude-standard", "--", "."], environ)


def run_git(
    root: str, words: list[str], environ: Mapping[str, str], given: bytes = b""
) -> list[bytes] | None:
    """The names that Git prints; None where it cannot say."""
    clean = {key: value for key, value in environ.items() if not key.startswith("GIT_")}
    # A work tree may come from a sandbox: what its configuration would have Git run is not run.
    quiet = ["-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null"]
    try:
        ran = subprocess.run(
            ["git", *quiet, "-C", root, *words],
            input=given,
            capture_output=True,
            env=clean,
            timeout=GIT_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if ran.returncode != 0:
        return None
    return [name for name in ran.stdout.split(b"\0") if name]
