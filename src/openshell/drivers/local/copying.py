"""Copying a workspace that an agent has written, whatever it left there.

Everything relative to descriptors, no link followed, never into what somebody has mounted there.
Data is shared with the original where the file system can (FICLONE), else copied by the kernel with
holes kept. Kept are modes, times, hard links, symbolic links, FIFOs and `user.*` attributes; sockets
and devices are not, nor set-user-id and set-group-id bits of files: a copy belongs to another
sandbox, and nothing inside may use them.

Called by the driver on a thread. The source may be changing when it could not be frozen; the
destination is ours alone.
"""

import contextlib
import errno
import fcntl
import os
import stat
from dataclasses import dataclass, field

__all__ = ["MAX_BYTES", "MAX_DEPTH", "MAX_ENTRIES", "Copied", "CopyError", "copy_tree"]

MAX_BYTES = 64 << 30
"""Data of one copy: more is a data set, not a workspace, and would fill most disks."""
MAX_ENTRIES = 2_000_000
"""Files and directories of one copy: some minutes of work, and the table of hard links is bounded."""
MAX_DEPTH = 200
"""Directories below each other: two descriptors each are open at a time."""
_FICLONE = 0x40049409
_CHUNK = 128 << 20
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NOT_HERE = {errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOTTY, errno.ENOSYS}
_MAX_XATTRS = 64


class CopyError(Exception):
    """It cannot be copied; the sentence says why."""


@dataclass(slots=True)
class Copied:
    """What a copy came to."""

    data_bytes: int = 0
    entries: int = 0
    skipped: int = 0
    cloned: int = 0
    plain: int = 0

    @property
    def method(self) -> str:
        return "reflink" if self.cloned and not self.plain else "copy"


@dataclass(slots=True)
class _Level:
    source: int
    target: int
    path: bytes
    status: os.stat_result
    names: list[bytes] = field(default_factory=list)


def copy_tree(source: str, target: str, owner: int) -> Copied:
    """Copy the directory `source` to `target`, which must not exist; `owner` is a uid or 0 for ours.

    Raises CopyError or OSError; what was made so far is the caller's to remove.
    """
    os.mkdir(target, 0o700)
    top = os.open(source, _DIRECTORY)
    try:
        made = os.open(target, _DIRECTORY)
        try:
            return _Copy(top, made, owner).run()
        finally:
            os.close(made)
    finally:
        os.close(top)


class _Copy:
    """One tree."""

    def __init__(self, source: int, target: int, owner: int) -> None:
        self._top = target
        self._source = source
        self._owner = owner
        self._device = os.fstat(source).st_dev
        self._links: dict[int, bytes] = {}
        self._can_clone = True
        self.result = Copied()

    def run(self) -> Copied:
        stack = [self._level(os.dup(self._source), os.dup(self._top), b"")]
        try:
            while stack:
                level = stack[-1]
                if not level.names:
                    self._finish(level.target, level.source, level.status)
                    self._close(stack.pop())
                    continue
                below = self._entry(level, level.names.pop())
                if below is None:
                    continue
                stack.append(below)
                if len(stack) > MAX_DEPTH:
                    raise CopyError(f"the workspace is deeper than {MAX_DEPTH} directories")
        finally:
            for level in stack:
                self._close(level)
        return self.result

    def _level(self, source: int, target: int, path: bytes) -> _Level:
        status = os.fstat(source)
        level = _Level(source, target, path, status)
        with os.scandir(source) as entries:
            for entry in entries:
                level.names.append(os.fsencode(entry.name))
                if len(level.names) > MAX_ENTRIES:
                    raise CopyError(_too_many())
        return level

    def _close(self, level: _Level) -> None:
        os.close(level.source)
        os.close(level.target)

    def _entry(self, level: _Level, name: bytes) -> _Level | None:
        """Copy one entry; a directory is made and answered, for its own entries."""
        try:
            status = os.stat(name, dir_fd=level.source, follow_symlinks=False)
        except FileNotFoundError:
            return None
        self.result.entries += 1
        if self.result.entries > MAX_ENTRIES:
            raise CopyError(_too_many())
        path = level.path + b"/" + name if level.path else name
        if stat.S_ISDIR(status.st_mode):
            return self._directory(level, name, path)
        if status.st_nlink > 1 and self._link(status.st_ino, name, path, level.target):
            return None
        if stat.S_ISREG(status.st_mode):
            self._file(level, name)
        elif stat.S_ISLNK(status.st_mode):
            os.symlink(os.readlink(name, dir_fd=level.source), name, dir_fd=level.target)
            self._own_link(level.target, name, status)
        elif stat.S_ISFIFO(status.st_mode):
            os.mkfifo(name, 0o600, dir_fd=level.target)
            self._own_link(level.target, name, status)
            os.chmod(name, stat.S_IMODE(status.st_mode) & 0o777, dir_fd=level.target)
        else:
            self.result.skipped += 1
            self._links.pop(status.st_ino, None)
        return None

    def _link(self, inode: int, name: bytes, path: bytes, target: int) -> bool:
        """Join a hard link to the copy of its inode; False for the first, and where it cannot be."""
        first = self._links.setdefault(inode, path)
        if first == path:
            return False
        try:
            os.link(first, name, src_dir_fd=self._top, dst_dir_fd=target, follow_symlinks=False)
        except OSError as error:
            if error.errno in {errno.ENAMETOOLONG, errno.EMLINK, errno.ENOENT}:
                return False
            raise
        return True

    def _directory(self, level: _Level, name: bytes, path: bytes) -> _Level | None:
        source = self._open(level.source, name, _DIRECTORY)
        if source is None:
            return None
        try:
            if os.fstat(source).st_dev != self._device:
                raise CopyError("something is mounted in the workspace")
            os.mkdir(name, 0o700, dir_fd=level.target)
            target = os.open(name, _DIRECTORY, dir_fd=level.target)
            try:
                return self._level(source, target, path)
            except BaseException:
                os.close(target)
                raise
        except BaseException:
            os.close(source)
            raise

    def _open(self, dir_fd: int, name: bytes, flags: int) -> int | None:
        """Open an entry, also one whose permissions keep its owner out; None if it has gone."""
        try:
            return os.open(name, flags, dir_fd=dir_fd)
        except FileNotFoundError:
            return None
        except PermissionError:
            handle = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
            try:
                mode = stat.S_IMODE(os.fstat(handle).st_mode)
                os.chmod(f"/proc/self/fd/{handle}", mode | 0o500)
                try:
                    return os.open(name, flags, dir_fd=dir_fd)
                finally:
                    os.chmod(f"/proc/self/fd/{handle}", mode)
            finally:
                os.close(handle)

    def _file(self, level: _Level, name: bytes) -> None:
        source = self._open(level.source, name, _FILE)
        if source is None:
            return
        try:
            status = os.fstat(source)
            if not stat.S_ISREG(status.st_mode):
                raise CopyError("the workspace changes while it is copied: stop or pause it first")
            target = os.open(
                name,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                0o600,
                dir_fd=level.target,
            )
            try:
                self._data(source, target, status)
                self._finish(target, source, status)
            finally:
                os.close(target)
        finally:
            os.close(source)

    def _data(self, source: int, target: int, status: os.stat_result) -> None:
        size = status.st_size
        if self._can_clone and size:
            try:
                fcntl.ioctl(target, _FICLONE, source)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                self._can_clone = False
            else:
                self.result.cloned += 1
                self._count(min(size, status.st_blocks * 512))
                return
        if size:
            self.result.plain += 1
        os.ftruncate(target, size)
        position = 0
        while position < size:
            try:
                start = os.lseek(source, position, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = min(os.lseek(source, start, os.SEEK_HOLE), size)
            if start >= end:
                return
            self._copy_range(source, target, start, end)
            position = end

    def _copy_range(self, source: int, target: int, start: int, end: int) -> None:
        while start < end:
            copied = os.copy_file_range(source, target, min(_CHUNK, end - start), start, start)
            if copied == 0:
                return
            self._count(copied)
            start += copied

    def _count(self, size: int) -> None:
        self.result.data_bytes += size
        if self.result.data_bytes > MAX_BYTES:
            raise CopyError(f"the workspace holds more than {MAX_BYTES >> 30} GiB")

    def _finish(self, target: int, source: int, status: os.stat_result) -> None:
        """Owner first: changing it takes bits of the mode away."""
        if self._owner:
            os.fchown(target, self._owner, self._owner)
        for attribute in _user_attributes(source):
            # One that has gone, or for which the destination has no room, is no reason to fail.
            with contextlib.suppress(OSError):
                os.setxattr(target, attribute, os.getxattr(source, attribute))
        kept = 0o3777 if stat.S_ISDIR(status.st_mode) else 0o777
        os.fchmod(target, status.st_mode & kept)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def _own_link(self, target: int, name: bytes, status: os.stat_result) -> None:
        if self._owner:
            os.chown(name, self._owner, self._owner, dir_fd=target, follow_symlinks=False)
        os.utime(
            name,
            ns=(status.st_atime_ns, status.st_mtime_ns),
            dir_fd=target,
            follow_symlinks=False,
        )


def _user_attributes(source: int) -> list[str]:
    try:
        names = os.listxattr(source)
    except OSError:
        return []
    return [name for name in names if name.startswith("user.")][:_MAX_XATTRS]


def _too_many() -> str:
    return f"the workspace holds more than {MAX_ENTRIES} files"
