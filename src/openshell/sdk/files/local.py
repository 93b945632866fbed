"""Writing a tree on this machine as a sandbox describes it, without ever being led anywhere else.

Names and links come from whom we do not trust, and another program may change the tree meanwhile. So every
step is taken from an open directory, no link is followed below the root, and a file gets its name when it is
whole. What is in the way and of another kind is an error, never replaced.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

from openshell.sdk.errors import SandboxError
from openshell.sdk.files.trees import Entry, Kind, is_contained, is_plain_name

__all__ = ["LocalTree", "PartFile"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_PART = ".openshell-part-"


class PartFile:
    """A file that is being written under a name of its own; the same transfer finds it again."""

    def __init__(self, descriptor: int, directory: int, part: bytes, name: bytes) -> None:
        self.descriptor = descriptor
        self._directory = directory
        self._part = part
        self._name = name

    def commit(self, entry: Entry) -> None:
        """Gives it its name, mode and time."""
        os.fchmod(self.descriptor, entry.mode & 0o777)
        os.utime(self.descriptor, (entry.mtime, entry.mtime))
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self._name, dir_fd=self._directory, follow_symlinks=False)
            if stat.S_ISDIR(found.st_mode):
                raise SandboxError(
                    f"{os.fsdecode(self._name)} is a directory here and a file there"
                )
        os.replace(self._part, self._name, src_dir_fd=self._directory, dst_dir_fd=self._directory)

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            os.unlink(self._part, dir_fd=self._directory)


class LocalTree:
    """The root is the caller's choice and may be a link; nothing below it is followed."""

    def __init__(self, root: str) -> None:
        try:
            os.makedirs(root, exist_ok=True)
            self._root = os.open(root, _DIRECTORY)
        except (FileExistsError, NotADirectoryError) as error:
            raise SandboxError(f"{root} is not a directory") from error

    def __enter__(self) -> LocalTree:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    @contextlib.contextmanager
    def _directory(self, path: tuple[bytes, ...], *, create: bool) -> Iterator[int]:
        """An open directory, reached step by step."""
        opened = os.dup(self._root)
        try:
            for name in path:
                _check_name(name)
                if create:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, 0o755, dir_fd=opened)
                inner = _open_directory(name, opened)
                os.close(opened)
                opened = inner
            yield opened
        finally:
            os.close(opened)

    def make_directory(self, entry: Entry) -> None:
        with self._directory(entry.path, create=True) as opened:
            # It must stay enterable for us until the end.
            os.fchmod(opened, (entry.mode & 0o777) | 0o700)

    def make_link(self, entry: Entry) -> bool:
        """False, and nothing is made, where the link could lead out of the tree."""
        *above, name = entry.path
        if not is_contained(tuple(above), entry.target):
            return False
        _check_name(name)
        with self._directory(tuple(above), create=True) as opened:
            with contextlib.suppress(FileNotFoundError):
                found = os.stat(name, dir_fd=opened, follow_symlinks=False)
                if not stat.S_ISLNK(found.st_mode):
                    raise SandboxError(f"{entry.shown} is a link there and something else here")
                os.unlink(name, dir_fd=opened)
            os.symlink(entry.target, name, dir_fd=opened)
        return True

    @contextlib.contextmanager
    def open_part(self, entry: Entry, stamp: str) -> Iterator[PartFile]:
        """A file to write; what an earlier attempt with the same stamp left of it is still there."""
        *above, name = entry.path
        _check_name(name)
        part = os.fsencode(f"{_PART}{stamp}")
        with self._directory(tuple(above), create=True) as opened:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            descriptor = os.open(part, flags, 0o600, dir_fd=opened)
            try:
                if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                    raise SandboxError(f"{os.fsdecode(part)} is in the way")
                yield PartFile(descriptor, opened, part, name)
            finally:
                os.close(descriptor)

    def entries(self) -> dict[tuple[bytes, ...], Entry]:
        """What is there now, for a comparison."""
        return {entry.path: entry for entry in self._walk((), self._root)}

    def _walk(self, path: tuple[bytes, ...], opened: int) -> Iterator[Entry]:
        # By name and from the open directory, as writing does.
        for text in sorted(os.listdir(opened)):
            name = os.fsencode(text)
            found = os.stat(name, dir_fd=opened, follow_symlinks=False)
            inner = (*path, name)
            if stat.S_ISDIR(found.st_mode):
                yield Entry(inner, Kind.DIRECTORY, mode=stat.S_IMODE(found.st_mode))
                descriptor = _open_directory(name, opened)
                try:
                    yield from self._walk(inner, descriptor)
                finally:
                    os.close(descriptor)
            elif stat.S_ISLNK(found.st_mode):
                yield Entry(inner, Kind.LINK, target=os.readlink(name, dir_fd=opened))
            elif stat.S_ISREG(found.st_mode):
                yield Entry(
                    inner,
                    Kind.FILE,
                    size=found.st_size,
                    mode=stat.S_IMODE(found.st_mode),
                    mtime=int(found.st_mtime),
                )

    def remove(self, entry: Entry) -> None:
        """One entry; a directory must be empty by then."""
        *above, name = entry.path
        _check_name(name)
        with self._directory(tuple(above), create=False) as opened:
            if entry.kind is Kind.DIRECTORY:
                os.rmdir(name, dir_fd=opened)
            else:
                os.unlink(name, dir_fd=opened)


def _check_name(name: bytes) -> None:
    if not is_plain_name(name):
        raise SandboxError(f"the sandbox sent a name that is none: {name[:64]!r}")


def _open_directory(name: bytes, above: int) -> int:
    try:
        return os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise SandboxError(
                f"{os.fsdecode(name)} is a directory there and something else here; move it away"
            ) from error
        raise
