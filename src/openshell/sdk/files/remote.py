"""The files of a sandbox over SFTP: few operations, with errors of this library. Imports asyncssh."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import posixpath
import socket
import stat
from collections.abc import AsyncIterator, Iterator

import asyncssh

from openshell.sdk.errors import SandboxError
from openshell.sdk.files.trees import Entry, Kind, is_plain_name, kind_of
from openshell.sdk.tunnels import Ssh, Tunnels

__all__ = ["ConnectionLost", "Remote", "RemoteFile", "open_remote"]

CHUNK_BYTES = 1 << 20
"""Read or written at a time; asyncssh splits it into requests that travel together."""
LOGIN_SECONDS = 30.0
ENTRIES_MAX = 1_000_000
"""Of one tree: a sandbox can invent as many as it likes."""
DEPTH_MAX = 200

_LINK_FLAGS = 0
_FILE_MASK = 0o777


class ConnectionLost(Exception):
    """The connection broke; what was written so far is there."""


@contextlib.contextmanager
def _translated(what: str) -> Iterator[None]:
    """Asyncssh's errors as this library's, or as the operating system would say them."""
    try:
        yield
    except (
        asyncssh.ConnectionLost,
        asyncssh.SFTPConnectionLost,
        asyncssh.SFTPNoConnection,
    ) as error:
        raise ConnectionLost(str(error)) from error
    except asyncssh.SFTPNoSuchFile as error:
        raise FileNotFoundError(f"{what}: there is no such file in the sandbox") from error
    except asyncssh.SFTPPermissionDenied as error:
        raise SandboxError(f"{what}: the sandbox may not do that (permission denied)") from error
    except asyncssh.SFTPError as error:
        raise SandboxError(f"{what}: {error.reason or 'refused by the sandbox'}") from error
    except asyncssh.Error as error:
        raise ConnectionLost(str(error)) from error


@contextlib.asynccontextmanager
async def open_remote(tunnels: Tunnels, sandbox_id: str) -> AsyncIterator[Remote]:
    """A file session for the length of a block.

    Raises:
        ConnectionLost: it could not be made, or broke.
        grpc.RpcError: the gateway refused it.
    """
    logging.getLogger("asyncssh").setLevel(logging.CRITICAL)
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_connection(sock=theirs)
    carrying = asyncio.ensure_future(
        tunnels.carry(sandbox_id, Ssh(), reader, writer, service_id=f"files:{sandbox_id}")
    )
    # An end of the tunnel is the end of the connection, not a silence.
    carrying.add_done_callback(lambda _: writer.close())
    try:
        with _translated("connection"):
            try:
                async with (
                    _connect(ours) as connection,
                    connection.start_sftp_client(path_encoding=None) as sftp,
                ):
                    yield Remote(sftp)
            except (asyncssh.Error, OSError) as error:
                if carrying.done() and (cause := carrying.exception()) is not None:
                    raise cause from error
                raise
    finally:
        carrying.cancel()
        await asyncio.gather(carrying, return_exceptions=True)
        writer.close()
        ours.close()


def _connect(
    sock: socket.socket,
) -> contextlib.AbstractAsyncContextManager[asyncssh.SSHClientConnection]:
    # The gateway's TLS and its token say who is at the other end; the host key is new at every start.
    return asyncssh.connect(
        "sandbox",
        sock=sock,
        username="sandbox",
        config=None,
        known_hosts=None,
        client_keys=None,
        agent_path=None,
        gss_host=None,
        encryption_algs=["aes128-gcm@openssh.com"],
        compression_algs=None,
        login_timeout=LOGIN_SECONDS,
    )


class RemoteFile:
    """An open file inside."""

    def __init__(self, file: asyncssh.SFTPClientFile, shown: str) -> None:
        self._file = file
        self._shown = shown

    async def size(self) -> int:
        with _translated(self._shown):
            return (await self._file.stat()).size or 0

    async def write(self, data: bytes, offset: int) -> None:
        with _translated(self._shown):
            await self._file.write(data, offset)

    async def read(self, size: int, offset: int) -> bytes:
        with _translated(self._shown):
            data = await self._file.read(size, offset)
        return data if isinstance(data, bytes) else data.encode()

    async def ranges(self, size: int) -> AsyncIterator[tuple[int, int]]:
        """Where it has data."""
        with _translated(self._shown):
            async for offset, length in self._file.request_ranges(0, size):
                yield offset, length

    async def finish(self, entry: Entry) -> None:
        """Size, mode and time of the entry."""
        attributes = asyncssh.SFTPAttrs(
            size=entry.size,
            permissions=entry.mode & _FILE_MASK,
            atime=entry.mtime,
            mtime=entry.mtime,
        )
        with _translated(self._shown):
            await self._file.setstat(attributes)


class Remote:
    """The sandbox's files; paths are bytes, relative ones begin at its working directory."""

    def __init__(self, sftp: asyncssh.SFTPClient) -> None:
        self._sftp = sftp

    async def real_path(self, path: bytes) -> bytes:
        with _translated(_shown(path)):
            found = await self._sftp.realpath(path)
        assert isinstance(found, bytes)  # noqa: S101  there is no path_encoding
        return found

    async def look(self, path: bytes) -> Entry | None:
        """What is there, not followed; None for nothing.

        Raises:
            SandboxError: it is no file, directory or link.
        """
        try:
            with _translated(_shown(path)):
                found = await self._sftp.lstat(path)
        except FileNotFoundError:
            return None
        return await self._entry((), path, found)

    async def make_directories(self, path: bytes) -> None:
        with _translated(_shown(path)):
            await self._sftp.makedirs(path, exist_ok=True)

    async def make_directory(self, path: bytes, mode: int) -> None:
        with _translated(_shown(path)):
            try:
                await self._sftp.mkdir(path, asyncssh.SFTPAttrs(permissions=mode & _FILE_MASK))
            except asyncssh.SFTPFailure:
                if not await self._sftp.isdir(path):
                    raise

    async def make_link(self, target: bytes, path: bytes) -> None:
        with _translated(_shown(path)):
            try:
                await self._sftp.symlink(target, path)
            except asyncssh.SFTPFailure:
                if not await self._sftp.islink(path):
                    raise
                await self._sftp.remove(path)
                await self._sftp.symlink(target, path)

    async def remove(self, path: bytes, kind: Kind) -> None:
        with _translated(_shown(path)):
            await (self._sftp.rmdir(path) if kind is Kind.DIRECTORY else self._sftp.remove(path))

    async def rename(self, old: bytes, new: bytes) -> None:
        with _translated(_shown(new)):
            await self._sftp.posix_rename(old, new)

    @contextlib.asynccontextmanager
    async def open(
        self, path: bytes, *, write: bool, fresh: bool = False
    ) -> AsyncIterator[RemoteFile]:
        """A file to read, or one to write that is made where it is missing; `fresh` empties it."""
        flags = asyncssh.FXF_READ
        if write:
            flags = asyncssh.FXF_WRITE | asyncssh.FXF_READ | asyncssh.FXF_CREAT
            flags |= asyncssh.FXF_TRUNC if fresh else 0
        with _translated(_shown(path)):
            opened = await self._sftp.open(path, flags, encoding=None)
        try:
            yield RemoteFile(opened, _shown(path))
        finally:
            with contextlib.suppress(asyncssh.Error, OSError):
                await opened.close()

    async def entries(self, root: bytes) -> AsyncIterator[Entry]:
        """Everything below a directory, each directory before what it holds. Nothing is followed.

        Raises:
            SandboxError: a name that cannot be one, or more than anybody has.
        """
        count = 0
        waiting: list[tuple[bytes, ...]] = [()]
        while waiting:
            path = waiting.pop()
            for name, attributes in sorted(await self._list(posixpath.join(root, *path))):
                if name in (b".", b".."):
                    continue
                count += 1
                if not is_plain_name(name) or count > ENTRIES_MAX or len(path) > DEPTH_MAX:
                    raise SandboxError("the sandbox lists names that no directory has")
                inner = (*path, name)
                place = posixpath.join(root, *inner)
                if kind_of(attributes.permissions or 0) is None:
                    continue
                entry = await self._entry(inner, place, attributes)
                if entry.kind is Kind.DIRECTORY:
                    waiting.append(inner)
                yield entry

    async def _list(self, path: bytes) -> list[tuple[bytes, asyncssh.SFTPAttrs]]:
        with _translated(_shown(path)):
            found = await self._sftp.readdir(path)
        return [(bytes(name.filename), name.attrs) for name in found]  # type: ignore[arg-type]  # bytes

    async def _entry(
        self, path: tuple[bytes, ...], place: bytes, found: asyncssh.SFTPAttrs
    ) -> Entry:
        mode = found.permissions or 0
        kind = kind_of(mode)
        if kind is None:
            raise SandboxError(f"{_shown(place)} is neither file, directory nor link")
        target = b""
        if kind is Kind.LINK:
            with _translated(_shown(place)):
                read = await self._sftp.readlink(place)
            target = read if isinstance(read, bytes) else read.encode()
        return Entry(
            path,
            kind,
            size=(found.size or 0) if kind is Kind.FILE else 0,
            mode=stat.S_IMODE(mode) & _FILE_MASK,
            mtime=found.mtime or 0,
            target=target,
        )


def _shown(path: bytes) -> str:
    return path.decode(errors="backslashreplace")
