"""Removing a directory that an agent has written, whatever it left there.

An agent may leave directories without permissions, trees deeper than a path can name, links to
anywhere, names that are no text, millions of names. So: everything relative to descriptors, no link
followed, never into what somebody has mounted there, permissions given back first. No recursion and
no list of names: a subdirectory is moved up to the top and met again there, so that neither depth
nor number costs memory.

Called by the driver on a thread; nothing of the sandbox runs any more by then.
"""

import array
import contextlib
import errno
import fcntl
import os
import stat

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
    """One tree; subdirectories become entries of its top directory."""

    def __init__(self, parent_fd: int, name: bytes) -> None:
        self._parent_fd = parent_fd
        self._name = name
        self._count = 0
        self._mount = b""

    def run(self) -> None:
        try:
            top = _open_directory(self._parent_fd, self._name)
        except FileNotFoundError:
            return
        try:
            self._mount = _mount_of(top)
            while self._pass(top):
                pass
        finally:
            os.close(top)
        os.rmdir(self._name, dir_fd=self._parent_fd)

    def _pass(self, top: int) -> bool:
        """Remove every entry of the top once; False when there was none.

        What is added while the list is read may or may not be seen; the next pass sees it.
        """
        found = False
        with os.scandir(top) as entries:
            for entry in entries:
                found = True
                name = os.fsencode(entry.name)
                if not entry.is_dir(follow_symlinks=False):
                    _unlink(top, name)
                    continue
                fd = self._enter(top, name)
                try:
                    while self._flatten(fd, top):
                        pass
                finally:
                    os.close(fd)
                os.rmdir(name, dir_fd=top)
        return found

    def _flatten(self, fd: int, top: int) -> bool:
        """Unlink the files of a directory and move its subdirectories to the top."""
        found = False
        with os.scandir(fd) as entries:
            for entry in entries:
                found = True
                name = os.fsencode(entry.name)
                if not entry.is_dir(follow_symlinks=False):
                    _unlink(fd, name)
                    continue
                # Moving a directory changes its "..", so it must be writable itself.
                os.close(self._enter(fd, name))
                os.rename(name, self._free_name(top), src_dir_fd=fd, dst_dir_fd=top)
        return found

    def _enter(self, dir_fd: int, name: bytes) -> int:
        return _open_directory(dir_fd, name, self._mount)

    def _free_name(self, top: int) -> bytes:
        while True:
            self._count += 1
            name = b".removing-%d" % self._count
            try:
                os.stat(name, dir_fd=top, follow_symlinks=False)
            except FileNotFoundError:
                return name


def _mount_of(fd: int) -> bytes:
    """Names the mount that an open directory lies in."""
    with open(f"/proc/self/fdinfo/{fd}", "rb", buffering=0) as file:
        return next(line for line in file.read().splitlines() if line.startswith(b"mnt_id:"))


def _open_directory(dir_fd: int, name: bytes, mount: bytes = b"") -> int:
    """Open a directory and make it ours to change, whatever its permissions are."""
    path = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        # Not the device: a directory of the same file system may be mounted here as well, and
        # what is in it is somebody's.
        if mount and _mount_of(path) != mount:
            raise OSError(errno.EXDEV, "something is mounted in it")
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
