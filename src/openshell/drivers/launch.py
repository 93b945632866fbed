"""The launch plan: what a driver writes down and a supervisor reads, once, when it starts.

The one type that both sides share, so that it cannot drift: drivers write it into the sandbox's
state directory, `openshell.supervisor` reads it there. It holds no secret: the bearer token and the
initial configuration are files beside it, and the supervisor reads the token only after the first
process of the sandbox has been cloned, so that no copy of it is ever inside.
"""

from typing import Final

import msgspec

from openshell.drivers.upstream_proxy import UpstreamProxy

__all__ = [
    "PLAN_VERSION",
    "SVID_FILE",
    "WORKLOAD_SOCKET",
    "Exposure",
    "LaunchPlan",
    "PlanError",
    "decode_plan",
    "encode_plan",
]

WORKLOAD_SOCKET: Final = "OPENSHELL_PROVIDER_SPIFFE_WORKLOAD_API_SOCKET"
"""A path, or a `unix:` or `tcp:` address; the contract's name."""
SVID_FILE: Final = "OPENSHELL_PROVIDER_SPIFFE_JWT_SVID_FILE"
"""The path of a file with one JWT, as spiffe-helper writes it or Kubernetes projects it."""

# Raised when a field changes its meaning: a supervisor refuses a plan it would misread.
PLAN_VERSION = 1

# Bounds what a supervisor reads before it trusts anything. A plan holds at most 256 KiB of argv and
# 256 KiB of environment, each character up to six bytes in JSON.
_MAX_PLAN_BYTES = 4 << 20


class PlanError(Exception):
    """The plan cannot be used; the text says why and holds none of its values."""


class Exposure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What of the caller's own files is visible inside, read-only and at the same path."""

    # Directories and single files, none inside another.
    paths: tuple[str, ...] = ()
    # Below those paths: hidden, because they look like credentials.
    masked: tuple[str, ...] = ()
    # Directories for PATH, in the caller's order, before the system's own.
    search_path: tuple[str, ...] = ()
    # Resolved paths of the interpreters among them: what a policy has to name.
    interpreters: tuple[str, ...] = ()
    # What was asked for and is not exposed, with the reason, for people.
    skipped: tuple[tuple[str, str], ...] = ()


class LaunchPlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything a supervisor needs to know before it can talk to its gateway."""

    sandbox_id: str
    name: str
    workspace: str
    # Of this start; a new one each time.
    instance_id: str
    endpoint: str
    command: tuple[str, ...] = ()
    tty: bool = False
    environment: dict[str, str] = {}
    exposure: Exposure = Exposure()
    # The host's id, user and group, that the sandbox's one identity is mapped to; zero: our own.
    host_id: int = 0
    # Zero: the default. Counted in processes, bytes, and thousandths of a processor.
    pids_limit: int = 0
    memory_limit_bytes: int = 0
    cpu_limit_millis: int = 0
    # Certificates of the operator for upstream TLS, added to the system's; empty: none.
    upstream_ca_bundle: str = ""
    # What upstreams are dialled through; none: nothing.
    upstream_proxy: UpstreamProxy | None = None
    # Where the supervisor gets signed statements of who it is, by the names above; empty: nowhere.
    svid_source: dict[str, str] = {}
    log_level: str = ""
    # Addresses of the gateway itself, which no policy may reach, as "host:port".
    gateway_addresses: tuple[str, ...] = ()
    version: int = PLAN_VERSION


_decoder = msgspec.json.Decoder(LaunchPlan)


def encode_plan(plan: LaunchPlan) -> bytes:
    """The plan as one JSON object."""
    return msgspec.json.encode(plan)


def decode_plan(data: bytes) -> LaunchPlan:
    """Read a plan strictly; raises PlanError."""
    if len(data) > _MAX_PLAN_BYTES:
        raise PlanError(f"the launch plan has more than {_MAX_PLAN_BYTES} bytes")
    try:
        plan = _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        # The text of msgspec names fields and types, never values.
        raise PlanError(f"the launch plan is malformed: {error}") from None
    if plan.version != PLAN_VERSION:
        raise PlanError(
            f"the launch plan has version {plan.version}, this supervisor reads {PLAN_VERSION}"
        )
    return plan
