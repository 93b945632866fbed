"""Relays: streams that a supervisor opens at our request, handed to whoever asked.

Opening registers a channel and asks the supervisor for it; claiming hands the supervisor's stream
itself to the requester, who reads and writes it directly, so back-pressure is HTTP/2's own and no
byte is queued here. The number of unclaimed channels is bounded. The RPC that claims is in
`services/session.py`, requesters are exec and attach.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import grpc.aio

from openshell._proto import openshell_pb2
from openshell.gateway.errors import (
    ApiError,
    deadline_exceeded,
    internal,
    not_found,
    permission_denied,
    unavailable,
)
from openshell.gateway.sessions import EXT_HALF_CLOSE, Session, SessionClosed, Sessions

__all__ = [
    "CLAIM_SECONDS",
    "SESSION_WAIT_SECONDS",
    "Relay",
    "RelayBroken",
    "Relays",
    "Stream",
]

SESSION_WAIT_SECONDS = 15.0
"""How long a request waits for a supervisor that is not connected, for example reconnecting."""
CLAIM_SECONDS = 10.0
"""From asking the supervisor to its stream: it dials nothing for this, it only opens a stream."""
KEPT_SECONDS = 30.0
"""An expired channel is remembered this long, so that a late claim hears why."""
UNCLAIMED_MAX = 256
"""Channels waiting for their supervisor in the whole process."""
UNCLAIMED_PER_SANDBOX_MAX = 32
"""The same for one sandbox: one that hangs must not use up all of them. Others wait for a turn."""
TURNS_PER_SANDBOX_MAX = 512
"""Requests for one sandbox that have or await a turn; a healthy supervisor serves them in a second."""

_log = logging.getLogger(__name__)

_EOF = grpc.aio.EOF  # type: ignore[attr-defined]  # missing in the stubs


class Stream(Protocol):
    """The part of a gRPC context that a relay uses."""

    async def read(self) -> Any: ...

    async def write(self, message: Any) -> None: ...


class RelayBroken(Exception):
    """The supervisor's stream ended before its time."""


class Relay:
    """A claimed channel. One reader and one writer at a time; close or abort it in the end."""

    def __init__(self, channel_id: str, stream: Stream, *, half_close: bool = False) -> None:
        self.channel_id = channel_id
        self._half_close = half_close
        self._said_end = False
        # None: ended as it should; else why it was cut.
        self.ended: asyncio.Future[str | None] = asyncio.get_running_loop().create_future()
        self._stream = stream

    async def read(self) -> bytes | None:
        """The next payload; None when the supervisor has sent its last."""
        while True:
            if self.ended.done():
                raise RelayBroken
            try:
                frame = await self._stream.read()
            except asyncio.CancelledError:
                raise
            except Exception as error:
                # grpc tells a dead stream by several types, none of them documented.
                raise RelayBroken from error
            if frame is _EOF or frame.WhichOneof("payload") != "data":
                # A second init ends this direction.
                self._said_end = frame is not _EOF and frame.end
                return None
            data: bytes = frame.data
            if data:
                return data

    @property
    def was_cut(self) -> bool:
        """After the last payload of a connection: it did not end, it broke. Older peers cannot say."""
        return self._half_close and not self._said_end

    async def write(self, data: bytes) -> None:
        await self._send(openshell_pb2.RelayFrame(data=data))

    async def write_end(self) -> None:
        """No more is written; an older supervisor learns of it when the relay closes."""
        if self._half_close:
            await self._send(openshell_pb2.RelayFrame(end=True))

    async def _send(self, frame: openshell_pb2.RelayFrame) -> None:
        if self.ended.done():
            raise RelayBroken
        try:
            await self._stream.write(frame)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            raise RelayBroken from error

    def close(self) -> None:
        """All was said: the supervisor's stream ends with OK."""
        if not self.ended.done():
            self.ended.set_result(None)

    def abort(self, reason: str) -> None:
        """The requester is gone: the supervisor's stream fails, and it ends what it started."""
        if not self.ended.done():
            self.ended.set_result(reason)


class _Channel:
    """An asked-for stream that the supervisor has not opened yet."""

    def __init__(self, sandbox_id: str, request: openshell_pb2.RelayOpen, now: float) -> None:
        self.sandbox_id = sandbox_id
        self.request = request
        self.opened_at = now
        self.claimed: asyncio.Future[Relay] = asyncio.get_running_loop().create_future()

    def give_up(self) -> None:
        """The requester left, perhaps in the moment of the claim."""
        if self.claimed.cancel() or self.claimed.cancelled():
            return
        if self.claimed.exception() is None:
            self.claimed.result().abort("nobody waits for this relay any more")


class _Turns:
    """Who may ask one sandbox's supervisor at a time."""

    def __init__(self) -> None:
        self.users = 0
        self.free = asyncio.Semaphore(UNCLAIMED_PER_SANDBOX_MAX)


class Relays:
    """The broker between requesters and supervisors."""

    def __init__(self, sessions: Sessions, new_id: Callable[[], str]) -> None:
        self._sessions = sessions
        self._new_id = new_id
        self._channels: dict[str, _Channel] = {}
        self._turns: dict[str, _Turns] = {}

    def __repr__(self) -> str:
        return f"Relays({len(self._channels)} unclaimed)"

    async def open(
        self,
        sandbox_id: str,
        target: openshell_pb2.RelayOpen,
        *,
        extension: str | None = None,
        wait_seconds: float = SESSION_WAIT_SECONDS,
    ) -> Relay:
        """Asks the sandbox's supervisor for a stream to `target` and waits for it.

        Whatever goes wrong is UNAVAILABLE to the client; only a missed deadline is told apart.
        """
        session = await self._sessions.wait(sandbox_id, wait_seconds)
        if session is None:
            raise _failed("the supervisor's session is not connected")
        if extension is not None and extension not in session.extensions:
            raise _failed(f"this sandbox's supervisor does not offer '{extension}'; recreate it")
        async with self._turn(sandbox_id):
            return await self._ask(session, self._register(sandbox_id, target))

    @contextlib.asynccontextmanager
    async def _turn(self, sandbox_id: str) -> AsyncIterator[None]:
        """Lets so many ask at a time; the others wait as long as the first may."""
        turns = self._turns.setdefault(sandbox_id, _Turns())
        if turns.users >= TURNS_PER_SANDBOX_MAX:
            raise _failed("too many relays are waiting for this sandbox")
        turns.users += 1
        try:
            try:
                async with asyncio.timeout(CLAIM_SECONDS):
                    await turns.free.acquire()
            except TimeoutError as error:
                raise _failed("too many relays are waiting for this sandbox") from error
            try:
                yield
            finally:
                turns.free.release()
        finally:
            turns.users -= 1
            if not turns.users:
                del self._turns[sandbox_id]

    async def _ask(self, session: Session, channel: _Channel) -> Relay:
        try:
            await session.send(openshell_pb2.GatewayMessage(relay_open=channel.request))
            async with asyncio.timeout(CLAIM_SECONDS):
                return await channel.claimed
        except SessionClosed as error:
            self._channels.pop(channel.request.channel_id, None)
            raise _failed("the supervisor's session ended") from error
        except TimeoutError as error:
            channel.give_up()
            raise deadline_exceeded("relay open timed out; the sandbox does not answer") from error
        except BaseException:
            channel.give_up()
            raise

    def _register(self, sandbox_id: str, target: openshell_pb2.RelayOpen) -> _Channel:
        now = asyncio.get_running_loop().time()
        self._sweep(now)
        waiting = sum(not channel.claimed.done() for channel in self._channels.values())
        if waiting >= UNCLAIMED_MAX:
            raise _failed("too many relays are waiting for their supervisors")
        target.channel_id = self._new_id()
        channel = _Channel(sandbox_id, target, now)
        self._channels[target.channel_id] = channel
        return channel

    def _sweep(self, now: float) -> None:
        # In the order of opening, so the old ones come first.
        for channel_id, channel in list(self._channels.items()):
            if now - channel.opened_at <= KEPT_SECONDS:
                break
            del self._channels[channel_id]

    def claim(self, channel_id: str, sandbox_id: str, stream: Stream) -> Relay:
        """Hands a supervisor's stream to the requester. A channel is used once."""
        channel = self._channels.get(channel_id)
        if channel is None:
            raise not_found("no such relay channel; it may have been used already")
        if channel.sandbox_id != sandbox_id:
            # Not consumed: its owner may still come.
            raise permission_denied("the relay channel belongs to another sandbox")
        del self._channels[channel_id]
        if asyncio.get_running_loop().time() - channel.opened_at > CLAIM_SECONDS:
            raise deadline_exceeded("the relay channel has expired")
        if channel.claimed.done():
            raise internal("nobody waits for this relay channel any more")
        session = self._sessions.get(sandbox_id)
        half_close = session is not None and EXT_HALF_CLOSE in session.extensions
        relay = Relay(channel_id, stream, half_close=half_close)
        channel.claimed.set_result(relay)
        return relay

    def refused(self, sandbox_id: str, result: openshell_pb2.RelayOpenResult) -> None:
        """The supervisor could not open its end. Success needs no action: the claim says it."""
        channel = self._channels.get(result.channel_id)
        if result.success or channel is None or channel.sandbox_id != sandbox_id:
            return
        del self._channels[result.channel_id]
        if not channel.claimed.done():
            reason = result.error or "the supervisor refused without a reason"
            channel.claimed.set_exception(_failed(reason))

    async def resend(self, session: Session) -> None:
        """A newer session took over: it gets what the older one may not have seen."""
        for channel in list(self._channels.values()):
            if channel.sandbox_id == session.sandbox_id and not channel.claimed.done():
                with contextlib.suppress(SessionClosed):
                    await session.send(openshell_pb2.GatewayMessage(relay_open=channel.request))

    def fail_sandbox(self, sandbox_id: str, reason: str) -> None:
        """The session is over and no other took its place."""
        for channel_id, channel in list(self._channels.items()):
            if channel.sandbox_id == sandbox_id:
                del self._channels[channel_id]
                if not channel.claimed.done():
                    channel.claimed.set_exception(_failed(reason))


def _failed(reason: str) -> ApiError:
    return unavailable(f"supervisor relay failed: {reason}")
