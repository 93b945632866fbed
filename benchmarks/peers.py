"""Proxies of others, started for the length of a run, for the same client and the same upstream.

Neither of them looks at policy, program or path; they show what forwarding alone costs.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_SEARCH = f"{os.environ['PATH']}:/usr/sbin:/sbin"


@dataclass(frozen=True)
class ProxyPeer:
    """A running proxy: where it listens and which process to charge."""

    name: str
    port: int
    pid: int


def program(name: str) -> str | None:
    """A program of the system, also from the directories of root."""
    return shutil.which(name, path=_SEARCH)


@contextlib.contextmanager
def tinyproxy(directory: Path) -> Iterator[ProxyPeer | None]:
    """Closes after each request: compares with new connections only."""
    port = free_port()
    config = directory / "tinyproxy.conf"
    config.write_text(
        f"Port {port}\nListen 127.0.0.1\nLogLevel Error\nMaxClients 50\nAllow 127.0.0.1\n"
    )
    with _running("tinyproxy", ["-d", "-c", str(config)], port) as peer:
        yield peer


@contextlib.contextmanager
def squid(directory: Path) -> Iterator[ProxyPeer | None]:
    """One process, no cache, no log; keeps connections."""
    port = free_port()
    config = directory / "squid.conf"
    config.write_text(
        f"http_port 127.0.0.1:{port}\nhttp_access allow all\ncache deny all\naccess_log none\n"
        "cache_log /dev/null\npid_filename none\nnetdb_filename none\n"
        f"shutdown_lifetime 0 seconds\ncoredump_dir {directory}\n"
    )
    with _running("squid", ["-N", "-f", str(config)], port) as peer:
        yield peer


@contextlib.contextmanager
def _running(name: str, arguments: list[str], port: int) -> Iterator[ProxyPeer | None]:
    found = program(name)
    if found is None:
        yield None
        return
    process = subprocess.Popen(
        [found, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_port(port)
        yield ProxyPeer(name, port, process.pid)
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_port(port: int) -> None:
    for _ in range(500):
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except OSError:
            time.sleep(0.02)
        else:
            return
    raise RuntimeError(f"nothing listens on port {port}")
