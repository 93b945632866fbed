"""The example of the documentation as a real service: the gateway asks it, a supervisor's client uses it."""

import asyncio
import importlib.util
from pathlib import Path

import pytest

from openshell.egress.middleware import Evaluation, StageFailed
from openshell.gateway.config import ConfigError
from openshell.gateway.errors import ApiError
from openshell.gateway.middleware import MiddlewareServices
from openshell.gateway.middleware_registrations import RegistrationError, read_registrations
from openshell.policy.parse import parse_policy
from openshell.supervisor.middleware_messages import SandboxFacts
from openshell.supervisor.middleware_registry import MiddlewareRegistry

pytestmark = pytest.mark.asyncio

_EXAMPLE = Path(__file__).parents[3] / "examples" / "middleware" / "service.py"


def example():
    spec = importlib.util.spec_from_file_location("example_middleware", _EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def registered(port, **extra):
    return read_registrations(
        [
            {
                "name": "code-names",
                "grpc_endpoint": f"http://127.0.0.1:{port}",
                "max_payload_bytes": 65536,
                "allow_insecure_transport": True,
                **extra,
            }
        ]
    )


def policy(name="code-names", word="zephyr"):
    return parse_policy(
        f"""
version: 1
network_middlewares:
  names:
    middleware: {name}
    config: {{word: "{word}"}}
    endpoints: {{include: ["**"]}}
""",
        source="test",
    )


def asked(body, word="zephyr"):
    return Evaluation("id", "POST", "https", "h.example", 443, "/", "", (), body, {"word": word})


async def test_gateway_and_supervisor_with_the_example():
    server, port = await example().serve("127.0.0.1:0")
    services = MiddlewareServices(registered(port))
    registry = MiddlewareRegistry(SandboxFacts("id", "box"), lambda: None)
    try:
        await services.open()
        await services.check(policy())
        with pytest.raises(ApiError, match="word is missing"):
            await services.check(policy(word=""))
        with pytest.raises(ApiError, match="'other' is not registered"):
            await services.check(policy("other"))
        with pytest.raises(ApiError, match="'other', which is not registered"):
            services.needed(policy("other"))
        sent = services.needed(policy())
        ready = await registry.reconcile(sent)
        assert ready.problems == ()
        service = ready.implementations["code-names"]
        assert (service.body_limit, service.seconds) == (65536, 0.5)
        allowed = await service.evaluate(asked(b"hello"))
        assert allowed.allow
        assert allowed.mutations[0].value == "code-names"
        denied = await service.evaluate(asked(b"about zephyr"))
        assert (denied.allow, denied.reason_code) == (False, "code_name")
        again = await registry.reconcile(sent)
        assert again.implementations["code-names"] is service
        await server.stop(None)
        with pytest.raises(StageFailed):
            await service.evaluate(asked(b"hello"))
    finally:
        await registry.close()
        await services.close()
        await server.stop(None)


async def test_a_service_that_comes_later_is_connected_by_itself():
    module = example()
    server, port = await module.serve("127.0.0.1:0")
    await server.stop(None)
    services, came = MiddlewareServices(registered(port)), asyncio.Event()
    registry = MiddlewareRegistry(SandboxFacts("id", "box"), came.set)
    try:
        first = await registry.reconcile(services.needed(policy()))
        assert first.problems == ("middleware 'code-names': it does not answer",)
        assert "code-names" not in first.implementations
        server, _ = await module.serve(f"127.0.0.1:{port}")
        async with asyncio.timeout(15):
            await came.wait()
        second = await registry.reconcile(services.needed(policy()))
        assert "code-names" in second.implementations
    finally:
        await registry.close()
        await server.stop(None)


async def test_a_registration_above_what_the_service_takes_stops_the_gateway():
    server, port = await example().serve("127.0.0.1:0")
    services = MiddlewareServices(registered(port, max_payload_bytes=65537))
    try:
        with pytest.raises(ConfigError, match="more than the service takes"):
            await services.open()
    finally:
        await services.close()
        await server.stop(None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "openshell/mine"}, "not begin with openshell/"),
        ({"grpc_endpoint": "https://user:pw@host:1"}, "https://HOST:PORT"),
        ({"allow_insecure_transport": False}, "must be https"),
        ({"timeout": "31s"}, "from 10ms to 30s"),
        ({"max_payload_bytes": 5 << 20}, "from 1 to"),
        ({"max_body_bytes": 1}, "not both"),
        ({"audience": "x"}, "not supported yet"),
        ({"other": 1}, "unknown key"),
        ({"tls_ca_cert_path": "/dev/null"}, "certificates and nothing else"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_registrations_that_are_refused(change, message):
    assert registered(1)["code-names"].endpoint == "http://127.0.0.1:1"
    with pytest.raises(RegistrationError, match=message):
        registered(1, **change)
