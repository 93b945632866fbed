"""Carries out what a page of the documentation shows: its files, its commands, and what they print.

A page's console blocks are one session of a shell beside a private gateway. Lines that begin with
`$ ` are commands, the others what is printed. A block of another language under a line that ends with
"`NAME.EXT`:" is a file of that name. Port 8000 of the page becomes one that is free here.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path

from support.private_gateway import OPENSHELL, PrivateGateway

__all__ = ["Step", "plain", "play", "read_steps"]

_SHOWN_PORT = "8000"
_END = "@@the command has ended@@"


@dataclass
class Step:
    """One command with what the page shows and what it really said."""

    command: str
    shown: list[str] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def read_steps(page: Path) -> list[Step]:
    """The commands of the page's console blocks with the output that it shows."""
    found: list[Step] = []
    for block in re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Step(line[2:]))
            else:
                found[-1].shown.append(line)
    return found


def plain(lines: list[str]) -> list[str]:
    """Numbers and hashes differ from run to run; so does the order of what two streams say."""
    text = [
        re.sub(r"hash: [0-9a-f]+|\bs[0-9a-f]{64}_|\b[0-9a-f]{12}\b", "H", line) for line in lines
    ]
    # A table's columns are as wide as what stands in them.
    return sorted(re.sub(r"  +", "  ", re.sub(r"\d+", "N", line)).rstrip() for line in text)


def play(page: Path, directory: Path) -> Generator[Step, None, None]:
    """Carries the page out in `directory`, step by step; ends the gateway when it is closed."""
    steps = read_steps(page)
    assert steps, f"{page} shows no command"
    gateway = PrivateGateway()
    port = _free_port()
    for name, content in re.findall(
        r"`([\w-]+\.\w+)`:\n\n```\w+\n(.*?)```", page.read_text(), re.DOTALL
    ):
        (directory / name).write_text(content.replace(_SHOWN_PORT, port))
    shell = subprocess.Popen(
        ["/bin/bash"],
        cwd=directory,
        env={**gateway.environ, "PATH": f"{Path(OPENSHELL).parent}:/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert shell.stdin is not None
    assert shell.stdout is not None
    try:
        for step in steps:
            command = step.command.replace(_SHOWN_PORT, port)
            if command.endswith("&"):
                command = _in_background(command, port)
            shell.stdin.write(f"{{ {command}\n}} </dev/null; echo '{_END}'\n")
            shell.stdin.flush()
            while (line := shell.stdout.readline().rstrip("\n")) != _END:
                assert line or shell.poll() is None, f"{command}: the shell has ended"
                step.said.append(line.replace(port, _SHOWN_PORT))
            yield step
    finally:
        os.killpg(shell.pid, 9)
        shell.communicate()
        gateway.embedded.stop(keep_sandboxes=False)
        gateway.remove()


def _free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _in_background(command: str, port: str) -> str:
    """Starts a server and returns when it accepts connections."""
    wait = f"for i in {{1..100}}; do (: <>/dev/tcp/127.0.0.1/{port}) 2>/dev/null && break; sleep 0.05; done"
    quiet = command if ">" in command else command.replace(" &", " >/dev/null 2>&1 &", 1)
    return f"{quiet} {wait}"
