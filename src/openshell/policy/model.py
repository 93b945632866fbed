"""The whole sandbox policy as frozen values: what a policy says, after parsing and before meaning.

Fields keep what the author wrote (an unset string is ""), so that writing a policy back loses
nothing; what a value means is decided in `compile` and `validate`. YAML is read by `parse`,
protobuf by `openshell.codec.policy`; nothing here checks anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final, TypeAlias

__all__ = [
    "PROVIDER_KEY_PREFIX",
    "Binary",
    "CredentialBinding",
    "Endpoint",
    "FilesystemPolicy",
    "GraphqlOperation",
    "JsonValue",
    "L7Rule",
    "LandlockPolicy",
    "Matcher",
    "McpOptions",
    "MiddlewareConfig",
    "NetworkRule",
    "ProcessPolicy",
    "SandboxPolicy",
    "implied_method",
]

JsonValue: TypeAlias = (
    "bool | int | float | str | tuple[JsonValue, ...] | Mapping[str, JsonValue] | None"
)

# Rules composed from attached providers carry this prefix; authors may not use it.
PROVIDER_KEY_PREFIX: Final = "_provider_"


def _no_matchers() -> Mapping[str, Matcher]:
    return MappingProxyType({})


def _no_operations() -> Mapping[str, GraphqlOperation]:
    return MappingProxyType({})


def _no_rules() -> Mapping[str, NetworkRule]:
    return MappingProxyType({})


def _no_middlewares() -> Mapping[str, MiddlewareConfig]:
    return MappingProxyType({})


def _no_config() -> Mapping[str, JsonValue]:
    return MappingProxyType({})


@dataclass(frozen=True, slots=True)
class FilesystemPolicy:
    """Paths the agent may reach; anything unlisted is unreachable."""

    include_workdir: bool = False
    read_only: tuple[str, ...] = ()
    read_write: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LandlockPolicy:
    compatibility: str = ""

    @property
    def is_hard_requirement(self) -> bool:
        return self.compatibility == "hard_requirement"


@dataclass(frozen=True, slots=True)
class ProcessPolicy:
    run_as_user: str = ""
    run_as_group: str = ""


@dataclass(frozen=True, slots=True)
class Matcher:
    """One glob, or several of which any may match (then `any_of` is not empty)."""

    glob: str = ""
    any_of: tuple[str, ...] = ()

    @property
    def globs(self) -> tuple[str, ...]:
        return self.any_of or (self.glob,)


@dataclass(frozen=True, slots=True)
class L7Rule:
    """One allow or deny entry; which fields count depends on the endpoint's protocol.

    `params` is flat with dotted keys; the YAML shorthand `tool` is `params["name"]`.
    """

    method: str = ""
    path: str = ""
    command: str = ""
    query: Mapping[str, Matcher] = field(default_factory=_no_matchers)
    operation_type: str = ""
    operation_name: str = ""
    fields: tuple[str, ...] = ()
    params: Mapping[str, Matcher] = field(default_factory=_no_matchers)

    @property
    def is_blank(self) -> bool:
        """Nothing in it can match anything."""
        return not (
            self.method
            or self.path
            or self.command
            or self.query
            or self.operation_type
            or self.operation_name
            or self.fields
            or self.params
        )


@dataclass(frozen=True, slots=True)
class GraphqlOperation:
    operation_type: str = ""
    operation_name: str = ""
    fields: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class McpOptions:
    strict_tool_names: bool | None = None
    allow_all_known_mcp_methods: bool | None = None


@dataclass(frozen=True, slots=True)
class CredentialBinding:
    provider: str


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a rule's processes may connect, and how the traffic is inspected."""

    host: str = ""
    ports: tuple[int, ...] = ()
    path: str = ""
    protocol: str = ""
    tls: str = ""
    enforcement: str = ""
    access: str = ""
    rules: tuple[L7Rule, ...] = ()
    deny_rules: tuple[L7Rule, ...] = ()
    allowed_ips: tuple[str, ...] = ()
    allow_encoded_slash: bool = False
    websocket_credential_rewrite: bool = False
    request_body_credential_rewrite: bool = False
    allow_uninspected_credentials: bool = False
    persisted_queries: str = ""
    graphql_persisted_queries: Mapping[str, GraphqlOperation] = field(
        default_factory=_no_operations
    )
    graphql_max_body_bytes: int = 0
    json_rpc_max_body_bytes: int = 0
    mcp: McpOptions | None = None
    credential_signing: str = ""
    signing_service: str = ""
    signing_region: str = ""
    credential_binding: CredentialBinding | None = None
    # Set by the gateway alone, never authored and never written to YAML.
    provider_credentialed: bool = False
    advisor_proposed: bool = False


@dataclass(frozen=True, slots=True)
class Binary:
    path: str
    # Set by the gateway alone (the wire calls it `harness`), never written to YAML.
    advisor_proposed: bool = False


@dataclass(frozen=True, slots=True)
class NetworkRule:
    """Which programs may reach which endpoints. The key is the rule's identity, the name is shown."""

    key: str
    name: str = ""
    endpoints: tuple[Endpoint, ...] = ()
    binaries: tuple[Binary, ...] = ()

    @property
    def display_name(self) -> str:
        return self.name or self.key


@dataclass(frozen=True, slots=True)
class MiddlewareConfig:
    key: str
    middleware: str
    name: str = ""
    order: int = 0
    config: Mapping[str, JsonValue] = field(default_factory=_no_config)
    on_error: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    # A missing selector and an empty one are told apart: both are wrong, for different reasons.
    has_selector: bool = True


@dataclass(frozen=True, slots=True)
class SandboxPolicy:
    version: int = 1
    filesystem: FilesystemPolicy | None = None
    landlock: LandlockPolicy | None = None
    process: ProcessPolicy | None = None
    network_policies: Mapping[str, NetworkRule] = field(default_factory=_no_rules)
    network_middlewares: Mapping[str, MiddlewareConfig] = field(default_factory=_no_middlewares)


def implied_method(rule: L7Rule, endpoint: Endpoint) -> str:
    """The method that a rule of an mcp endpoint has when none is written, "" if there is none.

    Readers fill it in and writers leave it out, so that both forms are one policy.
    """
    profile = endpoint.mcp is not None and bool(endpoint.mcp.allow_all_known_mcp_methods)
    if endpoint.protocol != "mcp" or not profile:
        return ""
    return "tools/call" if "name" in rule.params else "*"
