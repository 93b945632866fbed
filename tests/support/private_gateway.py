"""A real embedded gateway on private directories and a free port, as a user's machine would have it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from openshell._proto import openshell_pb2
from openshell.codec.policy import policy_to_proto
from openshell.policy.parse import parse_policy
from openshell.sdk.client import SandboxClient
from openshell.sdk.embedded import EmbeddedGateway
from openshell.sdk.refs import SandboxRef
from openshell.sdk.registry import Registry

OPENSHELL = str(Path(sys.executable).parent / "openshell")
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
PREFIX = sys.base_prefix

FILESYSTEM = """\
version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /lib, /lib64, /bin, /etc, /proc, /dev/urandom]
  read_write: [/tmp, /dev/null]
"""


class PrivateGateway:
    """Starts on entry; on exit ends the gateway, its sandboxes and its zygote, and removes all files.

    Args:
        toml: Content of `gateway.toml`.
        environ: Added to the environment.
    """

    def __init__(self, *, toml: str = "", environ: Mapping[str, str] | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="os-"))
        self.environ = {
            **{k: v for k, v in os.environ.items() if not k.startswith("OPENSHELL_")},
            "HOME": str(self.directory / "home"),
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "XDG_STATE_HOME": str(self.directory / "state"),
            "PATH": f"{Path(PYTHON).parent}:/usr/local/bin:/usr/bin:/bin",
            **(environ or {}),
        }
        for name in ("home", "config/openshell", "state"):
            (self.directory / name).mkdir(mode=0o700, parents=True)
        if toml:
            (self.directory / "config/openshell/gateway.toml").write_text(toml)
        self.state = self.directory / "state/openshell"
        self.embedded = EmbeddedGateway(self.state, self.environ)

    def __enter__(self) -> Self:
        try:
            self.embedded.start()
        except BaseException:
            self.remove()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with contextlib.suppress(Exception):
            self.embedded.stop(keep_sandboxes=False)
        self.remove()

    def remove(self) -> None:
        if not os.environ.get("OPENSHELL_TEST_KEEP"):
            shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def log(self) -> str:
        return self.embedded.log_path.read_text(errors="replace")

    @contextlib.contextmanager
    def client(self) -> Iterator[SandboxClient]:
        registry = Registry(self.directory / "config/openshell", self.directory / "no-system")
        target = registry.resolve(endpoint=None, gateway=None)
        assert target is not None, "the embedded gateway registered itself"
        with SandboxClient.from_target(registry, target) as client:
            yield client

    def cli(
        self,
        *arguments: str,
        stdin: str | None = None,
        timeout: float = 60,
        environ: Mapping[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Runs `openshell` as a user would."""
        return subprocess.run(
            [OPENSHELL, *arguments],
            env={**self.environ, **(environ or {})},
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            **({"stdin": subprocess.DEVNULL} if stdin is None else {"input": stdin}),
        )

    @contextlib.contextmanager
    def running(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """`openshell` for the length of a block; its output streams are pipes."""
        with subprocess.Popen(
            [OPENSHELL, *arguments],
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()

    def restart(self) -> None:
        """Ends the gateway, not its sandboxes, and starts it again on the same state."""
        self.embedded.stop(keep_sandboxes=True)
        self.embedded.start()

    @property
    def config(self) -> Path:
        """Where this user keeps registrations, forwards and the like."""
        return self.directory / "config/openshell"


def sandbox_spec(
    *,
    network: str = "",
    filesystem: str = FILESYSTEM,
    command: tuple[str, ...] = ("sleep", "infinity"),
    providers: tuple[str, ...] = (),
    policy: bool = True,
) -> openshell_pb2.SandboxSpec:
    """A spec that shows the test's own interpreter inside."""
    spec = openshell_pb2.SandboxSpec(command=command, providers=providers)
    if policy:
        parsed = parse_policy(filesystem + network, source="test")
        spec.policy.CopyFrom(policy_to_proto(parsed))
    if not PREFIX.startswith("/usr"):
        spec.template.driver_config.update({"local": {"host_paths": [PREFIX]}})
    return spec


@contextlib.contextmanager
def ready_sandbox(
    client: SandboxClient, spec: openshell_pb2.SandboxSpec | None = None, name: str | None = None
) -> Iterator[SandboxRef]:
    """A ready sandbox for the length of a block."""
    ref = client.create(workspace="default", spec=spec or sandbox_spec(), name=name)
    try:
        yield client.wait_ready(ref.name, workspace="default", timeout_seconds=30)
    finally:
        client.delete(ref.name, workspace="default")
        client.wait_deleted(ref.name, workspace="default")


def wait_until(condition: object, seconds: float = 10.0, pause: float = 0.02) -> None:
    """Waits for `condition()` to hold; fails with its name when it does not."""
    assert callable(condition)
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {condition}"
        time.sleep(pause)
