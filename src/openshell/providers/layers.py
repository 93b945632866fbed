"""The rules that attached providers add to a sandbox's policy: derived at every read, stored never.

One layer for each attached provider with a profile, under a key that no author may use. `fitness`
composes them and judges the outcome; delivery composes them again from the same situation.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from openshell.policy.ambiguity import Conflict, find_conflicts
from openshell.policy.model import PROVIDER_KEY_PREFIX, NetworkRule, SandboxPolicy
from openshell.providers.situation import Attached, Entry, Situation

__all__ = ["Layer", "compose", "layer_conflicts", "layers_of", "preferred_key"]

_UNNAMED: Final = "unnamed"
_FOREIGN = re.compile(r"[^A-Za-z0-9_]")


@dataclass(frozen=True, slots=True)
class Layer:
    """A rule and the provider that it comes from."""

    provider: Attached
    rule: NetworkRule

    @property
    def is_credentialed(self) -> bool:
        profile = self.provider.profile
        return profile is not None and profile.is_credentialed


def layers_of(situation: Situation) -> tuple[Layer, ...]:
    """In attachment order; empty when nothing is composed or there is nothing to compose into.

    A provider whose type has no profile contributes none. A profile without endpoints contributes a
    rule without endpoints, which grants nothing.
    """
    if not situation.composes or situation.policy is None:
        return ()
    taken = set(situation.policy.network_policies)
    found = []
    for item in situation.attached:
        if item.entry is None:
            continue
        name = preferred_key(item.record.name)
        key = _free(name, taken)
        taken.add(key)
        found.append(Layer(item, replace(item.entry.derive(_template), key=key, name=name)))
    return tuple(found)


def compose(base: SandboxPolicy, layers: Iterable[NetworkRule]) -> SandboxPolicy:
    """A copy with the layers after the author's rules, none of which is ever replaced."""
    rules = dict(base.network_policies)
    for rule in layers:
        if rule.key in rules:
            raise ValueError(f"the key of layer '{rule.key}' is taken")
        rules[rule.key] = rule
    return replace(base, network_policies=rules)


def layer_conflicts(composed: SandboxPolicy) -> tuple[Conflict, ...]:
    """What layers contradict. The author's own rules were compared when they were stored."""
    return tuple(
        conflict
        for conflict in find_conflicts(composed)
        if not conflict.rules
        or any(rule.startswith(PROVIDER_KEY_PREFIX) for rule in conflict.rules)
    )


def preferred_key(provider: str) -> str:
    """`my-github` gives `_provider_my_github`, and so does `My GitHub`."""
    name = _FOREIGN.sub("_", provider).lower().strip("_")
    return PROVIDER_KEY_PREFIX + (name or _UNNAMED)


def _free(preferred: str, taken: set[str]) -> str:
    key, number = preferred, 1
    while key in taken:
        number += 1
        key = f"{preferred}_{number}"
    return key


def _template(entry: Entry) -> NetworkRule:
    """Endpoints without what only a gateway or a sandbox's author may say; binaries as they are."""
    endpoints = tuple(
        replace(
            endpoint,
            credential_binding=None,
            provider_credentialed=False,
            advisor_proposed=False,
        )
        for endpoint in entry.profile.endpoints
    )
    return NetworkRule("", "", endpoints, entry.profile.binaries)
