"""Where routes of each provider type lead, and what leads nowhere."""

import pytest

from openshell.providers.inference_endpoint import Endpoint, EndpointRefused
from openshell.providers.inference_routes import RouteRefused, plan_route
from openshell.providers.inference_types import INFERENCE_TYPES, inference_type
from openshell.providers.records import Handle, ProviderRecord

NOW = 1_000


def record(kind, *keys, config=None, expires=None):
    handles = {key: Handle("database", f"handle of {key}") for key in keys}
    return ProviderRecord("id", "p", "default", kind, handles, config or {}, expires or {})


DEFAULTS = {
    "openai": ("OPENAI_API_KEY", "https://api.openai.com/v1"),
    "anthropic": ("ANTHROPIC_API_KEY", "https://api.anthropic.com/v1"),
    "nvidia": ("NVIDIA_API_KEY", "https://integrate.api.nvidia.com/v1"),
    "deepinfra": ("DEEPINFRA_API_KEY", "https://api.deepinfra.com/v1/openai"),
}


@pytest.mark.parametrize(("kind", "wanted"), DEFAULTS.items(), ids=DEFAULTS.keys())
def test_a_type_with_a_place_of_its_own(kind, wanted):
    key, base = wanted
    plan = plan_route(record(kind, key, "OTHER"), "m", NOW)
    assert (plan.key_name, plan.endpoint.url, plan.model) == (key, base, "m")
    assert plan.protocols == INFERENCE_TYPES[kind].protocols
    own = f"{kind.upper()}_BASE_URL"
    changed = plan_route(record(kind, key, config={own: "https://own.example/v1/"}), "m", NOW)
    assert changed.endpoint.url == "https://own.example/v1"


def test_a_key_under_another_name_is_taken_where_there_is_one():
    assert plan_route(record("openai", "MY_KEY"), "m", NOW).key_name == "MY_KEY"
    with pytest.raises(RouteRefused, match="has no usable key"):
        plan_route(record("openai", "MY_KEY", "OTHER"), "m", NOW)
    with pytest.raises(RouteRefused, match="has no usable key"):
        plan_route(record("openai", "OPENAI_API_KEY", expires={"OPENAI_API_KEY": NOW}), "m", NOW)


def test_bedrock_needs_a_place_and_has_no_key():
    with pytest.raises(RouteRefused, match="needs BEDROCK_BASE_URL"):
        plan_route(record("aws-bedrock"), "m", NOW)
    config = {"BEDROCK_BASE_URL": "https://b.example"}
    plan = plan_route(record("aws-bedrock", "AWS_SECRET_ACCESS_KEY", config=config), "m", NOW)
    assert (plan.key_name, plan.model_in_path) == ("", True)


@pytest.mark.parametrize("alias", ["vertex", "vertex-ai", "google-vertex", "gcp-vertex"])
def test_aliases_of_vertex(alias):
    assert inference_type(alias) is INFERENCE_TYPES["google-vertex-ai"]


ORDER = (
    "GOOGLE_VERTEX_AI_SERVICE_ACCOUNT_TOKEN",
    "VERTEX_AI_SERVICE_ACCOUNT_TOKEN",
    "GOOGLE_VERTEX_AI_TOKEN",
    "VERTEX_AI_TOKEN",
)


def vertex(model, *keys, **config):
    config = {"VERTEX_AI_PROJECT_ID": "my-project", **config}
    return plan_route(record("google-vertex-ai", *(keys or ORDER), config=config), model, NOW)


@pytest.mark.parametrize("first", range(4))
def test_the_order_of_vertex_tokens(first):
    assert vertex("m", *reversed(ORDER[first:])).key_name == ORDER[first]


def test_vertex_takes_no_other_key():
    with pytest.raises(RouteRefused, match="has no usable key"):
        vertex("m", "GOOGLE_SERVICE_ACCOUNT_KEY")


HOSTS = {
    "": "us-central1-aiplatform.googleapis.com",
    "europe-west4": "europe-west4-aiplatform.googleapis.com",
    "global": "aiplatform.googleapis.com",
    "us": "aiplatform.us.rep.googleapis.com",
    "eu": "aiplatform.eu.rep.googleapis.com",
}


@pytest.mark.parametrize(("region", "host"), HOSTS.items())
def test_the_host_of_a_region(region, host):
    assert vertex("gemini", VERTEX_AI_REGION=region).endpoint.host == host


MODELS = {
    "gemini-x": ("google/gemini-x", False),
    "meta/llama": ("meta/llama", False),
    "claude-x": ("claude-x", True),
    "claude-x@20250101": ("claude-x@20250101", True),
    "anthropic/claude-x": ("claude-x", True),
}


@pytest.mark.parametrize(("asked", "wanted"), MODELS.items())
def test_models_of_vertex(asked, wanted):
    plan = vertex(asked)
    assert (plan.model, plan.model_in_path) == wanted
    where = "projects/my-project/locations/us-central1"
    if plan.model_in_path:
        path = f"/v1/{where}/publishers/anthropic/models/{plan.model}"
        assert (plan.path_override, plan.protocols) == (":rawPredict", ("anthropic_messages",))
    else:
        path = f"/v1beta1/{where}/endpoints/openapi"
        assert plan.path_override == "/chat/completions"
        assert plan.protocols == ("openai_chat_completions",)
    assert plan.endpoint.path == path


@pytest.mark.parametrize(
    ("model", "config", "why"),
    [
        ("m", {"VERTEX_AI_PROJECT_ID": ""}, "VERTEX_AI_PROJECT_ID"),
        ("m", {"VERTEX_AI_PROJECT_ID": "x/../y"}, "VERTEX_AI_PROJECT_ID"),
        ("m", {"VERTEX_AI_REGION": "evil.example/"}, "VERTEX_AI_REGION"),
        ("a/b/c", {}, "NAME or PUBLISHER"),
        ("../m", {}, "NAME or PUBLISHER"),
        ("m", {"VERTEX_AI_BASE_URL": "https://evil.example"}, "host of Google's"),
        ("m", {"VERTEX_AI_BASE_URL": "https://aiplatform.googleapis.com.evil.example"}, "host of"),
        ("m", {"VERTEX_AI_BASE_URL": "https://aiplatform.googleapis.com:8443"}, "host of"),
        ("m", {"VERTEX_AI_BASE_URL": "https://aiplatform.googleapis.com/x"}, "host of"),
        ("claude-x", {"VERTEX_AI_BASE_URL": "https://aiplatform.googleapis.com"}, "no base URL"),
        ("m", {"VERTEX_AI_PUBLISHER": "a/b"}, "NAME or PUBLISHER"),
    ],
)
def test_what_vertex_refuses(model, config, why):
    with pytest.raises(RouteRefused, match=why):
        vertex(model, **config)


GOOD = {
    "https://h.example": "https://h.example",
    "https://H.Example:443/v1/": "https://h.example/v1",
    "https://h.example:8443/a/b": "https://h.example:8443/a/b",
    "https://[2001:db8::1]/v1": "https://[2001:db8::1]/v1",
    "http://host.openshell.internal:11434/v1": "http://host.openshell.internal:11434/v1",
    "http://10.0.0.8:8000/v1": "http://10.0.0.8:8000/v1",
    "http://vllm.models.svc/v1": "http://vllm.models.svc/v1",
    "http://vllm.models.svc.cluster.local:8000": "http://vllm.models.svc.cluster.local:8000",
}


@pytest.mark.parametrize(("url", "wanted"), GOOD.items())
def test_urls_that_keys_are_sent_to(url, wanted):
    endpoint = Endpoint.parse(url)
    assert endpoint.url == wanted
    assert Endpoint.parse(endpoint.url) == endpoint


BAD = [
    "",
    "h.example",
    "ftp://h.example",
    "https://",
    "https://user:s3cret@h.example",
    "https://h.example?x=1",
    "https://h.example/#x",
    "https://h.example/a b",
    "https://h.example/a\\b",
    "https://h.example/a/../b",
    "https://h.example/a/%2e%2E/b",
    "https://h.example/..",
    "https://h.example:0",
    "https://h.example:65536",
    "https://[127.0.0.1]",
    "https://h.example\r\nX: y",
    "https://hé.example",
    "https://h.example/" + "x" * 2048,
    "http://h.example",
    "http://8.8.8.8/v1",
    "http://svc/v1",
    "http://a.b.svc.evil.example",
]


@pytest.mark.parametrize("url", BAD, ids=range(len(BAD)))
def test_urls_that_no_key_is_sent_to(url):
    with pytest.raises(EndpointRefused) as refused:
        Endpoint.parse(url)
    assert "s3cret" not in str(refused.value)
