"""Where the local driver keeps what: names of files and directories, nothing else.

Every path of the state directory is made here, so that the layout can be read in one place. The
state directory is the driver's own (`<state root>/local`); the gateway puts its socket for local
supervisors into the same directory, by `socket_path`.
"""

import hashlib
import os
import re
from dataclasses import dataclass

__all__ = ["SandboxPaths", "StateDirError", "StatePaths", "secure_directory", "socket_path"]

# sun_path holds 108 bytes with the closing zero (unix(7)).
_MAX_SOCKET_PATH = 107

_SANDBOX_ID = re.compile(r"[A-Za-z0-9._-]{1,128}\Z")


class StateDirError(Exception):
    """The state directory cannot be used; one sentence says what to do."""


@dataclass(frozen=True, slots=True)
class SandboxPaths:
    """The files of one sandbox."""

    root: str

    @property
    def plan(self) -> str:
        """What the supervisor starts from."""
        return f"{self.root}/plan.json"

    @property
    def config(self) -> str:
        """The configuration it starts with, before it can fetch one."""
        return f"{self.root}/config.pb"

    @property
    def token(self) -> str:
        """The supervisor's bearer token, 0600."""
        return f"{self.root}/token"

    @property
    def process(self) -> str:
        """The supervisor's pid, start time and boot; written by the supervisor itself."""
        return f"{self.root}/pid.json"

    @property
    def isolation(self) -> str:
        """What exists outside the supervisor: first process, cgroups."""
        return f"{self.root}/isolation.json"

    @property
    def failure(self) -> str:
        """Why the last start failed, written before the supervisor ended."""
        return f"{self.root}/failure.json"

    @property
    def stopped(self) -> str:
        """Marker: stopped on request, not ended by itself."""
        return f"{self.root}/stopped"

    @property
    def exited(self) -> str:
        """Marker: the main process ended by itself; it is not silently run again."""
        return f"{self.root}/main-process-exited"

    @property
    def workspace(self) -> str:
        """The agent's persistent directory, /sandbox inside."""
        return f"{self.root}/workspace"

    @property
    def snapshots(self) -> str:
        """Copies of the workspace, one directory each; they go with the sandbox."""
        return f"{self.root}/snapshots"

    def snapshot(self, snapshot_id: str) -> str:
        """One of them; raises ValueError when the id could leave the directory."""
        if not _SANDBOX_ID.match(snapshot_id) or snapshot_id in {".", ".."}:
            raise ValueError("a snapshot id has 1 to 128 characters out of A-Z a-z 0-9 . _ -")
        return f"{self.snapshots}/{snapshot_id}"

    @property
    def events(self) -> str:
        """Directory of the security log as lines of JSON, for as long as a setting asks for it."""
        return f"{self.root}/events"

    @property
    def log(self) -> str:
        """What the supervisor wrote to its standard error."""
        return f"{self.root}/supervisor.log"


@dataclass(frozen=True, slots=True)
class StatePaths:
    """The files of one state directory."""

    root: str

    @property
    def lock(self) -> str:
        return f"{self.root}/lock"

    @property
    def zygote_lock(self) -> str:
        return f"{self.root}/zygote.lock"

    @property
    def zygote_socket(self) -> str:
        return socket_path(self.root, "zygote.sock")

    @property
    def zygote_log(self) -> str:
        return f"{self.root}/zygote.log"

    @property
    def sandboxes(self) -> str:
        return f"{self.root}/sandboxes"

    @property
    def trash(self) -> str:
        """Sandboxes that are being removed; emptied at every start."""
        return f"{self.root}/trash"

    def sandbox(self, sandbox_id: str) -> SandboxPaths:
        """The paths of one sandbox; raises ValueError when the id could leave the directory."""
        if not _SANDBOX_ID.match(sandbox_id) or sandbox_id in {".", ".."}:
            raise ValueError("a sandbox id has 1 to 128 characters out of A-Z a-z 0-9 . _ -")
        return SandboxPaths(f"{self.sandboxes}/{sandbox_id}")


def secure_directory(path: str) -> None:
    """Make a directory that only this user can enter; refuse one that belongs to someone else."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise StateDirError(f"cannot use {path}: {error.strerror}") from error
    try:
        status = os.fstat(fd)
        if status.st_uid != os.getuid():
            raise StateDirError(f"{path} belongs to uid {status.st_uid}: choose another directory")
        if status.st_mode & 0o077:
            os.fchmod(fd, 0o700)
    finally:
        os.close(fd)


def socket_path(state_dir: str, name: str) -> str:
    """Where a Unix socket of this state directory lives; the directory exists afterwards.

    A path that the kernel's limit would cut moves to a private directory in /tmp, whose name is
    made from the path, so that both ends find it.
    """
    direct = os.path.join(state_dir, name)
    if len(os.fsencode(direct)) <= _MAX_SOCKET_PATH:
        return direct
    digest = hashlib.sha256(os.fsencode(os.path.abspath(state_dir))).hexdigest()[:16]
    private = f"/tmp/openshell-{os.getuid()}-{digest}"  # noqa: S108 - owner and mode are checked
    secure_directory(private)
    return os.path.join(private, name)
