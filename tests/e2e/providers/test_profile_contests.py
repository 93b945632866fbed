"""Two clients at once who want what cannot both be: exactly one gets it, every time.

Each race has a rule of who may win with whom, and what the state must be afterwards; that the gateway
answers both is not enough. The unit of chance is a round: both start at one barrier.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest

from e2e.providers.asking import document, endpoint, item
from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell._proto import openshell_pb2 as api
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import PolicyClient
from openshell.sdk.profiles import ProfileClient
from openshell.sdk.providers import ProviderClient
from openshell.sdk.refs import SandboxRef
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, sandbox_spec
from support.upstream import ALIAS, Upstream

ROUNDS = 10
HOME: Any = {"workspace": "default"}
LOST = {
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.ALREADY_EXISTS,
}


@pytest.fixture(scope="module")
def rival(gateway: PrivateGateway) -> Iterator[SandboxClient]:
    """A second client with a connection of its own."""
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def box(client: SandboxClient) -> Iterator[SandboxRef]:
    with ready_sandbox(client) as ref:
        yield ref


def race(one: Callable[[], bool], other: Callable[[], bool], round_: int) -> tuple[bool, bool]:
    """Who got what they asked for; a refusal is of a kind that says that somebody was first."""
    start = threading.Barrier(2)

    def run(ask: Callable[[], bool]) -> bool:
        start.wait(10)
        try:
            return ask()
        except grpc.RpcError as error:
            assert error.code() in LOST, error
            return False

    calls = (one, other) if round_ % 2 else (other, one)
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(run, calls)
    return (first, second) if round_ % 2 else (second, first)


def layers(client: SandboxClient, box: SandboxRef) -> list[str]:
    """The rules of a sandbox that a profile brought."""
    policy = PolicyClient(client).effective(box.id).policy
    return [key for key in policy.network_policies if key.startswith("_provider_")]


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_deleting_a_profile_against_attaching_it(
    client: SandboxClient, rival: SandboxClient, box: SandboxRef, upstream: Upstream, round_: int
) -> None:
    """A provider whose type has no profile may be attached, so only one order makes a loser."""
    profiles, providers = ProfileClient(client), ProviderClient(rival)
    assert profiles.import_([item(document("leased", endpoint(upstream)))], **HOME).imported
    providers.create("tenant", "leased", {"WORK_KEY": "x"}, **HOME)
    deleted, attached = race(
        lambda: profiles.delete("leased", **HOME),
        lambda: providers.attach(box.name, "tenant", **HOME),
        round_,
    )
    try:
        assert attached
        assert ("leased" in {found.id for found in profiles.iterate(**HOME)}) is not deleted
        assert bool(layers(client, box)) is not deleted
        if not deleted:
            with pytest.raises(grpc.RpcError, match=box.name):
                profiles.delete("leased", **HOME)
    finally:
        providers.detach(box.name, "tenant", **HOME)
        providers.delete("tenant", **HOME)
        if not deleted:
            profiles.delete("leased", **HOME)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_deleting_a_provider_against_attaching_it(
    client: SandboxClient, rival: SandboxClient, box: SandboxRef, round_: int
) -> None:
    mine, yours = ProviderClient(client), ProviderClient(rival)
    mine.create("tenant", "generic", {"WORK_KEY": "x"}, **HOME)
    deleted, attached = race(
        lambda: mine.delete("tenant", **HOME),
        lambda: yours.attach(box.name, "tenant", **HOME),
        round_,
    )
    try:
        assert deleted != attached
        assert [found.metadata.name for found in mine.attached(box.name, **HOME)] == (
            ["tenant"] if attached else []
        )
    finally:
        if attached:
            mine.detach(box.name, "tenant", **HOME)
            mine.delete("tenant", **HOME)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_importing_a_profile_against_creating_a_sandbox_that_it_contradicts(
    client: SandboxClient, rival: SandboxClient, upstream: Upstream, round_: int
) -> None:
    """The sandbox's policy audits a place that the profile enforces: they cannot be together."""
    profiles, providers = ProfileClient(client), ProviderClient(client)
    providers.create("tenant", "strict", {"WORK_KEY": "x"}, **HOME)
    spec = sandbox_spec(
        network="network_policies:\n  web:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {upstream.port}, protocol: rest, enforcement: audit,"
        f" access: full}}\n    binaries: [{{path: {PYTHON}}}]\n",
        providers=("tenant",),
    )
    told: list[str] = []

    def bring_in() -> bool:
        answer = profiles.import_([item(document("strict", endpoint(upstream)))], **HOME)
        told.extend(found.message for found in answer.diagnostics if found.severity == "error")
        return answer.imported

    imported, created = race(
        bring_in, lambda: bool(rival.create(name="contested", spec=spec, **HOME)), round_
    )
    try:
        assert imported != created
        assert bool(told) is created
        assert ("strict" in {found.id for found in profiles.iterate(**HOME)}) is imported
        assert ("contested" in {found.name for found in client.list(**HOME)}) is created
    finally:
        if created:
            client.delete("contested", **HOME)
            client.wait_deleted("contested", **HOME)
        if imported:
            profiles.delete("strict", **HOME)
        providers.delete("tenant", **HOME)


def by_import(profiles: ProfileClient, found: api.ProviderProfileImportItem) -> bool:
    return profiles.import_([found], **HOME).imported


def by_apply(profiles: ProfileClient, found: api.ProviderProfileImportItem) -> bool:
    wanted = ext.ApplyProfilesItem(id=found.profile.id, profile=found.profile, source="test")
    return profiles.apply([wanted], **HOME).applied


@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize("how", [by_import, by_apply], ids=["imports", "import and apply"])
def test_creating_one_profile_twice(
    client: SandboxClient,
    rival: SandboxClient,
    upstream: Upstream,
    how: Callable[[ProfileClient, api.ProviderProfileImportItem], bool],
    round_: int,
) -> None:
    mine, yours = ProfileClient(client), ProfileClient(rival)
    versions = [
        item(document("wanted", endpoint(upstream), more=f"annotations: {{by: {who}}}\n"))
        for who in ("me", "you")
    ]
    first, second = race(
        lambda: by_import(mine, versions[0]), lambda: how(yours, versions[1]), round_
    )
    try:
        assert first != second
        stored = mine.get("wanted", **HOME)
        assert dict(stored.annotations) == {"by": "me" if first else "you"}
        newest = mine.revisions("wanted", **HOME)[0]
        assert newest.resource_version == stored.resource_version
    finally:
        mine.delete("wanted", **HOME)


@pytest.mark.parametrize("round_", range(ROUNDS))
def test_two_updates_of_one_version(
    client: SandboxClient, rival: SandboxClient, upstream: Upstream, round_: int
) -> None:
    mine, yours = ProfileClient(client), ProfileClient(rival)
    assert mine.import_([item(document("edited", endpoint(upstream)))], **HOME).imported
    present = mine.get("edited", **HOME).resource_version
    calls = [
        lambda who=who, text=text: who.update("edited", text, expected=present, **HOME).updated
        for who, text in (
            (mine, item(document("edited", endpoint(upstream, "/mine")))),
            (yours, item(document("edited", endpoint(upstream, "/yours")))),
        )
    ]
    first, second = race(calls[0], calls[1], round_)
    try:
        assert first != second
        (found,) = mine.get("edited", **HOME).endpoints
        assert found.rules[0].allow.path == ("/mine" if first else "/yours")
        assert len(mine.revisions("edited", **HOME)) >= 2
    finally:
        mine.delete("edited", **HOME)
