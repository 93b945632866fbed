"""A program in a real sandbox asks https://inference.local with a key that is none."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from e2e.providers.asking import ENVIRON, run
from e2e.system.test_secrets import files_below, holds
from openshell.sdk.client import SandboxClient
from openshell.sdk.inference import InferenceRouteClient
from openshell.sdk.refs import ExecResult, SandboxRef
from support.model_server import KEY, MODEL, TEXT, ModelServer, model_server
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, wait_until
from support.upstream import ALIAS

# As programs do: with the proxy that the environment names, or without knowing of any.
ASK = """
import json, sys, urllib.error, urllib.request
path, body, proxied = sys.argv[1], sys.argv[2], sys.argv[3] == "proxy"
handlers = [] if proxied else [urllib.request.ProxyHandler({})]
headers = {"Authorization": "Bearer dummy", "Content-Type": "application/json"}
request = urllib.request.Request(
    "https://inference.local" + path, body.encode() if body else None, headers
)
try:
    answer = urllib.request.build_opener(*handlers).open(request, timeout=20)
except urllib.error.HTTPError as error:
    answer = error
print(answer.status)
for line in answer:
    sys.stdout.write(line.decode())
    sys.stdout.flush()
"""
# Everything that a process inside can read of processes and files that are not the system's.
LOOK = """
cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline 2>/dev/null
find / -xdev -type f -size -2000k \\( -path '/tmp/*' -o -path '/sandbox/*' -o -path '/run/*' \\
  -o -path '/dev/*' -o -path '/etc/*' \\) -exec cat {} + 2>/dev/null
echo end-of-look; exit 0
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
def models() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


@pytest.fixture(scope="module")
def provider(gateway: PrivateGateway, models: ModelServer) -> str:
    base = f"http://{ALIAS}:{models.port}/v1"
    for name, kind in (("models", "openai"), ("claude", "anthropic")):
        made = ("--name", name, "--type", kind, "--credential", f"{kind.upper()}_API_KEY")
        config = ("--config", f"{kind.upper()}_BASE_URL={base}")
        run(gateway, "provider", "create", *made, *config, **{f"{kind.upper()}_API_KEY": KEY})
    return "models"


@pytest.fixture(scope="module")
def sandbox(client: SandboxClient, provider: str) -> Iterator[SandboxRef]:
    with ready_sandbox(client) as ref:
        yield ref


def ask(
    client: SandboxClient,
    sandbox: SandboxRef,
    path: str = "/v1/chat/completions",
    *,
    proxied: bool = True,
    **body: object,
) -> tuple[int, str]:
    asked = {"model": "any", "messages": [{"role": "user", "content": "hi"}], **body}
    sent = "" if path == "/v1/models" else json.dumps(asked)
    how = "proxy" if proxied else "direct"
    done: ExecResult = client.exec(
        sandbox.id, [PYTHON, "-c", ASK, path, sent, how], env=ENVIRON, timeout_seconds=30
    )
    assert done.exit_code == 0, done.stderr
    status, _, rest = done.stdout.partition("\n")
    return int(status), rest


def test_before_a_route_is_set_it_says_how(client: SandboxClient, sandbox: SandboxRef) -> None:
    status, text = ask(client, sandbox)
    assert status == 503
    assert json.loads(text)["hint"] == "run: openshell inference set --help"


def test_a_route_that_does_not_work_is_not_set(gateway: PrivateGateway, provider: str) -> None:
    said = run(
        gateway, "inference", "set", "--provider", "models", "--model", "no-such-model", code=1
    )
    assert "the route does not work" in said
    assert "Not configured" in run(gateway, "inference", "get")
    missing = run(gateway, "inference", "set", "--provider", "nobody", "--model", MODEL, code=1)
    assert "provider 'nobody' not found" in missing


@pytest.fixture(scope="module")
def routed(gateway: PrivateGateway, models: ModelServer, provider: str) -> str:
    said = run(gateway, "inference", "set", "--provider", "models", "--model", MODEL)
    assert f"http://{ALIAS}:{models.port}/v1/chat/completions" in said
    return said


@pytest.mark.parametrize("proxied", [True, False], ids=["by the proxy", "ignoring the proxy"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_dummy_key_is_enough(
    client: SandboxClient,
    sandbox: SandboxRef,
    models: ModelServer,
    routed: str,
    proxied: bool,
    stream: bool,
) -> None:
    wait_until(lambda: ask(client, sandbox, "/v1/models")[0] == 200)
    status, text = ask(client, sandbox, proxied=proxied, stream=stream)
    assert status == 200, text
    if stream:
        events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
        assert events.pop() == "[DONE]"
        deltas = [json.loads(event)["choices"] for event in events]
        assert "".join(choice[0]["delta"]["content"] for choice in deltas if choice) == TEXT
    else:
        assert json.loads(text)["choices"][0]["message"]["content"] == TEXT
    assert models.last.headers["authorization"] == f"Bearer {KEY}"
    assert models.last_body["model"] == MODEL


def test_what_is_no_question_to_a_model_is_refused(
    client: SandboxClient, sandbox: SandboxRef, routed: str
) -> None:
    assert ask(client, sandbox, "/v1/files") == (
        403,
        '{"error":"connection not allowed by policy"}',
    )


def test_the_log_has_the_call_and_no_word_of_it(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef, routed: str
) -> None:
    status, _ = ask(client, sandbox, messages=[{"role": "user", "content": "a-secret-prompt"}])
    assert status == 200

    def shown() -> str:
        return run(gateway, "logs", sandbox.name, "-n", "500")

    wait_until(lambda: f"API:INFERENCE [INFO] Success {MODEL} via openai" in shown())
    assert "a-secret-prompt" not in shown()


def test_the_key_is_nowhere_inside(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef, routed: str
) -> None:
    marker = client.exec(
        sandbox.id, ["/bin/sh", "-c", f"echo marker-of-the-test > /tmp/seen; {LOOK}"]
    )
    assert "marker-of-the-test" in marker.stdout, "the probe sees files"
    assert "marker-of-the-test > /tmp" in marker.stdout, "the probe sees processes"
    assert marker.stdout.endswith("end-of-look\n")
    assert not holds(marker.stdout + marker.stderr, KEY)


def test_the_key_is_in_no_file_and_no_log(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef, routed: str
) -> None:
    copy = gateway.directory / "control"
    copy.write_text(KEY)
    found = [
        str(path) for path, data in files_below(Path(gateway.directory)).items() if holds(data, KEY)
    ]
    copy.unlink()
    assert found == [str(copy)], "the search finds what is there, and nothing else is"
    assert not holds(run(gateway, "logs", sandbox.name, "-n", "1000"), KEY)
    assert not holds(run(gateway, "inference", "get"), KEY)


def test_another_route_counts_at_once(
    gateway: PrivateGateway,
    client: SandboxClient,
    sandbox: SandboxRef,
    models: ModelServer,
    routed: str,
) -> None:
    assert ask(client, sandbox, "/v1/messages")[0] == 400, "this provider does not speak it"
    said = run(gateway, "inference", "update", "--provider", "claude", "--timeout", "90")
    assert "Version: 2" in said
    assert "Timeout: 90s" in said
    wait_until(lambda: ask(client, sandbox, "/v1/messages", max_tokens=9)[0] == 200)
    assert models.last.headers["x-api-key"] == KEY
    assert ask(client, sandbox)[0] == 400
    assert "Model: real-model" in run(gateway, "inference", "get")


def test_a_key_that_changes_is_used_at_once(
    gateway: PrivateGateway,
    client: SandboxClient,
    sandbox: SandboxRef,
    models: ModelServer,
    routed: str,
) -> None:
    run(gateway, "inference", "set", "--provider", "models", "--model", MODEL)
    wait_until(lambda: ask(client, sandbox)[0] == 200)
    models.key = newer = "sk-newer-key-of-the-operator"
    assert ask(client, sandbox)[0] == 401
    try:
        change = ("provider", "update", "models", "--credential", "OPENAI_API_KEY")
        run(gateway, *change, OPENAI_API_KEY=newer)
        wait_until(lambda: ask(client, sandbox)[0] == 200, seconds=5)
    finally:
        models.key = KEY
        run(gateway, *change, OPENAI_API_KEY=KEY)


def test_a_deleted_route_answers_no_more(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef, routed: str
) -> None:
    routes = InferenceRouteClient.from_sandbox_client(client)
    assert routes.get_route(workspace="default").model_id == MODEL
    assert "deleted" in run(gateway, "inference", "delete")
    wait_until(lambda: ask(client, sandbox)[0] == 503, seconds=5)
    assert run(gateway, "inference", "delete") == ""
    assert not routes.delete_route(workspace="default")


def test_curl_asks_as_well(
    gateway: PrivateGateway, client: SandboxClient, sandbox: SandboxRef, provider: str
) -> None:
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    run(gateway, "inference", "set", "--provider", "models", "--model", MODEL, "--no-verify")
    wait_until(lambda: ask(client, sandbox, "/v1/models")[0] == 200)
    done = client.exec(
        sandbox.id, ["curl", "-sS", "https://inference.local/v1/models"], timeout_seconds=20
    )
    assert json.loads(done.stdout)["data"][0]["id"] == MODEL, done.stderr
