"""Names that the proxy answers itself: no policy is asked for them and no upstream hears of them.

Such a name is served at one port. Both doors and the resolver look here first: what leads to the place is the
business of whoever made the entry, at any other place the name is a host like all others, unless the entry
says what plain requests are told there.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from openshell.egress.connection import ClientConnection, Services
from openshell.egress.denials import Denial
from openshell.egress.http1 import RequestHead

__all__ = ["LocalName", "LocalNames", "Serve", "Take"]

Serve: TypeAlias = Callable[[Services, ClientConnection, RequestHead], Awaitable[bool]]
"""Answers one request whose body is still in the connection's stream; whether another may follow."""
Take: TypeAlias = Callable[[ClientConnection], Awaitable[None]]
"""Serves a whole connection, from its first byte inside a tunnel or on a captured connection."""


@dataclass(frozen=True, slots=True)
class LocalName:
    """One name, in lower case and without a final dot, and where it is served.

    Either its requests in plain HTTP are served, or connections as a whole, to which tunnels may lead.
    """

    host: str
    port: int
    serve: Serve | None = None
    take: Take | None = None
    # Said to plain proxy requests for the name with another scheme or port.
    elsewhere: Denial | None = None


class LocalNames:
    """The names of one sandbox."""

    __slots__ = ("_names",)

    def __init__(self, names: Iterable[LocalName] = ()) -> None:
        self._names = {name.host: name for name in names}

    def add(self, name: LocalName) -> None:
        """One more, of a service that needs the pipeline it is reached through."""
        self._names[name.host] = name

    def __contains__(self, host: object) -> bool:
        return isinstance(host, str) and self.find(host) is not None

    def find(self, host: str) -> LocalName | None:
        """The entry of a host, wherever it is wanted."""
        return self._names.get(host.lower().removesuffix("."))

    def at(self, host: str, port: int) -> LocalName | None:
        """The entry that is served there."""
        name = self.find(host)
        return name if name is not None and name.port == port else None
