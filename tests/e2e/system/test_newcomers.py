"""What people do in their first minutes and must not get stuck in."""

from __future__ import annotations

import signal
import subprocess

from support.private_gateway import OPENSHELL, PrivateGateway, wait_until


def test_a_gateway_that_was_removed_while_it_ran_is_known_again(gateway: PrivateGateway) -> None:
    assert gateway.cli("gateway", "remove", "openshell").returncode == 0
    assert "No active gateway" in gateway.cli("sandbox", "list").stderr
    assert gateway.cli("sandbox", "create", "--no-keep", "--", "true").returncode == 0
    assert gateway.cli("gateway", "remove", "openshell").returncode == 0
    assert gateway.cli("gateway", "start").returncode == 0
    assert gateway.cli("sandbox", "list").returncode == 0


def test_a_closed_terminal_deletes_what_was_not_to_be_kept(gateway: PrivateGateway) -> None:
    for number in (signal.SIGHUP, signal.SIGTERM):
        create = subprocess.Popen(
            [OPENSHELL, "sandbox", "create", "--no-keep", "--", "sh", "-c", "echo up; sleep 500"],
            env=gateway.environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert create.stdout is not None
        while create.stdout.readline() != "up\n":
            pass
        create.send_signal(number)
        create.communicate(timeout=20)
        assert create.returncode == 128 + number
        wait_until(lambda: gateway.cli("sandbox", "list", "--names").stdout == "")
