"""The embedded gateway: a gateway of the user's own, started when a command needs one.

It is an ordinary gateway process with its state under `$XDG_STATE_HOME/openshell`. It makes its own
certificates and registers itself; this module only starts, finds and stops it. The gateway's code is
never imported here: it is started by module name.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from openshell.sdk.errors import SandboxError
from openshell.sdk.registry import DEFAULT_GATEWAY_NAME, GatewayRecord, Registry

__all__ = ["EmbeddedGateway", "RunRecord"]

START_TIMEOUT_SECONDS = 30.0
"""The gateway serves after well under a second; a slow disk or a cold cache may need more."""

STOP_TIMEOUT_SECONDS = 15.0
"""SIGTERM ends a gateway at once; this covers stopping its sandboxes first."""

_LOG_TAIL_LINES = 5


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What a running embedded gateway says of itself in `gateway/run.json`."""

    pid: int
    start_ticks: int
    endpoint: str


class EmbeddedGateway:
    """The gateway under one state directory.

    Args:
        state: `$XDG_STATE_HOME/openshell`.
        environ: Environment that the gateway is started with.
    """

    def __init__(self, state: Path, environ: Mapping[str, str]) -> None:
        self.state = state
        self._environ = dict(environ)

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> EmbeddedGateway:
        """Finds the state directory.

        Raises:
            SandboxError: neither `XDG_STATE_HOME` nor `HOME` is set.
        """
        if environ.get("XDG_STATE_HOME"):
            base = Path(environ["XDG_STATE_HOME"])
        elif environ.get("HOME"):
            base = Path(environ["HOME"]) / ".local" / "state"
        else:
            raise SandboxError("cannot find a place for state: set HOME or XDG_STATE_HOME")
        return cls(base / "openshell", environ)

    @property
    def log_path(self) -> Path:
        return self.state / "gateway" / "gateway.log"

    def record(self) -> RunRecord | None:
        """The record of the last start, whether that process still lives or not."""
        try:
            document = json.loads((self.state / "gateway" / "run.json").read_text("utf-8"))
            return RunRecord(
                pid=int(document["pid"]),
                start_ticks=int(document["start_ticks"]),
                endpoint=str(document["endpoint"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def is_endpoint(self, endpoint: str) -> bool:
        """Whether a URL is this gateway's."""
        record = self.record()
        return record is not None and record.endpoint.rstrip("/") == endpoint.rstrip("/")

    def is_running(self) -> bool:
        record = self.record()
        return record is not None and _start_ticks(record.pid) == record.start_ticks

    def start(self) -> RunRecord:
        """Starts the gateway unless it runs, and returns when it serves.

        Two callers at once start one gateway: the second waits for the first.

        Raises:
            SandboxError: it did not come up; the message ends with what it said.
        """
        with self._start_lock():
            if not self.is_running():
                self._spawn()
            record = self.record()
        if record is None:
            raise SandboxError(
                f"the local gateway left no record of its start; see {self.log_path}"
            )
        return record

    def register_again(self, registry: Registry) -> None:
        """Makes the gateway known to a user who had removed it from the registry.

        Its certificates are still there: removing forgets the entry alone.
        """
        record = self.record()
        if record is not None and registry.get(DEFAULT_GATEWAY_NAME) is None:
            mode = "mtls" if record.endpoint.startswith("https:") else "plaintext"
            registry.save(
                GatewayRecord(DEFAULT_GATEWAY_NAME, record.endpoint, mode),
                activate=registry.active() is None,
            )

    def stop(self, *, keep_sandboxes: bool) -> bool:
        """Ends the gateway; False when none runs.

        Args:
            keep_sandboxes: True leaves the sandboxes running for the next gateway.

        Raises:
            SandboxError: it did not end in time.
        """
        record = self.record()
        if record is None or not self.is_running():
            return False
        try:
            pidfd = os.pidfd_open(record.pid)
        except ProcessLookupError:
            return False
        try:
            if _start_ticks(record.pid) != record.start_ticks:
                return False
            signal.pidfd_send_signal(pidfd, signal.SIGTERM if keep_sandboxes else signal.SIGUSR1)
            if not select.select([pidfd], [], [], STOP_TIMEOUT_SECONDS)[0]:
                raise SandboxError(
                    f"the local gateway (pid {record.pid}) did not end within "
                    f"{STOP_TIMEOUT_SECONDS:g} s; see {self.log_path}"
                )
        finally:
            os.close(pidfd)
        return True

    def _spawn(self) -> None:
        reader, writer = os.pipe()
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "openshell.gateway",
                    "--embedded",
                    "--ready-fd",
                    str(writer),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environ,
                cwd="/",
                pass_fds=(writer,),
                start_new_session=True,
            )
        finally:
            os.close(writer)
            os.close(log)
        try:
            self._wait_ready(reader)
        finally:
            os.close(reader)

    def _wait_ready(self, reader: int) -> None:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        line = b""
        while not line.endswith(b"\n"):
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not select.select([reader], [], [], remaining)[0]:
                raise SandboxError(
                    f"the local gateway did not start within {START_TIMEOUT_SECONDS:g} s; "
                    f"see {self.log_path}"
                )
            chunk = os.read(reader, 4096)
            if not chunk:
                raise SandboxError(f"the local gateway did not start: {self._last_words()}")
            line += chunk

    def _last_words(self) -> str:
        with contextlib.suppress(OSError):
            lines = self.log_path.read_text("utf-8", errors="replace").splitlines()
            told = [line for line in lines[-_LOG_TAIL_LINES:] if line.strip()]
            if told:
                return told[-1]
        return f"it gave no reason; see {self.log_path}"

    @contextlib.contextmanager
    def _start_lock(self) -> Iterator[None]:
        try:
            self.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            descriptor = os.open(
                self.log_path.parent / "start.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
        except OSError as error:
            raise SandboxError(
                f"cannot write the state directory {self.state}: {error.strerror}; "
                "set XDG_STATE_HOME to a directory of yours"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)


def _start_ticks(pid: int) -> int | None:
    """Start time of a process in clock ticks since boot; None when it is gone or a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", errors="replace")
    except OSError:
        return None
    fields = stat[stat.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])
