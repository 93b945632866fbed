"""One real gateway for a module, with real sandboxes and real upstreams."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from openshell.sdk.client import SandboxClient
from support.private_gateway import PrivateGateway
from support.upstream import Upstream, http_upstream


@pytest.fixture(scope="module")
def gateway() -> Iterator[PrivateGateway]:
    with PrivateGateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: PrivateGateway) -> Iterator[SandboxClient]:
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def upstream() -> Iterator[Upstream]:
    with http_upstream() as upstream:
        yield upstream
