"""Inference routes on a real store: set, get, delete, what a supervisor is handed, who is told."""

import asyncio

import pytest

from openshell._proto import inference_pb2 as pb
from openshell._proto import openshell_ext_inference_pb2 as ext
from openshell._proto import openshell_pb2
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.inference_probe import Probe, ProbeFailed
from openshell.gateway.services.inference import (
    MAX_FALLBACKS,
    MAX_ROUTES,
    MAX_TIMEOUT_SECONDS,
    InferenceRoutes,
)
from openshell.gateway.services.inference_bundle import InferenceBundle
from support.model_server import KEY, MODEL, model_server

ALIAS = "host.openshell.internal"


class Told:
    """In the place of the probe: what it was asked to try, and what it says."""

    def __init__(self):
        self.asked = []
        self.failing = None
        self.meanwhile = None

    async def run(self, plan, key):
        self.asked.append((plan, key))
        if self.meanwhile is not None:
            await self.meanwhile()
        if self.failing:
            raise ProbeFailed(self.failing)
        return ((plan.endpoint.url, plan.protocols[0]),)


def serve(gateway, probe):
    ids = iter(range(100))
    gateway.parts = (
        *gateway.parts,
        InferenceRoutes(
            gateway.store,
            gateway.credentials,
            gateway.bus,
            probe,
            new_id=lambda: f"route-{id(gateway)}-{next(ids)}",
        ),
        InferenceBundle(gateway.store, gateway.credentials),
    )
    return gateway


@pytest.fixture
def probe():
    return Told()


@pytest.fixture
async def served(gateway, probe):
    serve(gateway, probe)
    await gateway.provider("models", {"OPENAI_API_KEY": KEY}, kind="openai")
    return gateway


async def put(gateway, provider="models", model=MODEL, **fields):
    request = pb.SetInferenceRouteRequest(provider_name=provider, model_id=model, **fields)
    return await gateway.SetInferenceRoute(request)


async def bundle(gateway, sandbox):
    with gateway.as_sandbox(sandbox):
        return await gateway.GetInferenceBundle(pb.GetInferenceBundleRequest())


async def refused(code, call):
    with pytest.raises(ApiError) as error:
        await call
    assert error.value.code is code, error.value
    assert KEY not in error.value.message
    return error.value.message


async def test_a_route_is_tried_set_changed_read_and_deleted(served, probe):
    answer = await put(served, timeout_secs=90)
    assert (answer.version, answer.route_name, answer.workspace) == (
        1,
        "inference.local",
        "default",
    )
    assert answer.validation_performed
    assert [(e.url, e.protocol) for e in answer.validated_endpoints] == [
        ("https://api.openai.com/v1", "openai_chat_completions")
    ]
    ((plan, key),) = probe.asked
    assert (plan.model, key) == (MODEL, KEY)
    assert (await put(served, model="next", no_verify=True)).version == 2
    assert len(probe.asked) == 1
    got = await served.GetInferenceRoute(pb.GetInferenceRouteRequest(route_name="inference.local"))
    assert (got.provider_name, got.model_id, got.version, got.timeout_secs) == (
        "models",
        "next",
        2,
        0,
    )
    delete = pb.DeleteInferenceRouteRequest()
    assert (await served.DeleteInferenceRoute(delete)).deleted
    assert not (await served.DeleteInferenceRoute(delete)).deleted
    await refused(Code.NOT_FOUND, served.GetInferenceRoute(pb.GetInferenceRouteRequest()))


WRONG = {
    "no provider": ({"provider": ""}, Code.INVALID_ARGUMENT),
    "no model": ({"model": " "}, Code.INVALID_ARGUMENT),
    "no name": ({"route_name": "Mine!"}, Code.INVALID_ARGUMENT),
    "too long": ({"timeout_secs": MAX_TIMEOUT_SECONDS + 1}, Code.INVALID_ARGUMENT),
    "unknown provider": ({"provider": "nobody"}, Code.FAILED_PRECONDITION),
    "a type without models": ({"provider": "generic"}, Code.FAILED_PRECONDITION),
    "no key": ({"provider": "keyless"}, Code.FAILED_PRECONDITION),
    "clear text": ({"provider": "clear"}, Code.FAILED_PRECONDITION),
    "no base": ({"provider": "bedrock"}, Code.FAILED_PRECONDITION),
    "unknown workspace": ({"workspace": "other"}, Code.NOT_FOUND),
    "a model of two lines": ({"model": "a\nb"}, Code.FAILED_PRECONDITION),
}


@pytest.mark.parametrize(("fields", "code"), WRONG.values(), ids=WRONG.keys())
async def test_what_is_not_set(served, probe, fields, code):
    await served.provider("generic")
    two = {"A_KEY": KEY, "B_KEY": KEY}
    await served.provider("keyless", two, kind="openai")
    base = {"OPENAI_BASE_URL": "http://models.example/v1"}
    await served.provider("clear", {"OPENAI_API_KEY": KEY}, kind="openai", config=base)
    await served.provider("bedrock", {"AWS_KEY": KEY}, kind="aws-bedrock")
    await refused(code, put(served, **fields))
    assert probe.asked == []
    await refused(Code.NOT_FOUND, served.GetInferenceRoute(pb.GetInferenceRouteRequest()))


async def test_a_route_that_does_not_work_is_not_set(served, probe):
    probe.failing = "the key is wrong"
    said = await refused(Code.FAILED_PRECONDITION, put(served))
    assert "--no-verify" in said
    await refused(Code.NOT_FOUND, served.GetInferenceRoute(pb.GetInferenceRouteRequest()))


async def change(gateway, credentials):
    request = openshell_pb2.UpdateProviderRequest()
    request.provider.metadata.name = "models"
    request.provider.credentials.update(credentials)
    return await gateway.UpdateProvider(request)


async def test_a_provider_that_changes_during_the_trial(served, probe):
    async def meanwhile():
        await change(served, {"OPENAI_API_KEY": "another"})

    probe.meanwhile = meanwhile
    await refused(Code.ABORTED, put(served))


async def test_a_supervisor_is_handed_the_routes_of_its_workspace(served):
    sandbox = await served.sandbox()
    empty = await bundle(served, sandbox)
    assert list(empty.routes) == []
    await put(served)
    await put(served, model="small", route_name="sandbox-system", timeout_secs=5)
    first = await bundle(served, sandbox)
    local, system = first.routes
    assert (local.name, local.base_url, local.api_key, local.model_id, local.provider_type) == (
        "inference.local",
        "https://api.openai.com/v1",
        KEY,
        MODEL,
        "openai",
    )
    assert "openai_chat_completions" in local.protocols
    assert not local.HasField("request_path_override")
    assert (system.name, system.timeout_secs) == ("sandbox-system", 5)
    assert first.generated_at_ms > 0
    again = await bundle(served, sandbox)
    assert again.revision == first.revision != empty.revision
    await change(served, {"OPENAI_API_KEY": "sk-newer"})
    third = await bundle(served, sandbox)
    assert third.routes[0].api_key == "sk-newer"
    assert third.revision != first.revision


async def test_users_are_not_handed_keys(served):
    await put(served)
    await refused(Code.PERMISSION_DENIED, served.GetInferenceBundle(pb.GetInferenceBundleRequest()))


async def test_a_route_that_cannot_be_resolved_leaves_the_others(served, caplog):
    sandbox = await served.sandbox()
    await served.provider("gone", {"OPENAI_API_KEY": "x"}, kind="openai")
    await put(served, provider="gone")
    await put(served, route_name="sandbox-system")
    await served.DeleteProvider(openshell_pb2.DeleteProviderRequest(name="gone"))
    for _ in range(2):
        (left,) = (await bundle(served, sandbox)).routes
        assert left.name == "sandbox-system"
    assert caplog.text.count("is withheld: provider 'gone' not found") == 1
    assert KEY not in caplog.text


async def test_an_expired_key_is_handed_to_nobody(served, clock):
    sandbox = await served.sandbox()
    await served.provider(
        "brief",
        {"OPENAI_API_KEY": "x"},
        kind="openai",
        expires={"OPENAI_API_KEY": clock.now + 1000},
    )
    await put(served, provider="brief")
    assert len((await bundle(served, sandbox)).routes) == 1
    clock.now += 1000
    assert len((await bundle(served, sandbox)).routes) == 0


async def test_every_sandbox_of_the_workspace_is_told(served):
    sandbox = await served.sandbox()
    mine = sandbox.metadata.id

    async def told(call):
        served.changes.clear()
        await call
        return served.changes

    assert await told(put(served)) == [(mine, "inference")]
    assert await told(change(served, {"OPENAI_API_KEY": "next"})) == [(mine, "providers")]
    delete = openshell_pb2.DeleteProviderRequest(name="models")
    assert await told(served.DeleteProvider(delete)) == [(mine, "inference")]
    route = pb.DeleteInferenceRouteRequest()
    assert await told(served.DeleteInferenceRoute(route)) == [(mine, "inference")]
    await served.provider("models", {"OPENAI_API_KEY": KEY}, kind="openai")
    assert await told(change(served, {"OPENAI_API_KEY": "next"})) == [], "no route names it now"


async def test_two_gateways_count_one_version(gateways, probe):
    first, second = (serve(gateway, probe) for gateway in gateways)
    await first.provider("models", {"OPENAI_API_KEY": KEY}, kind="openai")

    answers = await asyncio.gather(
        *(put(gateway, no_verify=True) for gateway in (first, second) * 4)
    )
    assert sorted(answer.version for answer in answers) == list(range(1, 9))


VERTEX = {"VERTEX_AI_PROJECT_ID": "my-project"}


async def test_vertex(served):
    sandbox = await served.sandbox()
    tokens = {"VERTEX_AI_TOKEN": "adc", "VERTEX_AI_SERVICE_ACCOUNT_TOKEN": "service"}
    await served.provider("g", tokens, kind="vertex", config=VERTEX)
    await put(served, provider="g", model="claude-x", no_verify=True)
    (route,) = (await bundle(served, sandbox)).routes
    assert route.base_url == (
        "https://us-central1-aiplatform.googleapis.com/v1/projects/my-project/locations/"
        "us-central1/publishers/anthropic/models/claude-x"
    )
    assert (route.api_key, route.model_in_path, route.request_path_override) == (
        "service",
        True,
        ":rawPredict",
    )
    assert list(route.protocols) == ["anthropic_messages"]


# The probe itself, against a real server.


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
async def test_the_trial_of_a_route(gateway, kind):
    with model_server() as models:
        serve(gateway, Probe(timeout_seconds=5))
        base = {f"{kind.upper()}_BASE_URL": f"http://{ALIAS}:{models.port}/v1"}
        key = f"{kind.upper()}_API_KEY"
        await gateway.provider("models", {key: KEY}, kind=kind, config=base)
        answer = await put(gateway)
        assert len(answer.validated_endpoints) == 1
        assert models.last_body["model"] == MODEL
        said = await refused(Code.FAILED_PRECONDITION, put(gateway, model="other"))
        assert "answered 404" in said
        models.key = "sk-another"
        said = await refused(Code.FAILED_PRECONDITION, put(gateway))
        assert "refused the key (status 401)" in said


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("localhost", "leads to this host itself"),
        ("127.0.0.1", "leads to this host itself"),
        ("[::1]", "leads to this host itself"),
        ("169.254.169.254", "leads to this host itself"),
        ("0.0.0.0", "leads to this host itself"),
        ("[::ffff:127.0.0.1]", "leads to this host itself"),
    ],
)
async def test_the_trial_asks_no_service_of_the_host(gateway, host, why):
    with model_server() as models:
        serve(gateway, Probe(timeout_seconds=5))
        base = {"OPENAI_BASE_URL": f"https://{host}:{models.port}/v1"}
        await gateway.provider("models", {"OPENAI_API_KEY": KEY}, kind="openai", config=base)
        assert why in await refused(Code.FAILED_PRECONDITION, put(gateway))
        assert models.received == []


async def test_the_trial_does_not_ask_the_gateway_itself(gateway):
    with model_server() as models:
        serve(gateway, Probe(closed_ports=lambda: (models.port,)))
        base = {"OPENAI_BASE_URL": f"http://{ALIAS}:{models.port}/v1"}
        await gateway.provider("models", {"OPENAI_API_KEY": KEY}, kind="openai", config=base)
        assert "is the gateway's" in await refused(Code.FAILED_PRECONDITION, put(gateway))
        assert models.received == []


def targets(*pairs):
    return [ext.InferenceTarget(provider_name=p, model_id=m) for p, m in pairs]


@pytest.fixture
async def two(served):
    await served.provider("second", {"OPENAI_API_KEY": "sk-second"}, kind="openai")
    await served.provider("claude", {"ANTHROPIC_API_KEY": "x"}, kind="anthropic")
    return served


async def test_a_named_route_with_fallbacks_is_tried_whole_and_sent_in_order(two, probe):
    sandbox = await two.sandbox()
    answer = await put(
        two, route_name="fast", fallbacks=targets(("second", "m2"), ("models", "m3"))
    )
    assert answer.route_name == "fast"
    assert sorted(plan.model for plan, _ in probe.asked) == ["m2", "m3", MODEL]
    await put(two, model="plain")
    sent = (await bundle(two, sandbox)).routes
    assert [(route.name, route.model_id, route.api_key) for route in sent] == [
        ("inference.local", "plain", KEY),
        ("fast", MODEL, KEY),
        ("fast", "m2", "sk-second"),
        ("fast", "m3", KEY),
    ]
    before = (await bundle(two, sandbox)).revision
    await put(two, route_name="fast", fallbacks=targets(("models", "m3"), ("second", "m2")))
    assert (await bundle(two, sandbox)).revision != before
    listed = (await two.List(ext.ListInferenceRoutesRequest())).routes
    assert [route.route_name for route in listed] == ["inference.local", "fast"]
    assert [target.model_id for target in listed[1].fallbacks] == ["m3", "m2"]
    got = await two.GetInferenceRoute(pb.GetInferenceRouteRequest(route_name="fast"))
    assert len(got.fallbacks) == 2
    await put(two, route_name="fast")
    got = await two.GetInferenceRoute(pb.GetInferenceRouteRequest(route_name="fast"))
    assert not got.fallbacks, "a route is set whole"


BAD_FALLBACKS = {
    "another dialect": ((("claude", "m"),), Code.FAILED_PRECONDITION, "nothing is translated"),
    "nobody": ((("nobody", "m"),), Code.FAILED_PRECONDITION, "not found"),
    "itself": ((("models", MODEL),), Code.INVALID_ARGUMENT, "twice"),
    "no model": ((("second", ""),), Code.INVALID_ARGUMENT, "model_id"),
    "too many": (
        tuple(("second", str(number)) for number in range(MAX_FALLBACKS + 1)),
        Code.INVALID_ARGUMENT,
        "at most",
    ),
}


@pytest.mark.parametrize(
    ("pairs", "code", "said"), BAD_FALLBACKS.values(), ids=BAD_FALLBACKS.keys()
)
async def test_fallbacks_that_are_refused(two, probe, pairs, code, said):
    assert said in await refused(code, put(two, fallbacks=targets(*pairs)))
    assert probe.asked == []


async def test_the_systems_route_has_no_fallback(two):
    call = put(two, route_name="sandbox-system", fallbacks=targets(("second", "m")))
    await refused(Code.INVALID_ARGUMENT, call)


async def test_a_fallback_whose_provider_is_gone_is_withheld_alone(two):
    sandbox = await two.sandbox()
    await put(two, fallbacks=targets(("second", "m2")))
    two.changes.clear()
    await two.DeleteProvider(openshell_pb2.DeleteProviderRequest(name="second"))
    assert two.changes == [(sandbox.metadata.id, "inference")]
    assert [route.model_id for route in (await bundle(two, sandbox)).routes] == [MODEL]


async def test_the_number_of_routes_is_bounded_across_gateways(gateways, probe):
    first, second = (serve(gateway, probe) for gateway in gateways)
    await first.provider("models", {"OPENAI_API_KEY": KEY}, kind="openai")
    answers = await asyncio.gather(
        *(
            put((first, second)[number % 2], no_verify=True, route_name=f"r{number}")
            for number in range(MAX_ROUTES + 4)
        ),
        return_exceptions=True,
    )
    refusals = [answer for answer in answers if isinstance(answer, ApiError)]
    assert [refusal.code for refusal in refusals] == [Code.FAILED_PRECONDITION] * 4
    assert len((await second.List(ext.ListInferenceRoutesRequest())).routes) == MAX_ROUTES
