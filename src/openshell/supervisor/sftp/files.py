"""What SFTP requests do to files: one request in, one answer out.

Calls the operating system as whoever runs it and checks nothing that the kernel checks. Opens never wait
for the other end of a pipe and never take a terminal. Handles are numbers of its own, so that a client cannot
name descriptors. Extensions change nothing where the client does not use them.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import time
from collections.abc import Callable, Iterator
from typing import Final

from openshell.supervisor.sftp.packets import (
    MAX_PACKET,
    MAX_READ,
    MAX_WRITE,
    Attributes,
    Fields,
    Malformed,
    Request,
    Status,
    attributes_reply,
    data_reply,
    extended_reply,
    handle_reply,
    names_reply,
    read_attributes,
    status_reply,
    version_reply,
)

__all__ = ["HANDLES_MAX", "FileServer"]

HANDLES_MAX: Final = 256
"""Open at a time in one conversation; each may hold a descriptor."""
NAMES_PER_ANSWER: Final = 100
"""Of a directory; keeps every answer below the size of a packet (names have 255 bytes at most)."""
RANGES_PER_ANSWER: Final = 128
"""Of a sparse file; the client asks again for the rest."""

_READ, _WRITE, _APPEND, _CREATE, _TRUNCATE, _EXCLUSIVE = 1, 2, 4, 8, 16, 32
_OFFSET_MAX = (1 << 63) - 1
_PERMISSIONS = 0o7777
_HALF_A_YEAR = 182 * 24 * 3600

_STATUS_OF = {
    errno.ENOENT: Status.NO_SUCH_FILE,
    errno.ENOTDIR: Status.NO_SUCH_FILE,
    errno.ELOOP: Status.NO_SUCH_FILE,
    errno.EACCES: Status.PERMISSION_DENIED,
    errno.EPERM: Status.PERMISSION_DENIED,
    errno.EROFS: Status.PERMISSION_DENIED,
    errno.ENOSYS: Status.OP_UNSUPPORTED,
    errno.EOPNOTSUPP: Status.OP_UNSUPPORTED,
}
_EXTENSIONS: Final = (
    (b"posix-rename@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
    (b"lsetstat@openssh.com", b"1"),
    (b"limits@openssh.com", b"1"),
    (b"expand-path@openssh.com", b"1"),
    # Of asyncssh: where a sparse file has data.
    (b"ranges@asyncssh.com", b"1"),
)


class FileServer:
    """One conversation."""

    def __init__(self, home: bytes) -> None:
        self._home = home
        self._files: dict[bytes, int] = {}
        self._directories: dict[bytes, Iterator[os.DirEntry[bytes]]] = {}
        self._next = 0
        self._begun = False

    def answer(self, packet: bytes) -> bytes:
        """The answer to one packet. Raises `Malformed` where there can be none."""
        fields = Fields(packet)
        kind = fields.byte()
        if not self._begun:
            if kind != Request.INIT:
                raise Malformed("the conversation does not begin with an init")
            self._begun = True
            return version_reply(_EXTENSIONS)
        number = fields.uint32()
        try:
            return self._carry_out(kind, number, fields)
        except OSError as error:
            code = error.errno or 0
            return status_reply(number, _STATUS_OF.get(code, Status.FAILURE), os.strerror(code))

    def close(self) -> None:
        for descriptor in self._files.values():
            os.close(descriptor)
        self._files.clear()
        self._directories.clear()

    def _carry_out(self, kind: int, number: int, fields: Fields) -> bytes:
        if kind == Request.EXTENDED:
            name = fields.string()
            extension = _EXTENDED.get(name)
            if extension is None:
                return status_reply(number, Status.OP_UNSUPPORTED, "no such extension")
            return extension(self, number, fields)
        operation = _OPERATIONS.get(kind)
        if operation is None:
            return status_reply(number, Status.OP_UNSUPPORTED, "no such request")
        return operation(self, number, fields)

    # -- handles

    def _add(self) -> bytes:
        if len(self._files) + len(self._directories) >= HANDLES_MAX:
            raise OSError(errno.EMFILE, "")
        self._next += 1
        return b"%d" % self._next

    def _descriptor(self, fields: Fields) -> int:
        descriptor = self._files.get(fields.string())
        if descriptor is None:
            raise OSError(errno.EBADF, "")
        return descriptor

    # -- files

    def _open(self, number: int, fields: Fields) -> bytes:
        path, flags, attributes = fields.path(), fields.uint32(), read_attributes(fields)
        reading, writing = flags & _READ, flags & (_WRITE | _APPEND)
        mode = os.O_RDWR if reading and writing else os.O_WRONLY if writing else os.O_RDONLY
        for wanted, meaning in (
            (_CREATE, os.O_CREAT),
            (_TRUNCATE, os.O_TRUNC),
            (_EXCLUSIVE, os.O_EXCL),
            (_APPEND, os.O_APPEND),
        ):
            if flags & wanted:
                mode |= meaning
        permissions = 0o666 if attributes.mode is None else attributes.mode & _PERMISSIONS
        handle = self._add()
        descriptor = os.open(path, mode | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK, permissions)
        self._files[handle] = descriptor
        return handle_reply(number, handle)

    def _close(self, number: int, fields: Fields) -> bytes:
        handle = fields.string()
        if self._directories.pop(handle, None) is None:
            descriptor = self._files.pop(handle, None)
            if descriptor is None:
                raise OSError(errno.EBADF, "")
            os.close(descriptor)
        return status_reply(number, Status.OK)

    def _read(self, number: int, fields: Fields) -> bytes:
        descriptor = self._descriptor(fields)
        offset, length = _offset(fields), min(fields.uint32(), MAX_READ)
        data = os.pread(descriptor, length, offset)
        if not data and length:
            return status_reply(number, Status.EOF)
        return data_reply(number, data)

    def _write(self, number: int, fields: Fields) -> bytes:
        descriptor = self._descriptor(fields)
        offset, data = _offset(fields), memoryview(fields.string())
        while data:
            written = os.pwrite(descriptor, data, offset)
            data, offset = data[written:], offset + written
        return status_reply(number, Status.OK)

    # -- attributes

    def _stat(self, number: int, fields: Fields) -> bytes:
        return attributes_reply(number, _attributes(os.stat(fields.path())))

    def _lstat(self, number: int, fields: Fields) -> bytes:
        return attributes_reply(number, _attributes(os.lstat(fields.path())))

    def _fstat(self, number: int, fields: Fields) -> bytes:
        return attributes_reply(number, _attributes(os.fstat(self._descriptor(fields))))

    def _setstat(self, number: int, fields: Fields) -> bytes:
        path = fields.path()
        _apply(path, read_attributes(fields))
        return status_reply(number, Status.OK)

    def _lsetstat(self, number: int, fields: Fields) -> bytes:
        path, attributes = fields.path(), read_attributes(fields)
        if attributes.size is not None or attributes.mode is not None:
            # What a link has none of; following it would be another file's.
            if stat.S_ISLNK(os.lstat(path).st_mode):
                raise OSError(errno.EOPNOTSUPP, "")
            _apply(path, attributes)
        elif attributes.times is not None:
            os.utime(path, attributes.times, follow_symlinks=False)
        return status_reply(number, Status.OK)

    def _fsetstat(self, number: int, fields: Fields) -> bytes:
        descriptor = self._descriptor(fields)
        _apply(descriptor, read_attributes(fields))
        return status_reply(number, Status.OK)

    # -- directories and names

    def _opendir(self, number: int, fields: Fields) -> bytes:
        path, handle = fields.path(), self._add()
        self._directories[handle] = os.scandir(path)
        return handle_reply(number, handle)

    def _readdir(self, number: int, fields: Fields) -> bytes:
        entries = self._directories.get(fields.string())
        if entries is None:
            raise OSError(errno.EBADF, "")
        names = []
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:
                # Gone since, or hidden: a name without attributes helps nobody.
                continue
            names.append((entry.name, _line(entry.name, found), _attributes(found)))
            if len(names) == NAMES_PER_ANSWER:
                break
        if not names:
            return status_reply(number, Status.EOF)
        return names_reply(number, names)

    def _remove(self, number: int, fields: Fields) -> bytes:
        os.unlink(fields.path())
        return status_reply(number, Status.OK)

    def _mkdir(self, number: int, fields: Fields) -> bytes:
        path, attributes = fields.path(), read_attributes(fields)
        os.mkdir(path, 0o777 if attributes.mode is None else attributes.mode & _PERMISSIONS)
        return status_reply(number, Status.OK)

    def _rmdir(self, number: int, fields: Fields) -> bytes:
        os.rmdir(fields.path())
        return status_reply(number, Status.OK)

    def _realpath(self, number: int, fields: Fields) -> bytes:
        return _one_name(number, os.path.realpath(fields.path()))

    def _rename(self, number: int, fields: Fields) -> bytes:
        old, new = fields.path(), fields.path()
        # Version 3 does not replace what is there.
        if os.path.lexists(new):
            raise OSError(errno.EEXIST, "")
        os.rename(old, new)
        return status_reply(number, Status.OK)

    def _posix_rename(self, number: int, fields: Fields) -> bytes:
        old, new = fields.path(), fields.path()
        os.rename(old, new)
        return status_reply(number, Status.OK)

    def _readlink(self, number: int, fields: Fields) -> bytes:
        return _one_name(number, os.readlink(fields.path()))

    def _symlink(self, number: int, fields: Fields) -> bytes:
        # OpenSSH sends them in this order, against the draft, and everybody follows it.
        target, link = fields.string(), fields.path()
        if not target or b"\0" in target:
            raise OSError(errno.EINVAL, "")
        os.symlink(target, link)
        return status_reply(number, Status.OK)

    def _hardlink(self, number: int, fields: Fields) -> bytes:
        old, new = fields.path(), fields.path()
        os.link(old, new, follow_symlinks=False)
        return status_reply(number, Status.OK)

    # -- other extensions

    def _fsync(self, number: int, fields: Fields) -> bytes:
        os.fsync(self._descriptor(fields))
        return status_reply(number, Status.OK)

    def _statvfs(self, number: int, fields: Fields) -> bytes:
        return extended_reply(number, _space(os.statvfs(fields.path())))

    def _fstatvfs(self, number: int, fields: Fields) -> bytes:
        return extended_reply(number, _space(os.fstatvfs(self._descriptor(fields))))

    def _limits(self, number: int, _fields: Fields) -> bytes:
        limits = (MAX_PACKET, MAX_READ, MAX_WRITE, HANDLES_MAX)
        return extended_reply(number, struct.pack(">4Q", *limits))

    def _expand(self, number: int, fields: Fields) -> bytes:
        path = fields.path()
        if path == b"~" or path.startswith(b"~/"):
            path = self._home + path[1:]
        elif path.startswith(b"~"):
            raise OSError(errno.ENOENT, "")
        return _one_name(number, os.path.realpath(path))

    def _ranges(self, number: int, fields: Fields) -> bytes:
        descriptor = self._descriptor(fields)
        offset, length = _offset(fields), _offset(fields)
        end = min(os.fstat(descriptor).st_size, offset + length)
        ranges: list[bytes] = []
        at_end = False
        while len(ranges) < RANGES_PER_ANSWER:
            try:
                start = os.lseek(descriptor, offset, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                start = end
            if start >= end:
                at_end = True
                break
            offset = min(os.lseek(descriptor, start, os.SEEK_HOLE), end)
            ranges.append(struct.pack(">QQ", start, offset - start))
        body = struct.pack(">I", len(ranges)) + b"".join(ranges) + bytes((at_end,))
        return extended_reply(number, body)


_Operation = Callable[[FileServer, int, Fields], bytes]
_OPERATIONS: Final[dict[int, _Operation]] = {
    Request.OPEN: FileServer._open,
    Request.CLOSE: FileServer._close,
    Request.READ: FileServer._read,
    Request.WRITE: FileServer._write,
    Request.LSTAT: FileServer._lstat,
    Request.FSTAT: FileServer._fstat,
    Request.SETSTAT: FileServer._setstat,
    Request.FSETSTAT: FileServer._fsetstat,
    Request.OPENDIR: FileServer._opendir,
    Request.READDIR: FileServer._readdir,
    Request.REMOVE: FileServer._remove,
    Request.MKDIR: FileServer._mkdir,
    Request.RMDIR: FileServer._rmdir,
    Request.REALPATH: FileServer._realpath,
    Request.STAT: FileServer._stat,
    Request.RENAME: FileServer._rename,
    Request.READLINK: FileServer._readlink,
    Request.SYMLINK: FileServer._symlink,
}
_EXTENDED: Final[dict[bytes, _Operation]] = {
    b"posix-rename@openssh.com": FileServer._posix_rename,
    b"statvfs@openssh.com": FileServer._statvfs,
    b"fstatvfs@openssh.com": FileServer._fstatvfs,
    b"hardlink@openssh.com": FileServer._hardlink,
    b"fsync@openssh.com": FileServer._fsync,
    b"lsetstat@openssh.com": FileServer._lsetstat,
    b"limits@openssh.com": FileServer._limits,
    b"expand-path@openssh.com": FileServer._expand,
    b"ranges@asyncssh.com": FileServer._ranges,
}


def _offset(fields: Fields) -> int:
    offset = fields.uint64()
    if offset > _OFFSET_MAX:
        raise OSError(errno.EINVAL, "")
    return offset


def _attributes(found: os.stat_result) -> Attributes:
    return Attributes(
        size=found.st_size,
        ids=(found.st_uid, found.st_gid),
        mode=found.st_mode,
        times=(int(found.st_atime), int(found.st_mtime)),
    )


def _apply(file: bytes | int, attributes: Attributes) -> None:
    """Size, mode, times; owners cannot be changed by anybody inside, so that is left out."""
    if attributes.size is not None:
        if attributes.size > _OFFSET_MAX:
            raise OSError(errno.EINVAL, "")
        os.truncate(file, attributes.size)
    if attributes.mode is not None:
        os.chmod(file, attributes.mode & _PERMISSIONS)
    if attributes.times is not None:
        os.utime(file, attributes.times)


def _one_name(number: int, path: bytes) -> bytes:
    return names_reply(number, [(path, path, Attributes())])


def _line(name: bytes, found: os.stat_result) -> bytes:
    """As `ls -l` writes it; clients show it, programs read the attributes."""
    when = time.localtime(found.st_mtime)
    recent = abs(time.time() - found.st_mtime) < _HALF_A_YEAR
    date = time.strftime("%b %e %H:%M" if recent else "%b %e  %Y", when)
    head = (
        f"{stat.filemode(found.st_mode)} {found.st_nlink:>3} "
        f"{found.st_uid:<8} {found.st_gid:<8} {found.st_size:>8} {date} "
    )
    return head.encode() + name


def _space(found: os.statvfs_result) -> bytes:
    read_only = 1 if found.f_flag & os.ST_RDONLY else 0
    no_setuid = 2 if found.f_flag & os.ST_NOSUID else 0
    return struct.pack(
        ">11Q",
        found.f_bsize,
        found.f_frsize,
        found.f_blocks,
        found.f_bfree,
        found.f_bavail,
        found.f_files,
        found.f_ffree,
        found.f_favail,
        found.f_fsid & 0xFFFF_FFFF_FFFF_FFFF,
        read_only | no_setuid,
        found.f_namemax,
    )
