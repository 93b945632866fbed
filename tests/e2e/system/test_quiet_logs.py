"""Ordinary use leaves no errors in the log: what stands there is worth looking at."""

from __future__ import annotations

import subprocess

from openshell.sdk.client import SandboxClient
from support.private_gateway import OPENSHELL, PrivateGateway, ready_sandbox, wait_until


def test_commands_that_end_in_any_way_log_no_error(
    gateway: PrivateGateway, client: SandboxClient
) -> None:
    with ready_sandbox(client) as ref:
        exec_ = ("sandbox", "exec", "-n", ref.name)
        for _ in range(5):
            assert gateway.cli(*exec_, "--", "true").returncode == 0
        assert gateway.cli(*exec_, "--", "cat", stdin="x").stdout == "x"
        assert gateway.cli(*exec_, "--timeout", "1", "--", "sleep", "50").returncode == 124
        left = subprocess.Popen(
            [OPENSHELL, *exec_, "--", "sh", "-c", "echo here; sleep 50"],
            env=gateway.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert left.stdout is not None
        assert left.stdout.readline() == b"here\n"
        left.kill()
        left.communicate()
        # The last command's lines have arrived when its own have.
        wait_until(lambda: "PROC:LAUNCH" in gateway.cli("logs", ref.name).stdout)
        assert gateway.cli("logs", ref.name, "--level", "error").stdout == ""
