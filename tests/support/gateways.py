"""Gateway processes on one database, each with its own state directory and a driver without a kernel.

    with Gateways(tmp_path, database_url) as gateways:
        a, b = gateways.start(2)
        async with b.channel() as channel: ...

They share the key of stored credentials, as replicas must.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import grpc
import grpc.aio

__all__ = ["GatewayProcess", "Gateways"]

START_SECONDS = 30
_TESTS = Path(__file__).parents[1]


class GatewayProcess:
    """One of them. `begin` starts it, `wait` returns when it serves."""

    def __init__(self, root: Path, name: str, environ: Mapping[str, str]) -> None:
        self.name = name
        self.root = root
        self.driver_state = root / "driver"
        self.log_path = root / "log"
        self._environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(_TESTS),
            "HOME": str(root),
            "XDG_STATE_HOME": str(root / "s"),
            "XDG_CONFIG_HOME": str(root / "c"),
            "FAKE_DRIVER_STATE": str(self.driver_state),
            **environ,
        }
        self.endpoint = ""
        self.process: subprocess.Popen[bytes] | None = None
        self._ready = -1

    def begin(self) -> None:
        self.root.mkdir(mode=0o700, exist_ok=True)
        self._ready, writer = os.pipe()
        with open(self.log_path, "ab") as log:
            self.process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "support.gateway_main",
                    "--embedded",
                    "--ready-fd",
                    str(writer),
                ],
                env=self._environ,
                pass_fds=(writer,),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        os.close(writer)

    def wait(self) -> None:
        with os.fdopen(self._ready) as ready:
            line = ready.readline()
        assert line, f"gateway {self.name} did not start:\n{self.log}"
        self.endpoint = json.loads(line)["endpoint"]

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Ends it; its exit status. SIGKILL makes a crash of it, SIGUSR1 stops its sandboxes."""
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(number)
        return process.wait(START_SECONDS)

    def channel(self) -> grpc.aio.Channel:
        """As its user."""
        directory = self.root / "c/openshell/gateways/openshell/mtls"
        credentials = grpc.ssl_channel_credentials(
            root_certificates=(directory / "ca.crt").read_bytes(),
            private_key=(directory / "tls.key").read_bytes(),
            certificate_chain=(directory / "tls.crt").read_bytes(),
        )
        return grpc.aio.secure_channel(self.endpoint.removeprefix("https://"), credentials)

    def handed(self, sandbox_id: str) -> dict[str, Any]:
        """What its driver was given for a sandbox: endpoint and token of the supervisor."""
        path = self.driver_state / f"{sandbox_id}.json"
        deadline = time.monotonic() + 5
        while not path.exists():
            assert time.monotonic() < deadline, f"the driver was not asked for {sandbox_id}"
            time.sleep(0.005)
        handed: dict[str, Any] = json.loads(path.read_text())
        return handed

    def sandboxes(self) -> set[str]:
        """Ids of what its driver runs."""
        return {path.stem for path in self.driver_state.glob("*.json")}


class Gateways:
    """Starts any number; ends those that are left."""

    def __init__(
        self, directory: Path, database_url: str, environ: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory
        self.all: list[GatewayProcess] = []
        settings = directory / "gateway.toml"
        key = directory / "keys/key-encryption-key.bin"
        settings.write_text(
            f"[openshell.gateway.credential_storage]\nkey_encryption_key_path = {str(key)!r}\n"
        )
        self._environ = {
            "OPENSHELL_DB_URL": database_url,
            "OPENSHELL_GATEWAY_CONFIG": str(settings),
            **(environ or {}),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for gateway in self.all:
            gateway.stop(signal.SIGKILL)

    def start(self, count: int) -> list[GatewayProcess]:
        """So many at once; all of them serve when it returns."""
        started = []
        for _ in range(count):
            name = f"g{len(self.all)}"
            gateway = GatewayProcess(self._directory / name, name, self._environ)
            self.all.append(gateway)
            started.append(gateway)
            gateway.begin()
        for gateway in started:
            gateway.wait()
        return started
