"""Programs in a real sandbox keep their model when its provider goes away."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from e2e.inference.test_inference_in_a_sandbox import ask
from e2e.providers.asking import ENVIRON, run
from openshell.sdk.client import SandboxClient
from openshell.sdk.refs import SandboxRef
from support.model_server import KEY, MODEL, TEXT, ModelServer, model_server
from support.private_gateway import (
    PREFIX,
    PYTHON,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
    wait_until,
)
from support.upstream import ALIAS

LIBRARIES = str(Path(openai.__file__).parents[1])
"""Where the libraries that the test itself uses are installed."""

SECOND = "second-model"
SECOND_KEY = "sk-key-of-the-second-provider"

# With the libraries of the models' makers, as agents do.
SDKS = """
import sys
kind, model = sys.argv[1:]
said = [{"role": "user", "content": "hi"}]
if kind == "openai":
    import openai
    client = openai.OpenAI(base_url="https://inference.local/v1", api_key="x", max_retries=0)
    whole = client.chat.completions.create(model=model, messages=said)
    text = "".join(
        part.choices[0].delta.content or ""
        for part in client.chat.completions.create(model=model, messages=said, stream=True)
        if part.choices
    )
    print(whole.model, whole.choices[0].message.content, text, sep="|")
else:
    import anthropic
    client = anthropic.Anthropic(base_url="https://inference.local", api_key="x", max_retries=0)
    whole = client.messages.create(model=model, messages=said, max_tokens=9)
    with client.messages.stream(model=model, messages=said, max_tokens=9) as stream:
        text = "".join(stream.text_stream)
    print(whole.model, whole.content[0].text, text, sep="|")
"""


@pytest.fixture(scope="module")
def gateway() -> Iterator[PrivateGateway]:
    with PrivateGateway() as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: PrivateGateway) -> Iterator[SandboxClient]:
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="module")
def second() -> Iterator[ModelServer]:
    with model_server() as server:
        server.key, server.model = SECOND_KEY, SECOND
        yield server


@pytest.fixture(scope="module")
def sandbox(client: SandboxClient) -> Iterator[SandboxRef]:
    spec = sandbox_spec()
    spec.template.driver_config.update({"local": {"host_paths": [PREFIX, LIBRARIES]}})
    with ready_sandbox(client, spec) as ref:
        yield ref


def add_provider(gateway: PrivateGateway, name: str, kind: str, port: int, key: str) -> None:
    word = kind.upper()
    made = ("--name", name, "--type", kind, "--credential", f"{word}_API_KEY")
    config = ("--config", f"{word}_BASE_URL=http://{ALIAS}:{port}/v1")
    run(gateway, "provider", "create", *made, *config, **{f"{word}_API_KEY": key})


def with_sdk(client: SandboxClient, sandbox: SandboxRef, kind: str, model: str) -> str:
    done = client.exec(
        sandbox.id,
        [PYTHON, "-c", SDKS, kind, model],
        env={**ENVIRON, "PYTHONPATH": LIBRARIES},
        timeout_seconds=60,
    )
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


def test_the_next_provider_answers_when_the_first_one_goes(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef, second: ModelServer
) -> None:
    route = ("inference", "set", "fast", "--provider", "first", "--model", MODEL)
    smart = ("inference", "set", "smart", "--provider", "claude", "--model", MODEL)
    with model_server() as first:
        add_provider(gateway, "first", "openai", first.port, KEY)
        add_provider(gateway, "second", "openai", second.port, SECOND_KEY)
        add_provider(gateway, "claude", "anthropic", first.port, KEY)
        add_provider(gateway, "claude-2", "anthropic", second.port, SECOND_KEY)
        refused = run(gateway, *route, "--fallback", f"claude={MODEL}", code=1)
        assert "nothing is translated" in refused
        said = run(gateway, *route, "--fallback", f"second={SECOND}")
        assert f"Fallback: second={SECOND}" in said
        run(gateway, *smart, "--fallback", f"claude-2={SECOND}")
        wait_until(lambda: ask(client, sandbox, model="fast")[0] == 200)
        assert ask(client, sandbox, model="slow")[0] == 400, "no route is the default"
        for kind, model in (("openai", "fast"), ("anthropic", "smart")):
            assert with_sdk(client, sandbox, kind, model) == f"{MODEL}|{TEXT}|{TEXT}"
        status, text = ask(
            client,
            sandbox,
            model="fast",
            stream=True,
            messages=[{"role": "user", "content": "please cut"}],
        )
        assert status == 200
        assert "proxy_stream_error" in text, "a stream that has begun is nobody else's"
        assert SECOND not in text
    for kind, model in (("openai", "fast"), ("anthropic", "smart")):
        assert with_sdk(client, sandbox, kind, model) == f"{SECOND}|{TEXT}|{TEXT}"
    status, text = ask(client, sandbox, model="fast")
    assert (status, json.loads(text)["model"]) == (200, SECOND)
    log = run(gateway, "logs", sandbox.name, "-n", "500")
    assert f"Success {SECOND} via openai" in log
    assert f"Failure {MODEL} via openai" in log
    assert SECOND_KEY not in log + text


def test_a_change_of_fallbacks_counts_at_once(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef
) -> None:
    run(gateway, "inference", "update", "fast", "--no-fallback", "--no-verify")
    wait_until(lambda: ask(client, sandbox, model="fast")[0] == 503, seconds=5)
    run(gateway, "inference", "update", "fast", "--fallback", f"second={SECOND}", "--no-verify")
    wait_until(lambda: ask(client, sandbox, model="fast")[0] == 200, seconds=5)
    run(gateway, "inference", "delete", "fast")
    wait_until(lambda: ask(client, sandbox, model="fast")[0] == 400, seconds=5)
