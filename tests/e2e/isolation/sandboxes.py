"""Real sandboxes for tests, as root and as an ordinary user, with controls beside them."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

from e2e.isolation.unprivileged import is_root, ordinary_directory, unprivileged_command

HERE = os.path.dirname(os.path.abspath(__file__))
MODES = ("root", "ordinary") if is_root() else ("ordinary",)


class Conversation:
    """A started sandbox_host: one JSON line each way."""

    def __init__(self, mode: str, workspace: str, options: dict[str, Any]) -> None:
        self.mode = mode
        self.workspace = workspace
        encoded = base64.b64encode(json.dumps(options).encode()).decode()
        argv = [sys.executable, f"{HERE}/sandbox_host.py", encoded]
        if mode == "ordinary":
            argv = unprivileged_command(argv, also=options.get("_also", []))
        self.process = subprocess.Popen(
            argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def line(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "the sandbox host ended"
        return json.loads(line)

    def ask(self, request: Any) -> Any:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self.line()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            if self.process.stdin is not None:
                self.process.stdin.close()
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Sandbox(Conversation):
    """A running sandbox, and a control namespace started when first needed."""

    def __init__(self, mode: str, workspace: str, options: dict[str, Any]) -> None:
        super().__init__(mode, workspace, {"workspace_dir": workspace, **options})
        self.greeting = self.line()
        self._control: Conversation | None = None

    @property
    def layers(self) -> dict[str, tuple[str, str]]:
        return {name: (status, detail) for name, status, detail in self.greeting["layers"]}

    def probe(self, *argv: str, tty: tuple[int, int] | None = None) -> dict[str, Any]:
        """Run a probe inside."""
        return _result(self.ask({"op": "probe", "argv": argv, "tty": tty}))

    def plain(self, *argv: str) -> dict[str, Any]:
        """Run a probe as the caller, outside."""
        return _result(self.ask({"op": "plain", "argv": argv}))

    def namespaced(self, *argv: str) -> dict[str, Any]:
        """Run a probe as root of fresh namespaces."""
        if self._control is None:
            options = {"workspace_dir": self.workspace, "control": True}
            self._control = Conversation(self.mode, self.workspace, options)
        return _result(self._control.ask(argv))

    def network(self, *argv: str) -> dict[str, Any]:
        """Run a probe with all capabilities in the sandbox's network."""
        return _result(self.ask({"op": "network", "argv": argv}))

    def run(self, *argv: str, **options: Any) -> dict[str, Any]:
        answer: dict[str, Any] = self.ask({"op": "run", "argv": argv, **options})
        return answer

    def remove_groups(self) -> None:
        """Remove the control groups that only a supervisor in good health removes itself."""
        for group in self.greeting["cgroups"]:
            with contextlib.suppress(OSError):
                os.rmdir(group)

    def close(self) -> None:
        if self._control is not None:
            self._control.close()
        super().close()


def _result(answer: dict[str, Any]) -> dict[str, Any]:
    lines = answer.get("stdout", "").strip().splitlines()
    assert lines, f"the probe said nothing: {answer}"
    result: dict[str, Any] = json.loads(lines[-1])
    return result


@contextlib.contextmanager
def workspace(mode: str) -> Iterator[str]:
    """A workspace directory of the mode's user, with the probes in it."""
    with ordinary_directory() as path:
        if mode == "root":
            os.chown(path, 0, 0)
        shutil.copy(f"{HERE}/probes.py", f"{path}/probes.py")
        os.chmod(f"{path}/probes.py", 0o644)
        yield path


@contextlib.contextmanager
def running_sandbox(mode: str, **options: Any) -> Iterator[Sandbox]:
    with workspace(mode) as path:
        sandbox = Sandbox(mode, path, options)
        try:
            yield sandbox
        finally:
            sandbox.close()
