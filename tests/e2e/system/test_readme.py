"""The tour of the README is what really happens, line by line, numbers aside."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from support.private_gateway import OPENSHELL, PrivateGateway

README = Path(__file__).parents[3] / "README.md"
END = "@@the command has ended@@"


def steps() -> list[tuple[str, list[str]]]:
    """Commands of the console blocks with the output that the page shows."""
    found: list[tuple[str, list[str]]] = []
    for block in re.findall(r"```console\n(.*?)```", README.read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def plain(lines: list[str]) -> list[str]:
    """Numbers and hashes differ from run to run; so does the order of what two streams say."""
    text = [re.sub(r"hash: [0-9a-f]+", "hash: H", line) for line in lines]
    return sorted(re.sub(r"\d+", "N", line) for line in text)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the tour uses curl: make system")
def test_the_tour(tmp_path: Path) -> None:
    gateway = PrivateGateway()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environ = {**gateway.environ, "PATH": f"{Path(OPENSHELL).parent}:/usr/bin:/bin"}
    shell = subprocess.Popen(
        ["/bin/bash"],
        cwd=tmp_path,
        env=environ,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    try:
        for command, shown in steps():
            command = command.replace("8000", port)  # a port that is free here
            if command.endswith("&"):
                command += f" sleep 0; for i in {{1..100}}; do (: <>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; sleep 0.05; done"
                command = command.replace(" &", " >/dev/null 2>&1 &", 1)
            shell.stdin.write(f"{{ {command}\n}} </dev/null; echo '{END}'\n")
            shell.stdin.flush()
            said = []
            while (line := shell.stdout.readline().rstrip("\n")) != END:
                assert line or shell.poll() is None, f"{command}: the shell has ended"
                said.append(line.replace(port, "8000"))
            assert plain(said) == plain(shown), command
    finally:
        os.killpg(shell.pid, 9)
        shell.communicate()
        gateway.embedded.stop(keep_sandboxes=False)
        gateway.remove()
