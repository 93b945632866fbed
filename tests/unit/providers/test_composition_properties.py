"""What holds for any sandbox, whatever profiles, providers and policy it has."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from openshell.policy.features import EVERY_FEATURE
from openshell.policy.model import PROVIDER_KEY_PREFIX, CredentialBinding, Endpoint
from openshell.policy.validate import errors_of, validate_policy
from openshell.providers.bindings import clear_marks
from openshell.providers.environment import plan_environment
from openshell.providers.fitness import effective_policy, find_faults, profile_faults
from openshell.providers.profile.model import AudienceOverride, ProfileCredential, Strategy
from openshell.providers.situation import FaultCode
from unit.providers.provider_cases import (
    NOW,
    attached,
    changed,
    grant,
    policy,
    profile,
    refresh,
    situation,
)

HOSTS = st.sampled_from(
    ["a.x.com", "b.x.com", "A.x.com", "*.x.com", "a*.x.com", "**.x.com", "a?.x.com", "c.y.com", ""]
)
PORTS = st.lists(st.sampled_from([443, 8443]), min_size=1, max_size=2, unique=True).map(tuple)
PATHS = st.sampled_from(["", "/**", "/v1/**", "/v1", "/v?"])
NAMES = ["one", "Two!", "two", "__"]
ENV = ["API_KEY", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "GCP_PROJECT_ID", "v1_X"]


@st.composite
def endpoints(draw, bindable=()):
    protocol = draw(st.sampled_from(["rest", "rest", "rest", "", "tcp", "websocket"]))
    inspected = protocol not in ("", "tcp")
    bound = draw(st.sampled_from([None, *bindable]))
    signed = inspected and draw(st.integers(0, 9)) == 0
    return Endpoint(
        host=draw(HOSTS),
        ports=draw(PORTS),
        path=draw(PATHS) if inspected else "",
        protocol=protocol,
        access="read-only" if inspected else "",
        tls=draw(st.sampled_from(["", "", "", "skip"])),
        allowed_ips=draw(st.sampled_from([(), (), ("10.0.0.0/8",)])),
        allow_uninspected_credentials=draw(st.booleans()),
        credential_binding=CredentialBinding(bound) if bound is not None else None,
        credential_signing="sigv4" if signed else "",
        signing_service="s3" if signed else "",
        provider_credentialed=draw(st.booleans()),
        advisor_proposed=draw(st.integers(0, 9)) == 0,
    )


OVERRIDES = st.builds(AudienceOverride, host=HOSTS, path=PATHS, audience=st.just("o"))
CREDENTIALS = st.one_of(
    st.builds(lambda key: ProfileCredential(name=key, env_vars=(key,)), st.sampled_from(ENV)),
    st.builds(
        lambda name, overrides: changed(
            grant(name), token_grant=changed(grant(name).token_grant, audience_overrides=overrides)
        ),
        st.sampled_from(["t", "u"]),
        st.lists(OVERRIDES, max_size=1).map(tuple),
    ),
)
PROFILES = st.builds(
    profile,
    st.sampled_from(["alpha", "beta", "gcp"]),
    st.lists(endpoints(), max_size=3),
    st.lists(CREDENTIALS, max_size=2, unique_by=lambda credential: credential.name),
)
STATES = st.builds(
    refresh,
    st.sampled_from(ENV),
    strategy=st.sampled_from([Strategy.EXTERNAL, Strategy.OAUTH2_CLIENT_CREDENTIALS]),
)


@st.composite
def providers(draw, name):
    spec = draw(st.one_of(st.none(), PROFILES))
    keys = draw(st.lists(st.sampled_from(ENV), max_size=2, unique=True))
    return attached(
        name,
        spec,
        keys=keys,
        refresh=draw(st.lists(STATES, max_size=1)),
        config=draw(st.sampled_from([{}, {"project_id": "p"}])),
        expires_at_ms={key: NOW + draw(st.integers(-1, 1)) for key in keys[:1]},
    )


@st.composite
def situations(draw):
    names = draw(st.lists(st.sampled_from(NAMES), max_size=3, unique=True))
    items = [draw(providers(name)) for name in names]
    bindable = [item.record.name for item in items] + ["absent"]
    own = draw(st.lists(endpoints(bindable=bindable), max_size=3))
    other = draw(st.lists(endpoints(), max_size=2))
    return situation(
        *items,
        base=policy(*own),
        global_policy=draw(st.sampled_from([None, None, None, policy(*other, key="everywhere")])),
        v2=draw(st.sampled_from([True, True, False])),
    )


def codes(now, *, gate=True):
    return {fault.code for fault in find_faults(now, gate=gate, features=EVERY_FEATURE)}


def answers(now):
    return (
        find_faults(now, gate=True, features=EVERY_FEATURE),
        profile_faults(now, {"alpha", "beta"}),
        effective_policy(now),
        plan_environment(now),
    )


@given(situations())
def test_nothing_is_changed_and_the_answers_stay_the_same(now):
    before = repr(now)
    first = answers(now)
    assert repr(now) == before
    assert answers(now) == first
    # Nor does it matter what an entry has been asked before.
    fresh = tuple(changed(item, entry=item.entry and changed(item.entry)) for item in now.attached)
    assert answers(changed(now, attached=fresh)) == first


@given(situations())
def test_an_authors_rules_are_all_there_and_no_other_mark_is(now):
    own = now.global_policy or now.policy
    composed = effective_policy(now)
    rules = composed.network_policies

    def unstamped(rule):
        return changed(
            rule, endpoints=tuple(changed(e, provider_credentialed=False) for e in rule.endpoints)
        )

    assert [unstamped(rules[key]) for key in own.network_policies] == [
        unstamped(rule) for rule in own.network_policies.values()
    ]
    layers = [rule for key, rule in rules.items() if key not in own.network_policies]
    assert len(layers) == (sum(a.entry is not None for a in now.attached) if now.composes else 0)
    for rule in layers:
        assert rule.key.startswith(PROVIDER_KEY_PREFIX)
        assert not any(e.advisor_proposed or e.credential_binding for e in rule.endpoints)


@given(situations())
def test_composing_again_from_what_was_composed_adds_no_stamp_and_no_rule(now):
    once = effective_policy(now)
    again = effective_policy(changed(now, policy=once, global_policy=None, v2=False))
    rules = set(once.network_policies)
    assert set(again.network_policies) == rules
    if now.global_policy is None:
        assert again == once


@given(situations())
def test_the_verdict_does_not_depend_on_the_order_of_attachment(now):
    verdicts = {
        frozenset(codes(changed(now, attached=order)))
        for order in itertools.permutations(now.attached)
    }
    assert len(verdicts) == 1


@given(situations(), st.data())
def test_detaching_breaks_nothing_but_what_stood_on_the_provider(now, data):
    if not now.attached:
        return
    gone = data.draw(st.sampled_from(now.attached))
    left = changed(now, attached=tuple(item for item in now.attached if item is not gone))
    new = codes(left) - codes(now)
    assert new <= {FaultCode.BINDING_UNATTACHED, FaultCode.SIGNING_WITHOUT_SOURCE}


@given(situations())
def test_the_gate_only_adds_to_what_is_found(now):
    assert codes(now) - codes(now, gate=False) <= {FaultCode.UNINSPECTED}
    assert codes(now, gate=False) <= codes(now)


@settings(max_examples=300)
@given(situations())
def test_a_supervisor_can_load_what_has_no_faults(now):
    own = clear_marks(now.policy)
    now = changed(now, policy=own, global_policy=None)
    if codes(now) or errors_of(validate_policy(own, features=EVERY_FEATURE)):
        return
    assert errors_of(validate_policy(effective_policy(now), features=EVERY_FEATURE)) == ()


@given(situations())
def test_a_fit_sandbox_gives_no_credential_a_way_unseen(now):
    if codes(now):
        return
    open_layers = {
        item.record.name
        for item in now.attached
        if item.profile and not item.profile.is_credentialed
    }
    for key, rule in effective_policy(now).network_policies.items():
        for e in rule.endpoints:
            blind = e.protocol in ("", "tcp") or e.tls == "skip"
            if e.provider_credentialed and blind and not e.allow_uninspected_credentials:
                assert key.startswith(PROVIDER_KEY_PREFIX)
                assert open_layers


@given(situations())
def test_what_is_planned_is_bound_stamped_and_each_key_once(now):
    found = plan_environment(now)
    keys = [credential.key for credential in found.credentials]
    assert set(found.config).isdisjoint(keys)
    if FaultCode.KEY_CLASH not in codes(now):
        assert len(set(keys)) == len(keys)
    rules = effective_policy(now).network_policies.values()
    for credential in found.credentials:
        assert credential.endpoints
        for place in credential.endpoints:
            assert place.host
            for e in (e for rule in rules for e in rule.endpoints):
                if e.host.lower() == place.host and place.port in e.ports:
                    # What a profile without credentials declares is no place for any.
                    assert e.provider_credentialed or not credential_is_declared(now, credential)


def credential_is_declared(now, credential):
    (item,) = (a for a in now.attached if a.record.name == credential.provider.name)
    return item.profile is None or not item.profile.endpoints or item.profile.is_credentialed
