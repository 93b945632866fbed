"""From what the gateway sent to one generation, or to the reason why not. No I/O but link look-ups.

The only place where the supervisor turns configuration messages into policy and credentials. A
candidate is usable as a whole or not at all: a policy with an error is not loaded in part, and
credentials that contradict themselves are withheld, all of them.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from openshell._proto import inference_pb2, openshell_ext_pb2, openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_from_proto
from openshell.egress.client_identity import ClientIdentity
from openshell.egress.credentials import (
    BadPattern,
    Binding,
    BoundEndpoint,
    BoundIdentity,
    CredentialSet,
    SnapshotRejected,
    Tokens,
)
from openshell.egress.generation import Generation
from openshell.egress.middleware import Implementation, Middlewares
from openshell.policy.compile import CompiledPolicy, compile_policy, quarantine, quarantine_reason
from openshell.policy.defaults import restrictive_default
from openshell.policy.model import SandboxPolicy
from openshell.policy.validate import validate_policy
from openshell.supervisor.dynamic import read_grants
from openshell.supervisor.environment import SHOWN_KEYS
from openshell.supervisor.inference import read_routes
from openshell.supervisor.spec import binary_links

__all__ = ["Candidate", "Outcome", "build_generation", "read_policy"]

# The gateway keeps the report of a failure; a policy can have many findings, one sentence each.
_MAX_ERROR = 2000


@dataclass(frozen=True, slots=True)
class Candidate:
    """One answer of the gateway. Without an environment its fetch failed: credentials go."""

    config: sandbox_pb2.GetSandboxConfigResponse
    environment: openshell_pb2.GetSandboxProviderEnvironmentResponse | None
    # None: they could not be fetched, those in force stay.
    routes: inference_pb2.GetInferenceBundleResponse | None = None
    # Why the gateway has no configuration that may be enforced; `config` then tells the mode alone.
    refusal: str = ""
    # What the policy's stages run, by name.
    implementations: Mapping[str, Implementation] = field(default_factory=dict)

    @property
    def is_of_one_moment(self) -> bool:
        """Whether the configuration was answered for these very credentials."""
        return self.environment is None or self.config.provider_env_revision in (
            0,  # not said
            self.environment.provider_env_revision,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is in force now, and why it is not more."""

    generation: Generation
    # The policy that was compiled; None in quarantine.
    policy: SandboxPolicy | None
    # Empty: the policy was loaded.
    policy_error: str = ""
    # Empty: the credentials are as sent.
    credential_error: str = ""
    # Empty: every inference route is in force.
    route_error: str = ""


def read_policy(config: sandbox_pb2.GetSandboxConfigResponse) -> SandboxPolicy:
    """The policy of an answer; raises ValueError with a sentence when it cannot be used."""
    if not config.HasField("policy"):
        return restrictive_default()
    policy = policy_from_proto(config.policy)
    errors = [finding for finding in validate_policy(policy) if finding.severity == "error"]
    if errors:
        text = "; ".join(f"{finding.location}: {finding.message}" for finding in errors)
        raise ValueError(text[:_MAX_ERROR])
    return policy


def build_generation(
    candidate: Candidate,
    current: Generation,
    last_good: SandboxPolicy | None,
    tokens: Tokens | None = None,
) -> Outcome:
    """Make the generation that follows the current one; `tokens` serves its token grants."""
    number = current.number + 1
    policy, compiled, policy_error = _policy(candidate, number, last_good)
    credentials, credential_error = _credentials(candidate.environment, current.credentials, tokens)
    routes, route_error = current.inference, ""
    if candidate.routes is not None:
        routes, route_error = read_routes(candidate.routes)
    middleware = None
    if policy is not None and policy.network_middlewares:
        middleware = Middlewares(policy.network_middlewares, candidate.implementations)
    return Outcome(
        Generation(number, compiled, credentials, routes, middleware),
        policy,
        policy_error,
        credential_error,
        route_error,
    )


def _policy(
    candidate: Candidate, number: int, last_good: SandboxPolicy | None
) -> tuple[SandboxPolicy | None, CompiledPolicy, str]:
    config = candidate.config
    try:
        if candidate.refusal:
            raise ValueError(candidate.refusal)
        policy = read_policy(config)
        compiled = compile_policy(policy, generation=number, binary_links=binary_links(policy))
    except ValueError as error:
        text = str(error)[:_MAX_ERROR] or type(error).__name__
        if config.policy_validation_failure_mode == "retain_last_valid" and last_good is not None:
            kept = compile_policy(
                last_good, generation=number, binary_links=binary_links(last_good)
            )
            return last_good, kept, text
        return None, quarantine(quarantine_reason(config.version, text), number), text
    return policy, compiled, ""


def _credentials(
    environment: openshell_pb2.GetSandboxProviderEnvironmentResponse | None,
    current: CredentialSet,
    tokens: Tokens | None,
) -> tuple[CredentialSet, str]:
    if environment is None:
        # Token grants stay: each token is asked for anew, and its server may say no.
        return current.revoked(), "the provider environment could not be fetched"
    grants, problem = read_grants(environment.dynamic_credentials, tokens)
    try:
        bindings = _bindings(environment.static_credential_bindings)
        identities = _client_identities(environment.client_identities)
        built = CredentialSet.build(
            environment.provider_env_revision,
            dict(environment.environment),
            bindings,
            non_secret_keys=tuple(environment.non_secret_environment_keys),
            shown_keys=SHOWN_KEYS,
            grants=grants,
            identities=identities,
            expires_at_ms=dict(environment.credential_expires_at_ms),
            previous=current,
        )
    except SnapshotRejected as error:
        return current.revoked(grants), f"the provider environment contradicts itself: {error}"
    except BadPattern as error:
        return current.revoked(grants), f"a credential is bound to an impossible endpoint: {error}"
    return built, f"token grants cannot be used: {problem}" if problem else ""


def _client_identities(
    sent: Iterable[openshell_ext_pb2.ClientIdentity],
) -> tuple[BoundIdentity, ...]:
    return tuple(
        BoundIdentity(
            tuple(BoundEndpoint(place.host, place.port) for place in item.endpoints),
            ClientIdentity(item.provider, item.certificate, item.private_key),
        )
        for item in sent
    )


def _bindings(
    sent: Mapping[str, openshell_pb2.StaticCredentialBinding],
) -> dict[str, Binding]:
    return {
        key: Binding(
            endpoints=tuple(
                BoundEndpoint(endpoint.host, endpoint.port, endpoint.path)
                for endpoint in binding.endpoints
            ),
            identity=binding.credential_identity,
            handle=binding.workload_credential_handle,
        )
        for key, binding in sent.items()
    }
