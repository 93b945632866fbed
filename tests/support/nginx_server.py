"""nginx on loopback: files, git and a WebSocket behind it, over TLS (HTTP/2, HTTP/1.1) and in clear text.

What reached it is read from its access log, one line per request.
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

__all__ = ["NGINX", "Nginx", "nginx_server"]

# Debian keeps server programs where an ordinary user's PATH does not look.
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")

_CONFIGURATION = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{}}
http {{
  log_format short '$request_method $request_uri $server_protocol $status';
  access_log {directory}/access.log short;
  client_body_temp_path {directory}/t1;
  proxy_temp_path {directory}/t2;
  fastcgi_temp_path {directory}/t3;
  uwsgi_temp_path {directory}/t4;
  scgi_temp_path {directory}/t5;
  client_max_body_size 64m;
  types {{ text/html html; application/json json; application/octet-stream tgz whl; }}
  server {{
    listen 127.0.0.1:{tls_port} ssl http2;
    listen 127.0.0.1:{port};
    ssl_certificate {certificate};
    ssl_certificate_key {certificate};
    root {directory}/files;
    location / {{ default_type application/json; try_files $uri $uri/index.html $uri.json =404; }}
    location /upload {{ return 201 "stored\\n"; }}
    location ~ \\.git/ {{ proxy_pass http://127.0.0.1:{git_port}; proxy_request_buffering off; }}
    location /chat {{
      proxy_pass http://127.0.0.1:{echo_port};
      proxy_http_version 1.1;
      proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection "upgrade";
    }}
  }}
}}
"""


@dataclass(frozen=True)
class Nginx:
    """Its ports, its directory of files and what it was asked."""

    port: int
    tls_port: int
    files: Path
    log: Path

    def requests(self) -> list[str]:
        """`METHOD TARGET PROTOCOL STATUS`, in the order in which they ended."""
        return self.log.read_text().splitlines() if self.log.exists() else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _start(directory: Path, certificate: Path, ports: dict[str, int]) -> subprocess.Popen[bytes]:
    assert NGINX is not None
    path = directory / "nginx.conf"
    path.write_text(_CONFIGURATION.format(directory=directory, certificate=certificate, **ports))
    process = subprocess.Popen(
        [NGINX, "-p", str(directory), "-e", str(directory / "error.log"), "-c", str(path)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", ports["port"])):
            return process
        time.sleep(0.01)
    process.kill()
    process.wait()
    return process


@contextlib.contextmanager
def nginx_server(
    directory: Path, certificate: Path, *, git_port: int = 9, echo_port: int = 9
) -> Iterator[Nginx]:
    """Serve until the block ends; `certificate` holds key and chain."""
    (directory / "files").mkdir()
    for _ in range(5):  # a free port may be somebody else's by the time that it is used
        ports = {"port": _free_port(), "tls_port": _free_port()}
        behind = {"git_port": git_port, "echo_port": echo_port}
        process = _start(directory, certificate, {**ports, **behind})
        if process.poll() is None:
            break
    else:
        raise AssertionError((directory / "error.log").read_text())
    try:
        yield Nginx(files=directory / "files", log=directory / "access.log", **ports)
    finally:
        process.terminate()
        process.wait(10)
