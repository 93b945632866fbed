"""One gateway per state directory: an flock that ends with its holder, however that ends.

The gateway takes it before it reads or starts anything of the directory. Nothing inherits it: the
descriptor is close-on-exec, and the zygote that forks supervisors is another program.
"""

import contextlib
import errno
import fcntl
import os

from openshell.drivers.local.paths import StateDirError

__all__ = ["StateLock"]


class StateLock:
    """Held from acquire to release, or until the process ends."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._fd = -1

    def acquire(self) -> None:
        """Take the lock or raise StateDirError with a sentence that names the holder."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StateDirError(f"cannot open {self._path}: {error.strerror}") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            if error.errno not in {errno.EWOULDBLOCK, errno.EACCES}:
                raise StateDirError(f"cannot lock {self._path}: {error.strerror}") from error
            by = f" (pid {holder})" if holder.isdigit() else ""
            raise StateDirError(
                f"another gateway{by} already uses {os.path.dirname(self._path)}: stop it with "
                "'openshell gateway stop', or start this one with another state directory"
            ) from error
        # For the sentence above only; a full disk must not keep the gateway from starting.
        with contextlib.suppress(OSError):
            os.ftruncate(fd, 0)
            os.pwrite(fd, b"%d\n" % os.getpid(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let go; harmless when not held."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
