"""The password of a database is in the gateway's own environment and nowhere else."""

import os
from pathlib import Path

import pytest

from integration.two_gateways.test_two_gateways import Users, create
from support.gateways import Gateways
from support.postgres import PASSWORD, PASSWORD_USER

SECRET = PASSWORD.encode()


@pytest.fixture
def url(postgres, database_url):
    """A database whose user needs the password."""
    name = database_url.split("@/")[1].partition("?")[0]
    return postgres.url(name, user=PASSWORD_USER, password=PASSWORD)


async def test_it_is_in_no_log_no_file_and_no_argument(url, tmp_path):
    directory = tmp_path / "d"
    directory.mkdir()
    with Gateways(directory, url, {"OPENSHELL_LOG_LEVEL": "trace"}) as gateways:
        (gateway,) = gateways.start(1)
        async with Users([gateway]) as users:
            await create(users.apis[0], "box")
        pid = gateway.process.pid
        # The probe works: the gateway has it where it was put.
        assert SECRET in Path(f"/proc/{pid}/environ").read_bytes()
        assert SECRET not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert gateway.stop() == 0
        assert "serving on" in gateway.log
    for root, _directories, files in os.walk(directory):
        for name in files:
            assert SECRET not in (Path(root) / name).read_bytes(), name
