"""Whether a sandbox may be as it is: the one set of rules for everybody who changes a part of it.

The order of checks is the contract's. Every fault is a sentence that says what to change. A writer
changes its rows, reads the situation of each sandbox concerned in the same transaction, asks here,
and undoes its write when anything is wrong; delivery asks again before anything leaves the gateway.
`effective_policy` is what a fit situation makes a supervisor enforce.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace
from typing import Final

from openshell.policy.features import ENFORCED, EVERY_FEATURE, Feature, check_features
from openshell.policy.model import PROVIDER_KEY_PREFIX, NetworkRule, SandboxPolicy
from openshell.policy.validate import Finding, errors_of, validate_policy
from openshell.policy.validate_middleware import check_middlewares
from openshell.providers.bindings import find_binding_faults, policy_bindings
from openshell.providers.credentialed import (
    CredentialScopes,
    find_gaps,
    scopes_of,
    stamp_policy,
)
from openshell.providers.env_keys import find_key_clashes
from openshell.providers.layers import Layer, compose, layer_conflicts, layers_of
from openshell.providers.signing import find_unsigned
from openshell.providers.situation import Entry, Fault, FaultCode, Situation
from openshell.providers.token_grants import expand, find_ambiguity

__all__ = ["MAX_PROVIDERS", "effective_policy", "find_faults", "profile_faults"]

MAX_PROVIDERS: Final = 32
"""Of one sandbox. Keeps one environment answer and one composed policy of a bearable size."""


def find_faults(
    situation: Situation, *, gate: bool, features: Collection[Feature] = ENFORCED
) -> tuple[Fault, ...]:
    """Everything that must not be.

    `gate`: credentials must not be able to leave uninspected either. Delivery and a supervisor's own
    report do not ask for that: what is already stored is stamped, and the proxy denies there.
    `features`: what the proxy enforces, as in `validate_policy`.
    """
    order = {item.record.name: index for index, item in enumerate(situation.attached)}
    return tuple(
        replace(
            fault,
            providers=tuple(sorted(fault.providers, key=lambda name: order.get(name, len(order)))),
        )
        for fault in _faults(situation, gate=gate, features=features)
    )


def profile_faults(situation: Situation, profile_ids: Collection[str]) -> tuple[Fault, ...]:
    """Static values that a changed profile leaves without any place to go.

    For whoever imports or updates these profiles: a provider may well be attached before anything
    binds it, so no other writer asks.
    """
    policy = situation.policy
    bound = {binding.provider for binding in policy_bindings(policy)} if policy else set()
    return tuple(
        Fault(
            FaultCode.NO_USABLE_ENDPOINT,
            f"provider '{item.record.name}' on sandbox '{situation.sandbox}' holds credentials that "
            f"profile '{item.entry.profile.id}' gives no usable endpoint; declare an endpoint with "
            "host and port in the profile, or bind the provider in the sandbox's policy",
            (item.record.name,),
        )
        for item in situation.attached
        if item.entry is not None
        and item.entry.profile.id in profile_ids
        and item.record.handles
        and not item.entry.profile.has_usable_endpoint
        and item.record.name not in bound
    )


def effective_policy(situation: Situation) -> SandboxPolicy | None:
    """What its supervisor enforces: the policy in force, layers, and the gateway's own stamps.

    None while there is no policy. The result is never stored.
    """
    policy = _in_force(situation, layers_of(situation))
    return stamp_policy(policy, scopes_of(situation)) if policy is not None else None


def _faults(situation: Situation, *, gate: bool, features: Collection[Feature]) -> Iterator[Fault]:
    yield from _provider_faults(situation)
    ambiguity = find_ambiguity(expand(situation.attached))
    if ambiguity is not None:
        yield Fault(FaultCode.AMBIGUOUS_GRANTS, ambiguity.message, ambiguity.providers)
    layers = layers_of(situation)
    if situation.policy is not None:
        yield from find_binding_faults(situation.policy, situation.attached)
        composed = compose(situation.policy, (layer.rule for layer in layers))
        yield from find_unsigned(composed, situation.attached)
    policy = _in_force(situation, layers)
    if gate and policy is not None:
        yield from _gate_faults(policy, scopes_of(situation), layers)
    if layers and policy is not None:
        yield from _layer_faults(policy, layers, features)


def _provider_faults(situation: Situation) -> Iterator[Fault]:
    for name in situation.missing:
        yield Fault(
            FaultCode.PROVIDER_MISSING,
            f"provider '{name}' not found; create it or detach it from the sandbox",
            (name,),
        )
    count = len(situation.attached) + len(situation.missing)
    if count > MAX_PROVIDERS:
        yield Fault(
            FaultCode.TOO_MANY_PROVIDERS,
            f"a sandbox can have at most {MAX_PROVIDERS} providers, not {count}",
        )
    for clash in find_key_clashes(situation.attached, situation.now_ms):
        names = tuple(dict.fromkeys((clash.first, clash.second)))
        yield Fault(FaultCode.KEY_CLASH, clash.message, names)


def _gate_faults(
    policy: SandboxPolicy, scopes: CredentialScopes, layers: tuple[Layer, ...]
) -> Iterator[Fault]:
    exempt = frozenset(layer.rule.key for layer in layers if not layer.is_credentialed)
    for gap in find_gaps(policy, scopes, exempt):
        yield Fault(FaultCode.UNINSPECTED, gap.message, gap.providers)


def _layer_faults(
    composed: SandboxPolicy, layers: tuple[Layer, ...], features: Collection[Feature]
) -> Iterator[Fault]:
    owners = {layer.rule.key: layer.provider.record.name for layer in layers}
    for conflict in layer_conflicts(composed):
        names = tuple(dict.fromkeys(owners[key] for key in conflict.rules if key in owners))
        yield Fault(
            FaultCode.LAYER_CONFLICT,
            f"{conflict.message}; detach {_either(names)}, or change one of the endpoints",
            names,
        )
    for layer in layers:
        name = layer.provider.record.name
        for finding in _unsafe(layer, features):
            yield Fault(
                FaultCode.LAYER_UNSAFE,
                f"the profile of provider '{name}' cannot be part of a policy: {finding.message}",
                (name,),
            )
    if composed.network_middlewares:
        for finding in check_middlewares(composed):
            if finding.code == "middleware_tls_skip":
                yield Fault(FaultCode.LAYER_UNSAFE, finding.message)


def _either(names: tuple[str, ...]) -> str:
    return " or ".join(f"provider '{name}'" for name in names) or "a provider"


def _unsafe(layer: Layer, features: Collection[Feature]) -> Iterator[Finding]:
    entry = layer.provider.entry
    if entry is None:
        return
    yield from entry.derive(_unsafe_endpoints)
    yield from check_features(SandboxPolicy(network_policies={"": layer.rule}), features)


def _unsafe_endpoints(entry: Entry) -> tuple[Finding, ...]:
    rule = NetworkRule(
        PROVIDER_KEY_PREFIX + entry.profile.id,
        entry.profile.id,
        entry.profile.endpoints,
        entry.profile.binaries,
    )
    alone = SandboxPolicy(network_policies={rule.key: rule})
    return errors_of(validate_policy(alone, features=EVERY_FEATURE))


def _in_force(situation: Situation, layers: tuple[Layer, ...]) -> SandboxPolicy | None:
    if situation.global_policy is not None:
        return situation.global_policy
    if situation.policy is None:
        return None
    return compose(situation.policy, (layer.rule for layer in layers))
