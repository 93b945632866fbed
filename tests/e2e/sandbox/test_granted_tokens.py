"""A program in a real sandbox is answered as somebody it cannot be: its supervisor fetched the token."""

import json
import tempfile
from pathlib import Path

import pytest

from integration.egress.harness import Upstream
from openshell._proto import sandbox_pb2
from openshell.drivers.launch import SVID_FILE, WORKLOAD_SOCKET
from support.token_grants import Agent, Authorization

ALIAS = "host.openshell.internal"
CURL = "/usr/bin/curl"
LOOK = """
cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'; ls -la "$1" 2>&1; exit 0
"""


@pytest.fixture
async def agent():
    made = Agent()
    with tempfile.TemporaryDirectory() as directory:
        made.directory = directory
        yield made
        await made.close()


@pytest.fixture(params=["file", "workload API"])
async def identity(request, monkeypatch, agent):
    """Tells a driver where the identity of its supervisors comes from."""
    for name in (SVID_FILE, WORKLOAD_SOCKET):
        monkeypatch.delenv(name, raising=False)
    if request.param == "file":
        monkeypatch.setenv(SVID_FILE, f"{agent.directory}/svid.jwt")
    else:
        await agent.serve(f"unix:{agent.directory}/agent.sock")
        monkeypatch.setenv(WORKLOAD_SOCKET, f"{agent.directory}/agent.sock")
    return request.param


def configure(gateway, upstream, token_endpoint):
    url = f"http://localhost:{token_endpoint.port}/token"
    rule = sandbox_pb2.NetworkPolicyRule(
        name="r",
        endpoints=[
            sandbox_pb2.NetworkEndpoint(
                host=ALIAS,
                port=upstream.port,
                protocol="rest",
                access="full",
                enforcement="enforce",
            )
        ],
        binaries=[sandbox_pb2.NetworkBinary(path=CURL)],
    )
    gateway.config.policy.version = 1
    gateway.config.policy.network_policies["r"].CopyFrom(rule)
    granted = gateway.environment.dynamic_credentials[f"{ALIAS}\t{upstream.port}\t\tidp:c"]
    granted.token_grant.token_endpoint = url
    # What the composition of providers would add.
    gateway.environment.environment["GCE_METADATA_HOST"] = "gcp.metadata.openshell.internal"
    gateway.environment.environment["GCP_PROJECT_ID"] = "p-1"
    gateway.environment.non_secret_environment_keys.extend(["GCE_METADATA_HOST", "GCP_PROJECT_ID"])
    return url


async def test_a_program_is_answered_with_a_token_it_never_sees(identity, agent, world):
    server = Authorization(agent)
    async with Upstream() as upstream, Upstream(server.answer) as endpoint:
        url = configure(world.gateway, upstream, endpoint)
        server.audiences = [url]
        if identity == "file":
            Path(agent.directory, "svid.jwt").write_text(agent.svid(url))
        box = await world.create()
        target = f"http://{ALIAS}:{upstream.port}/x"
        told = "-sS", "-w", "%{http_code}", "-H", "Authorization: Bearer mine", target
        for _ in range(2):
            ran = await world.gateway.run(box, CURL, *told)
            assert (ran.code, ran.stdout) == (0, b"ok200"), ran.stderr
        looked = await world.gateway.run(box, "/bin/sh", "-c", LOOK, "sh", agent.directory)
    (token,) = [issued for issued, _ in server.issued]
    assert [each.header(b"authorization") for each in upstream.requests] == [
        f"Bearer {token}".encode()
    ] * 2
    inside = looked.stdout + looked.stderr
    assert b"GCP_PROJECT_ID=p-1" in inside, "the probe sees environments"
    for hidden in (token, "GCE_METADATA_HOST", "SPIFFE", "svid.jwt", "agent.sock"):
        assert hidden.encode() not in inside
    assert json.dumps(list(agent.asked)) == json.dumps([] if identity == "file" else [url])


async def test_without_an_identity_the_request_goes_nowhere(identity, agent, world):
    agent.knows_us = False
    server = Authorization(agent)
    async with Upstream() as upstream, Upstream(server.answer) as endpoint:
        configure(world.gateway, upstream, endpoint)
        box = await world.create()
        target = f"http://{ALIAS}:{upstream.port}/x"
        ran = await world.gateway.run(box, CURL, "-sS", "-w", "%{http_code}", target)
        assert ran.stdout.endswith(b"502")
        assert json.loads(ran.stdout[:-3])["error"] == "token_grant_failed"
    assert upstream.requests == []
    assert server.forms == []
