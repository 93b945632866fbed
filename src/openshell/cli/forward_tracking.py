"""Which forwards run in the background: a small file for each, and whether its process is still ours.

The file is a hint, the process table the truth: a number is only trusted, and only signalled, while a
process with exactly our command line has it. It is held by a descriptor meanwhile, so a number that is
used again in that moment cannot be hit.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Forward", "Forwards", "command_line"]

STOP_SECONDS = 5.0
"""A forward ends at once; after this it is killed."""

_FILE = re.compile(r"(?P<sandbox>.+)-(?P<port>[0-9]{1,5})\.pid")
_MODULE = "openshell.cli.main"


def command_line(sandbox_id: str, bind: str, port: int) -> tuple[str, ...]:
    """The words by which a background forward is known in the process table."""
    shown = f"[{bind}]" if ":" in bind else bind
    return ("forward", "start", f"{shown}:{port}", "--sandbox-id", sandbox_id)


@dataclass(frozen=True, slots=True)
class Forward:
    """One file."""

    sandbox: str
    port: int
    pid: int
    sandbox_id: str
    bind: str
    path: Path

    @property
    def is_running(self) -> bool:
        return _is_ours(self)


class Forwards:
    """The directory `forwards` below the user's configuration."""

    def __init__(self, configuration: Path) -> None:
        self._directory = configuration / "forwards"

    def list(self) -> list[Forward]:
        """By sandbox and port; files that are not ours are left out."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in self._directory.iterdir():
                forward = _read(path)
                if forward is not None:
                    found.append(forward)
        return sorted(found, key=lambda forward: (forward.sandbox, forward.port))

    def running(self, *, port: int | None = None, sandbox: str | None = None) -> Iterator[Forward]:
        for forward in self.list():
            matches = port in (None, forward.port) and sandbox in (None, forward.sandbox)
            if matches and forward.is_running:
                yield forward

    def record(self, sandbox: str, port: int, pid: int, sandbox_id: str, bind: str) -> None:
        """Raises OSError: then nothing would find the process again."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._directory / f"{sandbox}-{port}.pid"
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(f"{pid}\t{sandbox_id}\t{bind}\n", encoding="utf-8")
        os.replace(temporary, path)

    def stop(self, forward: Forward) -> bool:
        """Ends it and forgets it; False when it did not run any more."""
        stopped = _end(forward)
        forward.path.unlink(missing_ok=True)
        return stopped


def _read(path: Path) -> Forward | None:
    named = _FILE.fullmatch(path.name)
    if named is None or path.name.startswith("."):
        return None
    try:
        pid, sandbox_id, bind = path.read_text(encoding="utf-8").strip().split("\t")
        return Forward(named["sandbox"], int(named["port"]), int(pid), sandbox_id, bind, path)
    except (OSError, ValueError):
        return None


def _is_ours(forward: Forward) -> bool:
    wanted = command_line(forward.sandbox_id, forward.bind, forward.port)
    try:
        words = Path(f"/proc/{forward.pid}/cmdline").read_bytes().decode(errors="replace")
    except (OSError, OverflowError):
        return False
    argv = tuple(words.split("\0"))
    return _MODULE in argv and any(
        argv[start : start + len(wanted)] == wanted for start in range(len(argv))
    )


def _end(forward: Forward) -> bool:
    try:
        descriptor = os.pidfd_open(forward.pid)
    except (OSError, OverflowError):
        return False
    try:
        # Looked at after it was taken hold of: from here on the number cannot be another's.
        if not _is_ours(forward):
            return False
        for number in (signal.SIGTERM, signal.SIGKILL):
            signal.pidfd_send_signal(descriptor, number)
            if select.select([descriptor], [], [], STOP_SECONDS)[0]:
                return True
        return False
    except ProcessLookupError:
        return False
    finally:
        os.close(descriptor)
