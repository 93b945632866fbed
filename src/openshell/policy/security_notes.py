"""What a reviewer of a proposed rule should look at twice: sentences about the rule alone. Pure.

Recomputed whenever a proposal is read, never stored. Names are not resolved. A note is no refusal: what no
policy can open is refused by the merge, and has no note here. A rule without notes is not thereby harmless.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from typing import Final

from openshell.policy.hosts import normalize_host
from openshell.policy.merge_operations import is_always_blocked
from openshell.policy.model import Endpoint, NetworkRule

__all__ = ["security_notes"]

_INTERNAL: Final = tuple(
    ipaddress.ip_network(text)
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
        "255.255.255.255/32",
        "fc00::/7",
    )
)
_MAPPED: Final = ipaddress.IPv6Network("::ffff:0:0/96")
_MAPPED_BITS: Final = 96
# Above it are the ports that systems hand to clients.
_EPHEMERAL: Final = 49152
_DATABASES: Final = frozenset({5432, 3306, 6379, 27017, 9200, 11211, 5672})
_GLOB: Final = frozenset("*?[{")

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def security_notes(rule: NetworkRule) -> tuple[str, ...]:
    """Each note once, in the order of the endpoints."""
    return tuple(dict.fromkeys((*_endpoints(rule), *_binaries(rule))))


def _endpoints(rule: NetworkRule) -> Iterator[str]:
    for endpoint in rule.endpoints:
        yield from _treatment(endpoint)
        yield from _destination(endpoint)
        for port in endpoint.ports:
            if port > _EPHEMERAL:
                yield f"Port {port} is an ephemeral port."
            if port in _DATABASES:
                yield f"Port {port} is a database or service port."


def _treatment(endpoint: Endpoint) -> Iterator[str]:
    where = _shown(endpoint.host)
    if endpoint.allow_uninspected_credentials:
        yield f"Credentials may go to {where} in traffic that is not inspected."
    if endpoint.tls.strip().lower() == "skip":
        yield f"TLS to {where} is not inspected."
    if endpoint.protocol not in ("", "tcp") and endpoint.enforcement.strip().lower() != "enforce":
        yield f"Requests to {where} that no rule allows are only recorded, not refused."
    if endpoint.access == "full":
        yield f"Every method is allowed at {where}."


def _destination(endpoint: Endpoint) -> Iterator[str]:
    host = normalize_host(endpoint.host.strip())
    if "*" in host:
        yield f"The wildcard {_shown(host)} may match hosts that are not meant."
    network = _network(host)
    if network is not None and _is_internal(network) and not is_always_blocked(host):
        yield f"{_shown(host)} is an internal address."
    for text in endpoint.allowed_ips:
        allowed = _network(text.strip())
        if allowed is not None and _is_internal(allowed) and not is_always_blocked(text):
            yield f"allowed_ips {_shown(text.strip())} reaches a private range."
    if not host and endpoint.allowed_ips:
        yield "Every name that resolves into allowed_ips is matched."


def _binaries(rule: NetworkRule) -> Iterator[str]:
    if not rule.binaries:
        yield "No program is named."
    for binary in rule.binaries:
        if not _GLOB.isdisjoint(binary.path):
            yield f"{_shown(binary.path)} stands for more than one program."


def _network(text: str) -> _Network | None:
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return None
    if isinstance(network, ipaddress.IPv6Network) and network.subnet_of(_MAPPED):
        inner = ipaddress.IPv4Address(int(network.network_address) & 0xFFFFFFFF)
        return ipaddress.ip_network(f"{inner}/{network.prefixlen - _MAPPED_BITS}", strict=False)
    return network


def _is_internal(network: _Network) -> bool:
    return any(network.overlaps(known) for known in _INTERNAL if known.version == network.version)


def _shown(text: str) -> str:
    return f"'{text[:80]}'"
