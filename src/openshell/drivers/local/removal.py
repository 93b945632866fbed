"""Removing a directory that an agent has written, whatever it left there.

An agent may leave directories without permissions, trees deeper than a path can name, links to
anywhere, names that are no text. So: everything relative to descriptors, no link followed, never
onto another file system, permissions given back first, and no recursion: a subdirectory is moved up
beside its parent and emptied later, so that depth costs nothing.

Called by the driver on a thread; nothing of the sandbox runs any more by then.
"""

import array
import contextlib
import errno
import fcntl
import os
import stat
from collections import deque

__all__ = ["RemovalError", "remove_tree"]

_FS_IOC_GETFLAGS = 0x80086601
_FS_IOC_SETFLAGS = 0x40086602
_IMMUTABLE_OR_APPEND = 0x10 | 0x20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RemovalError(Exception):
    """Something is left; the sentence names it."""


def remove_tree(path: str) -> None:
    """Remove a directory and all below it; absent is fine. Raises RemovalError."""
    parent = os.path.dirname(path)
    name = os.fsencode(os.path.basename(path))
    try:
        parent_fd = os.open(parent, _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        _Removal(parent_fd, name).run()
    except OSError as error:
        raise RemovalError(f"cannot remove all of {path}: {error.strerror}") from error
    finally:
        os.close(parent_fd)


class _Removal:
    """One tree; subdirectories queue up as entries of its top directory."""

    def __init__(self, parent_fd: int, name: bytes) -> None:
        self._parent_fd = parent_fd
        self._name = name
        self._moved: deque[bytes] = deque()
        self._count = 0

    def run(self) -> None:
        try:
            top = _open_directory(self._parent_fd, self._name)
        except FileNotFoundError:
            return
        try:
            device = os.fstat(top).st_dev
            self._empty(top, top, device)
            while self._moved:
                name = self._moved.popleft()
                fd = _open_directory(top, name)
                try:
                    self._empty(fd, top, device)
                finally:
                    os.close(fd)
                os.rmdir(name, dir_fd=top)
        finally:
            os.close(top)
        os.rmdir(self._name, dir_fd=self._parent_fd)

    def _empty(self, fd: int, top: int, device: int) -> None:
        """Unlink the files of a directory and move its subdirectories to the top."""
        with os.scandir(fd) as entries:
            names = [
                (os.fsencode(entry.name), entry.is_dir(follow_symlinks=False)) for entry in entries
            ]
        moved_here = set(self._moved) if fd == top else set()
        for name, is_directory in names:
            if name in moved_here:
                continue
            if not is_directory:
                _unlink(fd, name)
                continue
            if os.stat(name, dir_fd=fd, follow_symlinks=False).st_dev != device:
                raise OSError(errno.EXDEV, "something is mounted in it")
            self._moved.append(name if fd == top else self._move_up(fd, name, top))

    def _move_up(self, fd: int, name: bytes, top: int) -> bytes:
        while True:
            self._count += 1
            target = b".removing-%d" % self._count
            try:
                os.stat(target, dir_fd=top, follow_symlinks=False)
            except FileNotFoundError:
                break
        # Moving a directory changes its "..", so it must be writable itself.
        os.close(_open_directory(fd, name))
        os.rename(name, target, src_dir_fd=fd, dst_dir_fd=top)
        return target


def _open_directory(dir_fd: int, name: bytes) -> int:
    """Open a directory and make it ours to change, whatever its permissions are."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        if stat.S_IMODE(os.fstat(path).st_mode) & 0o700 != 0o700:
            # fchmod refuses an O_PATH descriptor; its name in /proc is the same inode.
            os.chmod(f"/proc/self/fd/{path}", 0o700)
    finally:
        os.close(path)
    fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    with contextlib.suppress(OSError):
        _clear_flags(fd)
    return fd


def _unlink(fd: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=fd)
    except PermissionError:
        # Immutable or append-only: only root can have made it so, and only root can undo it.
        with contextlib.suppress(OSError):
            file = os.open(
                name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd
            )
            try:
                _clear_flags(file)
            finally:
                os.close(file)
        os.unlink(name, dir_fd=fd)


def _clear_flags(fd: int) -> None:
    """Take away the inode flags that forbid removal; only where one is set."""
    flags = array.array("l", [0])
    fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags, True)
    if flags[0] & _IMMUTABLE_OR_APPEND:
        flags[0] &= ~_IMMUTABLE_OR_APPEND
        fcntl.ioctl(fd, _FS_IOC_SETFLAGS, flags, True)
