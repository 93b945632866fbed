"""The end of a stream whose peer went first."""

from __future__ import annotations

import asyncio
import socket
import struct

from openshell.egress.stream import open_stream


async def test_ending_towards_a_peer_that_has_just_reset_raises_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        peer = socket.create_connection(listener.getsockname())
        accepted, _ = listener.accept()
    stream = await open_stream(accepted)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()
    # The loop has not heard of it yet.
    assert not stream.lost
    stream.write_eof()
    await stream.end()
    async with asyncio.timeout(5):
        while not stream.lost:
            await asyncio.sleep(0)
