"""Notices between the gateways on one database: what one publishes wakes the waiting of the others.

A notice carries no state and nothing depends on its arrival: it makes the other side read the store
again a little sooner than its own poll would. So every failure here is logged and forgotten. Notices
are gathered for a moment, one for each thing. How they travel is the channel's affair: datagrams
between processes of one machine for SQLite, NOTIFY for PostgreSQL.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from openshell.gateway.config import Database
from openshell.gateway.events import CONFIG, LOGS, SANDBOX, Bus
from openshell.gateway.peer_datagrams import DatagramChannel
from openshell.gateway.tasks import Tasks

__all__ = ["Channel", "Peers", "make_channel"]

GATHER_SECONDS: Final = 0.005
"""Notices of one moment travel together; small beside the 50 ms that a policy may take."""
PENDING_MAX: Final = 10_000
"""Things to tell at a time. More are dropped: everybody finds out by polling."""
MESSAGE_BYTES: Final = 7_000
"""PostgreSQL takes 8,000 in one notice."""
WORD_MAX: Final = 512
"""Bytes of a key or a reason: a UUID, a few words."""

_TOPICS: Final = frozenset({CONFIG, SANDBOX, LOGS})

_log = logging.getLogger(__name__)


class Channel(Protocol):
    """Carries messages to every other gateway on the database, as well as it can."""

    async def open(self, receive: Callable[[bytes], None], tasks: Tasks) -> None: ...

    async def send(self, message: bytes) -> None:
        """Never raises for what happens on the way."""
        ...

    async def close(self) -> None: ...


class _Message(msgspec.Struct):
    sender: str
    notices: list[tuple[str, str, str]]
    """Topic, key, reason."""


def make_channel(database: Database, own_id: str) -> Channel:
    if not database.url:
        return DatagramChannel(f"{database.path}-peers", own_id)
    # Only now: psycopg is an extra, and most gateways never need it.
    from openshell.gateway.peer_notify import NotifyChannel  # noqa: PLC0415

    return NotifyChannel(database.url)


class Peers:
    """Joins one gateway's bus to those of the others. Used on the event loop's thread."""

    def __init__(self, bus: Bus, channel: Channel, tasks: Tasks, *, own_id: str) -> None:
        self._bus = bus
        self._channel = channel
        self._tasks = tasks
        self._own_id = own_id
        self._pending: dict[tuple[str, str], list[str]] = {}
        self._telling = False

    async def open(self) -> None:
        try:
            await self._channel.open(self._receive, self._tasks)
        except OSError as error:
            _log.warning("other gateways on this database are not heard at once: %s", error)
            return
        self._bus.forward(self._gather)

    async def close(self) -> None:
        await self._channel.close()

    def _gather(self, topic: str, key: str, value: object) -> None:
        if topic not in _TOPICS:
            return
        reasons = self._pending.get((topic, key))
        if reasons is None:
            if len(self._pending) >= PENDING_MAX:
                return
            reasons = self._pending[topic, key] = []
        if value is not None and str(value) not in reasons:
            reasons.append(str(value))
        if not self._telling:
            self._telling = True
            self._tasks.spawn("tell other gateways", self._tell())

    async def _tell(self) -> None:
        try:
            while self._pending:
                await asyncio.sleep(GATHER_SECONDS)
                pending, self._pending = self._pending, {}
                for message in self._messages(pending):
                    await self._channel.send(message)
        finally:
            self._telling = False

    def _messages(self, pending: dict[tuple[str, str], list[str]]) -> Iterator[bytes]:
        notices: list[tuple[str, str, str]] = []
        size = 0
        for (topic, key), reasons in pending.items():
            notice = (topic, key, ",".join(reasons))
            length = len(msgspec.json.encode(notice)) + 1
            if length > 2 * WORD_MAX:
                continue
            if size + length > MESSAGE_BYTES - WORD_MAX:
                yield self._encode(notices)
                notices, size = [], 0
            notices.append(notice)
            size += length
        if notices:
            yield self._encode(notices)

    def _encode(self, notices: list[tuple[str, str, str]]) -> bytes:
        return msgspec.json.encode(_Message(self._own_id, notices))

    def _receive(self, data: bytes) -> None:
        try:
            message = msgspec.json.decode(data, type=_Message)
        except (msgspec.DecodeError, UnicodeDecodeError):
            _log.debug("a notice that is none was dropped")
            return
        if message.sender == self._own_id:
            return
        for topic, key, reason in message.notices:
            if topic in _TOPICS and len(key) <= WORD_MAX and len(reason) <= WORD_MAX:
                self._bus.deliver(topic, key, reason if topic == CONFIG else None)
