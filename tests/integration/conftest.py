"""A PostgreSQL server for the tests of this process, and an empty database for each."""

import pytest

from support.postgres import MISSING, PostgresServer, find_binaries


@pytest.fixture(scope="session")
def postgres():
    binaries = find_binaries()
    if binaries is None:
        pytest.skip(MISSING)
    with PostgresServer(binaries) as server:
        yield server


@pytest.fixture
def database_url(postgres):
    with postgres.database() as url:
        yield url
