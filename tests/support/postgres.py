"""A private PostgreSQL server on a Unix socket, for one test process, and databases in it.

Found in `PATH` or where Debian puts it. It refuses to run as root: there it runs as an ordinary
user. It dies with the process that started it. Nothing of it is durable: fsync is off.
"""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

__all__ = ["MISSING", "PASSWORD", "PASSWORD_USER", "PostgresServer", "find_binaries"]

MISSING = "PostgreSQL's server programs are not installed (Debian: apt-get install postgresql)"
START_SECONDS = 30
PASSWORD_USER = "locked"
"""A role that needs a password, this one; every other role is let in."""
PASSWORD = "right-hunter2"

_SETTINGS = {
    "listen_addresses": "",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "100",
    "autovacuum": "off",
    "logging_collector": "off",
}
_PR_SET_PDEATHSIG = 1


def find_binaries() -> Path | None:
    """The newest server's directory; None where there is none."""
    in_path = shutil.which("initdb")
    if in_path is not None:
        return Path(os.path.realpath(in_path)).parent
    found = glob.glob("/usr/lib/postgresql/*/bin/initdb")
    found.sort(key=lambda path: int(Path(path).parts[4].split(".")[0]))
    return Path(found[-1]).parent if found else None


def _ordinary_user() -> dict[str, Any]:
    """Arguments of `Popen` under which the server consents to run."""
    if os.getuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise RuntimeError("there is no ordinary user to run PostgreSQL as")


class PostgresServer:
    """Starts on entry, is gone with all its files on exit."""

    def __init__(self, binaries: Path, *, port: int | None = None) -> None:
        """With `port` it also listens there, on loopback, for those who know the password."""
        self._binaries = binaries
        self._port = port
        self._as: dict[str, Any] = _ordinary_user()
        # Short: the socket's path has to fit into 107 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._environ = {"PATH": f"{binaries}:/usr/bin:/bin", "LC_ALL": "C.UTF-8"}

    def __enter__(self) -> Self:
        try:
            if self._as:
                os.chown(self.directory, self._as["user"], self._as["group"])
            self._initialise()
            self.start()
            self.execute(f"CREATE ROLE {PASSWORD_USER} SUPERUSER LOGIN PASSWORD '{PASSWORD}'")
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _initialise(self) -> None:
        arguments = ["-D", "data", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"]
        made = subprocess.run(
            [self._binaries / "initdb", *arguments, "--no-instructions"],
            cwd=self.directory,
            env=self._environ,
            capture_output=True,
            text=True,
            check=False,
            **self._as,
        )
        assert made.returncode == 0, made.stderr
        rules = f"local all {PASSWORD_USER} scram-sha-256\nlocal all all trust\n"
        rules += "host all all 127.0.0.1/32 scram-sha-256\n"
        (self.directory / "data/pg_hba.conf").write_text(rules)

    def start(self) -> None:
        """Also after `stop`, on the same data."""
        settings = dict(_SETTINGS)
        if self._port is not None:
            settings |= {"listen_addresses": "127.0.0.1", "port": str(self._port)}
        options = [f"-c{name}={value}" for name, value in settings.items()]
        with open(self.directory / "log", "ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", "data", "-k", self.directory, *options],
                cwd=self.directory,
                env=self._environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=_die_with_parent(),
                **self._as,
            )
        deadline = time.monotonic() + START_SECONDS
        while True:
            with contextlib.suppress(Exception):
                self.execute("SELECT 1")
                return
            assert self._process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not start"
            time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGQUIT) -> None:
        """At once, connections break in the middle of whatever they do; SIGINT keeps what was written."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(START_SECONDS)

    def execute(self, statement: str, database: str = "postgres") -> list[Any]:
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def url(self, database: str, *, user: str = "postgres", password: str = "") -> str:
        secret = f":{quote(password, safe='')}" if password else ""
        host = quote(str(self.directory), safe="")
        port = "" if self._port is None else f"&port={self._port}"
        return f"postgresql://{user}{secret}@/{database}?host={host}{port}"

    @contextlib.contextmanager
    def database(self) -> Any:
        """The URL of an empty database, which is dropped afterwards."""
        name = f"t{uuid.uuid4().hex}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.url(name)
        finally:
            if self._process is not None:
                self.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _die_with_parent() -> Callable[[], None]:
    libc = ctypes.CDLL(None)
    parent = os.getpid()

    def set_signal() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGQUIT)
        if os.getppid() != parent:
            os._exit(1)

    return set_signal
