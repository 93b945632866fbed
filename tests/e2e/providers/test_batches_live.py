"""What a dry run of a batch promises is what happens inside, when it is applied and when it is undone."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from e2e.providers.asking import Talker, asker, document, endpoint, run
from openshell.sdk.client import SandboxClient
from support.private_gateway import PrivateGateway, ready_sandbox, sandbox_spec, wait_until
from support.upstream import ALIAS, Upstream

APPLY = ("provider", "profile", "apply", "--from")
PATHS = ("/both", "/first", "/second")
BEFORE, AFTER = (200, 200, 403), (200, 403, 200)


def write(
    directory: Path, upstream: Upstream, elsewhere: Upstream, path: str, version: int
) -> None:
    """Two types, each with a server of its own; `path` is what changes."""
    more = f"resource_version: {version}\n" if version else ""
    for name, server in (("one", upstream), ("two", elsewhere)):
        text = document(
            name, endpoint(server, "/both", path), variable=f"{name.upper()}_KEY", more=more
        )
        (directory / f"{name}.yaml").write_text(text)


@pytest.fixture
def process(
    gateway: PrivateGateway,
    client: SandboxClient,
    upstream: Upstream,
    elsewhere: Upstream,
    tmp_path: Path,
) -> Iterator[Talker]:
    """Something in a sandbox that uses both types."""
    write(tmp_path, upstream, elsewhere, "/first", 0)
    assert "Created one\nCreated two\n" in run(gateway, *APPLY, tmp_path)
    for name in ("one", "two"):
        create = ("provider", "create", "--name", name, "--type", name)
        key = f"{name.upper()}_KEY"
        run(gateway, *create, "--credential", f"{key}=value-of-{name}")
    spec = sandbox_spec(providers=("one", "two"))
    with ready_sandbox(client, spec, name="batched") as ref, asker(client, ref.id) as talker:
        yield talker


def statuses(process: Talker, server: Upstream) -> tuple[int, ...]:
    place = f"http://{ALIAS}:{server.port}"
    return tuple(process.ask(f"{place}{path}")[0] for path in PATHS)


def test_promised_applied_and_undone(
    gateway: PrivateGateway,
    process: Talker,
    upstream: Upstream,
    elsewhere: Upstream,
    tmp_path: Path,
) -> None:
    def wait_for(*wanted: tuple[int, ...]) -> None:
        wait_until(
            lambda: (statuses(process, upstream), statuses(process, elsewhere)) == wanted, seconds=5
        )

    environ = process.environ()
    wait_for(BEFORE, BEFORE)
    write(tmp_path, upstream, elsewhere, "/second", 1)
    answer: dict[str, Any] = json.loads(run(gateway, *APPLY, tmp_path, "--dry-run", "-o", "json"))
    (impact,) = answer["impacts"]
    assert impact["sandbox"] == "batched"
    for server in (upstream, elsewhere):
        place = f"{ALIAS}:{server.port}"
        assert any(place in line and "/second" in line for line in impact["gained"]), impact
        assert any(place in line and "/first" in line for line in impact["lost"]), impact
    assert impact["credentials_bound"] == impact["credentials_unbound"] == []
    assert (statuses(process, upstream), statuses(process, elsewhere)) == (BEFORE, BEFORE)

    # With a document that cannot be stored, the good one stays out, too.
    bad = tmp_path / "zzz.yaml"
    bad.write_text("id: github\ndisplay_name: Mine now\n")
    assert "profile=github field=id" in run(gateway, *APPLY, tmp_path, code=1)
    assert (statuses(process, upstream), statuses(process, elsewhere)) == (BEFORE, BEFORE)
    bad.unlink()

    assert "Updated one\nUpdated two\n" in run(gateway, *APPLY, tmp_path)
    wait_for(AFTER, AFTER)
    run(gateway, "provider", "profile", "rollback", "one", "--to", "1")
    wait_for(BEFORE, AFTER)
    assert process.environ() == environ
    assert process.ask(
        f"http://{ALIAS}:{upstream.port}/both", headers={"Authorization": "Bearer $ONE_KEY"}
    ) == (200, "GET /both")
    assert upstream.received[-1].headers["Authorization"] == "Bearer value-of-one"
