"""Fifty sandboxes at once: each under its own policy, no connection taken for another's."""

from __future__ import annotations

import contextlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from openshell.sdk.client import SandboxClient
from openshell.sdk.refs import SandboxRef
from support.private_gateway import PREFIX, PYTHON, ready_sandbox, sandbox_spec
from support.upstream import ALIAS, Upstream

COUNT = 50
CONNECTIONS = 20  # by each, so a thousand in all

# Opens one connection after the other and prints each answer's status once.
ASK = """
import ctypes, socket, sys
port, path, count = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
ctypes.CDLL(None).prctl(15, b"python3.11", 0, 0, 0)
authority = f"host.openshell.internal:{port}"
head = f"GET http://{authority}{path} HTTP/1.1\\r\\nHost: {authority}\\r\\n\\r\\n".encode()
seen = set()
for _ in range(count):
    with socket.create_connection(("10.200.0.1", 3128)) as connection:
        connection.sendall(head)
        data = b""
        while b"\\r\\n\\r\\n" not in data and (more := connection.recv(65536)):
            data += more
        seen.add(data[9:12].decode())
print(*sorted(seen))
"""

# The allowed program, and at the same moment a copy of it that does what it can to be mistaken: the
# same file name, the same argv, the same comm, a sibling of the same parent (a shell: an allowed
# parent would hand its rights down).
RACE = f"""
cat > /sandbox/ask.py
cp {PYTHON} /sandbox/{Path(PYTHON).name}
ask() {{ PYTHONHOME={PREFIX} LD_LIBRARY_PATH={PREFIX}/lib "$1" -S /sandbox/ask.py "$PORT" "$2" {CONNECTIONS}; }}
ask {PYTHON} "$OWN" > true &
ask /sandbox/{Path(PYTHON).name} "$OWN" > false &
ask {PYTHON} "$FOREIGN" > foreign &
wait
cat true false foreign
"""


def policy(port: int, number: int) -> str:
    return (
        "network_policies:\n  own:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {port}, protocol: rest, enforcement: enforce,\n"
        f"         rules: [{{allow: {{method: GET, path: /own/{number}}}}}]}}\n"
        f"    binaries: [{{path: {PYTHON}}}]\n"
    )


@pytest.mark.timeout(180)
def test_fifty_sandboxes_enforce_their_own_policies(
    client: SandboxClient, upstream: Upstream
) -> None:
    with contextlib.ExitStack() as stack, ThreadPoolExecutor(4) as pool:
        sandboxes: list[SandboxRef] = [
            stack.enter_context(
                ready_sandbox(client, sandbox_spec(network=policy(upstream.port, number)))
            )
            for number in range(COUNT)
        ]

        def race(number: int) -> str:
            result = client.exec(
                sandboxes[number].id,
                ["/bin/sh", "-c", RACE],
                env={
                    "PORT": str(upstream.port),
                    "OWN": f"/own/{number}",
                    "FOREIGN": f"/own/{(number + 1) % COUNT}",
                },
                stdin=ASK.encode(),
                timeout_seconds=60,
            )
            assert result.exit_code == 0, result.stderr
            return result.stdout

        said = list(pool.map(race, range(COUNT)))
        assert said == ["200\n403\n403\n"] * COUNT
        assert sorted(upstream.paths) == sorted(
            f"/own/{number}" for number in range(COUNT) for _ in range(CONNECTIONS)
        ), "each allowed connection arrived once, no refused one at all"
