"""Which certificate, client authority and token keys this gateway uses, and reading them.

What is configured wins; else the local bundle, which must be complete or absent; an embedded gateway
makes the bundle first. Called once by `app.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from openshell.gateway.auth.tokens import SandboxTokens, SigningKeysUnusable, load_signing_keys
from openshell.gateway.config import ConfigError, Settings
from openshell.gateway.listener import ServerTls
from openshell.gateway.pki import PkiError, PkiPaths, ensure_pki

__all__ = ["Identity", "load_identity"]

_GENERATE = "make one with 'openshell-gateway generate-certs --output-dir DIR'"


@dataclass(frozen=True, slots=True)
class Identity:
    """What the gateway proves itself with. `tls` is None when it serves in the clear."""

    tls: ServerTls | None
    tokens: SandboxTokens
    mtls_users: bool


def load_identity(settings: Settings, now: Callable[[], float]) -> Identity:
    """Raises `ConfigError` with the file and what to do."""
    paths = PkiPaths(settings.tls_dir)
    if settings.embedded.enabled:
        try:
            ensure_pki(settings.tls_dir, settings.server_sans)
        except (PkiError, OSError) as error:
            raise ConfigError(f"the gateway's certificates cannot be made: {error}") from error
    tls = None if settings.tls.disabled else _tls(settings, paths)
    mtls_users = settings.mtls_users
    if mtls_users is None:
        mtls_users = tls is not None and tls.client_ca is not None
    if mtls_users and (tls is None or tls.client_ca is None):
        raise ConfigError("--enable-mtls-auth needs --tls-client-ca")
    return Identity(tls, _tokens(settings, paths, now), mtls_users)


def _tls(settings: Settings, paths: PkiPaths) -> ServerTls:
    cert, key, client_ca = settings.tls.cert, settings.tls.key, settings.tls.client_ca
    bundle = [
        paths.ca,
        paths.server_cert,
        paths.server_key,
        paths.client_cert,
        paths.client_key,
    ]
    complete = _complete(bundle, settings.tls_dir)
    if not (cert or key or client_ca) and complete:
        cert, key, client_ca = str(paths.server_cert), str(paths.server_key), str(paths.ca)
    if not cert:
        raise ConfigError(
            f"--tls-cert and --tls-key are not set and {settings.tls_dir} holds no certificates; "
            f"{_GENERATE}, or serve in the clear with --disable-tls"
        )
    return ServerTls(_read(cert), _read(key), _read(client_ca) if client_ca else None)


def _tokens(settings: Settings, paths: PkiPaths, now: Callable[[], float]) -> SandboxTokens:
    jwt = settings.jwt
    files = [paths.jwt_signing, paths.jwt_public, paths.jwt_kid]
    if jwt.signing_key:
        files = [Path(jwt.signing_key), Path(jwt.public_key), Path(jwt.kid)]
    elif not _complete(files, settings.tls_dir / "jwt"):
        raise ConfigError(f"{settings.tls_dir} holds no keys for sandbox tokens; {_GENERATE}")
    try:
        keys = load_signing_keys(*files)
    except SigningKeysUnusable as error:
        raise ConfigError(str(error)) from error
    return SandboxTokens(keys, gateway_id=jwt.gateway_id, ttl_seconds=jwt.ttl_seconds, now=now)


def _complete(files: Sequence[Path], directory: Path) -> bool:
    """Whether all are there; some of them is an error."""
    present = [file for file in files if file.exists()]
    if present and len(present) < len(files):
        missing = next(file for file in files if file not in present)
        raise ConfigError(
            f"the bundle in {directory} is incomplete: {missing} is missing; {_GENERATE}"
        )
    return bool(present)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
