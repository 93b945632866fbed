"""Accepts connections on a listening socket, whatever state the machine is in.

Errors of `accept` are told apart: a broken socket ends the loop, exhaustion backs off and goes on
for ever, one client's bad luck is waited out shortly. What happens to an accepted connection is the
handler's affair. The loop waits while the handler says that there are too many.
"""

import asyncio
import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Final

from openshell.egress.events import EventLog
from openshell.ocsf import Severity

__all__ = ["AcceptLoop"]

_BROKEN: Final = frozenset({errno.EBADF, errno.EINVAL, errno.ENOTSOCK})
_EXHAUSTED: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.ENOSR}
)
_TRANSIENT: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EINTR,
        errno.ENETDOWN,
        errno.EPROTO,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.EHOSTDOWN,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.ENONET,
    }
)
# The contract's numbers: first pause, longest pause, and how often the unknown is tried again.
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 5.0
_UNKNOWN_TRIES: Final = 5


class AcceptLoop:
    """Hands every accepted connection to `handle`, which must not block."""

    def __init__(
        self,
        listener: socket.socket,
        handle: Callable[[socket.socket], None],
        room: Callable[[], Awaitable[None]],
        log: EventLog,
    ) -> None:
        """`room` returns when one more connection may be accepted."""
        self._listener = listener
        self._handle = handle
        self._room = room
        self._log = log

    async def run(self) -> None:
        """Accept until cancelled or until the socket is broken."""
        self._listener.setblocking(False)
        loop = asyncio.get_running_loop()
        failures = unknown = 0
        while True:
            await self._room()
            try:
                accepted, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                failures += 1
                unknown += error.errno not in _EXHAUSTED and error.errno not in _TRANSIENT
                pause = self._pause(error, failures, unknown)
                if pause is None:
                    return
                await asyncio.sleep(pause)
                continue
            failures = unknown = 0
            self._handle(accepted)

    def _pause(self, error: OSError, failures: int, unknown: int) -> float | None:
        """Say how long to wait; None ends the loop."""
        name = errno.errorcode.get(error.errno or 0, "unknown error")
        if error.errno in _BROKEN or unknown > _UNKNOWN_TRIES:
            self._log.listener(f"the listener stopped: {name}", Severity.HIGH)
            return None
        if error.errno in _TRANSIENT:
            self._log.listener(f"a connection could not be accepted: {name}", Severity.LOW)
            return _FIRST_PAUSE
        self._log.listener(f"accepting is paused: {name}", Severity.MEDIUM)
        return min(_FIRST_PAUSE * float(1 << min(failures - 1, 10)), _LONGEST_PAUSE)
