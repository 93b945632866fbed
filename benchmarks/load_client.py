"""A client for the rows of `load_rows`: many connections, one request or message at a time on each.

Standard library alone. Arguments: http or ws, port, authority, path, how many, connections, proxy or nothing,
roots or nothing. Prints JSON: seconds, then microseconds of each exchange.
"""

from __future__ import annotations

import json
import os
import select
import socket
import ssl
import sys
import time

_TEXT = b'{"type": "message", "text": "' + b"x" * 160 + b'"}'


def _connect(port: int, authority: str, proxy: str, context: ssl.SSLContext) -> ssl.SSLSocket:
    if proxy:
        name, _, number = proxy.partition(":")
        raw = socket.create_connection((name, int(number)))
        raw.sendall(f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n\r\n".encode())
        answer = raw.recv(65536)
        assert answer.startswith(b"HTTP/1.1 200"), answer
    else:
        raw = socket.create_connection(("127.0.0.1", port))
    raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return context.wrap_socket(raw, server_hostname=authority.partition(":")[0])


class _Http:
    def __init__(self, authority: str, path: str) -> None:
        head = (
            f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nAccept: */*\r\nUser-Agent: bench\r\n\r\n"
        )
        self.wire = head.encode()

    def open(self, connection: ssl.SSLSocket) -> None:
        return

    def is_whole(self, data: bytes) -> bool:
        head, end, body = data.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200") or not end, head
        return bool(end) and len(body) == 512


class _WebSocket:
    def __init__(self, authority: str, path: str) -> None:
        self._handshake = (
            f"GET {path} HTTP/1.1\r\nHost: {authority}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ).encode()
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(_TEXT))
        head = b"\x81\xfe" + len(_TEXT).to_bytes(2, "big")
        self.wire = head + mask + masked
        self._answer = len(_TEXT) + 4

    def open(self, connection: ssl.SSLSocket) -> None:
        connection.sendall(self._handshake)
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        assert data.startswith(b"HTTP/1.1 101"), data

    def is_whole(self, data: bytes) -> bool:
        return len(data) >= self._answer


def main() -> None:
    kind, port, authority, path, count, connections, proxy, roots = sys.argv[1:9]
    context = ssl.create_default_context(cafile=roots or None)
    speaks = (_WebSocket if kind == "ws" else _Http)(authority, path)
    poll, sockets, got, begun = select.epoll(), {}, {}, {}
    for _ in range(int(connections)):
        made = _connect(int(port), authority, proxy, context)
        speaks.open(made)
        # The first exchange also takes what TLS sends behind its handshake.
        made.sendall(speaks.wire)
        data = b""
        while not speaks.is_whole(data):
            data += made.recv(65536)
        sockets[made.fileno()] = made
        poll.register(made, select.EPOLLIN)
    times: list[float] = []
    started = time.perf_counter()
    for number, made in sockets.items():
        got[number], begun[number] = b"", time.perf_counter_ns()
        made.sendall(speaks.wire)
    while len(times) < int(count):
        for number, _ in poll.poll():
            data = got[number] + sockets[number].recv(65536)
            assert data, "closed"
            if not speaks.is_whole(data):
                got[number] = data
                continue
            now = time.perf_counter_ns()
            times.append((now - begun[number]) / 1000)
            got[number], begun[number] = b"", now
            sockets[number].sendall(speaks.wire)
    print(json.dumps([time.perf_counter() - started, *times]))


main()
