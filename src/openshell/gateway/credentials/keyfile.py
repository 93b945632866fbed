"""The file with the gateway's key encryption key: 32 raw bytes, 0600, in a 0700 directory.

Made once. Two gateways that start together on one state directory get the same key: the file
appears whole under its name by link(2), and the loser reads the winner's. A key that others could
read, or that is not a plain file of the right size, is refused rather than repaired.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from openshell.gateway.credentials.envelope import KEY_BYTES, KeyEncryptionKey

__all__ = ["KEY_FILE_NAME", "KeyFileError", "load_or_create_key"]

KEY_FILE_NAME = "key-encryption-key.bin"


class KeyFileError(Exception):
    """The key cannot be used; the text says what to do."""


def load_or_create_key(path: Path) -> KeyEncryptionKey:
    """Reads the key, making it and its directory first when there is none."""
    try:
        _make_directory(path.parent)
        if not path.exists() and not path.is_symlink():
            _create(path)
        return KeyEncryptionKey(_read(path))
    except OSError as error:
        raise KeyFileError(f"cannot use the key file {path}: {error.strerror or error}") from error


def _make_directory(directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        directory.mkdir(mode=0o700)
    except FileExistsError:
        mode = directory.stat().st_mode
        if stat.S_IMODE(mode) & 0o022:
            raise KeyFileError(
                f"the key directory {directory} can be written by others; run: chmod 700 '{directory}'"
            ) from None


def _create(path: Path) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(temporary, path)
        except FileExistsError:
            return
        _sync_directory(path.parent)
    finally:
        os.unlink(temporary)


def _sync_directory(directory: Path) -> None:
    # A key lost in a crash would make every credential stored since unreadable.
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise KeyFileError(f"the key file {path} is not a regular file; move it away")
        if status.st_uid not in (os.geteuid(), 0):
            raise KeyFileError(f"the key file {path} belongs to another user; move it away")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise KeyFileError(
                f"the key file {path} can be read by others; run: chmod 600 '{path}', and replace "
                "the credentials if somebody else may have read it"
            )
        key = file.read(KEY_BYTES + 1)
    if len(key) != KEY_BYTES:
        raise KeyFileError(
            f"the key file {path} does not hold exactly {KEY_BYTES} bytes; restore it"
        )
    return key
