"""Checks of a profile's endpoints: those of a sandbox policy, and what credentials ask for besides.

How an endpoint inspects and what its rules say is judged by `openshell.policy`, so that a profile and
the policy it becomes part of are judged alike. Called by `lint` only.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from openshell.policy.findings import Finding
from openshell.policy.globs import GlobError, compile_selector
from openshell.policy.model import Endpoint
from openshell.policy.validate_endpoint import check_endpoint
from openshell.policy.validate_report import Report
from openshell.providers.profile.findings import ProfileFinding
from openshell.providers.profile.model import ProviderProfile

__all__ = ["check_endpoints"]

# Findings of the policy's checks that are said here in the words of profiles.
_SAID_HERE: Final = frozenset(("empty_host", "mcp_host", "tcp_host", "no_port", "port_range"))
# Places of errors that are named; any other error is about the endpoint as a whole.
_NAMED: Final = ("rules[", "deny_rules[", "mcp")


def check_endpoints(profile: ProviderProfile) -> Iterator[ProfileFinding]:
    for index, endpoint in enumerate(profile.endpoints):
        where = f"endpoints[{index}]"
        yield from _check_address(endpoint, where)
        for finding in check_endpoint(endpoint, Report(where)):
            if finding.code not in _SAID_HERE:
                yield _translated(finding, where)
        if profile.is_credentialed and not endpoint.allow_uninspected_credentials:
            yield from _check_inspected(endpoint, where)


def _check_address(endpoint: Endpoint, where: str) -> Iterator[ProfileFinding]:
    host, ports = endpoint.host, endpoint.ports or (0,)
    shown = f"invalid endpoint '{host}:{','.join(map(str, ports[:8]))}'"
    if not host.strip():
        yield ProfileFinding(where, f"{shown}: a host is required")
    else:
        try:
            # The supervisor reads the hosts of credentials in this dialect. One that it cannot read
            # would cost the sandbox every credential it has.
            compile_selector(host)
        except GlobError as error:
            yield ProfileFinding(where, f"{shown}: host: {error}")
    if not all(1 <= port <= 65535 for port in ports):
        yield ProfileFinding(where, f"{shown}: ports from 1 to 65535 are required")


def _translated(finding: Finding, where: str) -> ProfileFinding:
    if not finding.is_error and finding.location != f"{where}.mcp":
        return ProfileFinding(finding.location, finding.message, "warning")
    # An empty `mcp` block on another protocol does nothing in a policy; profiles may not have it.
    inside = finding.location.removeprefix(f"{where}.")
    return ProfileFinding(finding.location if inside.startswith(_NAMED) else where, finding.message)


def _check_inspected(endpoint: Endpoint, where: str) -> Iterator[ProfileFinding]:
    protocol = endpoint.protocol.strip().lower()
    gap = ""
    # `protocol: tcp` is as blind as no protocol at all.
    if protocol in ("", "tcp"):
        gap = f"protocol: {protocol}" if protocol else "no protocol"
    elif endpoint.tls.strip().lower() == "skip":
        gap = "tls: skip"
    if gap:
        yield ProfileFinding(
            f"{where}.allow_uninspected_credentials",
            f"credentials would be used on traffic that nothing inspects ({gap}); configure L7 "
            "inspection or explicitly set allow_uninspected_credentials: true",
        )
