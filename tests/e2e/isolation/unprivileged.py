"""Run a command as an ordinary user, although the tests run as root.

The command is started under an unused uid in a private mount namespace in which the interpreter,
the virtual environment and the sources can be reached, wherever they lie (often below a 0700
home). Nothing of that is visible outside the started process. Where the tests already run as an
ordinary user the command is simply run.

    result = run_unprivileged([sys.executable, "script.py"], timeout=30)
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import stat
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

# Unused on every distribution: below the overflow id, above all allocations.
ORDINARY_UID = 65533

_CLONE_NEWNS = 0x20000
_MS_REC, _MS_PRIVATE, _MS_BIND = 0x4000, 0x40000, 0x1000


def is_root() -> bool:
    return os.geteuid() == 0


def ordinary_uid() -> int:
    """The uid that `unprivileged_command` runs under."""
    return ORDINARY_UID if is_root() else os.geteuid()


def needed_paths() -> list[str]:
    """Directories that a Python process of this environment must be able to read."""
    import openshell

    paths = {
        os.path.realpath(sys.base_prefix),
        sys.prefix,
        os.path.dirname(os.path.realpath(sys.executable)),
        os.path.dirname(os.path.realpath(openshell.__file__)),
        os.path.dirname(os.path.realpath(__file__)),
        sysconfig.get_path("purelib"),
    }
    return sorted(p for p in paths if not any(p.startswith(f"{o}/") for o in paths))


def unprivileged_command(argv: Sequence[str], *, also: Sequence[str] = ()) -> list[str]:
    """Return the command line that runs `argv` as an ordinary user; `also` are made reachable."""
    if not is_root():
        return list(argv)
    paths = [*needed_paths(), *also]
    return [sys.executable, "-I", os.path.abspath(__file__), *paths, "--", *argv]


def run_unprivileged(
    argv: Sequence[str], *, also: Sequence[str] = (), **options: Any
) -> subprocess.CompletedProcess[str]:
    options.setdefault("capture_output", True)
    options.setdefault("timeout", 60)
    return subprocess.run(unprivileged_command(argv, also=also), text=True, check=False, **options)


@contextlib.contextmanager
def ordinary_directory() -> Iterator[str]:
    """A temporary directory that the ordinary user owns and can reach."""
    path = tempfile.mkdtemp(prefix="openshell-test-", dir="/tmp")
    try:
        if is_root():
            os.chown(path, ORDINARY_UID, ORDINARY_UID)
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _first_closed(path: str) -> str | None:
    """The topmost component of `path` that others may not search."""
    current = ""
    for part in path.strip("/").split("/"):
        current += f"/{part}"
        if not os.stat(current).st_mode & stat.S_IXOTH:
            return current
    return None


def _mount(libc: Any, source: str, target: str, kind: str, flags: int, data: str) -> None:
    encoded = [value.encode() for value in (source, target, kind)]
    if libc.mount(*encoded, flags, data.encode()):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), target)


def _make_reachable(libc: Any, paths: Sequence[str]) -> None:
    """Put a searchable tmpfs over each closed directory and bind what is needed into it."""
    closed: dict[str, list[str]] = {}
    for path in paths:
        top = _first_closed(path)
        if top is not None:
            closed.setdefault(top, []).append(path)
    for top, inside in closed.items():
        kept = [(path, os.open(path, os.O_PATH)) for path in inside]
        _mount(libc, "tmpfs", top, "tmpfs", 0, "mode=755")
        for path, descriptor in kept:
            os.makedirs(path, exist_ok=True)
            source = f"/proc/self/fd/{descriptor}"
            _mount(libc, source, path, "", _MS_BIND | _MS_REC, "")
            os.close(descriptor)
            if _first_closed(path) is not None:
                os.chmod(path, 0o755)


def main(arguments: list[str]) -> None:
    """Become the ordinary user and exec: PATH... -- COMMAND..."""
    split = arguments.index("--")
    paths, argv = arguments[:split], arguments[split + 1 :]
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(_CLONE_NEWNS):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "unshare")
    _mount(libc, "none", "/", "", _MS_REC | _MS_PRIVATE, "")
    _make_reachable(libc, paths)
    os.setgroups([])
    os.setresgid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
    os.setresuid(ORDINARY_UID, ORDINARY_UID, ORDINARY_UID)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    environment |= {"HOME": "/nonexistent", "USER": "ordinary", "LOGNAME": "ordinary"}
    os.chdir("/")
    os.execve(argv[0], argv, environment)


if __name__ == "__main__":
    main(sys.argv[1:])
