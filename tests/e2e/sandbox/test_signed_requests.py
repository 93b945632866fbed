"""A program in a real sandbox signs with keys that are none; the server sees those of the account."""

import json

from integration.egress.harness import OK, Upstream
from openshell._proto import sandbox_pb2
from support.aws_signatures import find_fault

ALIAS = "host.openshell.internal"
CURL = "/usr/bin/curl"
ACCESS, SECRET, TOKEN = (
    "AKIDOURS0000000000",
    "our/secret+KEY/that-never-leaves",
    "our/session+token==",
)
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_SESSION_TOKEN": TOKEN}
# As a program would: sign with what the environment holds.
ASK = """
exec curl -sS -w '%{http_code}' --aws-sigv4 aws:amz:us-east-1:s3 \
  --user "$AWS_ACCESS_KEY_ID:$AWS_SECRET_ACCESS_KEY" \
  -H "X-Amz-Security-Token: $AWS_SESSION_TOKEN" "$@"
"""


def configure(gateway, upstream, **fields):
    rule = gateway.config.policy.network_policies["r"]
    rule.name = "r"
    rule.endpoints.add(
        host=ALIAS,
        port=upstream.port,
        protocol="rest",
        access="full",
        enforcement="enforce",
        **fields,
    )
    rule.binaries.append(sandbox_pb2.NetworkBinary(path=CURL))
    gateway.config.policy.version = 1
    for key, value in KEYS.items():
        gateway.environment.environment[key] = value
        binding = gateway.environment.static_credential_bindings[key]
        binding.credential_identity = "p/aws"
        binding.endpoints.add(host=ALIAS, port=upstream.port)


def fault_in(request):
    method, target, _ = request.line.decode().split(" ")
    fields = [line.decode().split(": ", 1) for line in request.head.split(b"\r\n")[1:]]
    return find_fault(method, target, fields, request.body, {ACCESS: SECRET})


async def test_curl_is_signed_for_with_keys_it_never_sees(world):
    signs = {"credential_signing": "sigv4", "signing_service": "s3", "signing_region": "eu-west-1"}
    async with Upstream(OK) as upstream:
        configure(world.gateway, upstream, **signs)
        box = await world.create()
        url = f"http://{ALIAS}:{upstream.port}/bucket/key?prefix=a"
        for more in (), ("-X", "PUT", "--data-binary", "body of an object"):
            ran = await world.gateway.run(box, "/bin/sh", "-c", ASK, "sh", *more, url)
            assert (ran.code, ran.stdout) == (0, b"ok200"), ran.stderr
        looked = await world.gateway.run(
            box, "/bin/sh", "-c", "cat /proc/*/environ /proc/*/cmdline 2>/dev/null; exit 0"
        )
    assert [fault_in(request) for request in upstream.requests] == [None, None]
    got, put = upstream.requests
    assert put.body == b"body of an object"
    for request in got, put:
        assert f"Credential={ACCESS}/".encode() in request.header(b"authorization")
        assert b"/eu-west-1/s3/aws4_request" in request.header(b"authorization")
        assert request.header(b"x-amz-security-token") == TOKEN.encode()
        assert b"openshell:resolve" not in request.head
        assert SECRET.encode() not in request.head
    assert b"AWS_SECRET_ACCESS_KEY=openshell:resolve" in looked.stdout, (
        "the probe sees environments"
    )
    for value in KEYS.values():
        assert value.encode() not in looked.stdout + looked.stderr


async def test_what_cannot_be_signed_says_why(world):
    signs = {"credential_signing": "sigv4", "signing_service": "s3"}
    async with Upstream(OK) as upstream:
        configure(world.gateway, upstream, **signs)
        box = await world.create()
        url = f"http://{ALIAS}:{upstream.port}/bucket/key"
        ran = await world.gateway.run(box, "/bin/sh", "-c", ASK, "sh", url)
    assert ran.stdout.endswith(b"500")
    said = json.loads(ran.stdout[:-3])
    assert said["reason_code"] == "signing_region"
    assert "signing_region" in said["detail"]
    assert upstream.requests == []
