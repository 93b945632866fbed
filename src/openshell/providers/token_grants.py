"""Credentials that the supervisor fetches at run time: where each one goes, and when that is unclear.

A profile's grants are multiplied out over its endpoints and audience overrides. When several cover a
request the one with the highest score is used; two of different owners with equal scores that can
cover one request are ambiguous, and no sandbox may have such a pair. Called by `fitness` for every
writer and by `environment` for delivery; the proxy chooses by the same `score`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Final

from openshell.policy.model import Endpoint
from openshell.policy.overlap import Budget
from openshell.providers.profile.model import (
    AudienceOverride,
    ProfileCredential,
    ProviderProfile,
    TokenGrant,
)
from openshell.providers.selectors import (
    covers_host,
    selectors_overlap,
    spans_overlap,
)
from openshell.providers.situation import Attached, Entry

__all__ = [
    "Ambiguity",
    "GrantBinding",
    "expand",
    "find_ambiguity",
    "override_bindings",
    "score",
]

# Weights of the contract: a path outranks every host, a star costs more than any name is worth.
_HOST_BASE: Final = 100_000
_STAR_COST: Final = 10_000
_LABEL_WORTH: Final = 100
_PATH_BASE: Final = 1_000_000


@dataclass(frozen=True, slots=True)
class GrantBinding:
    """One grant at one selector. `settings` has the override of this selector folded in."""

    provider: str
    credential: str
    host: str
    port: int
    path: str
    settings: ProfileCredential

    @property
    def key(self) -> str:
        """The contract's key in the environment answer."""
        return f"{self.host}\t{self.port}\t{self.path}\t{self.provider}:{self.credential}"


@dataclass(frozen=True, slots=True)
class Ambiguity:
    message: str
    providers: tuple[str, ...]


def expand(attached: Iterable[Attached]) -> tuple[GrantBinding, ...]:
    """Every grant of every provider, in attachment order, each key once."""
    return tuple(
        replace(template, provider=item.record.name)
        for item in attached
        if item.entry is not None
        for template in item.entry.derive(_templates)
    )


def score(host: str, path: str) -> int:
    """How specific a selector is; the contract's formula."""
    stars = host.count("*")
    labels = sum(1 for label in host.split(".") if label)
    by_host = max(0, _HOST_BASE - _STAR_COST * stars) + _LABEL_WORTH * labels + len(host) - stars
    if path in ("", "**"):
        return by_host
    return by_host + _PATH_BASE + len(path) - path.count("*")


def find_ambiguity(bindings: Sequence[GrantBinding]) -> Ambiguity | None:
    """The first pair that could serve one request equally well; None when there is none."""
    peers: dict[tuple[int, int], list[GrantBinding]] = {}
    for binding in bindings:
        peers.setdefault((binding.port, score(binding.host, binding.path)), []).append(binding)
    budget = Budget()
    for group in peers.values():
        for one, two in combinations(group, 2):
            budget.spend(1)
            if budget.is_spent:
                names = tuple(dict.fromkeys(b.provider for b in bindings))
                return Ambiguity(
                    "too many token grants to compare them all; attach fewer providers", names
                )
            if (one.provider, one.credential) != (two.provider, two.credential) and _overlap(
                one, two, budget
            ):
                return Ambiguity(_ambiguous(one, two), tuple({one.provider: 0, two.provider: 0}))
    return None


def _overlap(one: GrantBinding, two: GrantBinding, budget: Budget) -> bool:
    return selectors_overlap(one.host, two.host, budget) and spans_overlap(
        one.path, two.path, budget
    )


def _ambiguous(one: GrantBinding, two: GrantBinding) -> str:
    where = f"{one.host}:{one.port}"
    if two.host != one.host:
        where += f" and {two.host}:{two.port}"
    return (
        f"token grants {one.provider}:{one.credential} and {two.provider}:{two.credential} are "
        f"ambiguous for {where} (paths '{one.path}' and '{two.path}'); narrow one selector or "
        "attach only one of them"
    )


def _templates(entry: Entry) -> tuple[GrantBinding, ...]:
    """The bindings of a profile, for a provider without a name yet."""
    found: dict[tuple[str, str, int, str], GrantBinding] = {}
    for credential in entry.profile.credentials:
        grant = credential.token_grant
        if grant is None:
            continue
        # Overrides come last, so that one replaces whatever default has the same selector.
        defaults = [
            _binding(credential, grant, endpoint.host, port, endpoint.path)
            for endpoint, port in _ports(entry.profile.endpoints)
        ]
        narrowed = [
            _overridden(credential, grant, override, endpoint, port)
            for endpoint, port in _ports(entry.profile.endpoints)
            for override in grant.audience_overrides
            if _applies(override, endpoint, port)
        ]
        for binding in (*defaults, *narrowed):
            found[binding.credential, binding.host, binding.port, binding.path] = binding
    return tuple(found.values())


def override_bindings(
    profile: ProviderProfile, credential: ProfileCredential, override: AudienceOverride
) -> Iterator[GrantBinding]:
    """What one override comes to: a binding for each port of an endpoint that it narrows."""
    grant = credential.token_grant
    if grant is None:
        return
    for endpoint, port in _ports(profile.endpoints):
        if _applies(override, endpoint, port):
            yield _overridden(credential, grant, override, endpoint, port)


def _ports(endpoints: Iterable[Endpoint]) -> Iterator[tuple[Endpoint, int]]:
    for endpoint in endpoints:
        for port in endpoint.ports:
            if port:
                yield endpoint, port


def _applies(override: AudienceOverride, endpoint: Endpoint, port: int) -> bool:
    if override.port not in (0, port):
        return False
    mine, theirs = override.host.lower(), endpoint.host.lower()
    return not mine or mine == theirs or covers_host(mine, theirs) or covers_host(theirs, mine)


def _overridden(
    credential: ProfileCredential,
    grant: TokenGrant,
    override: AudienceOverride,
    endpoint: Endpoint,
    port: int,
) -> GrantBinding:
    folded = replace(
        grant,
        audience=override.audience or grant.audience,
        scopes=override.scopes or grant.scopes,
    )
    return _binding(
        credential,
        folded,
        override.host or endpoint.host,
        override.port or port,
        override.path or endpoint.path,
    )


def _binding(
    credential: ProfileCredential, grant: TokenGrant, host: str, port: int, path: str
) -> GrantBinding:
    settings = replace(credential, token_grant=replace(grant, audience_overrides=()))
    return GrantBinding("", credential.name, host.lower(), port, path, settings)
