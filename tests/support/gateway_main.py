"""The program `openshell-gateway` with a driver that needs no kernel: `python -m support.gateway_main`.

What the driver was handed for a sandbox (token, endpoint) is a file below `$FAKE_DRIVER_STATE`, for
the test that plays its supervisor. Sandboxes outlive the gateway there, as real ones do.
"""

import functools
import json
import os
import sys
from pathlib import Path

from integration.gateway.harness import FakeDriver
from openshell.drivers.base import Condition, DriverSandbox
from openshell.gateway import main as program
from openshell.gateway.app import World


class FiledDriver(FakeDriver):
    """Keeps its sandboxes in files."""

    def __init__(self, directory):
        super().__init__()
        self._directory = Path(directory)
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    async def open(self):
        for path in self._directory.glob("*.json"):
            sandbox = DriverSandbox(**json.loads(path.read_text()))
            self.sandboxes[sandbox.id] = [sandbox, (Condition("Ready", "True", "BackendReady"),)]

    async def create(self, sandbox):
        path = self._directory / f"{sandbox.id}.json"
        kept = {n: getattr(sandbox, n) for n in ("id", "name", "workspace", "endpoint", "token")}
        path.with_suffix(".new").write_text(json.dumps(kept))
        path.with_suffix(".new").rename(path)
        await super().create(sandbox)

    async def delete(self, sandbox_id):
        (self._directory / f"{sandbox_id}.json").unlink(missing_ok=True)
        return await super().delete(sandbox_id)


if __name__ == "__main__":
    make_driver = functools.partial(lambda *_a, **_k: FiledDriver(os.environ["FAKE_DRIVER_STATE"]))
    program.World = functools.partial(World, make_driver=make_driver)
    sys.exit(program.main())
