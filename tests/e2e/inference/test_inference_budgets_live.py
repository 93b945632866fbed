"""Programs in a real sandbox meet their budget; operators see what was asked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from e2e.inference.test_inference_fallbacks_live import LIBRARIES, add_provider
from e2e.inference.test_inference_in_a_sandbox import ask
from e2e.providers.asking import ENVIRON, run
from openshell.sdk.client import SandboxClient
from openshell.sdk.refs import SandboxRef
from support.model_server import KEY, MODEL, ModelServer, model_server
from support.private_gateway import (
    PREFIX,
    PYTHON,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
    wait_until,
)

SDK = """
import sys
said = [{"role": "user", "content": "hi"}]
if sys.argv[1] == "openai":
    import openai
    client = openai.OpenAI(base_url="https://inference.local/v1", api_key="x", max_retries=0)
    ask, known = lambda: client.chat.completions.create(model="m", messages=said), openai.RateLimitError
else:
    import anthropic
    client = anthropic.Anthropic(base_url="https://inference.local", api_key="x", max_retries=0)
    ask = lambda: client.messages.create(model="claude", messages=said, max_tokens=9)
    known = anthropic.RateLimitError
try:
    ask()
    print("answered")
except known as error:
    print(int(error.response.headers["retry-after"]) > 0, error)
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
def model(gateway: PrivateGateway) -> Iterator[ModelServer]:
    with model_server() as server:
        add_provider(gateway, "models", "openai", server.port, KEY)
        add_provider(gateway, "claude", "anthropic", server.port, KEY)
        run(gateway, "inference", "set", "--provider", "models", "--model", MODEL)
        run(gateway, "inference", "set", "claude", "--provider", "claude", "--model", MODEL)
        yield server


@pytest.fixture
def sandbox(client: SandboxClient, model: ModelServer) -> Iterator[SandboxRef]:
    spec = sandbox_spec()
    spec.template.driver_config.update({"local": {"host_paths": [PREFIX, LIBRARIES]}})
    with ready_sandbox(client, spec) as ref:
        wait_until(lambda: ask(client, ref, "/v1/models")[0] == 200)
        yield ref


def with_sdk(client: SandboxClient, sandbox: SandboxRef, kind: str) -> str:
    environ = {**ENVIRON, "PYTHONPATH": LIBRARIES}
    done = client.exec(sandbox.id, [PYTHON, "-c", SDK, kind], env=environ, timeout_seconds=60)
    assert done.exit_code == 0, done.stderr
    return done.stdout.strip()


def used(gateway: PrivateGateway, sandbox: SandboxRef) -> list[dict[str, object]]:
    found: list[dict[str, object]] = json.loads(
        run(gateway, "inference", "usage", sandbox.name, "-o", "json")
    )
    return found


def test_a_budget_of_requests(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef, model: ModelServer
) -> None:
    budget = ("--sandbox", sandbox.name, "--per", "day")
    said = run(gateway, "inference", "budget", "set", *budget, "--requests", "6")
    assert said == f"Budget of sandbox {sandbox.name}: 6 requests per day\n"
    with ThreadPoolExecutor(5) as pool:
        answers = list(pool.map(lambda _: ask(client, sandbox)[0], range(10)))
    assert sorted(answers) == [200] * 6 + [429] * 4
    # Lists of models are no questions.
    assert ask(client, sandbox, "/v1/models")[0] == 200
    for kind in ("openai", "anthropic"):
        refused = with_sdk(client, sandbox, kind)
        assert refused.startswith("True"), refused
        assert "the budget of this sandbox is used up: 6 requests per day" in refused
    gateway.restart()
    client.wait_ready(sandbox.name, workspace="default", timeout_seconds=30)
    wait_until(lambda: ask(client, sandbox)[0] == 429)
    listed = run(gateway, "inference", "budget", "list")
    assert listed.splitlines()[1].split() == [sandbox.name, "all", "day", "6", "-"]
    run(gateway, "inference", "budget", "delete", *budget)
    wait_until(lambda: ask(client, sandbox)[0] == 200)
    assert with_sdk(client, sandbox, "anthropic") == "answered"
    assert "no such budget" in run(gateway, "inference", "budget", "delete", *budget, code=1)
    log = run(gateway, "logs", sandbox.name, "-n", "500")
    assert "API:INFERENCE" in log


def test_a_budget_of_tokens_and_what_was_used(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef, model: ModelServer
) -> None:
    assert run(gateway, "inference", "usage", sandbox.name) == ""
    run(gateway, "inference", "budget", "set", "--per", "day", "--tokens", "1")
    try:
        assert ask(client, sandbox)[0] == 200
        # The answer said what it cost; that is known before the next question is.
        assert ask(client, sandbox)[0] == 429
    finally:
        run(gateway, "inference", "budget", "delete", "--per", "day")
    assert ask(client, sandbox, stream=True)[0] == 200
    wait_until(lambda: used(gateway, sandbox)[0]["requests"] == 2)
    (line,) = used(gateway, sandbox)
    assert (line["route"], line["model"], line["errors"]) == ("inference.local", MODEL, 0)
    assert line["completion_tokens"]
    table = run(gateway, "inference", "usage").splitlines()
    assert table[0].split()[:4] == ["SANDBOX", "ROUTE", "MODEL", "REQUESTS"]
    assert any(sandbox.name in row for row in table[1:])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["budget", "set", "--per", "day"], 2, "--requests"),
        (["budget", "set", "--requests", "1"], 2, "--per"),
        (["budget", "set", "--per", "week", "--requests", "1"], 2, "week"),
        (["budget", "set", "--per", "day", "--requests", "0"], 2, "0"),
        (
            ["budget", "set", "--per", "day", "--requests", "1", "--sandbox", "nobody"],
            1,
            "not found",
        ),
        (["usage", "nobody"], 1, "not found"),
        (["usage", "--since", "x"], 1, "time span"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_wrong_words(gateway: PrivateGateway, words: list[str], code: int, says: str) -> None:
    assert says in run(gateway, "inference", *words, code=code)
