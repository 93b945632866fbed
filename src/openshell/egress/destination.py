"""Whether a destination's addresses may be dialled: address classes and the SSRF table.

Pure: names are resolved and the kernel is asked elsewhere (`resolve`). The supervisor dials from
the host's network, so this table is the only guard of services on the host: loopback, link-local
and every address of the host itself are refused whatever a policy says; the one way to the host is
the alias, when a rule names it. A plan pins addresses: who dials uses exactly these, in order, and
never looks the name up again.

Called by the pipeline after the connection policy has allowed host and port, and again with the
pinned addresses whenever a new generation comes into force.
"""

from dataclasses import dataclass, field
from enum import Enum
from functools import lru_cache
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    ip_address,
    ip_network,
)
from typing import Final, TypeAlias

__all__ = [
    "CONTROL_PLANE_PORTS",
    "HOST_ALIASES",
    "Address",
    "AddressClass",
    "DestinationRequest",
    "HostFacts",
    "Plan",
    "Refused",
    "alias_of",
    "classify",
    "literal",
    "plan",
    "unmapped",
]

Address: TypeAlias = IPv4Address | IPv6Address
_Network: TypeAlias = IPv4Network | IPv6Network

# Ports of cluster control planes: etcd, the Kubernetes API and the kubelet.
CONTROL_PLANE_PORTS: Final = frozenset({2379, 2380, 6443, 10250, 10255})
HOST_ALIASES: Final = frozenset(
    {"host.openshell.internal", "host.containers.internal", "host.docker.internal"}
)
# A policy may list many ranges; parsing them again for every connection would be wasted.
_RANGE_CACHE: Final = 256


class AddressClass(Enum):
    """How far an address may be trusted to be somebody else's public service."""

    PUBLIC = "public"
    INTERNAL = "internal"
    BLOCKED = "always blocked"


# Multicast and the reserved class E are not in the contract's list; no TCP service lives there.
_BLOCKED: Final = tuple(
    ip_network(text)
    for text in (
        "127.0.0.0/8",
        "169.254.0.0/16",
        "0.0.0.0/8",
        "224.0.0.0/4",
        "::1/128",
        "::/128",
        "fe80::/10",
        "ff00::/8",
    )
)
_INTERNAL: Final = tuple(
    ip_network(text)
    for text in (
        "10.0.0.0/8",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "240.0.0.0/4",
        "fc00::/7",
        "fec0::/10",
        "64:ff9b:1::/48",
    )
)
_BROADCAST: Final = IPv4Address("255.255.255.255")
# IPv6 forms that carry an IPv4 address which some gateway may unwrap: NAT64, IPv4-compatible.
_EMBEDDING: Final = (ip_network("64:ff9b::/96"), ip_network("::/96"))


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What only the supervisor knows about the host it dials from.

    `alias_addresses` is where the host alias leads (the host's loopback under the local driver),
    empty when this deployment has no alias. `closed_ports` are the gateway's, health and metrics
    ports: no plan that ends on the host reaches them.
    """

    alias_addresses: tuple[Address, ...] = ()
    closed_ports: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class DestinationRequest:
    """A destination that the connection policy has allowed, with what the policy said of it."""

    host: str
    port: int
    allowed_ips: tuple[str, ...] = ()
    exact_declared_host: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """Pinned addresses in the order to dial them."""

    host: str
    port: int
    addresses: tuple[Address, ...]
    # Only the endpoints that a person declared exactly opened this destination, so only these may
    # authorise requests on it.
    by_declaration: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """Why this destination is never dialled. `row` names the rule of the table that decided."""

    row: str
    reason: str
    addresses: tuple[Address, ...] = field(default=())
    code: str = "ssrf_denied"


def classify(address: Address) -> AddressClass:
    """Sort an address into its class; embedded IPv4 addresses count as themselves."""
    if isinstance(address, IPv6Address):
        embedded = _embedded(address)
        if embedded is not None:
            return classify(embedded)
    elif address == _BROADCAST:
        return AddressClass.BLOCKED
    if any(address in network for network in _BLOCKED if network.version == address.version):
        return AddressClass.BLOCKED
    if any(address in network for network in _INTERNAL if network.version == address.version):
        return AddressClass.INTERNAL
    return AddressClass.PUBLIC


def literal(host: str) -> Address | None:
    """Return the address if the host is written as one. Scoped addresses are not literals."""
    if not host or "%" in host or not (":" in host or host[-1].isdigit()):
        return None
    try:
        return ip_address(host)
    except ValueError:
        return None


def alias_of(host: str, facts: HostFacts) -> tuple[Address, ...]:
    """Where the host alias leads, or nothing when `host` is no alias or there is none here."""
    return facts.alias_addresses if host.lower() in HOST_ALIASES else ()


def plan(
    request: DestinationRequest,
    addresses: tuple[Address, ...],
    facts: HostFacts,
    local: frozenset[Address] = frozenset(),
) -> Plan | Refused:
    """Judge every address of a destination; one bad address refuses all.

    `addresses` is what the name resolved to (for the alias, what `alias_of` says) and `local`
    those of them that the kernel would deliver to this host.
    """
    if not addresses:
        return Refused("resolution", f"DNS resolution failed for {request.host}")
    if alias_of(request.host, facts):
        return _plan_alias(request, addresses, facts)
    for address in addresses:
        if address in local or classify(address) is AddressClass.BLOCKED:
            return Refused(
                _row(request),
                f"{request.host} resolves to {address}: loopback, link-local and the host's own"
                " addresses are never reachable",
                addresses,
            )
    if request.allowed_ips:
        refused = _check_allowed_ips(request, addresses)
    elif literal(request.host) is not None:
        refused = _check_literal(request, addresses)
    elif request.exact_declared_host:
        refused = _check_ports(request, "declared endpoint check failed")
    else:
        refused = _check_public(request, addresses)
    declared = not request.allowed_ips and any(
        classify(address) is AddressClass.INTERNAL for address in addresses
    )
    return refused or Plan(request.host, request.port, addresses, by_declaration=declared)


def _row(request: DestinationRequest) -> str:
    if request.allowed_ips:
        return "allowed_ips"
    if literal(request.host) is not None:
        return "literal"
    return "declared" if request.exact_declared_host else "default"


def _plan_alias(
    request: DestinationRequest, addresses: tuple[Address, ...], facts: HostFacts
) -> Plan | Refused:
    if not request.exact_declared_host:
        return Refused(
            "alias",
            f"trusted-gateway check failed: {request.host} is reachable only when a rule names it"
            " with this port",
        )
    if request.port in CONTROL_PLANE_PORTS or request.port in facts.closed_ports:
        return Refused(
            "alias",
            f"trusted-gateway check failed: port {request.port} of the host is a control-plane"
            " port",
        )
    if not set(addresses) <= set(facts.alias_addresses):
        return Refused("alias", "trusted-gateway check failed: unexpected address", addresses)
    return Plan(request.host, request.port, addresses, by_declaration=True)


def _check_allowed_ips(
    request: DestinationRequest, addresses: tuple[Address, ...]
) -> Refused | None:
    networks = _parse_ranges(request.allowed_ips)
    if networks is None:
        return Refused("allowed_ips", "invalid allowed_ips in policy")
    for address in addresses:
        plain = unmapped(address)
        if not any(plain in network for network in networks if network.version == plain.version):
            return Refused(
                "allowed_ips",
                f"allowed_ips check failed: {request.host} resolves to {address}, which is not in"
                " the list",
                addresses,
            )
    return _check_ports(request, "allowed_ips check failed")


def _check_literal(request: DestinationRequest, addresses: tuple[Address, ...]) -> Refused | None:
    if classify(addresses[0]) is AddressClass.INTERNAL and not request.exact_declared_host:
        return Refused(
            "literal",
            f"allowed_ips check failed: {request.host} is an internal address that no"
            " user-authored endpoint names",
            addresses,
        )
    return _check_ports(request, "allowed_ips check failed")


def _check_public(request: DestinationRequest, addresses: tuple[Address, ...]) -> Refused | None:
    for address in addresses:
        if classify(address) is not AddressClass.PUBLIC:
            return Refused(
                "default", f"{request.host} resolves to internal address {address}", addresses
            )
    return None


def _check_ports(request: DestinationRequest, gist: str) -> Refused | None:
    if request.port in CONTROL_PLANE_PORTS:
        return Refused(_row(request), f"{gist}: port {request.port} is a control-plane port")
    return None


@lru_cache(maxsize=_RANGE_CACHE)
def _parse_ranges(texts: tuple[str, ...]) -> tuple[_Network, ...] | None:
    """Parse the policy's ranges; None when one is malformed or covers what is always blocked."""
    networks: list[_Network] = []
    for text in texts:
        try:
            network = ip_network(text, strict=False)
        except ValueError:
            return None
        if any(
            network.overlaps(blocked) for blocked in _BLOCKED if blocked.version == network.version
        ):
            return None
        networks.append(network)
    return tuple(networks)


def unmapped(address: Address) -> Address:
    """The IPv4 address that an IPv6 one only wraps, else itself."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _embedded(address: IPv6Address) -> IPv4Address | None:
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if int(address) > 1 and any(address in network for network in _EMBEDDING):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return None
