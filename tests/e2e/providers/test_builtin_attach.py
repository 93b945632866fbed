"""Every built-in profile can be attached alone to a running sandbox, and brings what it says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from e2e.providers.asking import ENVIRON, run
from openshell.providers.profile.builtin import builtin_profiles
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import PolicyClient
from openshell.sdk.providers import ProviderClient
from openshell.sdk.refs import SandboxRef
from support.private_gateway import PrivateGateway, ready_sandbox, wait_until

SECRET = "hunter2-not-to-be-seen"
# What is there to make tokens of, and is itself for nobody inside.
NEVER_INSIDE = "GOOGLE_SERVICE_ACCOUNT_KEY"


@pytest.fixture(scope="module")
def box(client: SandboxClient) -> Iterator[SandboxRef]:
    with ready_sandbox(client) as ref:
        yield ref


def inside(client: SandboxClient, box: SandboxRef) -> dict[str, str]:
    shown = client.exec(box.id, ["env"], env=ENVIRON, timeout_seconds=20).stdout
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


@pytest.mark.parametrize("id_", builtin_profiles())
def test_it_attaches_alone(
    gateway: PrivateGateway, client: SandboxClient, box: SandboxRef, id_: str
) -> None:
    profile = builtin_profiles()[id_]
    keys = [credential.env_vars[0] for credential in profile.credentials if credential.env_vars]
    # A record holds something, also where its type asks for nothing.
    credentials = dict.fromkeys(keys or ["UNUSED_KEY"], SECRET)
    rule = f"_provider_my_{id_.replace('-', '_')}"
    providers = ProviderClient(client)
    providers.create(f"my-{id_}", id_, credentials, workspace="default")
    before = set(inside(client, box))
    attached = gateway.cli("sandbox", "provider", "attach", box.name, f"my-{id_}")
    try:
        assert attached.returncode == 0, attached.stderr
        policy = PolicyClient(client).effective(box.id).policy
        layer = policy.network_policies[rule]
        assert [found.host for found in layer.endpoints] == [
            found.host for found in profile.endpoints
        ]
        assert [found.path for found in layer.binaries] == [
            found.path for found in profile.binaries
        ]
        expected = set(keys) - {NEVER_INSIDE} if profile.endpoints else set()
        wait_until(lambda: expected <= set(inside(client, box)), seconds=5)
        shown = inside(client, box)
        assert all(shown[key].startswith("openshell:resolve:env:") for key in expected)
        assert NEVER_INSIDE not in shown
        assert SECRET not in str(shown)
    finally:
        gateway.cli("sandbox", "provider", "detach", box.name, f"my-{id_}")
        providers.delete(f"my-{id_}", workspace="default")
    wait_until(lambda: set(inside(client, box)) == before, seconds=5)
    assert rule not in run(gateway, "policy", "get", box.name, "--full")
