"""From gateway.toml to the proxy: a sandbox whose only way out is the corporate proxy of its operator."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from support.private_gateway import PrivateGateway, ready_sandbox, sandbox_spec, wait_until

# An address that nothing here can dial.
OUT = "203.0.113.9"
NETWORK = f"""
network_policies:
  out:
    endpoints: [{{host: "{OUT}", port: 8080, protocol: rest, enforcement: enforce, access: full}}]
    binaries: [{{path: /**}}]
"""
# Ignores the proxy variables: it is captured.
ASK = (
    "import socket as s\n"
    f"c = s.create_connection(('{OUT}', 8080), 10)\n"
    f"c.sendall(b'GET /x HTTP/1.1\\r\\nHost: {OUT}:8080\\r\\nConnection: close\\r\\n\\r\\n')\n"
    "print(b''.join(iter(lambda: c.recv(999), b'')).decode())"
)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nout"


@contextlib.contextmanager
def corporate() -> Iterator[tuple[int, list[bytes]]]:
    """A proxy that stands for the world behind it; the heads that it was sent."""
    heads: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def head(client: socket.socket) -> bytes:
            data = b""
            while b"\r\n\r\n" not in data:
                more = client.recv(4096)
                if not more:
                    break
                data += more
            return data

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    with client:
                        heads.append(head(client))
                        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                        heads.append(head(client))
                        client.sendall(ANSWER)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listener.getsockname()[1], heads
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_sandbox_goes_out_through_the_proxy(tmp_path: Path) -> None:
    auth = tmp_path / "auth"
    auth.write_text("me:hunter2\n")
    with corporate() as (port, heads):
        toml = (
            f'[openshell.drivers.local]\nhttps_proxy = "http://127.0.0.1:{port}"\n'
            f'no_proxy = "10.0.0.0/8, corp.example"\nproxy_auth_file = "{auth}"\n'
            "proxy_auth_allow_insecure = true\n"
        )
        with PrivateGateway(toml=toml) as gateway, gateway.client() as client:
            spec = sandbox_spec(network=NETWORK)
            with ready_sandbox(client, spec) as ref:
                look = ("sandbox", "exec", "-n", ref.name, "--", "python3", "-c")
                ran = gateway.cli(*look, ASK)
                assert ran.stdout.rstrip().endswith("out"), (ran, heads)
                # What the operator gave us for the proxy is nowhere inside, nor in any log.
                told = gateway.cli(*look, f"import os; print(os.path.exists('{auth}'))")
                env = gateway.cli("sandbox", "exec", "-n", ref.name, "--", "env")
                assert str(port) not in env.stdout
                wait_until(lambda: f"{OUT}:8080/x" in gateway.cli("logs", ref.name).stdout)
                for text in (
                    ran.stdout,
                    env.stdout,
                    gateway.cli("logs", ref.name).stdout,
                    gateway.log,
                ):
                    assert "hunter2" not in text
                assert told.stdout.strip() == "False"

            auth.write_text("nonsense")
            failed = gateway.cli("sandbox", "create", "--name", "late", "--", "true")
            assert failed.returncode == 1
            assert "must hold one line user:password" in failed.stdout + failed.stderr
            assert "nonsense" not in failed.stdout + failed.stderr
    connect, request = heads
    assert connect.startswith(f"CONNECT {OUT}:8080 HTTP/1.1\r\n".encode())
    assert base64.b64encode(b"me:hunter2") in connect
    assert request.startswith(b"GET /x HTTP/1.1\r\n")
    assert b"roxy" not in request
