"""A program keeps the placeholder it was started with; what stands behind it changes under it."""

import asyncio

from integration.egress.harness import Upstream
from openshell._proto import sandbox_pb2

ALIAS = "host.openshell.internal"
CURL = "/usr/bin/curl"
HANDLE = "0123456789abcdef" * 4
# One process for the whole test: it sees its environment once.
PROGRAM = f"""
for round in 1 2 3 4; do
  while [ ! -e /sandbox/go-$round ]; do sleep 0.01; done
  {CURL} -s -o /dev/null -H "Authorization: Bearer $TOKEN" -d "{{\\"t\\": \\"$TOKEN\\"}}" \
    -H "Content-Type: application/json" "$1/$round/$TOKEN?k=$TOKEN"
  touch /sandbox/done-$round
done
exec sleep 60
"""


def hold(gateway, port, revision, value):
    environment = gateway.environment
    environment.provider_env_revision = gateway.config.provider_env_revision = revision
    environment.environment["TOKEN"] = value
    binding = environment.static_credential_bindings["TOKEN"]
    binding.credential_identity = f"refresh:{HANDLE}"
    binding.workload_credential_handle = HANDLE
    del binding.endpoints[:]
    binding.endpoints.add(host=ALIAS, port=port)


async def test_a_running_program_uses_the_newest_value(world):
    gateway = world.gateway
    async with Upstream() as upstream:
        rule = sandbox_pb2.NetworkPolicyRule(name="r")
        rule.binaries.add(path=CURL)
        rule.endpoints.add(
            host=ALIAS,
            port=upstream.port,
            protocol="rest",
            access="full",
            enforcement="enforce",
            request_body_credential_rewrite=True,
        )
        gateway.config.policy.version = 1
        gateway.config.policy.network_policies["r"].CopyFrom(rule)
        hold(gateway, upstream.port, 1, "value-1")
        url = f"http://{ALIAS}:{upstream.port}"
        box = await world.create("/bin/sh", "-c", PROGRAM, "sh", url)
        for number in (1, 2, 3, 4):
            if number > 1:
                hold(gateway, upstream.port, number, f"value-{number}")
                await gateway.push(box)
                # The contract's bound for a change to be in force, not for us to poll.
                await asyncio.sleep(0.2)
            wait = f"touch /sandbox/go-{number}; while [ ! -e /sandbox/done-{number} ]; do sleep 0.01; done"
            async with asyncio.timeout(10):
                await gateway.run(box, "/bin/sh", "-c", wait)
    for number, request in zip((1, 2, 3, 4), upstream.requests, strict=True):
        value = f"value-{number}"
        assert request.line == f"POST /{number}/{value}?k={value} HTTP/1.1".encode()
        assert request.header(b"authorization") == f"Bearer {value}".encode()
        assert request.body == f'{{"t": "{value}"}}'.encode()
