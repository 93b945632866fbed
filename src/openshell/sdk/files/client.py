"""`FilesClient`: upload, download and synchronise, for programs and for the command line.

Each call takes connections of its own and goes on over a new one when the last broke.
"""

from __future__ import annotations

import asyncio
import os
import posixpath
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import grpc

from openshell.sdk.client import SandboxClient
from openshell.sdk.errors import SandboxError
from openshell.sdk.files.comparing import Plan, compare, ignored_by_git
from openshell.sdk.files.local import LocalTree
from openshell.sdk.files.placement import place_download, place_upload
from openshell.sdk.files.remote import ConnectionLost, Remote, open_remote
from openshell.sdk.files.transfer import Progress, Transfer, download, download_file, upload
from openshell.sdk.files.trees import Entry, Kind, local_entries
from openshell.sdk.tunnels import Tunnels

__all__ = ["FilesClient", "Result"]

RECONNECT_SECONDS = 30.0
"""Without any progress, before a broken transfer is given up."""
FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 5.0

Report = Callable[[Progress], None]


def _ignore(_: Progress) -> None:
    return


@dataclass(slots=True)
class Result:
    """What a transfer did.

    Attributes:
        files: How many were sent or fetched.
        bytes: Their sizes together.
        planned: Of a synchronisation, the names that differ.
        removed: Names that were removed at the receiving end.
        refused_links: Links of a sandbox that would have led out of the target; not made.
        unfiltered: Git's rules would have left nothing, so everything was sent.
    """

    files: int = 0
    bytes: int = 0
    planned: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    refused_links: list[str] = field(default_factory=list)
    unfiltered: bool = False


class FilesClient:
    """Files between this machine and sandboxes.

    Args:
        client: The gateway to go through.

    Example:
        >>> files = FilesClient(client)                                     # doctest: +SKIP
        >>> files.upload("demo", "./src", workspace="default").files        # doctest: +SKIP
        12
    """

    def __init__(self, client: SandboxClient) -> None:
        self._client = client

    def upload(
        self,
        name: str,
        local: str,
        dest: str | None = None,
        *,
        workspace: str,
        git_ignore: bool = True,
        report: Report = _ignore,
    ) -> Result:
        """Sends a file, link or directory into a sandbox.

        Args:
            name: Of the sandbox, which must be ready.
            local: What to send. A directory lands in `dest` under its own name; `.` spreads out there.
            dest: Where to, from the sandbox's working directory; a trailing `/` means a directory.
            workspace: Of the sandbox.
            git_ignore: Leave out what Git ignores, where `local` is in a work tree.
            report: Called with the progress so far, often.

        Raises:
            FileNotFoundError: `local` is not there.
            SandboxError: something cannot be sent, or is in the way there.
            grpc.RpcError: the gateway refused.
        """
        entries, filtered = local_entries(local, git_ignore=git_ignore, environ=os.environ)
        is_directory = entries[0].kind is Kind.DIRECTORY
        place = place_upload(local, dest, is_directory=is_directory)
        transfer = Transfer(report)

        async def work(remote: Remote) -> None:
            directory = os.fsencode(place.directory)
            await remote.make_directories(directory)
            target = posixpath.join(directory, os.fsencode(place.name))
            await upload(remote, transfer, local, entries, target)

        self._run(name, workspace, transfer, work)
        unfiltered = git_ignore and is_directory and not filtered and _in_git(local)
        return _result(transfer, unfiltered=unfiltered)

    def download(
        self, name: str, source: str, dest: str = ".", *, workspace: str, report: Report = _ignore
    ) -> Result:
        """Fetches a file or directory from the sandbox's working directory.

        Args:
            name: Of the sandbox, which must be ready.
            source: Below its working directory, also after links are followed.
            dest: A directory, or the new name of a file. A directory's contents are spread into it.
            workspace: Of the sandbox.
            report: Called with the progress so far, often.

        Raises:
            FileNotFoundError: `source` is not there.
            SandboxError: it lies outside, or something is in the way here.
            grpc.RpcError: the gateway refused.
        """
        transfer = Transfer(report)

        async def work(remote: Remote) -> None:
            real, found = await _inside(remote, source)
            is_directory = found.kind is Kind.DIRECTORY
            place = place_download(source, dest, is_directory=is_directory)
            with LocalTree(place.directory) as tree:
                if is_directory:
                    entries = [entry async for entry in remote.entries(real)]
                    await download(remote, transfer, real, entries, tree)
                    return
                name_here = os.fsencode(place.name)
                entry = Entry((name_here,), Kind.FILE, found.size, found.mode, found.mtime)
                await download_file(remote, transfer, real, entry, tree)

        self._run(name, workspace, transfer, work)
        return _result(transfer)

    def sync(
        self,
        name: str,
        local: str,
        dest: str = ".",
        *,
        workspace: str,
        pull: bool = False,
        delete: bool = False,
        dry_run: bool = False,
        git_ignore: bool = True,
        report: Report = _ignore,
    ) -> Result:
        """Makes one directory like the other: only what differs in size, time, mode or target is carried.

        Directories named `.git` are left alone on both sides.

        Args:
            name: Of the sandbox, which must be ready.
            local: A directory here.
            dest: A directory there, from its working directory.
            workspace: Of the sandbox.
            pull: From the sandbox to here instead of the other way.
            delete: Also remove what only the receiving side has; never what Git ignores.
            dry_run: Change nothing, only say what would be done.
            git_ignore: Leave out what Git ignores here.
            report: Called with the progress so far, often.

        Raises:
            SandboxError: something cannot be carried, or is in the way.
            grpc.RpcError: the gateway refused.
        """
        transfer = Transfer(report)
        plan = Plan()

        async def work(remote: Remote) -> None:
            nonlocal plan
            there = await _directory(remote, dest, pull=pull, dry_run=dry_run)
            listed = [e async for e in remote.entries(there)] if there is not None else []
            if pull and dry_run and not os.path.isdir(local):
                plan = compare(listed, [], delete=False)
                return
            if pull:
                with LocalTree(local) as tree:
                    plan = compare(listed, tree.entries().values(), delete=delete)
                    plan.keep(ignored_by_git(local, plan.removed, os.environ))
                    if not dry_run and there is not None:
                        await download(remote, transfer, there, plan.carried, tree)
                        for entry in plan.removed:
                            tree.remove(entry)
                return
            here, _ = local_entries(local, git_ignore=git_ignore, environ=os.environ)
            plan = compare(here, listed, delete=delete)
            if git_ignore:
                plan.keep(ignored_by_git(local, plan.removed, os.environ))
            if not dry_run and there is not None:
                await upload(remote, transfer, local, plan.carried, there)
                for entry in plan.removed:
                    await remote.remove(posixpath.join(there, *entry.path), entry.kind)

        self._run(name, workspace, transfer, work)
        if dry_run:
            transfer.expect(plan.carried)
        result = _result(transfer)
        result.planned = [entry.shown for entry in plan.carried if entry.kind is not Kind.DIRECTORY]
        result.removed = [entry.shown for entry in plan.removed]
        return result

    def _run(
        self,
        name: str,
        workspace: str,
        transfer: Transfer,
        work: Callable[[Remote], Awaitable[None]],
    ) -> None:
        sandbox = self._client.describe(name, workspace=workspace)
        asyncio.run(self._with_connections(sandbox.metadata.id, transfer, work))

    async def _with_connections(
        self, sandbox_id: str, transfer: Transfer, work: Callable[[Remote], Awaitable[None]]
    ) -> None:
        """Does the work, over as many connections as it takes while it moves on."""
        moved_at, moved = time.monotonic(), -1
        pause = FIRST_PAUSE_SECONDS
        async with Tunnels(*self._client.address) as tunnels:
            while True:
                try:
                    async with open_remote(tunnels, sandbox_id) as remote:
                        await work(remote)
                        return
                except (ConnectionLost, grpc.RpcError) as error:
                    if isinstance(error, grpc.RpcError) and not _may_pass(error, moved >= 0):
                        raise
                    now = time.monotonic()
                    if transfer.progress.bytes_done > moved:
                        moved_at, moved, pause = (
                            now,
                            transfer.progress.bytes_done,
                            FIRST_PAUSE_SECONDS,
                        )
                    if now - moved_at > RECONNECT_SECONDS:
                        raise SandboxError(
                            f"the connection broke and did not come back within "
                            f"{RECONNECT_SECONDS:.0f} s; run the same command again to go on"
                        ) from error
                await asyncio.sleep(pause)
                pause = min(pause * 2, LONGEST_PAUSE_SECONDS)


def _may_pass(error: grpc.RpcError, was_connected: bool) -> bool:
    """After a restart of the gateway a sandbox is not ready until its supervisor is back."""
    passing = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
    if was_connected:
        passing |= {grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAUTHENTICATED}
    return error.code() in passing


async def _directory(remote: Remote, dest: str, *, pull: bool, dry_run: bool) -> bytes | None:
    """The sandbox's side of a synchronisation; made where it is missing and will be written."""
    if pull:
        real, found = await _inside(remote, dest)
    else:
        real = await remote.real_path(os.fsencode(dest))
        seen = await remote.look(real)
        if seen is None:
            if dry_run:
                return None
            await remote.make_directories(real)
            return real
        found = seen
    if found.kind is not Kind.DIRECTORY:
        raise SandboxError(f"'{dest}' is not a directory in the sandbox")
    return real


async def _inside(remote: Remote, source: str) -> tuple[bytes, Entry]:
    """The source's real path, which must lie below the working directory by name and in fact."""
    root = await remote.real_path(b".")
    if root == b"/" or not source:
        raise SandboxError("give a path below the sandbox's working directory, which must not be /")
    by_name = posixpath.normpath(posixpath.join(root, os.fsencode(source)))
    real = await remote.real_path(by_name)
    for path in (by_name, real):
        if path != root and not path.startswith(root + b"/"):
            raise SandboxError(
                f"'{source}' is outside of the sandbox's working directory {os.fsdecode(root)}"
            )
    found = await remote.look(real)
    if found is None:
        raise FileNotFoundError(f"'{source}': there is no such file in the sandbox")
    return real, found


def _in_git(local: str) -> bool:
    directory = os.path.abspath(local)
    while True:
        if os.path.exists(os.path.join(directory, ".git")):
            return True
        above = os.path.dirname(directory)
        if above == directory:
            return False
        directory = above


def _result(transfer: Transfer, *, unfiltered: bool = False) -> Result:
    return Result(
        files=transfer.progress.files_done,
        bytes=transfer.progress.bytes_done,
        refused_links=transfer.refused_links,
        unfiltered=unfiltered,
    )
