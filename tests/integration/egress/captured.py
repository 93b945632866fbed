"""A proxy whose captured connections believe in another destination than loopback.

The accepted socket's own address plays the original destination otherwise: the listener takes every
address of loopback. Names are looked up in the resolver's real table.
"""

import asyncio

from integration.egress.harness import Client, Proxy
from openshell.egress.dns import RType
from openshell.egress.identity import Peers
from openshell.egress.limits import Limits

__all__ = ["SYNTHETIC", "SYNTHETIC_V6", "Captured", "say"]

# What the resolver hands out first.
SYNTHETIC, SYNTHETIC_V6 = "198.18.0.1", "fd6f:7065:6e73:6865::1"
# A busy machine may keep a client from its first byte for a while.
LIMITS = Limits(captured_silent_seconds=2.0, refusal_peek_seconds=1.0)


class Captured(Proxy):
    """`names` are looked up in order before anybody connects; `destination` None is the listener."""

    def __init__(self, policy, destination, names, **extra):
        super().__init__(policy, **{"limits": LIMITS, **extra})
        self._destination = destination
        self._names = names

    async def __aenter__(self):
        await super().__aenter__()
        adapter = self.proxy._capture
        self.table = adapter._names
        for address, host in self._names.items():
            rtype = RType.AAAA if ":" in address else RType.A
            assert self.table.address_for(host, rtype) == address
        serve = adapter.serve

        async def elsewhere(connection):
            connection.peers = Peers(connection.peers.client, self._destination)
            await serve(connection)

        if self._destination is not None:
            adapter.serve = elsewhere
        return self

    async def connect_directly(self):
        return Client(*await asyncio.open_connection("127.0.0.1", self.capture_port))


async def say(proxy, data):
    """Send and return the answer, and whether the end was a reset."""
    client = await proxy.connect_directly()
    try:
        if data:
            await client.send(data)
        async with asyncio.timeout(5):
            return await client.reader.read(65536), False
    except ConnectionResetError:
        return b"", True
    finally:
        client.close()
