"""A gateway, a provider with AWS keys and a program that holds none: a profile brings the signature, or a policy."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from e2e.providers.asking import Talker, asker, document, endpoint, run
from openshell.sdk.client import SandboxClient
from support.aws_signatures import find_fault
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, sandbox_spec, wait_until
from support.upstream import ALIAS, Received, Upstream

KEYS = {"AWS_ACCESS_KEY_ID": "AKIDFIRST00000", "AWS_SECRET_ACCESS_KEY": "first/secret+never-seen"}
NEXT = {"AWS_ACCESS_KEY_ID": "AKIDNEXT000000", "AWS_SECRET_ACCESS_KEY": "next/secret+never-seen"}
SIGNS = "credential_signing: sigv4, signing_service: s3, signing_region: eu-west-1"
CREDENTIALS = (
    "{name: access, env_vars: [AWS_ACCESS_KEY_ID], required: true}\n"
    "  - {name: secret, env_vars: [AWS_SECRET_ACCESS_KEY], required: true}"
)
# Whatever stands in this field is no signature that a server would take.
MINE = "AWS4-HMAC-SHA256 Credential=$AWS_ACCESS_KEY_ID/20260101/eu-west-1/s3/aws4_request"


def provider(gateway: PrivateGateway, name: str, kind: str) -> str:
    given = [word for key in KEYS for word in ("--credential", key)]
    run(gateway, "provider", "create", "--name", name, "--type", kind, *given, **KEYS)
    return name


@pytest.fixture(scope="module")
def brought(
    gateway: PrivateGateway, upstream: Upstream, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A provider whose type has signing endpoints."""
    path = tmp_path_factory.mktemp("profile") / "store.yaml"
    signing = endpoint(upstream, more=f", {SIGNS}")
    path.write_text(document("store", signing, credentials=CREDENTIALS))
    run(gateway, "provider", "profile", "import", "-f", path)
    yield provider(gateway, "store", "store")


def put(process: Talker, upstream: Upstream) -> Received:
    url = f"http://{ALIAS}:{upstream.port}/bucket/a%20key?x=1"
    answer = process.ask(url, method="PUT", headers={"Authorization": MINE}, body="an object")
    assert answer == (200, "PUT /bucket/a%20key?x=1")
    return upstream.received[-1]


def fault_in(request: Received, keys: dict[str, str]) -> str | None:
    secrets = {keys["AWS_ACCESS_KEY_ID"]: keys["AWS_SECRET_ACCESS_KEY"]}
    fields = list(request.headers.items())
    return find_fault(request.method, request.path, fields, request.body, secrets)


def test_a_profile_brings_endpoints_that_are_signed(
    gateway: PrivateGateway, client: SandboxClient, brought: str, upstream: Upstream
) -> None:
    with (
        ready_sandbox(client, sandbox_spec(providers=(brought,))) as ref,
        asker(client, ref.id) as process,
    ):
        environ = process.environ()
        for key, value in KEYS.items():
            assert environ[key].startswith("openshell:resolve:env:")
            assert value not in environ.values()
        request = put(process, upstream)
        assert fault_in(request, KEYS) is None
        assert request.body == b"an object"
        given = [word for key in NEXT for word in ("--credential", key)]
        run(gateway, "provider", "update", brought, *given, **NEXT)

        def signed_anew() -> bool:
            return fault_in(put(process, upstream), NEXT) is None

        # The same process goes on with the same placeholders.
        wait_until(signed_anew)
        log = run(gateway, "logs", ref.name)
    assert f"PUT http://{ALIAS}" in log
    for value in (*KEYS.values(), *NEXT.values()):
        assert value not in log


def test_a_policy_binds_keys_to_an_endpoint_that_is_signed(
    gateway: PrivateGateway, client: SandboxClient, elsewhere: Upstream
) -> None:
    name = provider(gateway, "models", "aws-bedrock")
    network = (
        "network_policies:\n  models:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {elsewhere.port}, protocol: rest, access: full, "
        f"enforcement: enforce, credential_binding: {{provider: {name}}}, {SIGNS}}}\n"
        f"    binaries: [{{path: {PYTHON}}}]\n"
    )
    with (
        ready_sandbox(client, sandbox_spec(network=network, providers=(name,))) as ref,
        asker(client, ref.id) as process,
    ):
        assert fault_in(put(process, elsewhere), KEYS) is None
    # Without the keys nobody could sign: such a sandbox is not made.
    unbound = network.replace(f"credential_binding: {{provider: {name}}}, ", "")
    with pytest.raises(grpc.RpcError, match="no resolvable AWS credential source"):
        client.create(workspace="default", spec=sandbox_spec(network=unbound, providers=(name,)))
