"""Carrying entries in either direction, several files at a time, so that it can go on after a break.

Each side writes a file under another name and renames it when it is whole. That name is made of what the
file is (path, size, time), so a second attempt continues where the first was cut, and a changed file begins
anew. What is finished is remembered here and not asked again.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import posixpath
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass, field

from openshell.sdk.errors import SandboxError
from openshell.sdk.files.local import LocalTree, PartFile
from openshell.sdk.files.remote import CHUNK_BYTES, Remote, RemoteFile
from openshell.sdk.files.trees import Entry, Kind

__all__ = ["Progress", "Transfer", "download", "download_file", "upload"]

FILES_AT_ONCE = 8
"""Hides the round trips of small files; large ones fill the connection by themselves."""
RESUMED_FROM = 8 << 20
"""Bytes from which a file is worth asking how much of it is there already."""


@dataclass(slots=True)
class Progress:
    """What a progress bar shows. Bytes count once, whatever was sent twice."""

    files: int = 0
    bytes: int = 0
    files_done: int = 0
    bytes_done: int = 0
    current: str = ""


@dataclass(slots=True)
class Transfer:
    """One command's work: survives the connections that it takes."""

    report: Callable[[Progress], None]
    progress: Progress = field(default_factory=Progress)
    finished: set[tuple[bytes, ...]] = field(default_factory=set)
    refused_links: list[str] = field(default_factory=list)
    _counted: dict[tuple[bytes, ...], int] = field(default_factory=dict)

    def expect(self, entries: Iterable[Entry]) -> None:
        files = [entry for entry in entries if entry.kind is Kind.FILE]
        self.progress.files = len(files)
        self.progress.bytes = sum(entry.size for entry in files)

    def left(self, entries: Iterable[Entry], kind: Kind) -> Iterator[Entry]:
        return (e for e in entries if e.kind is kind and e.path not in self.finished)

    def moved(self, entry: Entry, position: int) -> None:
        """Everything before `position` is there."""
        before = self._counted.get(entry.path, 0)
        if position > before:
            self._counted[entry.path] = position
            self.progress.bytes_done += position - before
        self.progress.current = entry.shown
        self.report(self.progress)

    def done(self, entry: Entry) -> None:
        self.finished.add(entry.path)
        if entry.kind is Kind.FILE:
            self.moved(entry, entry.size)
            self.progress.files_done += 1
            self.report(self.progress)


async def _several(tasks: list[asyncio.Future[None]]) -> None:
    """Waits for all; the first failure ends the others and is raised."""
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _files(
    transfer: Transfer, entries: Iterable[Entry], carry: Callable[[Entry], Awaitable[None]]
) -> None:
    gate = asyncio.Semaphore(FILES_AT_ONCE)

    async def one(entry: Entry) -> None:
        async with gate:
            await carry(entry)
            transfer.done(entry)

    await _several(
        [asyncio.ensure_future(one(entry)) for entry in transfer.left(entries, Kind.FILE)]
    )


def _stamp(entry: Entry) -> str:
    said = b"\0".join((*entry.path, b"%d" % entry.size, b"%d" % entry.mtime))
    return hashlib.sha256(said).hexdigest()[:16]


# -- to the sandbox


async def upload(
    remote: Remote, transfer: Transfer, source: str, entries: list[Entry], target: bytes
) -> None:
    """Sends entries below `source` to the directory, or the file, `target`.

    Raises:
        ConnectionLost: call it again with the same transfer.
        SandboxError: something is in the way there.
    """
    transfer.expect(entries)
    for entry in transfer.left(entries, Kind.DIRECTORY):
        place = posixpath.join(target, *entry.path)
        if entry.path:
            await remote.make_directory(place, entry.mode | 0o700)
        else:
            await remote.make_directories(place)
        transfer.done(entry)
    await _files(transfer, entries, lambda entry: _send(remote, transfer, source, entry, target))
    for entry in transfer.left(entries, Kind.LINK):
        await remote.make_link(entry.target, posixpath.join(target, *entry.path))
        transfer.done(entry)


async def _send(
    remote: Remote, transfer: Transfer, source: str, entry: Entry, target: bytes
) -> None:
    final = posixpath.join(target, *entry.path)
    part = posixpath.join(posixpath.dirname(final), b".openshell-part-" + _stamp(entry).encode())
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(os.path.join(os.fsencode(source), *entry.path), flags)
    try:
        _require_same(descriptor, entry)
        resumes = entry.size >= RESUMED_FROM
        async with remote.open(part, write=True, fresh=not resumes) as file:
            # The pieces of a chunk travel together: its last ones may be there before its first.
            begin = max(min(await file.size(), entry.size) - CHUNK_BYTES, 0) if resumes else 0
            async for offset, length in _data(descriptor, begin, entry.size):
                data = os.pread(descriptor, length, offset)
                if len(data) != length:
                    raise SandboxError(f"{entry.shown} became shorter while it was sent")
                await file.write(data, offset)
                transfer.moved(entry, offset + length)
            await file.finish(entry)
        await remote.rename(part, final)
    finally:
        os.close(descriptor)


def _require_same(descriptor: int, entry: Entry) -> None:
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_size != entry.size:
        raise SandboxError(f"{entry.shown} was changed while it was sent: run the command again")


async def _data(descriptor: int, begin: int, end: int) -> AsyncIterator[tuple[int, int]]:
    """Pieces of what is no hole."""
    at = begin
    while at < end:
        try:
            at = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError:
            # Nothing but a hole to the end.
            return
        hole = min(os.lseek(descriptor, at, os.SEEK_HOLE), end)
        while at < hole:
            length = min(CHUNK_BYTES, hole - at)
            yield at, length
            at += length


# -- from the sandbox


async def download(
    remote: Remote, transfer: Transfer, source: bytes, entries: list[Entry], tree: LocalTree
) -> None:
    """Fetches entries below `source` into a local tree. Raises as `upload`."""
    transfer.expect(entries)
    for entry in transfer.left(entries, Kind.DIRECTORY):
        tree.make_directory(entry)
        transfer.done(entry)
    await _files(
        transfer,
        entries,
        lambda entry: _fetch(remote, transfer, posixpath.join(source, *entry.path), entry, tree),
    )
    for entry in transfer.left(entries, Kind.LINK):
        if not tree.make_link(entry):
            transfer.refused_links.append(entry.shown)
        transfer.done(entry)


async def download_file(
    remote: Remote, transfer: Transfer, place: bytes, entry: Entry, tree: LocalTree
) -> None:
    """Fetches one file, whose name here is the entry's. Raises as `upload`."""
    transfer.expect([entry])
    await _fetch(remote, transfer, place, entry, tree)
    transfer.done(entry)


async def _fetch(
    remote: Remote, transfer: Transfer, place: bytes, entry: Entry, tree: LocalTree
) -> None:
    async with remote.open(place, write=False) as file:
        with tree.open_part(entry, _stamp(entry)) as part:
            await _fetch_into(file, transfer, entry, part)
            part.commit(entry)


async def _fetch_into(file: RemoteFile, transfer: Transfer, entry: Entry, part: PartFile) -> None:
    begin = os.fstat(part.descriptor).st_size
    if entry.size < RESUMED_FROM or begin > entry.size:
        begin = 0
        os.ftruncate(part.descriptor, 0)
    async for start, length in file.ranges(entry.size):
        at, end = max(start, begin), min(start + length, entry.size)
        while at < end:
            data = await file.read(min(CHUNK_BYTES, end - at), at)
            if not data:
                break
            _write_all(part.descriptor, data[: end - at], at)
            at += len(data)
            transfer.moved(entry, min(at, entry.size))
    os.ftruncate(part.descriptor, entry.size)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
