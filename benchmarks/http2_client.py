"""A client of HTTP/2 for the rows of `http2_rows`: the standard library alone, as little work as it can do.

Arguments: port, authority, path, requests, streams at once, mode (latency, busy, bulk), proxy or nothing, roots or
nothing. Prints JSON: microseconds of each request (latency), seconds (busy), bytes and seconds (bulk).
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import sys
import time

_WINDOW = 10 << 20
_HEADERS, _RESET, _SETTINGS, _PING, _GOAWAY, _UPDATE = 1, 3, 4, 6, 7, 8
_BOTH_ENDS = 5


def _frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    head = len(payload).to_bytes(3, "big") + bytes((kind, flags)) + stream.to_bytes(4, "big")
    return head + payload


def _text(value: bytes) -> bytes:
    return bytes((len(value),)) + value


class _Connection:
    def __init__(self, port: int, authority: str, path: bytes, proxy: str, roots: str) -> None:
        self._port, self._authority, self._proxy = port, authority, proxy
        self._socket = self._connect(roots)
        settings = struct.pack(">HIHI", 2, 0, 4, _WINDOW)
        self._socket.sendall(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + _frame(_SETTINGS, 0, 0, settings)
        )
        self._socket.sendall(_frame(_UPDATE, 0, 0, struct.pack(">I", 1 << 30)))
        self._first = b"\x82\x87\x41" + _text(authority.encode()) + b"\x44" + _text(path)
        self._first += b"\x53" + _text(b"*/*") + b"\x7a" + _text(b"bench")
        self._number, self._buffer, self.received = 1, b"", 0

    def _connect(self, roots: str) -> ssl.SSLSocket:
        host = self._authority.partition(":")[0]
        if self._proxy:
            name, _, number = self._proxy.partition(":")
            raw = socket.create_connection((name, int(number)))
            line = f"CONNECT {self._authority} HTTP/1.1\r\nHost: {self._authority}\r\n\r\n"
            raw.sendall(line.encode())
            answer = raw.recv(65536)
            assert answer.startswith(b"HTTP/1.1 200"), answer
        else:
            raw = socket.create_connection(("127.0.0.1", self._port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        context = ssl.create_default_context(cafile=roots or None)
        context.set_alpn_protocols(["h2"])
        secured = context.wrap_socket(raw, server_hostname=host)
        assert secured.selected_alpn_protocol() == "h2"
        return secured

    def ask(self, count: int = 1) -> None:
        """Begin requests; after the first the header list is four bytes out of the table."""
        out = b""
        for _ in range(count):
            block = self._first if self._number == 1 else b"\x82\x87\xc1\xc0\xbf\xbe"
            out += _frame(_HEADERS, _BOTH_ENDS, self._number, block)
            self._number += 2
        self._socket.sendall(out)

    def turn(self) -> int:
        """Read once; return how many answers have ended."""
        data = self._buffer + self._socket.recv(1 << 18)
        position, ended, out = 0, 0, b""
        while len(data) - position >= 9:
            word, flags, stream = struct.unpack_from(">IBI", data, position)
            length, kind = word >> 8, word & 255
            if len(data) - position < 9 + length:
                break
            payload = position + 9
            if kind == _SETTINGS and not flags & 1:
                out += _frame(_SETTINGS, 1, 0)
            elif kind == _PING and not flags & 1:
                out += _frame(_PING, 1, 0, data[payload : payload + 8])
            elif kind in (_RESET, _GOAWAY):
                raise SystemExit(f"it was ended: {data[position : position + 40]!r}")
            elif kind == 0 and length:
                self.received += length
                if length > 1024:
                    granted = struct.pack(">I", length)
                    out += b"" if flags & 1 else _frame(_UPDATE, 0, stream, granted)
                    out += _frame(_UPDATE, 0, 0, granted)
            ended += kind <= _HEADERS and flags & 1
            position = payload + length
        self._buffer = data[position:]
        if out:
            self._socket.sendall(out)
        return ended

    def one(self) -> None:
        self.ask()
        while not self.turn():
            pass


def _busy(connection: _Connection, count: int, streams: int) -> float:
    begun = time.perf_counter()
    connection.ask(streams)
    left, running = count - streams, streams
    while running:
        ended = connection.turn()
        more = min(ended, left)
        running += more - ended
        left -= more
        if more:
            connection.ask(more)
    return time.perf_counter() - begun


def main() -> None:
    port, authority, path, count, streams, mode, proxy, roots = sys.argv[1:9]
    connection = _Connection(int(port), authority, path.encode(), proxy, roots)
    begun = time.perf_counter()
    if mode == "bulk":
        connection.one()
        print(json.dumps([connection.received, time.perf_counter() - begun]))
        return
    connection.one()
    if mode == "busy":
        print(json.dumps([_busy(connection, int(count), int(streams))]))
        return
    times = []
    for _ in range(int(count)):
        start = time.perf_counter_ns()
        connection.one()
        times.append((time.perf_counter_ns() - start) / 1000)
    print(json.dumps(times))


main()
