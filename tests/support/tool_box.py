"""A sandbox in which tools are run under one policy after another, beside the nginx that they ask."""

from __future__ import annotations

from dataclasses import dataclass, field

from openshell._proto.openshell_pb2 import SandboxLogLine as LogLine
from openshell.codec.policy import policy_to_proto
from openshell.policy.parse import parse_policy
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import LogClient, PolicyClient
from openshell.sdk.refs import ExecResult, SandboxRef
from support.nginx_server import Nginx
from support.private_gateway import FILESYSTEM, wait_until

__all__ = ["PROBE", "ToolBox"]

PROBE = "/sandbox/probe"
# What one message of the API takes.
_PIECE = 512 << 10
# More than all tests together make.
_LINES = 20_000


@dataclass
class ToolBox:
    """The sandbox, seen from outside."""

    client: SandboxClient
    ref: SandboxRef
    nginx: Nginx
    _seen: int = field(default=0)

    @property
    def ports(self) -> dict[int, int]:
        """The ports of the page, and those of here."""
        return {443: self.nginx.tls_port, 80: self.nginx.port}

    def follow(self, network: str) -> None:
        """Put a policy in force and wait until the sandbox has it."""
        policies = PolicyClient(self.client)
        message = policy_to_proto(parse_policy(FILESYSTEM + network, source="test"))
        version = policies.replace(self.ref.name, message, workspace="default").version
        while policies.revision(self.ref.name, version, workspace="default").revision.status == 1:
            pass

    def run(self, *argv: str, stdin: bytes = b"", **environ: str) -> ExecResult:
        return self.client.exec(
            self.ref.id, list(argv), env=environ, stdin=stdin, timeout_seconds=60
        )

    def put(self, path: str, content: bytes) -> None:
        """An executable file inside."""
        self.run("rm", "-f", path)
        for start in range(0, len(content), _PIECE):
            piece = content[start : start + _PIECE]
            ran = self.run("sh", "-c", f"cat >> {path} && chmod +x {path}", stdin=piece)
            assert ran.exit_code == 0, ran.stderr

    def log(self) -> list[LogLine]:
        """Lines of the sandbox's log that came since the last look."""
        every = LogClient(self.client).read(self.ref.id, workspace="default", lines=_LINES)
        new, self._seen = every[self._seen :], len(every)
        return new

    def wait_refused(self, *words: str, from_start: bool = False) -> LogLine:
        """The first refusal with these words among the lines since the last look, or all."""
        if from_start:
            self._seen = 0
        found: list[LogLine] = []

        def logged() -> bool:
            found.extend(
                line
                for line in self.log()
                if "DENIED" in line.message and all(word in line.message for word in words)
            )
            return bool(found)

        wait_until(logged)
        return found[0]
