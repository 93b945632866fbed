"""One real gateway for a module on which providers bring policy, and two places that requests go to."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.providers.asking import switch_on
from openshell.sdk.client import SandboxClient
from support.private_gateway import PrivateGateway
from support.upstream import Upstream, http_upstream


@pytest.fixture(scope="module")
def gateway() -> Iterator[PrivateGateway]:
    with PrivateGateway() as gateway:
        switch_on(gateway)
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: PrivateGateway) -> Iterator[SandboxClient]:
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with http_upstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Upstream]:
    with http_upstream() as upstream:
        yield upstream
