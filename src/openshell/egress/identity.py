"""Who owns a connection: from the two addresses of a socket to an executable and its ancestors.

The question goes to the kernel in the agent's network namespace (`sock_diag`, through a socket
that was opened inside), which answers with an inode; the processes of the sandbox are then searched
for descriptors of that inode. Every owner is found, not only the first: a socket that two programs
share belongs to neither. What cannot be read is refused, never guessed; the command line is told
for diagnosis and grants nothing.

Everything here is quick (microseconds to a few milliseconds) and runs on the event loop, except the
first hash of a program, which goes to a thread. Whether the identity may do anything is the
policy's affair. Called by the pipeline once for each accepted connection.
"""

import asyncio
import hashlib
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final, Protocol, TypeAlias

__all__ = [
    "Identity",
    "IdentityResolver",
    "IdentityUnknown",
    "PeerIdentifier",
    "Peers",
]

# Chains longer than this are somebody's attempt to make us walk.
_MAX_ANCESTORS: Final = 64
# Processes looked at for one connection; a sandbox with more of them is refused, not half searched.
_MAX_PROCESSES: Final = 8192
# A process may exec or exit while it is looked at; then the whole look is repeated.
_ATTEMPTS: Final = 3
# Pids that owned recent connections: they are asked first, so most searches end with them warm.
_RECENT_OWNERS: Final = 32
# Programs whose hash is remembered. Trust on first use may not be forgotten, so that table is closed
# when it is full (new programs are denied); the other one is only a cache.
_MAX_TRUSTED: Final = 65536
_MAX_HASHES: Final = 4096
_CMDLINE_BYTES: Final = 65536
_LIST_BYTES: Final = 1 << 20  # a hundred thousand process numbers, far more than a sandbox may have
_CMDLINE_PATHS: Final = 64
_HASH_CHUNK: Final = 1 << 20

_SOCK_DIAG_BY_FAMILY: Final = 20
_NLM_F_REQUEST: Final = 1
_NO_COOKIE: Final = 0xFFFFFFFF
_ANY_STATE: Final = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Peers:
    """The addresses of a connection as the client's socket has them.

    `client` is the accepted socket's peer; `server` what the client connected to: the proxy's own
    address, or the original destination of a captured connection.
    """

    client: tuple[str, int]
    server: tuple[str, int]


@dataclass(frozen=True, slots=True)
class Identity:
    """The program behind a connection. `ancestors` start at the parent and stop below init."""

    binary: str
    pid: int
    ancestors: tuple[str, ...] = ()
    cmdline: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class IdentityUnknown:
    """Why no program could be named; the connection is denied with this reason."""

    reason: str


class PeerIdentifier(Protocol):
    """What the pipeline needs of this module."""

    async def resolve(self, peers: Peers) -> Identity | IdentityUnknown: ...


_Fingerprint: TypeAlias = tuple[int, int, int, int, int]
_Mark: TypeAlias = tuple[str, _Fingerprint]


@dataclass(frozen=True, slots=True)
class _Program:
    path: str
    fingerprint: _Fingerprint
    # The link through which the running image is opened: the path may name another file by now.
    link: str


@dataclass(frozen=True, slots=True)
class _Owner:
    pid: int
    program: _Program
    ancestors: tuple[_Program, ...]
    cmdline: tuple[str, ...]

    def same_identity(self, other: "_Owner") -> bool:
        return _policy_identity(self) == _policy_identity(other)


class _Changed(Exception):
    """A process changed or vanished while it was looked at."""


class _Unreadable(Exception):
    """A process keeps its executable from us."""


class IdentityResolver:
    """Names the owners of connections made inside one sandbox."""

    def __init__(self, sock_diag: socket.socket, init_pid: int, proc_root: str = "/proc") -> None:
        self._diag = sock_diag
        self._init = init_pid
        self._proc = proc_root
        self._sequence = 0
        self._recent: dict[int, None] = {}
        self._trusted: dict[str, tuple[str, _Fingerprint]] = {}
        self._hashes: dict[_Fingerprint, str] = {}

    async def resolve(self, peers: Peers) -> Identity | IdentityUnknown:
        """Name the owner of the client's end of the connection, or say why that is impossible."""
        try:
            inode = self._inode(peers)
        except (OSError, ValueError) as error:
            return IdentityUnknown(f"the kernel does not know this connection: {error}")
        if inode == 0:
            return IdentityUnknown("the connection has no owner any more")
        outcome = IdentityUnknown("the owner of the connection changed while it was looked at")
        for _ in range(_ATTEMPTS):
            try:
                found = self._owners(inode)
                if isinstance(found, list):
                    return await self._verified(found, inode)
                # A process whose parent died during the walk may have been missed: look again.
                outcome = found
            except _Changed:
                continue
            except _Unreadable as error:
                return IdentityUnknown(str(error))
        return outcome

    def _inode(self, peers: Peers) -> int:
        source, target = ip_address(peers.client[0]), ip_address(peers.server[0])
        pair = []
        for address in (source, target):
            mapped = getattr(address, "ipv4_mapped", None)
            pair.append(mapped or address)
        if pair[0].version != pair[1].version:
            raise ValueError("the addresses are of two families")
        family = socket.AF_INET if pair[0].version == 4 else socket.AF_INET6
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        tuple_part = struct.pack("!HH", peers.client[1], peers.server[1])
        tuple_part += pair[0].packed.ljust(16, b"\0") + pair[1].packed.ljust(16, b"\0")
        body = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ANY_STATE) + tuple_part
        body += struct.pack("=III", 0, _NO_COOKIE, _NO_COOKIE)
        header = struct.pack(
            "=IHHII", 16 + len(body), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, self._sequence, 0
        )
        self._diag.send(header + body)
        while True:
            reply = self._diag.recv(8192, socket.MSG_DONTWAIT)
            _, kind, _, sequence, _ = struct.unpack_from("=IHHII", reply)
            if sequence == self._sequence:
                break
        if kind != _SOCK_DIAG_BY_FAMILY:
            code = -struct.unpack_from("=i", reply, 16)[0]
            raise OSError(code, os.strerror(code))
        # The kernel answers for the tuple that was asked; anything else is not our connection.
        if reply[20:56] not in (tuple_part, _as_mapped(tuple_part)):
            raise ValueError("the answer is about another connection")
        return int(struct.unpack_from("=I", reply, 16 + 68)[0])

    def _owners(self, inode: int) -> list[_Owner] | IdentityUnknown:
        wanted = f"socket:[{inode}]"
        holders: list[int] = []
        hidden = 0
        pids = self._processes()
        if len(pids) > _MAX_PROCESSES:
            return IdentityUnknown(f"more than {_MAX_PROCESSES} processes in the sandbox")
        for pid in pids:
            holds = self._holds(pid, wanted, inode)
            if holds:
                holders.append(pid)
            elif holds is None:
                hidden += 1
        if not holders:
            why = f"; processes that hide their descriptors: {hidden}" if hidden else ""
            return IdentityUnknown(f"no process of the sandbox holds the connection{why}")
        owners = [self._look(pid) for pid in sorted(holders)]
        for owner in owners[1:]:
            if not owner.same_identity(owners[0]):
                held = ", ".join(str(pid) for pid in sorted(holders))
                return IdentityUnknown(
                    f"ambiguous shared socket ownership: inode {inode} is held by PIDs [{held}]"
                    " with different policy identities"
                )
        for pid in holders:
            self._recent.pop(pid, None)
            self._recent[pid] = None
        while len(self._recent) > _RECENT_OWNERS:
            del self._recent[next(iter(self._recent))]
        return owners

    def _processes(self) -> list[int]:
        """List the descendants of init, recent owners of connections first."""
        seen: set[int] = {self._init}
        queue = [self._init]
        for pid in queue:
            for child in self._children(pid):
                if child not in seen:
                    seen.add(child)
                    queue.append(child)
            if len(queue) > _MAX_PROCESSES + 1:
                break
        # Init runs none of the agent's code: a socket of its own is nobody's.
        seen.discard(self._init)
        recent = [pid for pid in reversed(self._recent) if pid in seen]
        return recent + [pid for pid in queue[1:] if pid not in self._recent]

    def _children(self, pid: int) -> Iterator[int]:
        tasks = f"{self._proc}/{pid}/task"
        try:
            threads = os.listdir(tasks)
        except OSError:
            return
        for thread in threads:
            try:
                yield from map(int, _read(f"{tasks}/{thread}/children").split())
            except OSError:
                continue

    def _holds(self, pid: int, wanted: str, inode: int) -> bool | None:
        """Say whether the process holds the socket; None when it lets nobody look."""
        directory = f"{self._proc}/{pid}/fd"
        try:
            for number in os.listdir(directory):
                try:
                    if os.readlink(f"{directory}/{number}") == wanted:
                        return True
                except FileNotFoundError:
                    continue
            return False
        except PermissionError:
            # A process can close `fd` to us by making itself undumpable, but not `fdinfo`.
            return self._holds_by_info(pid, b"ino:\t%d\n" % inode)
        except OSError:
            return False

    def _holds_by_info(self, pid: int, wanted: bytes) -> bool | None:
        directory = f"{self._proc}/{pid}/fdinfo"
        try:
            numbers = os.listdir(directory)
        except PermissionError:
            return None
        except OSError:
            return False
        for number in numbers:
            try:
                if wanted in _read(f"{directory}/{number}"):
                    return True
            except PermissionError:
                return None
            except OSError:
                continue
        return False

    def _look(self, pid: int) -> _Owner:
        program = self._program(pid)
        ancestors: list[_Program] = []
        current = pid
        while True:
            current = self._parent(current)
            if current in (self._init, 0, 1):
                break
            if len(ancestors) == _MAX_ANCESTORS:
                raise _Unreadable(f"the process has more than {_MAX_ANCESTORS} ancestors")
            ancestors.append(self._program(current))
        return _Owner(pid, program, tuple(ancestors), self._cmdline(pid, program, ancestors))

    def _program(self, pid: int) -> _Program:
        link = f"{self._proc}/{pid}/exe"
        try:
            path = os.readlink(link)
            stat = os.stat(link)
        except PermissionError:
            raise _Unreadable(f"the executable of process {pid} is hidden") from None
        except OSError:
            raise _Changed from None
        if not _is_text(path):
            # No policy can name it, and nothing behind us can hold it: events, summaries, answers.
            raise _Unreadable(f"the executable of process {pid} has a path that is not UTF-8")
        if stat.st_nlink == 0:
            path = path.removesuffix(" (deleted)")
        mark = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        return _Program(path, mark, link)

    def _parent(self, pid: int) -> int:
        try:
            stat = _read(f"{self._proc}/{pid}/stat")
        except OSError:
            raise _Changed from None
        # The name in parentheses is the agent's choice and may hold anything, parentheses too.
        return int(stat[stat.rindex(b")") + 1 :].split(None, 2)[1])

    def _cmdline(self, pid: int, program: _Program, ancestors: list[_Program]) -> tuple[str, ...]:
        known = {program.path, *(ancestor.path for ancestor in ancestors)}
        try:
            words = _read(f"{self._proc}/{pid}/cmdline", _CMDLINE_BYTES).split(b"\0")
        except OSError:
            return ()
        paths = (os.fsdecode(word) for word in words if word.startswith(b"/"))
        return tuple(path for path in paths if path not in known and _is_text(path))[
            :_CMDLINE_PATHS
        ]

    async def _verified(self, owners: list[_Owner], inode: int) -> Identity | IdentityUnknown:
        owner = owners[0]
        for place, program in enumerate((owner.program, *owner.ancestors)):
            try:
                digest = await self._digest(program)
            except OSError as error:
                return IdentityUnknown(f"{program.path} cannot be read: {error.strerror}")
            if len(self._trusted) >= _MAX_TRUSTED and program.path not in self._trusted:
                return IdentityUnknown("too many different programs have used the network")
            trusted = self._trusted.setdefault(program.path, (digest, program.fingerprint))
            if trusted[0] != digest:
                prefix = (
                    f"ancestor integrity check failed for {program.path}"
                    if place
                    else "binary integrity check failed"
                )
                return IdentityUnknown(
                    f"{prefix}: Binary integrity violation: {program.path} hash changed since its"
                    " first use"
                )
        # An exec between the look and here would lend this identity to another program.
        for each in owners:
            if self._program(each.pid) != each.program or not self._holds(
                each.pid, f"socket:[{inode}]", inode
            ):
                raise _Changed
        return Identity(
            owner.program.path,
            owner.pid,
            tuple(program.path for program in owner.ancestors),
            owner.cmdline,
        )

    async def _digest(self, program: _Program) -> str:
        digest = self._hashes.get(program.fingerprint, "")
        if not digest:
            descriptor = os.open(program.link, os.O_RDONLY | os.O_CLOEXEC)
            loop = asyncio.get_running_loop()
            try:
                digest, mark = await loop.run_in_executor(None, _hash, descriptor)
            finally:
                os.close(descriptor)
            if mark != program.fingerprint:
                raise _Changed
            if len(self._hashes) >= _MAX_HASHES:
                del self._hashes[next(iter(self._hashes))]
            self._hashes[program.fingerprint] = digest
        return digest


def _as_mapped(tuple_part: bytes) -> bytes:
    """Write an IPv4 tuple as a dual-stack socket has it: an IPv6 socket that speaks IPv4."""
    mapped = bytes(10) + b"\xff\xff"
    return tuple_part[:4] + mapped + tuple_part[4:8] + mapped + tuple_part[20:24]


def _hash(descriptor: int) -> tuple[str, _Fingerprint]:
    digest = hashlib.sha256()
    offset = 0
    while chunk := os.pread(descriptor, _HASH_CHUNK, offset):
        digest.update(chunk)
        offset += len(chunk)
    stat = os.fstat(descriptor)
    mark = (stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
    return digest.hexdigest(), mark


def _policy_identity(owner: _Owner) -> tuple[_Mark, frozenset[_Mark], tuple[str, ...]]:
    """Return what a policy could tell owners apart by.

    Which programs stand above the owner counts, not how often: a process that has just forked
    shares its sockets with a child that differs in nothing but one more ancestor, itself.
    """
    chain = [(each.path, each.fingerprint) for each in (owner.program, *owner.ancestors)]
    return chain[0], frozenset(chain), owner.cmdline


def _is_text(path: str) -> bool:
    """Whether the bytes of a path are UTF-8: others come as halves of surrogate pairs."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read(path: str, most: int = _LIST_BYTES) -> bytes:
    """Read a file of /proc to its end, at most `most` bytes.

    The kernel hands lists out a page at a time: one read of `children` would leave out whoever
    stands behind a thousand siblings.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while most > 0 and (part := os.read(descriptor, most)):
            parts.append(part)
            most -= len(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)
