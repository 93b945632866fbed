"""What rows that run something in a sandbox share: where it runs, and what its supervisor used for it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from openshell.sdk.client import SandboxClient
from support.private_gateway import PrivateGateway

__all__ = ["ALIAS", "PROXY", "cpu_seconds", "on_host", "pss_mb", "run_inside", "supervisor_pid"]

ALIAS = "host.openshell.internal"
PROXY = "10.200.0.1:3128"


def supervisor_pid(gateway: PrivateGateway, sandbox_id: str) -> int:
    record = json.loads((gateway.state / "local/sandboxes" / sandbox_id / "pid.json").read_text())
    return int(record["pid"])


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def pss_mb(pid: int) -> float:
    """Of one process, what is shared counted by its share."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss")


def run_inside(client: SandboxClient, sandbox: str, argv: tuple[str, ...]) -> str:
    result = client.exec(sandbox, list(argv), timeout_seconds=120)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def on_host(argv: tuple[str, ...]) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout
