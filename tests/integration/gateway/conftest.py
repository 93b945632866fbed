import pytest

from integration.gateway.harness import running


@pytest.fixture
async def gw(tmp_path):
    async with running(tmp_path) as started:
        yield started
