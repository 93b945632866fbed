"""The middleware services that a configuration names, connected; kept from one configuration to the next.

A service that answers no more, or not yet, holds up neither policy nor credentials: one that is connected
under its name stays, without any its stages fail as their attachments say, and connecting goes on beside.
Called by `config_source` before a configuration is put in force, which hears of what is connected later.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from openshell._proto import sandbox_pb2
from openshell.egress.middleware import Implementation, RegexRedaction
from openshell.policy.validate_middleware import REGEX
from openshell.supervisor.backoff import Backoff
from openshell.supervisor.middleware_messages import SandboxFacts
from openshell.supervisor.middleware_service import RemoteService, Unreachable, connect_service

__all__ = ["MiddlewareRegistry", "Reconciled"]

# More registrations than a policy can use are a mistake of the gateway.
_MAX_SERVICES: Final = 64
# For calls of requests that still pass through a service which is no longer named.
_GRACE_SECONDS: Final = 30.0
_FIRST_WAIT, _LONGEST_WAIT = 0.2, 8.0


@dataclass(frozen=True, slots=True)
class Reconciled:
    """What stages run, by name, and what is wrong with the services that are missing."""

    implementations: Mapping[str, Implementation]
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class _Attempt:
    """Connecting to one service, over and over; `tried` once the first time is over."""

    identity: bytes
    task: asyncio.Task[None] | None = None
    tried: asyncio.Event = field(default_factory=asyncio.Event)
    problem: str = ""


class MiddlewareRegistry:
    """The services of one sandbox. `connected` is called when one answers that did not before."""

    def __init__(self, sandbox: SandboxFacts, connected: Callable[[], None]) -> None:
        self._sandbox = sandbox
        self._on_connected = connected
        self._built_in: Mapping[str, Implementation] = {REGEX: RegexRedaction()}
        # By name: what was sent, and what it became.
        self._connected: dict[str, tuple[bytes, RemoteService]] = {}
        self._attempts: dict[str, _Attempt] = {}
        self._closing: set[asyncio.Task[None]] = set()

    async def reconcile(
        self, services: Iterable[sandbox_pb2.SupervisorMiddlewareService]
    ) -> Reconciled:
        """Connect what is new or has changed, waiting for each once; the rest is not asked again."""
        sent = [s for s in list(services)[:_MAX_SERVICES] if s.name not in self._built_in]
        wanted = {one.name: one for one in sent}
        for name in [name for name in self._connected if name not in wanted]:
            self._retire(self._connected.pop(name)[1])
        for name, attempt in list(self._attempts.items()):
            if name not in wanted or attempt.identity != _identity(wanted[name]):
                self._give_up(name)
        for name, one in wanted.items():
            known = self._connected.get(name)
            if known is not None and known[0] == _identity(one):
                self._give_up(name)
            elif name not in self._attempts:
                attempt = self._attempts[name] = _Attempt(_identity(one))
                attempt.task = asyncio.create_task(
                    self._keep_trying(one, attempt), name="middleware connect"
                )
        await asyncio.gather(*(a.tried.wait() for a in list(self._attempts.values())))
        found: dict[str, Implementation] = {n: s for n, (_, s) in self._connected.items()}
        problems = tuple(attempt.problem for attempt in self._attempts.values())
        return Reconciled(MappingProxyType({**found, **self._built_in}), problems)

    async def close(self) -> None:
        """Let go of everything."""
        for name in list(self._attempts):
            self._give_up(name)
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await asyncio.gather(*(service.close() for _, service in self._connected.values()))
        self._connected.clear()

    async def _keep_trying(
        self, sent: sandbox_pb2.SupervisorMiddlewareService, attempt: _Attempt
    ) -> None:
        backoff = Backoff(_FIRST_WAIT, _LONGEST_WAIT)
        while True:
            try:
                service = await connect_service(sent, self._sandbox)
                break
            except Unreachable as error:
                attempt.problem = f"middleware '{sent.name}': {error}"
                attempt.tried.set()
                await asyncio.sleep(backoff.next())
        known = self._connected.get(sent.name)
        self._connected[sent.name] = attempt.identity, service
        if known is not None:
            self._retire(known[1])
        del self._attempts[sent.name]
        if attempt.tried.is_set():
            self._on_connected()
        attempt.tried.set()

    def _give_up(self, name: str) -> None:
        attempt = self._attempts.pop(name, None)
        if attempt is not None and attempt.task is not None:
            attempt.task.cancel()
            self._closing.add(attempt.task)
            attempt.task.add_done_callback(self._closing.discard)

    def _retire(self, service: RemoteService) -> None:
        task = asyncio.create_task(service.close(_GRACE_SECONDS), name="middleware close")
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def _identity(sent: sandbox_pb2.SupervisorMiddlewareService) -> bytes:
    return sent.SerializeToString(deterministic=True)
