"""The official client libraries ask through the proxy, at no address but `inference.local`'s."""

import asyncio

import pytest

from integration.egress.test_inference_on_the_wire import Inference, route
from support.model_server import KEY, MODEL, TEXT, model_server

openai = pytest.importorskip("openai", reason="needs the openai package")
anthropic = pytest.importorskip("anthropic", reason="needs the anthropic package")
http = pytest.importorskip("httpx2", reason="needs the HTTP library of these packages")


@pytest.fixture
def server():
    with model_server() as started:
        yield started


def client_of(library, proxy, **more):
    made = http.Client(proxy=f"http://127.0.0.1:{proxy.port}", verify=proxy.client_tls())
    return library(api_key="dummy", http_client=made, max_retries=0, **more)


def of_openai(proxy):
    return client_of(openai.OpenAI, proxy, base_url="https://inference.local/v1")


def of_anthropic(proxy):
    return client_of(anthropic.Anthropic, proxy, base_url="https://inference.local")


def ask(text="hi"):
    return [{"role": "user", "content": text}]


def chat(client):
    return client.chat.completions.create(model="any", messages=ask()).choices[0].message.content


def chat_stream(client):
    chunks = client.chat.completions.create(model="any", messages=ask(), stream=True)
    return "".join(chunk.choices[0].delta.content for chunk in chunks if chunk.choices)


def completion(client):
    return client.completions.create(model="any", prompt="hi").choices[0].text


def response(client):
    return client.responses.create(model="any", input="hi").output_text


def response_stream(client):
    events = client.responses.create(model="any", input="hi", stream=True)
    return "".join(event.delta for event in events if event.type == "response.output_text.delta")


def embedding(client):
    made = client.embeddings.create(model="any", input="hi", encoding_format="float")
    assert made.data[0].embedding == [0.25, -0.5]
    return TEXT


def models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    return TEXT


def message(client):
    made = client.messages.create(model="any", max_tokens=9, messages=ask())
    return made.content[0].text


def message_stream(client):
    with client.messages.stream(model="any", max_tokens=9, messages=ask()) as stream:
        return "".join(stream.text_stream)


@pytest.mark.parametrize(
    "way", [chat, chat_stream, completion, response, response_stream, embedding, models]
)
async def test_openais_client(server, way):
    async with Inference(route(server.port)) as proxy:
        assert await asyncio.to_thread(way, of_openai(proxy)) == TEXT
    assert server.last.headers["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize("way", [message, message_stream])
async def test_anthropics_client(server, way):
    async with Inference(route(server.port, "anthropic")) as proxy:
        assert await asyncio.to_thread(way, of_anthropic(proxy)) == TEXT
    assert server.last.headers["x-api-key"] == KEY


async def test_both_read_our_errors(server):
    async with Inference() as proxy:
        with pytest.raises(openai.InternalServerError) as said:
            await asyncio.to_thread(chat, of_openai(proxy))
        assert "cluster inference is not configured" in str(said.value)
        with pytest.raises(anthropic.InternalServerError) as said:
            await asyncio.to_thread(message, of_anthropic(proxy))
        assert "cluster inference is not configured" in str(said.value)
    async with Inference(route(server.port)) as proxy:
        with pytest.raises(anthropic.BadRequestError) as said:
            await asyncio.to_thread(message, of_anthropic(proxy))
        assert "no compatible inference route" in str(said.value)


async def test_both_notice_a_stream_that_was_cut(server):
    def openais(client):
        chunks = client.chat.completions.create(model="a", messages=ask("a cut"), stream=True)
        return list(chunks)

    def anthropics(client):
        with client.messages.stream(model="a", max_tokens=9, messages=ask("a cut")) as stream:
            return "".join(stream.text_stream)

    async with Inference(route(server.port)) as proxy:
        with pytest.raises(openai.APIError, match="response truncated"):
            await asyncio.to_thread(openais, of_openai(proxy))
    async with Inference(route(server.port, "anthropic")) as proxy:
        with pytest.raises(anthropic.APIError, match="response truncated"):
            await asyncio.to_thread(anthropics, of_anthropic(proxy))
