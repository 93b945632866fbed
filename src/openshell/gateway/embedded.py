"""What an embedded gateway leaves for the clients of its user: port, registration, run record.

Written only after the state is locked, so that a gateway which is refused changes nothing. The
formats of the registration are the client library's own; `run.json` is read by
`openshell.sdk.embedded`.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from openshell.gateway.config import ConfigError, Settings
from openshell.gateway.pki import PkiError, PkiPaths, install_client_bundle
from openshell.sdk.errors import SandboxError
from openshell.sdk.registry import DEFAULT_GATEWAY_NAME, GatewayRecord, Registry

__all__ = ["announce", "read_port", "register"]


def _directory(settings: Settings) -> Path:
    return settings.state_root / "gateway"


def read_port(settings: Settings) -> int:
    """The port of the last start; 0 asks for a free one."""
    try:
        text = (_directory(settings) / "port").read_text("ascii").strip()
    except (OSError, UnicodeDecodeError):
        return 0
    port = int(text) if text.isdigit() and len(text) <= 5 else 0
    return port if 0 < port < 65_536 else 0


def register(settings: Settings, endpoint: str, port: int) -> None:
    """Keeps the port and makes the gateway known to this user's clients."""
    _write(_directory(settings) / "port", f"{port}\n")
    if settings.config_root is None:
        raise ConfigError("cannot register the gateway: set HOME or XDG_CONFIG_HOME")
    registry = Registry(settings.config_root)
    try:
        if not settings.tls.disabled:
            install_client_bundle(
                PkiPaths(settings.tls_dir), registry.mtls_directory(DEFAULT_GATEWAY_NAME)
            )
        registry.save(
            GatewayRecord(
                DEFAULT_GATEWAY_NAME, endpoint, "plaintext" if settings.tls.disabled else "mtls"
            ),
            activate=registry.active() is None,
        )
    except (OSError, SandboxError, PkiError) as error:
        raise ConfigError(f"cannot register the gateway for this user: {error}") from error


def announce(settings: Settings, endpoint: str) -> None:
    """Says that it serves: the run record, then one line on the descriptor of whoever waits."""
    pid = os.getpid()
    record = {"pid": pid, "start_ticks": _start_ticks(), "endpoint": endpoint}
    _write(_directory(settings) / "run.json", json.dumps(record) + "\n")
    descriptor = settings.embedded.ready_fd
    if descriptor is None:
        return
    line = json.dumps({"endpoint": endpoint, "pid": pid}) + "\n"
    try:
        os.write(descriptor, line.encode())
        os.close(descriptor)
    except OSError as error:
        raise ConfigError(f"--ready-fd {descriptor} cannot be written: {error.strerror}") from error


def _start_ticks() -> int:
    with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
        text = file.read()
    # Field 22; the second, in parentheses, may hold anything.
    return int(text[text.rindex(")") + 2 :].split()[19])


def _write(path: Path, text: str) -> None:
    """Replaces a file whole: readers see the old one or the new one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
