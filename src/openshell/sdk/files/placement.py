"""Where an upload or a download lands. Pure: what exists is told by the caller."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import PurePosixPath

__all__ = ["Placement", "place_download", "place_upload", "split_upload"]


@dataclass(frozen=True, slots=True)
class Placement:
    """A directory at the receiving end, and the name there; an empty name spreads contents out."""

    directory: str
    name: str


def split_upload(text: str) -> tuple[str, str]:
    """`LOCAL[:REMOTE]` at its first colon."""
    local, _, remote = text.partition(":")
    return local, remote


def place_upload(local: str, dest: str | None, *, is_directory: bool) -> Placement:
    """The contract's table (CLI 6.6) for what goes into a sandbox.

    Args:
        local: As given.
        dest: As given; None is the sandbox's working directory.
        is_directory: Of `local`; a link to a directory is none.
    """
    base = os.path.basename(os.path.abspath(local))
    if is_directory:
        flat = local.rstrip("/") in {"", ".", ".."} or os.path.basename(local.rstrip("/")) in {
            ".",
            "..",
        }
        return Placement(dest or ".", "" if flat else base)
    if not dest or dest.endswith("/"):
        return Placement(dest or ".", base)
    path = PurePosixPath(dest)
    if str(path.parent) == "/" and dest.startswith("/"):
        return Placement(dest, base)
    return Placement(str(path.parent), path.name)


def place_download(source: str, dest: str, *, is_directory: bool) -> Placement:
    """For what comes out of it: a file goes into a directory or becomes `dest`, a tree spreads into it."""
    if is_directory:
        return Placement(dest, "")
    base = PurePosixPath(source).name
    if dest.endswith("/") or os.path.isdir(dest):
        return Placement(dest, base)
    return Placement(os.path.dirname(dest) or ".", os.path.basename(dest))
