"""Requests that the proxy signs need an attached provider that declares the keys to sign with.

Without one every request to such an endpoint would fail, so writers are refused instead. Called by
`fitness` on the policy with its layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from openshell.policy.model import Endpoint, SandboxPolicy
from openshell.providers.selectors import EVERY_PATH, covers_host, covers_path, is_pattern
from openshell.providers.situation import Attached, Fault, FaultCode

__all__ = ["find_unsigned"]

_SIGNING_KEYS: Final = frozenset(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"))


def find_unsigned(policy: SandboxPolicy, attached: Sequence[Attached]) -> Iterator[Fault]:
    """One fault for each signing endpoint whose keys come from nowhere."""
    for key, rule in policy.network_policies.items():
        for endpoint in rule.endpoints:
            if endpoint.credential_signing and not _has_source(endpoint, attached):
                ports = ",".join(map(str, endpoint.ports))
                binding = endpoint.credential_binding
                yield Fault(
                    FaultCode.SIGNING_WITHOUT_SOURCE,
                    f"credential_signing endpoint '{endpoint.host}:{ports} {endpoint.path}' in rule "
                    f"'{key}' has no resolvable AWS credential source; attach a provider that "
                    f"declares {' and '.join(sorted(_SIGNING_KEYS))} for it, or remove "
                    "credential_signing",
                    (binding.provider,) if binding is not None else (),
                )


def _has_source(endpoint: Endpoint, attached: Sequence[Attached]) -> bool:
    binding = endpoint.credential_binding
    if binding is not None:
        return any(
            item.record.name == binding.provider and _declares_keys(item) and not _endpoints(item)
            for item in attached
        )
    return any(
        _declares_keys(item)
        and bool(endpoint.ports)
        and all(
            any(_covers(offered, endpoint, port) for offered in _endpoints(item))
            for port in endpoint.ports
        )
        for item in attached
    )


def _declares_keys(item: Attached) -> bool:
    """A provider without a profile declares what it holds."""
    if item.profile is None:
        return item.record.handles.keys() >= _SIGNING_KEYS
    return {v for c in item.profile.credentials for v in c.env_vars} >= _SIGNING_KEYS


def _endpoints(item: Attached) -> Sequence[Endpoint]:
    return item.profile.endpoints if item.profile is not None else ()


def _covers(offered: Endpoint, wanted: Endpoint, port: int) -> bool:
    """A pattern is covered by the same pattern alone, a name also by one that matches it."""
    mine, theirs = offered.host.lower(), wanted.host.lower()
    return (
        port in offered.ports
        and bool(theirs)
        and (mine == theirs or (not is_pattern(theirs) and covers_host(mine, theirs)))
        and (
            offered.path == wanted.path
            or offered.path in EVERY_PATH
            or (not is_pattern(wanted.path) and covers_path(offered.path, wanted.path))
        )
    )
