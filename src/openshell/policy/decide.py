"""What is asked of a policy and what it answers: values only.

A refusal is a value that carries everything said about it anywhere (reason, nearest rule, the
smallest change that would allow it), so that the 403 body, the event, the log and the command
line use one wording. The answers are made by `compile`; egress reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

import msgspec

from openshell.policy.messages import Content
from openshell.policy.model import CredentialBinding, Endpoint
from openshell.policy.protocols import (
    RPC_PROTOCOLS,
    graphql_body_bytes,
    has_graphql_policy,
    rpc_body_bytes,
)

__all__ = [
    "ConnectionAllowed",
    "ConnectionDecision",
    "ConnectionDenied",
    "ConnectionRequest",
    "EndpointConfig",
    "L7Request",
    "RequestAllowed",
    "RequestAudited",
    "RequestDecision",
    "RequestDenied",
    "word_of",
]


_NO_PARAMS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class ConnectionRequest:
    """A process wants host:port. `relaxed` means binary identity is switched off."""

    host: str
    port: int
    binary: str | None
    ancestors: tuple[str, ...] = ()
    cmdline: tuple[str, ...] = ()
    relaxed: bool = False


class L7Request(msgspec.Struct, frozen=True):
    """A request on an allowed connection. `path` is canonical, placeholders redacted.

    `content` is what body or frame say, where the governing endpoint's protocol looks at them.
    """

    method: str
    path: str
    query: Mapping[str, tuple[str, ...]] = _NO_PARAMS
    content: Content | None = None


@dataclass(frozen=True, slots=True, eq=False)
class EndpointConfig:
    """One endpoint of one rule, compiled. Compared by identity: it belongs to one generation."""

    endpoint: Endpoint = field(repr=False)
    policy_key: str
    index: int
    # Lower-cased; "" is opaque traffic.
    protocol: str
    # "enforce" or "audit".
    enforcement: str
    tls_skip: bool
    # A host that names one host: neither a wildcard nor empty.
    is_exact_host: bool
    # Rank among several configs of one connection: characters of the path that are not `*`.
    specificity: int
    # Route selection (Dialect R) on a canonical path.
    matches_route: Callable[[str], object] = field(repr=False)

    @property
    def location(self) -> str:
        return f"{self.policy_key}.endpoints[{self.index}]"

    @property
    def is_inspected(self) -> bool:
        return self.protocol not in ("", "tcp")

    @property
    def is_tcp(self) -> bool:
        """Whether its author asked for a plain TCP connection, of which nothing is looked at."""
        return self.protocol == "tcp"

    @property
    def judges_graphql(self) -> bool:
        """Whether requests, or on websocket endpoints messages, are read as GraphQL."""
        return self.protocol == "graphql" or (
            self.protocol == "websocket" and has_graphql_policy(self.endpoint)
        )

    @property
    def body_bytes(self) -> int:
        """How much of a body is read to judge it; 0 where none is."""
        if self.protocol in RPC_PROTOCOLS:
            return rpc_body_bytes(self.endpoint)
        return graphql_body_bytes(self.endpoint) if self.protocol == "graphql" else 0

    @property
    def provider_credentialed(self) -> bool:
        return self.endpoint.provider_credentialed

    @property
    def credential_binding(self) -> CredentialBinding | None:
        return self.endpoint.credential_binding

    @property
    def allow_encoded_slash(self) -> bool:
        return self.endpoint.allow_encoded_slash


@dataclass(frozen=True, slots=True)
class ConnectionAllowed:
    host: str
    port: int
    binary: str | None
    matched_policy: str
    # Endpoints that say how to treat the connection (a protocol, allowed_ips or tls), in order of
    # rule key and position. The first one decides TLS mode and allowed_ips.
    configs: tuple[EndpointConfig, ...]
    # Every endpoint that matched, in the same order.
    endpoints: tuple[EndpointConfig, ...]
    # Matched endpoints that a person named exactly, for a program that a person named: they may
    # resolve to private addresses.
    trusted: tuple[EndpointConfig, ...]
    generation: int
    # The configs that inspect: asked for with every request, so made once.
    l7_configs: tuple[EndpointConfig, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        inspected = tuple(config for config in self.configs if config.is_inspected)
        object.__setattr__(self, "l7_configs", inspected)

    @property
    def exact_declared_host(self) -> bool:
        return bool(self.trusted)

    @property
    def tls_mode(self) -> str:
        """Either "skip" or "auto"."""
        return "skip" if self.configs and self.configs[0].tls_skip else "auto"

    @property
    def is_tcp(self) -> bool:
        """Whether this is a plain TCP connection: every endpoint that matched says so."""
        return all(config.is_tcp for config in self.endpoints)

    @property
    def is_opaque(self) -> bool:
        """Whether bytes are copied without a look at them, whatever they are."""
        return self.is_tcp or self.tls_mode == "skip"

    @property
    def allowed_ips(self) -> tuple[str, ...]:
        return self.configs[0].endpoint.allowed_ips if self.configs else ()


@dataclass(frozen=True, slots=True)
class ConnectionDenied:
    """Codes: no_policy, endpoint_not_allowed, binary_not_allowed, invalid_host, quarantine."""

    host: str
    port: int
    binary: str | None
    reason_code: str
    reason: str
    nearest_rule: str | None
    suggestion: str
    generation: int


ConnectionDecision: TypeAlias = ConnectionAllowed | ConnectionDenied


class RequestAllowed(msgspec.Struct, frozen=True):
    policy: str
    # None on a connection without inspection: the connection's own decision is all there is.
    config: EndpointConfig | None
    generation: int


class RequestAudited(msgspec.Struct, frozen=True):
    """Not allowed, but the endpoint only records: forward it and log why."""

    policy: str
    config: EndpointConfig
    reason_code: str
    reason: str
    nearest_rule: str | None
    suggestion: str
    generation: int


@dataclass(frozen=True, slots=True)
class RequestDenied:
    """`hard` ones ignore audit mode.

    Codes: deny_rule, no_allow, unregistered_query; always hard: graphql_rejected, rpc_rejected,
    rpc_response, websocket_required, no_route, encoded_slash, unsupported_protocol,
    evaluation_error, stale_generation, quarantine.
    """

    policy: str
    config: EndpointConfig | None
    reason_code: str
    reason: str
    hard: bool
    nearest_rule: str | None
    suggestion: str
    generation: int


RequestDecision: TypeAlias = RequestAllowed | RequestAudited | RequestDenied


def word_of(decision: RequestDecision, *, upgrade: bool = False) -> str:
    """The word under which a decision is logged: allow, allow_upgrade, audit or deny."""
    if isinstance(decision, RequestAllowed):
        return "allow_upgrade" if upgrade else "allow"
    return "audit" if isinstance(decision, RequestAudited) else "deny"
