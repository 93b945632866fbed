"""What has to be carried and removed so that one tree becomes like another. Pure but for Git's opinion."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from openshell.sdk.files.trees import Entry, Kind, run_git

__all__ = ["Plan", "compare", "ignored_by_git"]

_GIT = b".git"


@dataclass(slots=True)
class Plan:
    """In the order of doing: directories before what they hold, and the other way for what is removed."""

    carried: list[Entry] = field(default_factory=list)
    removed: list[Entry] = field(default_factory=list)

    def keep(self, paths: set[tuple[bytes, ...]]) -> None:
        """Removes neither these nor a directory above them."""
        above = {path[:depth] for path in paths for depth in range(len(path) + 1)}
        self.removed = [entry for entry in self.removed if entry.path not in above]


def compare(source: Iterable[Entry], target: Iterable[Entry], *, delete: bool) -> Plan:
    """A quick look, as rsync's: files of equal size, time in seconds and mode are taken for equal."""
    wanted = [entry for entry in source if _GIT not in entry.path]
    there = {entry.path: entry for entry in target if _GIT not in entry.path}
    plan = Plan(carried=[entry for entry in wanted if not _is_same(entry, there.get(entry.path))])
    if delete:
        named = {entry.path for entry in wanted}
        plan.removed = [
            entry
            for path, entry in sorted(there.items(), reverse=True)
            if path and path not in named
        ]
    return plan


def _is_same(entry: Entry, other: Entry | None) -> bool:
    if other is None or other.kind is not entry.kind:
        return False
    match entry.kind:
        case Kind.DIRECTORY:
            return True
        case Kind.LINK:
            return entry.target == other.target
        case Kind.FILE:
            mine = (entry.size, entry.mtime, entry.mode)
            return mine == (other.size, other.mtime, other.mode)


def ignored_by_git(
    root: str, entries: Iterable[Entry], environ: Mapping[str, str]
) -> set[tuple[bytes, ...]]:
    """Those that Git would ignore in a local tree, whether they are there or not."""
    listed = list(entries)
    if not listed:
        return set()
    given = b"\0".join(b"./" + b"/".join(entry.path) for entry in listed) + b"\0"
    named = run_git(root, ["check-ignore", "-z", "--stdin", "--no-index"], environ, given)
    return {tuple(name.removeprefix(b"./").split(b"/")) for name in named or ()}
