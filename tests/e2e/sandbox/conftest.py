"""A local driver with real sandboxes in front of a scripted gateway."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from typing import Any

import pytest

from openshell.drivers.base import DriverSandbox, SandboxStatus
from openshell.drivers.local import LocalDriver
from openshell.drivers.local.paths import SandboxPaths, StatePaths
from support.fake_gateway import TOKEN, FakeGateway


class World:
    """Gateway, driver, and what a test wants to know of them."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self.state = f"{directory}/local"
        self.gateway = FakeGateway(f"{directory}/gateway.sock")
        self.driver = LocalDriver(self.state, self.gateway.endpoint)
        self._numbers = itertools.count()

    async def create(self, *command: str, ready: bool = True, **more: Any) -> str:
        number = next(self._numbers)
        sandbox = DriverSandbox(
            id=more.pop("id", f"id-{number}-{os.getpid()}"),
            name=more.pop("name", f"box{number}"),
            workspace="default",
            token=TOKEN,
            command=command,
            initial_config=self.gateway.config.SerializeToString(),
            **more,
        )
        await self.driver.create(sandbox)
        if ready:
            await self.ready(sandbox.id)
        return sandbox.id

    async def ready(self, sandbox_id: str) -> None:
        try:
            await self.gateway.ready(sandbox_id)
        except TimeoutError:
            with contextlib.suppress(OSError), open(self.paths(sandbox_id).log) as file:
                print(file.read())
            raise

    def paths(self, sandbox_id: str) -> SandboxPaths:
        return StatePaths(self.state).sandbox(sandbox_id)

    async def until(self, sandbox_id: str, reason: str, timeout: float = 15) -> SandboxStatus:
        """Until the driver reports a condition with this reason."""
        async with asyncio.timeout(timeout):
            async for event in self.driver.watch():
                if (
                    isinstance(event, SandboxStatus)
                    and event.id == sandbox_id
                    and reason in {condition.reason for condition in event.conditions}
                ):
                    return event
        raise AssertionError("the watch ended")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    directory = tempfile.mkdtemp(prefix="os-")
    made = World(directory)
    await made.gateway.start()
    await made.driver.open()
    try:
        yield made
    finally:
        for status in await made.driver.list():
            with contextlib.suppress(Exception):
                await made.driver.delete(status.id)
        await made.driver.close()
        await made.gateway.stop()
        shutil.rmtree(directory, ignore_errors=True)
