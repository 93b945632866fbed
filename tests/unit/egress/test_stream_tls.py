"""TLS over a stream: what a peer can make it write without being asked."""

import asyncio
import datetime as dt
import shutil
import socket

import pytest

from openshell.egress.ca import SandboxCA
from openshell.egress.stream import TlsStream, open_stream

NOW = dt.datetime.now(dt.UTC)
# More answers of 27 bytes than are granted to a peer that does not read.
UPDATES = 200


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the openssl command")
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "does not read"])
async def test_key_updates_are_answered_to_a_peer_that_reads_only(reads):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setblocking(False)
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        peer = await asyncio.create_subprocess_exec(
            "openssl", "s_client", "-tls1_3", "-connect", address, stdin=-1, stdout=-3, stderr=-3
        )
        accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
    secure = TlsStream(await open_stream(accepted), SandboxCA(NOW).server_context("a", NOW))
    try:
        await secure.handshake(10)
        if not reads:
            secure.pause_writing()
        # Not every letter need become an update: a busy machine may join some.
        for _ in range(UPDATES if reads else 10 * UPDATES):
            # A letter counts as a command only as the first of what openssl reads at once.
            peer.stdin.write(b"K\n")
            await asyncio.sleep(0.005)
            if secure.lost:
                break
        await asyncio.sleep(0.1)
        assert secure.lost is not reads
        assert secure.reason == ("" if reads else "the peer makes us write and does not read")
    finally:
        secure.abort()
        peer.stdin.close()
        await peer.wait()
