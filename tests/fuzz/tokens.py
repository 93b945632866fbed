"""What parsers look twice at: put into inputs by Hypothesis, and by atheris as its dictionary."""

from __future__ import annotations

from pathlib import Path

__all__ = ["TOKENS", "write_dictionary"]

TOKENS = [
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"=", b"%", b"%2e", b"%2F", b"/", b"..", b"&",
    b'"', b"\\", b"{", b"}", b"[", b"]", b"\x80", b"\xff", b"\xc3\xa9", b"\x7f", b"-", b"+", b"_", b"0x", b"#",
    b"\x81", b"1e999", b"\\ud800", b"chunked", b"openshell:resolve:env:v7_KEY", b"OPENSHELL-RESOLVE-ENV-KEY",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"HTTP/1.1", b"HTTP/1.0",
    b"Host: a\r\n", b"\r\n\r\n", b"0\r\n\r\n", b"GET / ", b"http://", b"[::1]", b'{"', b'":', b'","', b"null",
    b"true", b"permessage-deflate", b"client_no_context_takeover", b'"usage":', b'"model":', b'"query":"{a}"',
    b'"method":', b'"params":', b'"id":', b'"jsonrpc":"2.0"', b'"access_token":"a"', b'"expires_in":', b'"exp":',
    b"\n  - ", b": ", b"version: 1\n", b"network_policies:\n  a:\n", b"    endpoints:\n      - host: a\n",
    b"        port: 1\n", b"id: a\ndisplay_name: a\n", b"credentials:\n  - name: a\n", b"endpoints:\n  - host: a\n",
]  # fmt: skip


def write_dictionary(path: Path) -> None:
    lines = ("".join(f"\\x{byte:02x}" for byte in token) for token in TOKENS)
    path.write_text("".join(f'"{line}"\n' for line in lines), encoding="ascii")
