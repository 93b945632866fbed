"""Files that look like credentials, found below a directory that is to be exposed.

By name, because that is what tools agree on, and by content for the few kinds of file that hold
either public or private keys. A directory that cannot be searched to its end is not vouched for.

The answer is kept per directory and reused while no directory below has changed: a new name changes
the directory's modification time. A file that gets a key written into it later keeps its name, so
the names alone decide there; contents are read again when the directory changes.

Even that check costs tens of milliseconds for a large tree, so a fresh answer is used without it and
checked afterwards (`is_due`, `refresh`). What is created in that minute is as visible as what is
created after the sandbox has started: the answer is about the moment of asking, and no guarantee
about the time after it.
"""

import os
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["CREDENTIAL_DIRECTORIES", "CredentialFinder", "TooManyFiles"]

# Entries looked at for one exposed directory: three times a large Python with its packages.
_MAX_ENTRIES = 200_000
# Read of a key file; a private key announces itself in its first line.
_MAX_HEAD = 64 << 10

_FILE_NAMES = frozenset(
    {
        ".netrc",
        "_netrc",
        ".npmrc",
        ".yarnrc.yml",
        ".pypirc",
        "pip.conf",
        ".git-credentials",
        ".gitconfig",
        ".pgpass",
        ".my.cnf",
        ".boto",
        ".s3cfg",
        ".dockercfg",
        ".vault-token",
        ".env",
        ".envrc",
        ".claude.json",
        ".databrickscfg",
        ".bash_history",
        ".zsh_history",
        ".python_history",
        "rclone.conf",
        "kubeconfig",
        "credentials",
        ".credentials",
        ".credentials.json",
        "credentials.json",
        "credentials.toml",
        "credentials.tfrc.json",
        "credentials.db",
        "application_default_credentials.json",
        "auth.json",
        "token.json",
        "hosts.yml",
        "id_rsa",
        "id_dsa",
        "id_ecdsa",
        "id_ed25519",
        "id_ecdsa_sk",
        "id_ed25519_sk",
    }
)
_FILE_PREFIXES = (".env.", ".netrc.", ".npmrc.", ".pypirc.")
# Directories that hold little else; none is shown, whole or in part.
CREDENTIAL_DIRECTORIES = frozenset(
    {
        ".ssh",
        ".gnupg",
        ".aws",
        ".azure",
        ".kube",
        ".docker",
        ".password-store",
        "gcloud",
        "keyrings",
        "kwalletd",
    }
)
_KEY_SUFFIXES = (".pem", ".key", ".p8", ".ppk")
_CONTAINER_SUFFIXES = (".p12", ".pfx", ".jks", ".keystore", ".kdbx")
# Compiled code: nothing but the interpreter writes there.
_SKIPPED = "__pycache__"
# How long an answer is used without a look, and how old it gets before one is due.
_USED_SECONDS = 60.0
_DUE_SECONDS = 2.0
_PRIVATE = (b"PRIVATE KEY-----", b"PuTTY-User-Key-File")


class TooManyFiles(Exception):
    """The directory is too large to be searched."""


@dataclass(frozen=True, slots=True)
class _Searched:
    found: tuple[str, ...]
    # Modification times of all directories below, the reason to believe `found`.
    times: tuple[tuple[str, int], ...]


class CredentialFinder:
    """Searches directories and remembers what it found. Called from threads, one at a time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._known: dict[str, _Searched] = {}
        self._checked: dict[str, float] = {}
        self._clock = clock

    def find(self, path: str) -> tuple[str, ...]:
        """Every file and directory at or below the path that looks like a credential."""
        known = self._known.get(path)
        if known is not None and self._age(path) < _USED_SECONDS:
            return known.found
        return self.refresh(path)

    def is_due(self, path: str) -> bool:
        """Whether the answer should be checked when there is time."""
        return self._age(path) >= _DUE_SECONDS

    def refresh(self, path: str) -> tuple[str, ...]:
        """Check the answer, or search again."""
        now = self._clock()
        known = self._known.get(path)
        if known is None or any(_modified(name) != changed for name, changed in known.times):
            self._known.pop(path, None)
            known = self._known[path] = _search(path)
        self._checked[path] = now
        return known.found

    def _age(self, path: str) -> float:
        return self._clock() - self._checked.get(path, float("-inf"))


def _modified(path: str) -> int:
    try:
        return os.lstat(path).st_mtime_ns
    except OSError:
        return -1


def _search(path: str) -> _Searched:
    if not os.path.isdir(path):
        return _Searched((path,) if _is_credential(path, os.path.basename(path)) else (), ())
    found: list[str] = []
    times: list[tuple[str, int]] = []
    pending = [path]
    count = 0
    while pending:
        directory = pending.pop()
        # Before the listing: a change during it is then seen the next time.
        times.append((directory, _modified(directory)))
        try:
            entries = os.scandir(directory)
        except OSError:
            # Unreadable for us is unreadable inside.
            continue
        with entries:
            for entry in entries:
                count += 1
                if count > _MAX_ENTRIES:
                    raise TooManyFiles
                if entry.is_dir(follow_symlinks=False):
                    if entry.name in CREDENTIAL_DIRECTORIES:
                        found.append(entry.path)
                    elif entry.name != _SKIPPED:
                        pending.append(entry.path)
                elif _is_credential(entry.path, entry.name):
                    found.append(entry.path)
    return _Searched(tuple(found), tuple(times))


def _is_credential(path: str, name: str) -> bool:
    if name in _FILE_NAMES or name.startswith(_FILE_PREFIXES):
        # A link is judged by what it leads to, where that is exposed at all.
        return not os.path.islink(path)
    if name.endswith(_CONTAINER_SUFFIXES):
        return not os.path.islink(path)
    return name.endswith(_KEY_SUFFIXES) and _holds_private_key(path)


def _holds_private_key(path: str) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            return False
        head = os.read(fd, _MAX_HEAD)
    except OSError:
        return True
    finally:
        os.close(fd)
    return any(mark in head for mark in _PRIVATE)
