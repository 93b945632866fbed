"""Which requests for models are served, and what of them is sent where."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.http1 import NO_BODY, RequestHead
from openshell.egress.inference.patterns import Dialect, dialect_of, find_pattern
from openshell.egress.inference.rewriting import BodyUnreadable, rewrite
from openshell.egress.inference.routes import Route, Routes, RouteUnusable

KEY = "sk-real-key-of-the-operator"

SERVED = {
    ("POST", "/v1/chat/completions"): ("openai_chat_completions", True),
    ("POST", "/v1/completions"): ("openai_completions", True),
    ("POST", "/v1/responses"): ("openai_responses", True),
    ("POST", "/v1/messages"): ("anthropic_messages", True),
    ("POST", "/v1/embeddings"): ("openai_embeddings", False),
    ("GET", "/v1/models"): ("model_discovery", False),
    ("GET", "/v1/models/some-model"): ("model_discovery", False),
    ("GET", "/v1/models/vendor/some-model"): ("model_discovery", False),
    ("POST", "/model/any.model-v1:0/invoke"): ("aws_bedrock_invoke", False),
}
NOT_SERVED = [
    ("GET", "/v1/chat/completions"),
    ("POST", "/v1/chat/completions/"),
    ("POST", "/v1/models"),
    ("DELETE", "/v1/models/some-model"),
    ("GET", "/v1/modelsx"),
    ("GET", "/v1/files"),
    ("POST", "/v1/files"),
    ("POST", "/chat/completions"),
    ("POST", "/V1/chat/completions"),
    ("POST", "/model/a/b/invoke"),
    ("POST", "/model//invoke"),
    ("POST", "/model/a/invoke-with-response-stream"),
    ("POST", "/"),
    ("POST", "/v1/messages/batches"),
]


@pytest.mark.parametrize(("request_", "wanted"), SERVED.items(), ids=lambda value: str(value))
def test_what_is_served(request_, wanted):
    pattern = find_pattern(request_[0].encode(), request_[1])
    assert (pattern.protocol, pattern.can_stream) == wanted


@pytest.mark.parametrize(("method", "path"), NOT_SERVED)
def test_what_is_not_served(method, path):
    assert find_pattern(method.encode(), path) is None


def head(method="POST", **fields):
    pairs = tuple(
        (name.replace("_", "-").encode(), value.encode()) for name, value in fields.items()
    )
    return RequestHead(method.encode(), b"/", b"HTTP/1.1", pairs, NO_BODY)


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, Dialect.OPENAI),
        ({"Authorization": "Bearer x"}, Dialect.OPENAI),
        ({"X_Api_Key": "x"}, Dialect.ANTHROPIC),
        ({"anthropic_version": "2023-06-01"}, Dialect.ANTHROPIC),
    ],
)
def test_the_dialect_of_a_list_of_models(fields, wanted):
    assert dialect_of(find_pattern(b"GET", "/v1/models"), head("GET", **fields)) is wanted


def route(kind="openai", base="https://models.example/v1", model="real-model", **changed):
    fields = {
        "name": "inference.local",
        "base_url": base,
        "protocols": ("openai_chat_completions",),
        "key": KEY,
        "model": model,
        "provider_type": kind,
        "timeout_secs": 0,
        "model_in_path": False,
        "path_override": None,
        **changed,
    }
    return Route.read(**fields)


def sent(to, path="/v1/chat/completions", body=None, method="POST", query="", **fields):
    """Start line, fields by lower-case name, body."""
    pattern = find_pattern(method.encode(), path)
    if method == "GET":
        raw = b""
    else:
        raw = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
    outgoing = rewrite(to, pattern, head(method, **fields), path, query, raw)
    start, _, rest = outgoing.wire.partition(b"\r\n")
    lines, _, body = rest.partition(b"\r\n\r\n")
    pairs = [line.split(b": ", 1) for line in lines.split(b"\r\n")]
    names = [name.decode().lower() for name, _ in pairs]
    assert len(set(names)) == len(names)
    found = {name: value.decode() for name, (_, value) in zip(names, pairs, strict=True)}
    return start.decode(), found, body


TARGETS = [
    ("https://h.example/v1", "/v1/chat/completions", "/v1/chat/completions"),
    ("https://h.example/v1/", "/v1/chat/completions", "/v1/chat/completions"),
    ("https://h.example", "/v1/chat/completions", "/v1/chat/completions"),
    ("https://h.example/v1/openai", "/v1/chat/completions", "/v1/openai/chat/completions"),
    ("https://h.example/api", "/v1/chat/completions", "/api/v1/chat/completions"),
    ("https://h.example/v10", "/v1/chat/completions", "/v10/v1/chat/completions"),
    ("https://h.example/x/v1", "/v1/embeddings", "/x/v1/embeddings"),
]


@pytest.mark.parametrize(("base", "path", "wanted"), TARGETS, ids=lambda value: str(value))
def test_the_url_of_a_route(base, path, wanted):
    start, fields, _ = sent(route(base=base), path)
    assert start == f"POST {wanted} HTTP/1.1"
    assert fields["host"] == "h.example"


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ("https://h.example:8443", "h.example:8443"),
        ("http://host.openshell.internal:11434/v1", "host.openshell.internal:11434"),
        ("http://[fd00::1]:80", "[fd00::1]"),
    ],
)
def test_the_host_field(base, wanted):
    assert sent(route(base=base))[1]["host"] == wanted


AGENTS = {
    "Authorization": "Bearer dummy",
    "X_Api_Key": "dummy",
    "Host": "inference.local",
    "Cookie": "a=b",
    "Connection": "keep-alive",
    "Proxy_Authorization": "dummy",
    "X_Forwarded_For": "10.0.0.1",
    "Content_Type": "application/json",
    "Accept": "text/event-stream",
    "Accept_Encoding": "gzip",
    "User_Agent": "an-agent/1",
    "OpenAI_Organization": "org",
    "X_Model_Id": "m",
    "anthropic_version": "2024-01-01",
    "anthropic_beta": "tools",
}
ALWAYS = {
    "content-type": "application/json",
    "accept": "text/event-stream",
    "accept-encoding": "gzip",
    "user-agent": "an-agent/1",
}
KINDS = {
    "openai": {
        "authorization": f"Bearer {KEY}",
        "openai-organization": "org",
        "x-model-id": "m",
    },
    "nvidia": {"authorization": f"Bearer {KEY}", "x-model-id": "m"},
    "deepinfra": {"authorization": f"Bearer {KEY}", "x-model-id": "m"},
    "anthropic": {
        "x-api-key": KEY,
        "anthropic-version": "2024-01-01",
        "anthropic-beta": "tools",
    },
    "google-vertex-ai": {"authorization": f"Bearer {KEY}"},
    "aws-bedrock": {},
}


@pytest.mark.parametrize(("kind", "own"), KINDS.items(), ids=KINDS.keys())
def test_fields_that_go_on_and_fields_that_are_added(kind, own):
    _, fields, body = sent(route(kind), **AGENTS)
    assert fields.pop("host") == "models.example"
    assert fields.pop("content-length") == str(len(body))
    assert fields == {**ALWAYS, **own}


def test_defaults_stand_where_the_client_says_nothing():
    assert sent(route("anthropic"))[1]["anthropic-version"] == "2023-06-01"


def test_the_model_is_the_routes():
    _, _, body = sent(route(), body={"model": "gpt-expensive", "messages": [], "n": 1})
    assert json.loads(body) == {"messages": [], "n": 1, "model": "real-model"}
    assert json.loads(sent(route(), body={"messages": []})[2])["model"] == "real-model"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"model":"a","model":"b"}',
        b'{"MODEL":"a","Model":"b","x":1}',
        b'{"mod\\u0065l":"a"}',
        b' {"model" : "a" } ',
        b'{"model":{"nested":"a"},"x":[{"model":"stays"}]}',
    ],
)
def test_no_spelling_of_the_model_gets_through(raw):
    found = json.loads(sent(route(), body=raw)[2])
    assert [found[name] for name in found if name.lower() == "model"] == ["real-model"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b'"text"',
        b"model=a",
        b'{"model":"a"',
        b'\xef\xbb\xbf{"model":"a"}',
        '{"model":"a"}'.encode("utf-16"),
        b'{"model":"a","x":NaN}',
        b'{"model":"a"}{"model":"b"}',
        b'{"a":' + b"[" * 100_000,
        b'{"model":"a","x":"\xff"}',
    ],
    ids=range(11),
)
def test_a_body_in_which_the_model_cannot_be_put_is_refused(raw):
    with pytest.raises(BodyUnreadable):
        sent(route(), body=raw)


@given(
    st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=8),
            lambda inner: (
                st.lists(inner, max_size=3)
                | st.dictionaries(st.text(max_size=4), inner, max_size=3)
            ),
            max_leaves=8,
        ),
        max_size=6,
    )
)
def test_everything_but_the_model_arrives_as_it_was(document):
    found = json.loads(sent(route(), body=document)[2])
    assert found.pop("model") == "real-model"
    wanted = {name: value for name, value in document.items() if name.casefold() != "model"}
    assert found == wanted


def test_numbers_are_not_read_and_written_anew():
    assert b"0.30000000000000000001" in sent(route(), body=b'{"t":0.30000000000000000001}')[2]


@pytest.mark.parametrize(
    ("body", "path", "wanted"),
    [
        ({"stream": True}, "/v1/chat/completions", True),
        ({"stream": False}, "/v1/chat/completions", False),
        ({"stream": "true"}, "/v1/chat/completions", False),
        ({"stream": 1}, "/v1/chat/completions", False),
        ({}, "/v1/chat/completions", False),
        ({"stream": True}, "/v1/embeddings", False),
        ({"stream": True}, "/v1/messages", True),
    ],
)
def test_what_asks_for_a_stream(body, path, wanted):
    pattern = find_pattern(b"POST", path)
    outgoing = rewrite(route(), pattern, head(), path, "", json.dumps(body).encode())
    assert outgoing.wants_stream is wanted
    assert KEY not in repr(outgoing)


def test_a_query_goes_on():
    assert sent(route("anthropic"), "/v1/messages", query="beta=true")[0] == (
        "POST /v1/messages?beta=true HTTP/1.1"
    )


def test_a_list_of_models_has_no_body():
    start, fields, body = sent(route(), "/v1/models/some-model", method="GET")
    assert start == "GET /v1/models/some-model HTTP/1.1"
    assert "content-length" not in fields
    assert body == b""


VERTEX = "https://us-central1-aiplatform.googleapis.com/v1/projects/p/locations/l/publishers/anthropic/models/claude-x"


@pytest.mark.parametrize(("stream", "verb"), [(False, "rawPredict"), (True, "streamRawPredict")])
def test_claude_on_vertex(stream, verb):
    to = route("google-vertex-ai", VERTEX, model_in_path=True, path_override=":rawPredict")
    asked = {"model": "a", "context_management": {}, "max_tokens": 1, "stream": stream}
    start, fields, body = sent(
        to, "/v1/messages", asked, query="beta=true", anthropic_beta="tools", anthropic_version="x"
    )
    assert start == f"POST {VERTEX.partition('.com')[2]}:{verb} HTTP/1.1"
    assert json.loads(body) == {
        "max_tokens": 1,
        "stream": stream,
        "anthropic_version": "vertex-2023-10-16",
    }
    assert not {"anthropic-beta", "anthropic-version"} & fields.keys()


def test_other_models_on_vertex():
    base = "https://aiplatform.googleapis.com/v1beta1/projects/p/locations/l/endpoints/openapi"
    to = route("google-vertex-ai", base, "google/gemini", path_override="/chat/completions")
    start, _, body = sent(to)
    assert start.endswith("/endpoints/openapi/chat/completions HTTP/1.1")
    assert json.loads(body) == {"model": "google/gemini"}


def test_bedrock_has_its_model_in_the_path_and_a_body_of_its_own():
    to = route("aws-bedrock", "https://b.example", "vendor.model-v1:0", model_in_path=True, key="")
    start, fields, body = sent(to, "/model/other/invoke", {"prompt": "x"})
    assert start == "POST /model/vendor.model-v1%3A0/invoke HTTP/1.1"
    assert json.loads(body) == {"prompt": "x"}
    assert not {"authorization", "x-api-key"} & fields.keys()


@pytest.mark.parametrize(
    "changed",
    [
        {"provider_type": "other"},
        {"key": "a\nb"},
        {"key": " a"},
        {"model": ""},
        {"model": "a b\r\n"},
        {"base_url": "ftp://x"},
        {"path_override": "x"},
    ],
    ids=str,
)
def test_routes_that_cannot_be_used(changed):
    with pytest.raises(RouteUnusable) as refused:
        route(**changed)
    assert "a\nb" not in str(refused.value)


def test_the_first_route_that_speaks_the_protocol_is_taken():
    chat = route(name="inference.local")
    other = route(name="inference.local", protocols=("anthropic_messages",))
    system = route(name="sandbox-system", protocols=("openai_embeddings",))
    routes = Routes("1", (system, other, chat))
    assert routes.find("openai_chat_completions") == (chat,)
    assert routes.find("anthropic_messages") == (other,)
    assert routes.find("openai_embeddings") == (), "the system's own route is not for agents"
    assert KEY not in repr(routes)
