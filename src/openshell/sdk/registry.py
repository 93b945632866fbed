"""Which gateways this user knows: the configuration directory shared by CLI and SDK.

Reads and writes `$XDG_CONFIG_HOME/openshell` (else `~/.config/openshell`); the read-only system
layer is `/etc/openshell`. Opening connections is `channel.py`, starting a local gateway is
`embedded.py`. Tokens and certificates always live in the user layer.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from openshell.sdk.errors import SandboxError

__all__ = ["DEFAULT_GATEWAY_NAME", "GatewayRecord", "Registry", "Target"]

DEFAULT_GATEWAY_NAME = "openshell"
"""Name under which the embedded gateway registers itself."""

_SYSTEM_DIR = "/etc/openshell"
_TLS_NAME_UNSAFE = re.compile(r"[^A-Za-z0-9._-]")


@dataclass(frozen=True, slots=True)
class GatewayRecord:
    """One registered gateway.

    Attributes:
        name: One path component.
        endpoint: URL, `https://host:port` or `http://host:port`.
        auth_mode: `mtls`, `plaintext`, `oidc` or `cloudflare_jwt`; empty when the file has none.
        is_remote: Whether the gateway runs on another machine.
        source: Layer the record was read from.
        remote_host: SSH destination as given, or empty.
    """

    name: str
    endpoint: str
    auth_mode: str = ""
    is_remote: bool = False
    source: Literal["user", "system"] = "user"
    remote_host: str = ""

    @property
    def auth(self) -> str:
        """The way of authentication in words of the contract."""
        if self.auth_mode:
            return self.auth_mode
        return "plaintext" if self.endpoint.startswith("http://") else "mtls"

    @property
    def type(self) -> str:
        """`cloud`, `remote` or `local`."""
        if self.auth_mode == "cloudflare_jwt":
            return "cloud"
        return "remote" if self.is_remote else "local"


@dataclass(frozen=True, slots=True)
class Target:
    """Where to connect: the name keys certificates and the last-sandbox record."""

    name: str
    endpoint: str
    record: GatewayRecord | None


class Registry:
    """The configuration directory of one user.

    Args:
        directory: User layer, usually `~/.config/openshell`.
        system_directory: Read-only layer of the machine.
    """

    def __init__(self, directory: Path, system_directory: Path = Path(_SYSTEM_DIR)) -> None:
        self.directory = directory
        self.system_directory = system_directory

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Registry:
        """Finds the directories.

        Raises:
            SandboxError: neither `XDG_CONFIG_HOME` nor `HOME` is set.
        """
        if environ.get("XDG_CONFIG_HOME"):
            base = Path(environ["XDG_CONFIG_HOME"])
        elif environ.get("HOME"):
            base = Path(environ["HOME"]) / ".config"
        else:
            raise SandboxError("cannot find the configuration: set HOME or XDG_CONFIG_HOME")
        system = environ.get("OPENSHELL_SYSTEM_GATEWAY_DIR", "")
        system_dir = Path(system) if system.startswith("/") else Path(_SYSTEM_DIR)
        return cls(base / "openshell", system_dir)

    # Gateways

    def active(self) -> str | None:
        """Name in `active_gateway`, user layer first."""
        for layer in (self.directory, self.system_directory):
            with contextlib.suppress(OSError, UnicodeDecodeError):
                name = (layer / "active_gateway").read_text(encoding="utf-8").strip()
                if _is_component(name):
                    return name
        return None

    def get(self, name: str) -> GatewayRecord | None:
        """The record of a gateway, or None when it is unknown or unreadable.

        Raises:
            SandboxError: the name is not one path component.
        """
        _check_name(name)
        user = self.directory / "gateways" / name / "metadata.json"
        if user.exists():
            return _read_record(user, name, "user")
        return _read_record(
            self.system_directory / "gateways" / name / "metadata.json", name, "system"
        )

    def list(self) -> list[GatewayRecord]:
        """All readable records, sorted by name; a user entry shadows the system's."""
        names: set[str] = set()
        for layer in (self.directory, self.system_directory):
            with contextlib.suppress(OSError):
                names.update(
                    entry.name for entry in (layer / "gateways").iterdir() if entry.is_dir()
                )
        records = (self.get(name) for name in sorted(names) if _is_component(name))
        return [record for record in records if record is not None]

    def save(self, record: GatewayRecord, *, activate: bool) -> None:
        """Writes a record to the user layer, and makes it the active one on request."""
        _check_name(record.name)
        directory = self.gateway_directory(record.name)
        document: dict[str, object] = {
            "name": record.name,
            "gateway_endpoint": record.endpoint,
            "is_remote": record.is_remote,
            "gateway_port": 0,
        }
        if record.auth_mode:
            document["auth_mode"] = record.auth_mode
        if record.remote_host:
            document["remote_host"] = record.remote_host
        _write(directory / "metadata.json", json.dumps(document, indent=2) + "\n")
        if activate:
            self.select(record.name)

    def select(self, name: str) -> None:
        """Makes a gateway the active one."""
        _check_name(name)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _write(self.directory / "active_gateway", name + "\n")

    def remove(self, name: str) -> None:
        """Forgets a user entry. The certificates stay, as the contract has it.

        Raises:
            SandboxError: unknown, or only in the system layer.
        """
        record = self.get(name)
        if record is None:
            raise SandboxError(f"Unknown gateway '{name}'.")
        if record.source == "system":
            raise SandboxError(
                f"Gateway '{name}' is registered for the whole machine; ask its administrator."
            )
        (self.directory / "gateways" / name / "metadata.json").unlink(missing_ok=True)
        active = self.directory / "active_gateway"
        with contextlib.suppress(OSError):
            if active.read_text(encoding="utf-8").strip() == name:
                active.unlink()

    def gateway_directory(self, name: str) -> Path:
        """`gateways/<name>` of the user layer, made with mode 0700."""
        _check_name(name)
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = self.directory / "gateways" / name
        directory.parent.mkdir(mode=0o700, exist_ok=True)
        directory.mkdir(mode=0o700, exist_ok=True)
        return directory

    def mtls_directory(self, name: str) -> Path:
        """Where `ca.crt`, `tls.crt` and `tls.key` of a gateway are."""
        return self.directory / "gateways" / _TLS_NAME_UNSAFE.sub("_", name) / "mtls"

    def resolve(self, *, endpoint: str | None, gateway: str | None) -> Target | None:
        """Finds the gateway that a command means; None when nothing is configured.

        Raises:
            SandboxError: a gateway was named that is not registered.
        """
        if endpoint:
            return Target(gateway or self._name_of(endpoint), endpoint, self._quiet_get(gateway))
        name = gateway or self.active()
        if name is None:
            return None
        record = self.get(name)
        if record is None:
            raise SandboxError(
                f"Unknown gateway '{name}'.\nSee what is registered with: openshell gateway list"
            )
        return Target(name, record.endpoint, record)

    def _name_of(self, endpoint: str) -> str:
        wanted = endpoint.rstrip("/")
        records = self.list()
        active = self.active()
        records.sort(key=lambda record: record.name != active)
        for record in records:
            if record.endpoint.rstrip("/") == wanted:
                return record.name
        return endpoint

    def _quiet_get(self, name: str | None) -> GatewayRecord | None:
        return self.get(name) if name and _is_component(name) else None

    # The sandbox used last

    def last_sandbox(self, gateway: str, workspace: str) -> str | None:
        """Name of the sandbox used last with this gateway and workspace."""
        if not _is_component(gateway):
            return None
        try:
            lines = (
                (self.directory / "gateways" / gateway / "last_sandbox")
                .read_text(encoding="utf-8")
                .splitlines()
            )
        except (OSError, UnicodeDecodeError):
            return None
        return lines[1] if len(lines) == 2 and lines[0] == workspace and lines[1] else None

    def record_last_sandbox(self, gateway: str, workspace: str, sandbox: str) -> None:
        if _is_component(gateway):
            _write(self.gateway_directory(gateway) / "last_sandbox", f"{workspace}\n{sandbox}\n")

    def clear_last_sandbox(self, gateway: str, workspace: str, sandbox: str) -> None:
        """Forgets the record if it names this sandbox."""
        if self.last_sandbox(gateway, workspace) == sandbox:
            (self.directory / "gateways" / gateway / "last_sandbox").unlink(missing_ok=True)


def _is_component(name: str) -> bool:
    return bool(name) and name not in {".", ".."} and "/" not in name and "\0" not in name


def _check_name(name: str) -> None:
    if not _is_component(name):
        raise SandboxError(f"invalid gateway name '{name}': use one plain word")


def _read_record(path: Path, name: str, source: Literal["user", "system"]) -> GatewayRecord | None:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        return GatewayRecord(
            name=name,
            endpoint=_text(document["gateway_endpoint"]),
            auth_mode=_text(document.get("auth_mode") or ""),
            is_remote=document["is_remote"] is True,
            source=source,
            remote_host=_text(document.get("remote_host") or ""),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _write(path: Path, text: str) -> None:
    """Replaces a small file so that a reader sees the old or the new one, never half."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
