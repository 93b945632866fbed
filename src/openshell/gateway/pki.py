"""The gateway's own certificates and token keys, as `openshell-gateway generate-certs` makes them.

One directory holds a certificate authority, the server's and the user's certificate and the key pair
for sandbox tokens:

    ca.crt  ca.key  server/tls.{crt,key}  client/tls.{crt,key}  jwt/{signing.pem,public.pem,kid}

`ensure_pki` is idempotent: a complete set is kept, missing token keys are added, a server
certificate that lacks a required name renews the TLS half, and anything partial is refused, because
completing it would mean guessing which half is the right one. Everything is written to a staging
directory first. Called by `generate-certs` and by the start of an embedded gateway. Left to others:
reading the keys for use (`auth.tokens`, the listener).
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from openshell.gateway.certificates import (
    DEFAULT_SERVER_SANS,
    GeneralName,
    NamesInvalid,
    make_jwt_files,
    make_tls_files,
    parse_sans,
    sans_of,
)

__all__ = [
    "PkiError",
    "PkiPaths",
    "PkiReport",
    "ensure_pki",
    "generate_bundle",
    "install_client_bundle",
]

_STAGING: Final = ".certgen.tmp"
_DIRECTORY_MODE: Final = 0o700
_SECRET_MODE: Final = 0o600
_PUBLIC_MODE: Final = 0o644

_TLS_FILES: Final = (
    "ca.crt",
    "ca.key",
    "server/tls.crt",
    "server/tls.key",
    "client/tls.crt",
    "client/tls.key",
)
_JWT_FILES: Final = ("jwt/signing.pem", "jwt/public.pem", "jwt/kid")
_SECRETS: Final = frozenset({"ca.key", "server/tls.key", "client/tls.key", "jwt/signing.pem"})
_DIRECTORIES: Final = ("server", "client", "jwt")


class PkiError(Exception):
    """The certificates cannot be made or used; the message says what to do."""


@dataclass(frozen=True, slots=True)
class PkiPaths:
    """Where each file of a set is."""

    directory: Path

    @property
    def ca(self) -> Path:
        return self.directory / "ca.crt"

    @property
    def ca_key(self) -> Path:
        return self.directory / "ca.key"

    @property
    def server_cert(self) -> Path:
        return self.directory / "server" / "tls.crt"

    @property
    def server_key(self) -> Path:
        return self.directory / "server" / "tls.key"

    @property
    def client_cert(self) -> Path:
        return self.directory / "client" / "tls.crt"

    @property
    def client_key(self) -> Path:
        return self.directory / "client" / "tls.key"

    @property
    def jwt_signing(self) -> Path:
        return self.directory / "jwt" / "signing.pem"

    @property
    def jwt_public(self) -> Path:
        return self.directory / "jwt" / "public.pem"

    @property
    def jwt_kid(self) -> Path:
        return self.directory / "jwt" / "kid"


@dataclass(frozen=True, slots=True)
class PkiReport:
    """What a call of `ensure_pki` did."""

    paths: PkiPaths
    tls_written: bool
    jwt_written: bool


def generate_bundle(server_sans: Sequence[str] = ()) -> Mapping[str, bytes]:
    """A whole new set by relative path, nothing written: what a dry run prints."""
    return MappingProxyType({**make_tls_files(_names(server_sans)), **make_jwt_files()})


def ensure_pki(directory: Path, server_sans: Sequence[str] = ()) -> PkiReport:
    """Make or complete the set in `directory`; names are added to the default ones."""
    names = _names(server_sans)
    _prepare(directory)
    with _locked(directory):
        shutil.rmtree(directory / _STAGING, ignore_errors=True)
        tls, jwt = _count(directory, _TLS_FILES), _count(directory, _JWT_FILES)
        if (tls, jwt) not in {(0, 0), (len(_TLS_FILES), len(_JWT_FILES)), (len(_TLS_FILES), 0)}:
            raise PkiError(
                f"{directory} holds {tls} of {len(_TLS_FILES)} TLS files and {jwt} of "
                f"{len(_JWT_FILES)} token key files; remove the remains with "
                f"`rm -rf {directory}` and run this again"
            )
        write_tls = not tls or not _server_covers(directory, names)
        write_jwt = not jwt
        files: dict[str, bytes] = {}
        if write_tls:
            files.update(make_tls_files(names))
        if write_jwt:
            files.update(make_jwt_files())
        _install(directory, files)
        _tighten(directory)
    return PkiReport(PkiPaths(directory), write_tls, write_jwt)


def install_client_bundle(paths: PkiPaths, target: Path) -> None:
    """Copy what a client needs to `target` (a gateway's mtls directory), replacing it as a whole."""
    staged, backup = target.with_name(target.name + ".tmp"), target.with_name(target.name + ".bak")
    try:
        target.parent.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        for left in (staged, backup):
            shutil.rmtree(left, ignore_errors=True)
        staged.mkdir(mode=_DIRECTORY_MODE)
        for source, name in (
            (paths.ca, "ca.crt"),
            (paths.client_cert, "tls.crt"),
            (paths.client_key, "tls.key"),
        ):
            content = source.read_bytes()
            if not content:
                raise PkiError(f"{source} is empty; remove {paths.directory} and generate it again")
            _write(staged / name, content, _SECRET_MODE if name == "tls.key" else _PUBLIC_MODE)
        had_one = target.exists()
        if had_one:
            target.rename(backup)
        try:
            staged.rename(target)
        except OSError:
            if had_one:
                backup.rename(target)
            raise
        shutil.rmtree(backup, ignore_errors=True)
    except OSError as error:
        raise PkiError(f"cannot install the client certificate in {target}: {error}") from error


def _names(extra: Sequence[str]) -> tuple[GeneralName, ...]:
    try:
        return parse_sans([*DEFAULT_SERVER_SANS, *extra])
    except NamesInvalid as error:
        raise PkiError(str(error)) from error


def _prepare(directory: Path) -> None:
    try:
        directory.mkdir(mode=_DIRECTORY_MODE, parents=True, exist_ok=True)
        status = directory.stat()
    except OSError as error:
        raise PkiError(f"cannot create {directory}: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise PkiError(f"{directory} is not a directory")
    if status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise PkiError(
            f"{directory} can be changed by others; give it to the gateway's user with mode 0700"
        )


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Two programs that start at once must not both make an authority."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _count(directory: Path, names: Sequence[str]) -> int:
    return sum((directory / name).is_file() for name in names)


def _server_covers(directory: Path, required: Sequence[GeneralName]) -> bool:
    """Whether the server certificate covers the names. A set that does not fit together is refused."""
    paths = PkiPaths(directory)
    try:
        authority = x509.load_pem_x509_certificate(paths.ca.read_bytes())
        found: set[GeneralName] = set()
        for certificate_path, key_path in (
            (paths.server_cert, paths.server_key),
            (paths.client_cert, paths.client_key),
        ):
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            certificate.verify_directly_issued_by(authority)
            key = load_pem_private_key(key_path.read_bytes(), password=None)
            if key.public_key() != certificate.public_key():
                raise PkiError(
                    f"{key_path} does not belong to {certificate_path}; remove the set with "
                    f"`rm -rf {directory}` and run this again"
                )
            if certificate_path == paths.server_cert:
                found = sans_of(certificate)
    except PkiError:
        raise
    except Exception as error:
        # Unreadable PEM, another authority's signature, a file without permission: the library
        # raises half a dozen types and the answer to all of them is the same.
        raise PkiError(
            f"the certificates in {directory} cannot be used ({type(error).__name__}); "
            f"remove them with `rm -rf {directory}` and run this again"
        ) from error
    return found.issuperset(required)


def _install(directory: Path, files: Mapping[str, bytes]) -> None:
    if not files:
        return
    staging = directory / _STAGING
    try:
        staging.mkdir(mode=_DIRECTORY_MODE)
        for parent in _DIRECTORIES:
            (staging / parent).mkdir(mode=_DIRECTORY_MODE)
            (directory / parent).mkdir(mode=_DIRECTORY_MODE, exist_ok=True)
            (directory / parent).chmod(_DIRECTORY_MODE)
        for name, content in files.items():
            _write(staging / name, content, _SECRET_MODE if name in _SECRETS else _PUBLIC_MODE)
        for name in files:
            (staging / name).replace(directory / name)
    except OSError as error:
        raise PkiError(f"cannot write certificates to {directory}: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _tighten(directory: Path) -> None:
    """Keys that were copied here by hand may have come with a laxer mode."""
    for name in _SECRETS:
        path = directory / name
        if path.stat().st_mode & 0o077:
            path.chmod(_SECRET_MODE)


def _write(path: Path, content: bytes, mode: int) -> None:
    """Create a file that never had another mode, and have it on disk before it is renamed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags, mode)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)
