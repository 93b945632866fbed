"""The caller's own tools: which directories of a hidden home become visible inside.

The CLI sends the directories on its PATH; those under a home are hidden in a sandbox, so what the
user can run would be missing. This module decides what is exposed: the install prefix of such a
directory, and the prefixes that its links and interpreter lines lead to; never a whole home, never
a directory of someone else. Everything is mounted read-only at the same path by the supervisor.

It also finds files that look like credentials below what is exposed, so that the supervisor can
cover them: Landlock cannot subtract. It only decides and reports; called by the driver, on a thread.
"""

import glob
import os
import re
import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from openshell.drivers.launch import Exposure
from openshell.drivers.local.credential_files import (
    CREDENTIAL_DIRECTORIES,
    CredentialFinder,
    TooManyFiles,
)

__all__ = ["Homes", "expose", "expose_again"]

# Visible inside anyway: the read-only system directories of the host view.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc")
# Never exposed, whoever asks: the kernel's file systems, runtime sockets, and what the sandbox has
# private ones of.
_NEVER = ("/proc", "/sys", "/dev", "/run", "/var/run", "/boot", "/sandbox", "/lost+found")

# A bin directory with more entries than this is not followed any further; 20 times a large one.
_MAX_ENTRIES = 20_000
# Links followed for one entry, as the kernel does (path_resolution(7)).
_MAX_HOPS = 40
# Scripts of one directory whose interpreter line is read.
_MAX_SCRIPTS = 1_000
_MAX_SHEBANG = 256

# What an install prefix has beside its bin directory.
_PREFIX_MARKS = ("lib", "lib64", "libexec", "include", "pyvenv.cfg", "conda-meta", "versions")
_BIN_NAMES = frozenset({"bin", "sbin", "shims"})
# Shared by many programs and by the user's own data: their bin is exposed, they are not.
_SHARED = (".local", ".config", ".cache", ".var", "go", "snap", "Library", "Documents")
# Where a tool keeps the rest of itself, for tools whose files lie in two places.
_COMPANIONS = {".cargo/bin": (".rustup/toolchains", ".rustup/settings.toml"), ".local/bin": ()}
# A directory that holds one of these is somebody's home, whatever it is called.
_HOME_MARKS = (".ssh", ".gnupg", ".bash_history", ".zsh_history", ".aws", ".kube", ".docker")
_INTERPRETER = re.compile(
    r"(python|pypy|node|ruby|perl|bun|deno|java|php|lua|guile|julia)[0-9.]*t?\Z"
)
# Where an exposed directory has its programs; the last is how version managers keep several.
_PROGRAM_DIRECTORIES = (".", "bin", "versions/*/bin", "versions/*/*/bin")


@dataclass(frozen=True, slots=True)
class Homes:
    """Whose files these are and which directories are homes."""

    uid: int
    directories: tuple[str, ...]
    # What is ours: state of gateways, keys and registrations of the command line.
    private: tuple[str, ...] = ()

    def is_home_or_above(self, path: str) -> bool:
        """Exposing this would expose a home."""
        return any(
            home == path or home.startswith(path.rstrip("/") + "/") for home in self.directories
        )

    def relative(self, path: str) -> str | None:
        """The path from the home it lies in."""
        for home in self.directories:
            if path.startswith(home + "/"):
                return path[len(home) + 1 :]
        return None


@dataclass(slots=True)
class _Plan:
    homes: Homes
    paths: dict[str, None] = field(default_factory=dict)
    search: dict[str, None] = field(default_factory=dict)
    skipped: list[tuple[str, str]] = field(default_factory=list)
    followed: set[str] = field(default_factory=set)

    def visible(self, path: str) -> bool:
        return _under(path, _SYSTEM) or _under(path, self.paths)

    def add(self, path: str) -> bool:
        """Expose a path; False when it must not be."""
        if self.visible(path):
            return True
        reason = _refusal(path, self.homes)
        if reason:
            self.skipped.append((path, reason))
            return False
        for inner in [known for known in self.paths if _under(known, (path,))]:
            del self.paths[inner]
        self.paths[path] = None
        return True


def expose(
    tool_dirs: Sequence[str], host_paths: Sequence[str], homes: Homes, finder: CredentialFinder
) -> Exposure:
    """Decide what becomes visible for PATH directories and for paths asked for by name."""
    plan = _Plan(homes)
    for path in host_paths:
        real = os.path.realpath(path)
        if plan.add(real) and real != os.path.normpath(path):
            plan.add(os.path.normpath(path))
    for directory in tool_dirs:
        _add_tool_directory(os.path.normpath(directory), plan)
    masked = _mask(plan, finder)
    return Exposure(
        paths=tuple(plan.paths),
        masked=masked,
        search_path=tuple(path for path in plan.search if plan.visible(path)),
        interpreters=_interpreters(plan),
        skipped=tuple(dict.fromkeys(plan.skipped)),
    )


def expose_again(exposure: Exposure, homes: Homes, finder: CredentialFinder) -> Exposure:
    """Judge what was decided earlier by what is there now; nothing is added."""
    plan = _Plan(homes, skipped=list(exposure.skipped))
    for path in exposure.paths:
        # Both names: a link may lead somewhere else by now, and what is mounted is its target.
        if plan.add(path) and not plan.visible(real := os.path.realpath(path)):
            reason = _refusal(real, homes)
            if reason:
                del plan.paths[path]
                plan.skipped.append((path, reason))
    masked = _mask(plan, finder)
    return Exposure(
        paths=tuple(plan.paths),
        masked=masked,
        search_path=tuple(path for path in exposure.search_path if plan.visible(path)),
        interpreters=tuple(path for path in exposure.interpreters if plan.visible(path)),
        skipped=tuple(dict.fromkeys(plan.skipped)),
    )


def _add_tool_directory(directory: str, plan: _Plan) -> None:
    if not os.path.isabs(directory) or not os.path.isdir(directory):
        return
    if _under(directory, _SYSTEM):
        return
    real = os.path.realpath(directory)
    if not plan.add(_prefix_of(real, plan.homes)):
        return
    if real != directory and not _under(real, _SYSTEM) and not plan.add(directory):
        return
    plan.search[directory] = None
    _add_companions(directory, plan)
    _follow_entries(real, plan)


def _add_companions(directory: str, plan: _Plan) -> None:
    """The rest of a tool that is known to keep it elsewhere."""
    relative = plan.homes.relative(directory)
    if relative is None:
        return
    home = directory[: -len(relative) - 1]
    for companion in _COMPANIONS.get(relative, ()):
        path = os.path.join(home, companion)
        if os.path.exists(path):
            plan.add(path)
    if relative == ".local/bin":
        # Where `pip install --user` puts what its scripts import.
        library = os.path.join(home, ".local/lib")
        for name in _list(library):
            if name.startswith("python"):
                plan.add(os.path.join(library, name))


def _follow_entries(directory: str, plan: _Plan) -> None:
    """Expose what the entries of a bin directory need to run."""
    if directory in plan.followed:
        return
    plan.followed.add(directory)
    scripts = 0
    for name in _list(directory)[:_MAX_ENTRIES]:
        path = os.path.join(directory, name)
        try:
            status = os.lstat(path)
        except OSError:
            continue
        if stat.S_ISLNK(status.st_mode):
            _follow_link(path, plan)
        if stat.S_ISREG(status.st_mode) and status.st_mode & 0o111 and scripts < _MAX_SCRIPTS:
            scripts += 1
            interpreter = _shebang(path)
            if interpreter and not _under(interpreter, _SYSTEM):
                _expose_program(interpreter, plan)


def _follow_link(path: str, plan: _Plan) -> None:
    """Expose every step of a chain of links."""
    for _ in range(_MAX_HOPS):
        try:
            target = os.readlink(path)
        except OSError:
            return
        # Directories on the way may be links too: each hop must exist under its resolved name.
        joined = os.path.join(os.path.dirname(path), target)
        path = os.path.join(os.path.realpath(os.path.dirname(joined)), os.path.basename(joined))
        if not os.path.lexists(path):
            return
        if not plan.visible(path):
            plan.add(_prefix_of(os.path.dirname(path), plan.homes, path))


def _expose_program(path: str, plan: _Plan) -> None:
    """An interpreter outside the system: its directory, then where its links lead."""
    if not os.path.lexists(path):
        return
    if not plan.visible(path):
        plan.add(_prefix_of(os.path.dirname(path), plan.homes, path))
    if os.path.islink(path):
        _follow_link(path, plan)


def _prefix_of(directory: str, homes: Homes, program: str = "") -> str:
    """What to expose so that a program of this directory works; at least the directory.

    A program that lies in a home itself is exposed as a single file.
    """
    if program and homes.is_home_or_above(directory):
        return program
    parts = directory.split("/")
    if "node_modules" in parts:
        # The packages of one tree need each other.
        return "/".join(parts[: parts.index("node_modules") + 1])
    parent = os.path.dirname(directory)
    if os.path.basename(directory) not in _BIN_NAMES or not _is_prefix(parent, homes):
        return directory
    return parent


def _is_prefix(path: str, homes: Homes) -> bool:
    if path == "/" or homes.is_home_or_above(path) or homes.relative(path) in _SHARED:
        return False
    if any(os.path.lexists(os.path.join(path, mark)) for mark in _HOME_MARKS):
        return False
    # Credentials of cargo lie beside its bin directory, and nothing there is needed to run.
    if homes.relative(path) == ".cargo":
        return False
    return any(os.path.lexists(os.path.join(path, mark)) for mark in _PREFIX_MARKS)


def _refusal(path: str, homes: Homes) -> str:
    """Why a path is not exposed; empty when it may be."""
    if homes.is_home_or_above(path):
        return "a whole home is never exposed"
    if path == "/" or _under(path, _NEVER):
        return "this path is private in every sandbox"
    if _under(path, homes.private) or any(_under(own, (path,)) for own in homes.private):
        return "it holds OpenShell's own state"
    if not CREDENTIAL_DIRECTORIES.isdisjoint(path.split("/")):
        return "it is a place for credentials"
    try:
        status = os.stat(path)
    except OSError as error:
        return error.strerror or "it cannot be read"
    if status.st_uid not in {0, homes.uid}:
        return "it belongs to another user"
    if status.st_mode & stat.S_IWOTH:
        return "everybody may write to it"
    if not stat.S_ISDIR(status.st_mode) and not stat.S_ISREG(status.st_mode):
        return "it is neither a directory nor a file"
    if stat.S_ISDIR(status.st_mode) and any(
        os.path.lexists(os.path.join(path, mark)) for mark in _HOME_MARKS
    ):
        return "it looks like a home"
    return ""


def _mask(plan: _Plan, finder: CredentialFinder) -> tuple[str, ...]:
    """Find what looks like a credential; what cannot be checked is not exposed."""
    masked: list[str] = []
    for path in tuple(plan.paths):
        try:
            masked.extend(finder.find(path))
        except TooManyFiles:
            del plan.paths[path]
            plan.skipped.append((path, "it has too many files to look for credentials in"))
    return tuple(masked)


def _interpreters(plan: _Plan) -> tuple[str, ...]:
    """The kernel's names of the interpreters: resolved, and programs rather than scripts."""
    found: dict[str, None] = {}
    for exposed in plan.paths:
        for pattern in _PROGRAM_DIRECTORIES:
            for directory in sorted(glob.glob(pattern, root_dir=exposed)):
                where = os.path.join(exposed, directory)
                for name in _list(where)[:_MAX_ENTRIES]:
                    if _INTERPRETER.match(name):
                        real = os.path.realpath(os.path.join(where, name))
                        if _head(real, 4) == b"\x7fELF" and plan.visible(real):
                            found[real] = None
    return tuple(found)


def _under(path: str, roots: Iterable[str]) -> bool:
    return any(path == root or path.startswith(root + "/") for root in roots)


def _list(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _shebang(path: str) -> str:
    """The interpreter that a script names; empty for anything else."""
    head = _head(path, _MAX_SHEBANG)
    if not head.startswith(b"#!"):
        return ""
    words = head[2:].split(b"\n", 1)[0].split()
    return os.fsdecode(words[0]) if words and words[0].startswith(b"/") else ""


def _head(path: str, size: int) -> bytes:
    """The first bytes of a file; empty when it cannot be read."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except OSError:
        return b""
    try:
        return os.read(fd, size)
    except OSError:
        return b""
    finally:
        os.close(fd)
