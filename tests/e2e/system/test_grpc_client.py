"""gRPC's own Python client in a sandbox works with the methods it needs, and fails closed one short."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
import typing_extensions

from openshell.codec.policy import policy_to_proto
from openshell.policy.parse import parse_policy
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import PolicyClient
from openshell.sdk.refs import SandboxRef
from support.certificates import make_certificates
from support.private_gateway import (
    FILESYSTEM,
    PREFIX,
    PYTHON,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
)
from support.upstream import ALIAS

LIBRARY = Path(grpc.__file__).parent
TYPES = Path(typing_extensions.__file__)
# With and without its own support of proxies: both ways out lead through the same policy.
WAYS = {"proxy variables": 1, "captured": 0}
CLIENT = """
import importlib.util, json, sys
# Only the libraries themselves are shown inside, not the directory that they are in.
for name, path in (("typing_extensions", sys.argv[2]), ("grpc", sys.argv[1] + "/__init__.py")):
    spec = importlib.util.spec_from_file_location(name, path)
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
import grpc
options = [("grpc.enable_http_proxy", int(sys.argv[4])), ("grpc.enable_retries", 0)]
said = []
with grpc.secure_channel(sys.argv[3], grpc.ssl_channel_credentials(), options) as channel:
    def call(work):
        try:
            said.append(work())
        except grpc.RpcError as error:
            said.append(error.code().name)
    call(lambda: channel.unary_unary("/shop.Cart/Add")(b"apple", timeout=20).decode())
    call(lambda: [p.decode() for p in channel.unary_stream("/shop.Cart/Watch")(b"3", timeout=20)])
    words = [b"a", b"bc"]
    call(lambda: [p.decode() for p in channel.stream_stream("/shop.Cart/Chat")(iter(words), timeout=20)])
print(json.dumps(said))
"""


class Cart(grpc.GenericRpcHandler):  # type: ignore[type-arg] # generic in its stubs only
    """A service whose messages are bytes."""

    def __init__(self) -> None:
        self.called: list[str] = []

    def service(
        self, details: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        self.called.append(details.method)
        match details.method:
            case "/shop.Cart/Add":
                return grpc.unary_unary_rpc_method_handler(lambda request, _: request.upper())
            case "/shop.Cart/Watch":
                return grpc.unary_stream_rpc_method_handler(
                    lambda request, _: (b"%d" % n for n in range(int(request)))
                )
            case "/shop.Cart/Chat":
                return grpc.stream_stream_rpc_method_handler(
                    lambda requests, _: (part[::-1] for part in requests)
                )
        return None


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("certificates")
    paths = directory / "ca.pem", directory / "key.pem"
    make_certificates(*paths, ALIAS)
    return paths


@pytest.fixture(scope="module")
def gateway(certificate: tuple[Path, Path]) -> Iterator[PrivateGateway]:
    toml = f'[openshell.drivers.local]\nupstream_ca_bundle = "{certificate[0]}"\n'
    with PrivateGateway(toml=toml) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def cart(certificate: tuple[Path, Path]) -> Iterator[tuple[Cart, int]]:
    pem, handler = certificate[1].read_bytes(), Cart()
    server = grpc.server(ThreadPoolExecutor(4), handlers=[handler])
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(pem, pem)]))
    server.start()
    yield handler, port
    server.stop(0)


def policy(port: int, *methods: str, program: str = PYTHON) -> str:
    rules = ", ".join(f"{{allow: {{method: POST, path: /shop.Cart/{name}}}}}" for name in methods)
    return (
        "network_policies:\n  cart:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {port}, protocol: rest, enforcement: enforce,\n"
        f"         rules: [{rules}]}}\n"
        f"    binaries: [{{path: {program}}}]\n"
    )


@pytest.fixture(scope="module")
def box(client: SandboxClient, cart: tuple[Cart, int]) -> Iterator[SandboxRef]:
    spec = sandbox_spec(network=policy(cart[1], "Add"))
    paths = [str(LIBRARY), str(TYPES), *([] if PREFIX.startswith("/usr") else [PREFIX])]
    spec.template.driver_config.update({"local": {"host_paths": paths}})
    with ready_sandbox(client, spec) as ref:
        yield ref


def follow(client: SandboxClient, ref: SandboxRef, network: str) -> None:
    """Put a policy in force and wait until the sandbox has it."""
    policies = PolicyClient(client)
    message = policy_to_proto(parse_policy(FILESYSTEM + network, source="test"))
    version = policies.replace(ref.name, message, workspace="default").version
    while policies.revision(ref.name, version, workspace="default").revision.status == 1:
        pass


def call(client: SandboxClient, ref: SandboxRef, port: int, proxy: int) -> list[object]:
    places = [str(LIBRARY), str(TYPES), f"{ALIAS}:{port}", str(proxy)]
    ran = client.exec(ref.id, [PYTHON, "-c", CLIENT, *places], timeout_seconds=60)
    assert ran.exit_code == 0, ran.stderr
    said = json.loads(ran.stdout)
    assert isinstance(said, list)
    return said


@pytest.mark.parametrize("proxy", WAYS.values(), ids=WAYS.keys())
def test_it_works_with_what_it_needs_and_fails_closed_one_method_short(
    client: SandboxClient, box: SandboxRef, cart: tuple[Cart, int], proxy: int
) -> None:
    handler, port = cart
    handler.called.clear()
    follow(client, box, policy(port, "Add", "Watch", "Chat"))
    assert call(client, box, port, proxy) == ["APPLE", ["0", "1", "2"], ["a", "cb"]]
    follow(client, box, policy(port, "Add", "Watch"))
    assert call(client, box, port, proxy) == ["APPLE", ["0", "1", "2"], "PERMISSION_DENIED"]
    assert handler.called.count("/shop.Cart/Chat") == 1
    follow(client, box, policy(port, "Add", "Watch", "Chat", program="/usr/bin/curl"))
    assert call(client, box, port, proxy) == ["UNAVAILABLE"] * 3
    assert handler.called.count("/shop.Cart/Add") == 2
