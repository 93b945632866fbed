"""A configuration from the gateway is put in force, acknowledged and told about, or not."""

import asyncio

import grpc
import grpc.aio
import pytest

from openshell import ocsf
from openshell._proto import inference_pb2, openshell_pb2, sandbox_pb2
from openshell.egress.credentials import CredentialSet
from openshell.egress.generation import Generation, GenerationHolder
from openshell.policy.compile import quarantine
from openshell.policy.decide import ConnectionAllowed, ConnectionRequest
from openshell.supervisor.config_source import ConfigSource
from openshell.supervisor.settings import settings_events

SANDBOX, GLOBAL = sandbox_pb2.POLICY_SOURCE_SANDBOX, sandbox_pb2.POLICY_SOURCE_GLOBAL


class Gateway:
    """Answers the three calls; both halves of one moment unless a test says otherwise."""

    def __init__(self):
        self.stub = self.inference = self
        self.routes = inference_pb2.GetInferenceBundleResponse(revision="none")
        self.routes_failing = None
        self.config = config("own.example.com")
        self.environment = openshell_pb2.GetSandboxProviderEnvironmentResponse()
        self.failing = None
        self.fetches = 0
        self.late_halves = 0

    def metadata(self):
        return ()

    def GetSandboxConfig(self, _request, **_):
        return self._answer(self.config, self.failing)

    def GetSandboxProviderEnvironment(self, _request, **_):
        self.fetches += 1
        answer = openshell_pb2.GetSandboxProviderEnvironmentResponse()
        answer.CopyFrom(self.environment)
        answer.provider_env_revision = self.config.provider_env_revision
        if self.late_halves:
            self.late_halves -= 1
            answer.provider_env_revision += 1
        return self._answer(answer)

    def GetInferenceBundle(self, _request, **_):
        return self._answer(self.routes, self.routes_failing)

    async def _answer(self, message, failing=None):
        if failing is not None:
            raise failing
        return message


class Recorder:
    """In the place of logs and reports."""

    def __init__(self):
        self.events = []
        self.lines = []
        self.reported = []

    def emit(self, event):
        self.events.append(event)

    def log(self, level, _target, message):
        self.lines.append((level, message))

    def policy(self, version, error):
        self.reported.append((version, error))

    def said(self):
        said = [event.message for event in self.events if isinstance(event, ocsf.ConfigEvent)]
        self.events.clear()
        return said


def config(host, *, source=SANDBOX, version=1, global_version=0, env=7, **settings):
    made = sandbox_pb2.GetSandboxConfigResponse(
        version=version,
        policy_source=source,
        global_policy_version=global_version,
        policy_hash=f"hash of {host}",
        provider_env_revision=env,
    )
    made.policy.version = 1
    rule = made.policy.network_policies["r"]
    rule.endpoints.add(host=host, port=443)
    rule.binaries.add(path="/usr/bin/curl")
    for key, value in settings.items():
        made.settings[key].value.bool_value = value
    return made


@pytest.fixture
async def world():
    gateway, recorder = Gateway(), Recorder()
    holder = GenerationHolder(Generation(0, quarantine("none yet", 0), CredentialSet()))
    source = ConfigSource(gateway, "box", holder, recorder, recorder, clock_ms=lambda: 1)
    running = asyncio.ensure_future(source.run())

    async def take(message=None):
        """Lets a configuration arrive; what is in force then."""
        if message is not None:
            gateway.config = message
        source.wake("")
        before = gateway.fetches
        async with asyncio.timeout(5):
            while gateway.fetches == before or gateway.late_halves:
                await asyncio.sleep(0)
            for _ in range(10):
                await asyncio.sleep(0)
        return holder.current

    yield gateway, recorder, take
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


def allows(generation, host):
    request = ConnectionRequest(host=host, port=443, binary="/usr/bin/curl")
    return isinstance(generation.policy.connect(request), ConnectionAllowed)


async def test_a_sandboxs_own_policy_is_acknowledged(world):
    _gateway, recorder, take = world
    first = await take()
    assert allows(first, "own.example.com")
    assert recorder.reported == [(1, "")]
    assert recorder.said() == ["policy version 1 loaded as generation 1"]
    assert await take() is first, "the same answer makes no generation"
    # The same policy under a newer version is acknowledged too.
    await take(config("own.example.com", version=2))
    assert recorder.reported == [(1, ""), (2, "")]


async def test_a_policy_for_all_is_loaded_and_never_acknowledged(world):
    _gateway, recorder, take = world
    await take()
    recorder.reported.clear()
    recorder.said()
    everywhere = await take(config("all.example.com", source=GLOBAL, global_version=4))
    assert allows(everywhere, "all.example.com")
    assert not allows(everywhere, "own.example.com")
    assert recorder.said() == ["global policy version 4 loaded as generation 2"]
    broken = config("all.example.com", source=GLOBAL, global_version=5)
    broken.policy.network_policies["r"].endpoints[0].protocol = "nonsense"
    broken.policy_hash = "broken"
    denied = await take(broken)
    assert not allows(denied, "all.example.com")
    assert recorder.said() == ["global policy version 5 was not loaded; everything is denied"]
    assert recorder.reported == []
    # Deleted: the sandbox's own is back, and acknowledged again.
    assert allows(await take(config("own.example.com")), "own.example.com")
    assert recorder.reported == [(1, "")]


async def test_the_same_content_from_the_other_source_is_taken_anew(world):
    _gateway, recorder, take = world
    own = await take()
    everywhere = await take(config("own.example.com", source=GLOBAL, global_version=1))
    assert everywhere.number == own.number + 1
    assert recorder.reported == [(1, "")]


async def test_a_setting_is_told_and_makes_no_generation(world):
    _gateway, recorder, take = world
    first = await take(config("own.example.com", ocsf_json_enabled=False))
    recorder.said()
    assert await take(config("own.example.com", ocsf_json_enabled=True)) is first
    assert recorder.said() == ["setting ocsf_json_enabled changed from false to true"]
    assert await take(config("own.example.com")) is first
    assert recorder.said() == ["setting ocsf_json_enabled changed from true to <unset>"]
    assert recorder.reported == [(1, "")]


def test_the_events_of_settings_are_labelled_by_what_they_become():
    before = {"a": "false", "b": "true", "c": "manual", "d": "true"}
    after = {"a": "true", "b": "false", "c": "auto", "e": "true"}
    events = settings_events(before, after, 5)
    assert [(event.unmapped["key"], event.state) for event in events] == [
        ("a", "enabled"),
        ("b", "disabled"),
        ("c", "updated"),
        ("d", "updated"),
        ("e", "enabled"),
    ]
    assert events[3].unmapped == {"key": "d", "old": "true", "new": "<unset>"}
    assert not settings_events(after, after, 5)


async def test_withheld_credentials_are_looked_at_again(world):
    gateway, recorder, take = world
    gateway.environment.environment["KEY"] = "value"
    broken = await take(config("own.example.com", env=8))
    assert "KEY" not in broken.credentials.child_environment()
    recorder.said()
    assert await take() is broken, "the same contradiction makes no generation"
    assert recorder.said() == []
    binding = gateway.environment.static_credential_bindings["KEY"]
    binding.credential_identity = "p/KEY"
    binding.endpoints.add(host="own.example.com", port=443)
    mended = await take()
    assert mended.number == broken.number + 1
    assert "KEY" in mended.credentials.child_environment()
    assert await take() is mended


async def test_tokens_of_grants_that_went_are_forgotten():
    gateway, recorder, kept = Gateway(), Recorder(), []

    class Tokens:
        def keep(self, grants):
            kept.append([grant.owner for grant in grants])

    holder = GenerationHolder(Generation(0, quarantine("none yet", 0), CredentialSet()))
    source = ConfigSource(gateway, "box", holder, recorder, recorder, tokens=Tokens())
    key = "own.example.com\t443\t\tp:c"
    grant = gateway.environment.dynamic_credentials[key].token_grant
    grant.token_endpoint = "https://idp.example/token"
    running = asyncio.ensure_future(source.run())
    try:
        async with asyncio.timeout(5):
            assert (await source.wait_loaded()).credentials.grants
            gateway.environment.dynamic_credentials.clear()
            gateway.config = config("own.example.com", env=8)
            source.wake("providers")
            generation = await holder.changed(1)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    assert not generation.credentials.grants
    assert kept == [["p:c"], []]


def refusal(code):
    return grpc.aio.AioRpcError(
        code, grpc.aio.Metadata(), grpc.aio.Metadata(), "provider 'x' not found"
    )


async def test_what_the_gateway_no_longer_stands_behind_is_not_enforced(world):
    gateway, recorder, take = world
    first = await take()
    assert allows(first, "own.example.com")
    recorder.said()
    # A gateway that is not there changes nothing.
    gateway.failing = refusal(grpc.StatusCode.UNAVAILABLE)
    assert await take() is first
    gateway.failing = refusal(grpc.StatusCode.FAILED_PRECONDITION)
    refused = await _changed(take, first)
    assert not allows(refused, "own.example.com")
    assert recorder.said() == [
        "the configuration was not loaded; everything is denied",
        "credentials are withheld",
    ]
    gateway.failing = None
    assert allows(await _changed(take, refused), "own.example.com")


async def test_the_last_valid_policy_stays_where_the_operator_says_so(world):
    gateway, _recorder, take = world
    made = config("own.example.com")
    made.policy_validation_failure_mode = "retain_last_valid"
    first = await take(made)
    gateway.failing = refusal(grpc.StatusCode.FAILED_PRECONDITION)
    refused = await _changed(take, first)
    assert allows(refused, "own.example.com")
    assert refused.credentials.epoch != first.credentials.epoch, "credentials go"


async def _changed(take, before):
    """What is in force after it has changed; a failed fetch is tried again after a pause."""
    async with asyncio.timeout(10):
        while (found := await take()) is before:
            pass
    return found


async def test_halves_of_two_moments_are_fetched_again(world):
    gateway, recorder, take = world
    await take()
    gateway.environment.environment["KEY"] = "value"
    binding = gateway.environment.static_credential_bindings["KEY"]
    binding.credential_identity = "p/KEY"
    binding.endpoints.add(host="own.example.com", port=443)
    gateway.late_halves, before = 2, gateway.fetches
    generation = await take(config("own.example.com", version=2, env=8))
    assert gateway.fetches == before + 3
    assert "KEY" in generation.credentials.child_environment()
    assert not recorder.lines


async def test_halves_that_never_fit_leave_no_credential_in_use(world):
    gateway, recorder, take = world
    gateway.environment.environment["KEY"] = "value"
    binding = gateway.environment.static_credential_bindings["KEY"]
    binding.credential_identity = "p/KEY"
    binding.endpoints.add(host="own.example.com", port=443)
    bound = await take(config("own.example.com", env=8))
    assert "KEY" in bound.credentials.child_environment()
    gateway.late_halves = 3
    generation = await take(config("own.example.com", version=2, env=8))
    assert generation.number == bound.number + 1
    assert "KEY" not in generation.credentials.child_environment()
    assert (
        "warn",
        "policy and credentials kept changing while they were fetched",
    ) in recorder.lines


def routes(revision, **route):
    made = inference_pb2.GetInferenceBundleResponse(revision=revision)
    made.routes.add(
        **{
            "name": "inference.local",
            "base_url": "https://api.openai.com/v1",
            "protocols": ["openai_chat_completions"],
            "api_key": "sk-secret-of-the-test",
            "model_id": "some-model",
            "provider_type": "openai",
            **route,
        }
    )
    return made


async def test_inference_routes_come_with_the_generation(world):
    gateway, _recorder, take = world
    first = await take()
    assert first.inference is not None
    assert first.inference.routes == ()
    gateway.routes = routes("one")
    second = await take()
    assert second.number == first.number + 1
    (route,) = second.inference.routes
    assert (route.model, route.endpoint.url) == ("some-model", "https://api.openai.com/v1")
    assert await take() is second, "the same revision makes no generation"
    assert "sk-secret" not in repr(second)
    assert "sk-secret" not in repr(route)


def failure(code):
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), "so it is")


async def test_routes_that_cannot_be_fetched_stay_as_they_are(world):
    gateway, recorder, take = world
    gateway.routes = routes("one")
    before = await take()
    gateway.routes_failing = failure(grpc.StatusCode.INTERNAL)
    after = await take(config("other.example.com"))
    assert allows(after, "other.example.com")
    assert after.inference is before.inference
    said = "inference routes could not be fetched: INTERNAL: so it is"
    assert recorder.lines.count(("warn", said)) == 1


async def test_a_gateway_without_inference_leaves_it_off():
    gateway, recorder = Gateway(), Recorder()
    gateway.routes_failing = failure(grpc.StatusCode.UNIMPLEMENTED)
    holder = GenerationHolder(Generation(0, quarantine("none yet", 0), CredentialSet()))
    source = ConfigSource(gateway, "box", holder, recorder, recorder, clock_ms=lambda: 1)
    running = asyncio.ensure_future(source.run())
    async with asyncio.timeout(5):
        assert (await source.wait_loaded()).inference is None
    assert not any("inference" in line for _level, line in recorder.lines)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"provider_type": "unheard-of"}, "a provider type that is not known here"),
        ({"base_url": "http://api.openai.com/v1"}, "a key is sent in clear text"),
        ({"base_url": "https://user@api.openai.com"}, "the base URL must be"),
        ({"api_key": "two\r\nlines"}, "a key that cannot stand in a header"),
        ({"model_id": "two\nlines"}, "a model name that cannot be sent"),
        ({"request_path_override": "@elsewhere"}, "a path that cannot be sent"),
    ],
)
async def test_an_unusable_route_is_left_out_and_named(world, change, why):
    gateway, recorder, take = world
    gateway.routes = routes("broken", **change)
    gateway.routes.routes.add().CopyFrom(routes("", name="sandbox-system").routes[0])
    kept = (await take()).inference.routes
    assert [route.name for route in kept] == ["sandbox-system"]
    (line,) = [line for level, line in recorder.lines if level == "warn"]
    assert why in line
    assert "two" not in line
