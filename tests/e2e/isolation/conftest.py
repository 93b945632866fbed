"""One sandbox per mode for all probes of a module; tests that need another start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.isolation.sandboxes import MODES, Sandbox, running_sandbox


@pytest.fixture(scope="module", params=MODES)
def sandbox(request: pytest.FixtureRequest) -> Iterator[Sandbox]:
    with running_sandbox(request.param) as started:
        yield started


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)
