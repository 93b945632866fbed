"""Configuration: fetched when the gateway says it changed, and swapped as one generation.

Policy, credentials and inference routes are fetched together and put in force together, so that no
request sees one without the other. Pushes wake it; so does a timer, for pushes that got lost. What came of each
revision of the sandbox's own policy is reported; a policy for all sandboxes is loaded like any other
and acknowledged by none. What a candidate means is `candidate.py`'s part.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

import grpc
import grpc.aio

from openshell import ocsf
from openshell._proto import inference_pb2, openshell_pb2, sandbox_pb2
from openshell.codec.settings import value_text
from openshell.egress.generation import Generation, GenerationHolder
from openshell.egress.middleware import Implementation
from openshell.egress.token_grants import TokenCache
from openshell.policy.model import SandboxPolicy
from openshell.supervisor.backoff import Backoff
from openshell.supervisor.candidate import Candidate, Outcome, build_generation
from openshell.supervisor.gateway_client import GatewayClient, sentence_of
from openshell.supervisor.logs import Logs
from openshell.supervisor.middleware_registry import MiddlewareRegistry, Reconciled
from openshell.supervisor.reporter import PolicyReporter
from openshell.supervisor.settings import settings_events, settings_of

__all__ = ["ConfigSource"]

POLL_SECONDS = 30.0
_CALL_SECONDS = 10.0
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 8.0
# Tries to get both halves of one moment: each takes a millisecond, and changes come one by one.
_MAX_HALVES = 3

_TRUE = sandbox_pb2.SettingValue(bool_value=True)


@dataclass(frozen=True, slots=True)
class _Key:
    """What tells one generation from the next. Settings make none."""

    policy_hash: str
    version: int
    policy_source: int
    global_policy_version: int
    failure_mode: str
    provider_env_revision: int
    has_environment: bool
    routes_revision: str
    # A service that was connected anew is another one.
    implementations: Mapping[str, Implementation] = field(repr=False)


class ConfigSource:
    """Fetches, swaps, reports; one at a time."""

    def __init__(
        self,
        client: GatewayClient,
        sandbox_id: str,
        holder: GenerationHolder,
        reporter: PolicyReporter,
        logs: Logs,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
        tokens: TokenCache | None = None,
        middleware: MiddlewareRegistry | None = None,
    ) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._holder = holder
        self._reporter = reporter
        self._logs = logs
        self._clock_ms = clock_ms
        self._tokens = tokens
        self._middleware = middleware
        self._services = Reconciled({})
        self._wanted = asyncio.Event()
        self._wanted.set()
        self._loaded = asyncio.Event()
        self._key: _Key | None = None
        self._settings: Mapping[str, str] | None = None
        # The policy that is enforced, None while there is none, and the sandbox's place.
        self.policy: SandboxPolicy | None = None
        self.workspace = ""
        self._last_good: SandboxPolicy | None = None
        self._last_problem = ""
        # What the gateway says against enforcing any configuration, while it does.
        self._refusal = ""
        self._routes_problem = ""
        # Why the credentials in force are not those that were sent.
        self._withheld = ""

    def is_on(self, setting: str) -> bool:
        """Whether a setting is true at this moment."""
        return self._settings is not None and self._settings.get(setting) == value_text(_TRUE)

    def wake(self, reason: str) -> None:
        """Fetch soon; several calls make one fetch."""
        self._wanted.set()
        if reason:
            self._logs.log("debug", "config", f"changed: {reason}")

    async def wait_loaded(self) -> Generation:
        """The first generation that came from the gateway, and later ones at once."""
        await self._loaded.wait()
        return self._holder.current

    async def run(self) -> None:
        """Fetch now, at every push and every half minute."""
        backoff = Backoff(_FIRST_WAIT, _LONGEST_WAIT)
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(POLL_SECONDS):
                    await self._wanted.wait()
            # Cleared before the fetch: a push that arrives during it asks for another one.
            self._wanted.clear()
            candidate = await self._fetch()
            if candidate is None:
                await asyncio.sleep(backoff.next())
                self._wanted.set()
                continue
            if self._take(await self._with_services(candidate)):
                backoff.reset()
            else:
                await asyncio.sleep(backoff.next())
                self._wanted.set()

    async def _with_services(self, candidate: Candidate) -> Candidate:
        """The candidate with what its stages run; services that do not answer hold nothing up."""
        if self._middleware is None:
            return candidate
        sent = candidate.config.supervisor_middleware_services
        services = await self._middleware.reconcile(sent)
        for problem in services.problems:
            if problem not in self._services.problems:
                self._logs.emit(
                    ocsf.ConfigEvent(
                        time_ms=self._clock_ms(),
                        state="failed",
                        message="a middleware service is not connected",
                        severity=ocsf.Severity.MEDIUM,
                        status=ocsf.Status.FAILURE,
                        detail=problem,
                    )
                )
        self._services = services
        return replace(candidate, implementations=services.implementations)

    async def _fetch(self) -> Candidate | None:
        """Both halves of one moment; None when there is no configuration to be had."""
        candidate = await self._fetch_halves()
        for _ in range(_MAX_HALVES - 1):
            if candidate is None or candidate.is_of_one_moment:
                return candidate
            candidate = await self._fetch_halves()
        if candidate is None or candidate.is_of_one_moment:
            return candidate
        # A credential must not meet a policy that it was not bound by.
        self._say("policy and credentials kept changing while they were fetched")
        return Candidate(candidate.config, None, candidate.routes)

    async def _fetch_halves(self) -> Candidate | None:
        """Both at once, each of the moment when it was answered."""
        stub, metadata = self._client.stub, self._client.metadata()
        config_call = stub.GetSandboxConfig(
            sandbox_pb2.GetSandboxConfigRequest(sandbox_id=self._sandbox_id),
            metadata=metadata,
            timeout=_CALL_SECONDS,
        )
        environment_call = stub.GetSandboxProviderEnvironment(
            openshell_pb2.GetSandboxProviderEnvironmentRequest(
                sandbox_id=self._sandbox_id,
                supports_static_credential_bindings=True,
                supports_client_identities=True,
            ),
            metadata=metadata,
            timeout=_CALL_SECONDS,
        )
        routes_call = self._client.inference.GetInferenceBundle(
            inference_pb2.GetInferenceBundleRequest(), metadata=metadata, timeout=_CALL_SECONDS
        )
        try:
            config, environment, routes = await asyncio.gather(
                config_call, environment_call, routes_call, return_exceptions=True
            )
        except asyncio.CancelledError:
            for call in (config_call, environment_call, routes_call):
                call.cancel()
            raise
        if isinstance(config, BaseException):
            self._problem("the configuration could not be fetched", config)
            if _is_refusal(config):
                self._refuse(sentence_of(config))
            return None
        self._refusal = ""
        if isinstance(environment, BaseException):
            # Without knowing what the credentials are now, none is used.
            self._problem("the provider environment could not be fetched", environment)
            return Candidate(config, None, self._routes(routes))
        self._last_problem = ""
        return Candidate(config, environment, self._routes(routes))

    def _routes(self, answer: Any) -> inference_pb2.GetInferenceBundleResponse | None:
        """The routes of an answer; None leaves those in force as they are."""
        problem = ""
        if isinstance(answer, grpc.aio.AioRpcError):
            # A gateway without this service has no routes to give.
            if answer.code() is not grpc.StatusCode.UNIMPLEMENTED:
                problem = sentence_of(answer)
        elif isinstance(answer, BaseException):
            problem = type(answer).__name__
        if problem and problem != self._routes_problem:
            self._logs.log("warn", "config", f"inference routes could not be fetched: {problem}")
        self._routes_problem = problem
        return None if isinstance(answer, BaseException) else answer

    def _problem(self, what: str, error: BaseException) -> None:
        reason = (
            sentence_of(error) if isinstance(error, grpc.aio.AioRpcError) else type(error).__name__
        )
        self._say(f"{what}: {reason}")

    def _say(self, text: str) -> None:
        if text != self._last_problem:
            # Once per reason; the retries are silent.
            self._logs.log("warn", "config", text)
        self._last_problem = text

    def _refuse(self, reason: str) -> None:
        """Enforce nothing that the gateway no longer stands behind.

        It answered, and what it has may not be enforced: credentials go, and the policy as the mode
        of failure says. A gateway that does not answer changes nothing.
        """
        if self._key is None or reason == self._refusal:
            return
        self._refusal = reason
        config = sandbox_pb2.GetSandboxConfigResponse(
            policy_validation_failure_mode=self._key.failure_mode
        )
        outcome = build_generation(
            Candidate(config, None, refusal=reason, implementations=self._services.implementations),
            self._holder.current,
            self._last_good,
            self._tokens,
        )
        self._holder.swap(outcome.generation)
        self.policy = outcome.policy
        self._withheld = outcome.credential_error
        # No answer is like it, so that the next one is taken whatever it is.
        self._key = replace(self._key, policy_hash="", version=0)
        self._announce(config, outcome)

    def _take(self, candidate: Candidate) -> bool:
        """Put a candidate in force; False when the fetch should be tried again soon."""
        config, environment = candidate.config, candidate.environment
        settings = settings_of(config)
        if self._settings is not None:
            for event in settings_events(self._settings, settings, self._clock_ms()):
                self._logs.emit(event)
        self._settings = settings
        self.workspace = config.workspace
        key = _Key(
            config.policy_hash,
            config.version,
            config.policy_source,
            config.global_policy_version,
            config.policy_validation_failure_mode,
            environment.provider_env_revision if environment is not None else 0,
            environment is not None,
            self._routes_revision(candidate),
            candidate.implementations,
        )
        # What was withheld is looked at again at every fetch, under the same revision too.
        if key != self._key or self._withheld:
            outcome = build_generation(
                candidate, self._holder.current, self._last_good, self._tokens
            )
            if key == self._key and outcome.credential_error == self._withheld:
                return not self._must_retry(candidate)
            self._withheld = outcome.credential_error
            if outcome.policy is not None and not outcome.policy_error:
                self._last_good = outcome.policy
            self._holder.swap(outcome.generation)
            self.policy = outcome.policy
            if self._tokens is not None:
                self._tokens.keep(outcome.generation.credentials.grants.grants)
            self._key = key
            self._loaded.set()
            self._announce(config, outcome)
        return not self._must_retry(candidate)

    def _must_retry(self, candidate: Candidate) -> bool:
        return candidate.environment is None or bool(self._routes_problem)

    def _routes_revision(self, candidate: Candidate) -> str:
        if candidate.routes is not None:
            return candidate.routes.revision
        current = self._holder.current.inference
        return current.revision if current is not None else ""

    def _announce(self, config: sandbox_pb2.GetSandboxConfigResponse, outcome: Outcome) -> None:
        now = self._clock_ms()
        number = outcome.generation.number
        is_global = config.policy_source == sandbox_pb2.POLICY_SOURCE_GLOBAL
        version = config.global_policy_version if is_global else config.version
        named = f"{'global policy' if is_global else 'policy'} version {version}"
        if not version:
            named = "the configuration"
        if outcome.policy_error:
            kept = "the last valid policy stays" if outcome.policy else "everything is denied"
            self._logs.emit(
                ocsf.ConfigEvent(
                    time_ms=now,
                    state="failed",
                    message=f"{named} was not loaded; {kept}",
                    severity=ocsf.Severity.HIGH,
                    status=ocsf.Status.FAILURE,
                    detail=outcome.policy_error,
                )
            )
            self._logs.emit(
                ocsf.FindingEvent(
                    time_ms=now,
                    uid=f"policy-validation-failed-{version}",
                    title="Policy validation failed",
                    description=outcome.policy_error,
                    severity=ocsf.Severity.HIGH,
                )
            )
        else:
            self._logs.emit(
                ocsf.ConfigEvent(
                    time_ms=now,
                    state="loaded",
                    message=f"{named} loaded as generation {number}",
                    status=ocsf.Status.SUCCESS,
                )
            )
        if outcome.credential_error:
            self._logs.emit(
                ocsf.ConfigEvent(
                    time_ms=now,
                    state="fail_closed",
                    message="credentials are withheld",
                    severity=ocsf.Severity.HIGH,
                    status=ocsf.Status.FAILURE,
                    detail=outcome.credential_error,
                )
            )
        if outcome.route_error:
            self._logs.log("warn", "config", f"withheld: {outcome.route_error}")
        if not is_global and config.version > 0:
            self._reporter.policy(config.version, outcome.policy_error)


def _is_refusal(error: BaseException) -> TypeGuard[grpc.aio.AioRpcError]:
    return (
        isinstance(error, grpc.aio.AioRpcError)
        and error.code() is grpc.StatusCode.FAILED_PRECONDITION
    )
