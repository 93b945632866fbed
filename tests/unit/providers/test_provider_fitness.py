"""Every fault by itself, their order, and which of the built-in profiles go together."""

import itertools

import pytest

from openshell.policy.features import EVERY_FEATURE
from openshell.policy.model import MiddlewareConfig
from openshell.policy.validate import errors_of, validate_policy
from openshell.providers.fitness import (
    MAX_PROVIDERS,
    effective_policy,
    find_faults,
    profile_faults,
)
from openshell.providers.profile.builtin import builtin_profiles
from openshell.providers.profile.model import ProfileCredential
from openshell.providers.records import Handle
from openshell.providers.situation import Attached, FaultCode
from unit.providers.provider_cases import (
    NOW,
    attached,
    builtin,
    changed,
    endpoint,
    grant,
    policy,
    profile,
    record,
    refresh,
    situation,
)


def faults(now, *, gate=True):
    return find_faults(now, gate=gate, features=EVERY_FEATURE)


def codes(now, *, gate=True):
    return [fault.code for fault in faults(now, gate=gate)]


WITH = profile(endpoints=[endpoint()])
FINE = situation(attached("work", WITH), base=policy(endpoint("own.example.com")))


def test_a_fit_situation_has_no_faults():
    assert faults(FINE) == ()


def test_missing_providers_are_named():
    found = faults(changed(FINE, missing=("gone", "lost")))
    assert [fault.code for fault in found] == [FaultCode.PROVIDER_MISSING] * 2
    assert "provider 'gone' not found" in found[0].message
    assert found[0].providers == ("gone",)


def test_there_is_a_limit_of_providers():
    items = [attached(f"p{i}", keys=(f"K{i}",)) for i in range(MAX_PROVIDERS + 1)]
    assert codes(situation(*items[1:])) == []
    assert codes(situation(*items)) == [FaultCode.TOO_MANY_PROVIDERS]
    assert codes(situation(*items[1:], missing=("gone",))) == [
        FaultCode.PROVIDER_MISSING,
        FaultCode.TOO_MANY_PROVIDERS,
    ]


def config(name, keys=(), **fields):
    return Attached(record(name, keys, type="google-cloud", **fields), None)


@pytest.mark.parametrize(
    ("one", "two", "clash"),
    [
        pytest.param(attached("a"), attached("b"), True, id="one key"),
        pytest.param(attached("a"), attached("b", keys=("OTHER",)), False, id="other key"),
        pytest.param(
            attached("a"), attached("b", expires_at_ms={"API_KEY": NOW}), False, id="expired"
        ),
        pytest.param(
            attached("a", keys=()),
            attached("b", keys=(), refresh=[refresh()]),
            False,
            id="only one refresh",
        ),
        pytest.param(
            attached("a", keys=(), refresh=[refresh()]),
            attached("b", keys=(), refresh=[refresh()]),
            True,
            id="two refreshes before anything is minted",
        ),
        pytest.param(
            attached("a"),
            attached("b", keys=(), refresh=[refresh("X", outputs={"o": "API_KEY"})]),
            True,
            id="an output of a refresh",
        ),
        pytest.param(
            attached("a", expires_at_ms={"API_KEY": NOW}, refresh=[refresh()]),
            attached("b"),
            True,
            id="expired, but to be refreshed",
        ),
        pytest.param(
            config("a", config={"project_id": "p"}),
            attached("b", keys=("GCP_PROJECT_ID",)),
            True,
            id="a setting and a credential",
        ),
        pytest.param(config("a"), attached("b", keys=("GCP_PROJECT_ID",)), False, id="unset"),
        pytest.param(
            config("a", config={"project_id": "p"}),
            config("b", config={"project_id": "q"}),
            False,
            id="two settings",
        ),
        pytest.param(
            config("a", keys=("GCP_PROJECT_ID",), config={"project_id": "p"}),
            attached("b"),
            False,
            id="a setting and a credential of one provider",
        ),
    ],
)
def test_key_clashes(one, two, clash):
    for pair in ((one, two), (two, one)):
        found = faults(situation(*pair))
        assert [fault.code for fault in found] == [FaultCode.KEY_CLASH] * clash
        for fault in found:
            assert fault.providers == (pair[0].record.name, pair[1].record.name)
            assert "'a'" in fault.message
            assert "'b'" in fault.message


def test_two_refreshes_of_one_provider_may_not_write_one_key():
    states = [refresh(), refresh("X", outputs={"o": "API_KEY"})]
    found = faults(situation(attached("work", WITH, refresh=states)))
    assert [fault.code for fault in found] == [FaultCode.KEY_CLASH]
    assert "'API_KEY'" in found[0].message


def test_ambiguous_grants():
    spec = profile(endpoints=[endpoint()], credentials=[grant()])
    found = faults(situation(attached("a", spec, keys=()), attached("b", spec, keys=()), v2=False))
    assert [fault.code for fault in found] == [FaultCode.AMBIGUOUS_GRANTS]
    assert found[0].providers == ("a", "b")


@pytest.mark.parametrize(
    ("bound", "item", "expected"),
    [
        pytest.param(endpoint(provider="work"), attached("work"), [], id="no profile"),
        pytest.param(endpoint(provider="work"), attached("work", profile()), [], id="no endpoints"),
        pytest.param(endpoint(provider=" "), attached(), [FaultCode.BINDING_MALFORMED], id="blank"),
        pytest.param(
            endpoint(provider=" work"), attached(), [FaultCode.BINDING_MALFORMED], id="padded"
        ),
        pytest.param(
            endpoint(host="", provider="work"),
            attached(),
            [FaultCode.BINDING_MALFORMED],
            id="no host",
        ),
        pytest.param(
            endpoint(port=0, provider="work"),
            attached(),
            [FaultCode.BINDING_MALFORMED],
            id="port 0",
        ),
        pytest.param(
            endpoint(port=65536, provider="work"),
            attached(),
            [FaultCode.BINDING_MALFORMED],
            id="port 65536",
        ),
        pytest.param(
            endpoint(host="a..b", provider="work"),
            attached(),
            [FaultCode.BINDING_MALFORMED],
            id="empty label",
        ),
        pytest.param(
            endpoint(host="{a,b}.c", provider="work"),
            attached(),
            [FaultCode.BINDING_MALFORMED],
            id="braces",
        ),
        pytest.param(
            endpoint(provider="absent"),
            attached(),
            [FaultCode.BINDING_UNATTACHED],
            id="not attached",
        ),
        pytest.param(
            endpoint(provider="work"),
            attached("work", WITH),
            [FaultCode.BINDING_TWO_AUTHORITIES],
            id="two authorities",
        ),
    ],
)
def test_bindings(bound, item, expected):
    # Under a layer, two authorities would contradict each other as endpoints, too.
    assert codes(situation(item, base=policy(bound), v2=False)) == expected


@pytest.mark.parametrize("v2", [True, False])
def test_bindings_of_the_own_policy_are_judged_under_a_global_policy_too(v2):
    now = situation(base=policy(endpoint(provider="gone")), global_policy=policy(), v2=v2)
    assert codes(now) == [FaultCode.BINDING_UNATTACHED]


SIGNED = {"credential_signing": "sigv4", "signing_service": "s3"}
KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
AWS = [ProfileCredential(name=key.lower(), env_vars=(key,)) for key in KEYS]


def signer(*endpoints, credentials=AWS):
    return attached("aws", profile("signer", endpoints, credentials), keys=KEYS)


@pytest.mark.parametrize(
    ("wanted", "item", "fit"),
    [
        pytest.param(endpoint(**SIGNED), signer(endpoint(**SIGNED)), True, id="covered"),
        pytest.param(endpoint(**SIGNED), None, False, id="nobody attached"),
        pytest.param(
            endpoint(**SIGNED), signer(endpoint(**SIGNED), credentials=AWS[:1]), False, id="one key"
        ),
        pytest.param(
            endpoint(ports=(443, 8443), **SIGNED),
            signer(endpoint(**SIGNED)),
            False,
            id="a port is not covered",
        ),
        pytest.param(
            endpoint(ports=(443, 8443), **SIGNED),
            signer(endpoint(**SIGNED), endpoint(port=8443, **SIGNED)),
            True,
            id="ports covered by two endpoints",
        ),
        pytest.param(
            endpoint("API.example.com", **SIGNED), signer(endpoint(**SIGNED)), True, id="case"
        ),
        pytest.param(
            endpoint(**SIGNED), signer(endpoint("*.example.com", **SIGNED)), True, id="pattern"
        ),
        pytest.param(
            endpoint("*.example.com", **SIGNED),
            signer(endpoint("**.example.com", **SIGNED)),
            False,
            id="a pattern is not covered by another",
        ),
        pytest.param(
            endpoint(path="/a", **SIGNED), signer(endpoint(path="/b", **SIGNED)), False, id="path"
        ),
        pytest.param(
            endpoint(path="/a/b", **SIGNED),
            signer(endpoint(path="/a/**", **SIGNED)),
            True,
            id="path below",
        ),
        pytest.param(
            endpoint(provider="aws", **SIGNED), signer(), True, id="bound to keys without endpoints"
        ),
        pytest.param(
            endpoint(provider="aws", **SIGNED), attached("aws", keys=KEYS), True, id="no profile"
        ),
        pytest.param(
            endpoint(provider="aws", **SIGNED), attached("aws"), False, id="bound to other keys"
        ),
        pytest.param(endpoint(**SIGNED), signer(), False, id="keys without endpoints, not bound"),
    ],
)
def test_signing_needs_a_source(wanted, item, fit):
    now = situation(*([item] if item else []), base=policy(wanted), v2=False)
    expected = [] if fit else [FaultCode.SIGNING_WITHOUT_SOURCE]
    assert codes(now) == expected


def test_a_layer_that_signs_without_keys_is_refused():
    item = attached("aws", profile("signer", [endpoint(**SIGNED)]))
    assert codes(situation(item)) == [FaultCode.SIGNING_WITHOUT_SOURCE]
    assert codes(situation(item, v2=False)) == []


BLIND = endpoint(protocol="", access="")


@pytest.mark.parametrize(
    ("raw", "refused"),
    [
        pytest.param(endpoint(), False, id="inspected"),
        pytest.param(BLIND, True, id="no protocol"),
        pytest.param(endpoint(protocol="tcp", access=""), True, id="tcp"),
        pytest.param(changed(BLIND, allow_uninspected_credentials=True), False, id="consent"),
        pytest.param(changed(BLIND, ports=(8443,)), False, id="other port"),
        pytest.param(changed(BLIND, host="*.example.com"), True, id="pattern over it"),
        pytest.param(changed(BLIND, host="other.example.com"), False, id="other host"),
    ],
)
@pytest.mark.parametrize("v2", [True, False])
def test_nothing_may_take_credentials_unseen(raw, refused, v2):
    now = situation(attached("work", WITH), base=policy(raw), v2=v2)
    # With layers some of these contradict the profile's endpoint besides.
    assert (FaultCode.UNINSPECTED in codes(now)) is refused
    assert FaultCode.UNINSPECTED not in codes(now, gate=False)


def test_the_gate_names_place_rule_and_provider():
    (fault,) = faults(situation(attached("work", WITH), base=policy(BLIND), v2=False))
    for part in ("'api.example.com:443'", "rule 'rule'", "L4-only", "'work'", "configure L7"):
        assert part in fault.message
    assert fault.providers == ("work",)


def test_the_gate_looks_at_the_policy_in_force():
    now = situation(attached("work", WITH), base=policy(), global_policy=policy(BLIND))
    assert codes(now) == [FaultCode.UNINSPECTED]
    turned = situation(attached("work", WITH), base=policy(BLIND), global_policy=policy())
    assert codes(turned) == []


def test_github_and_pypi_can_be_attached_together_and_the_proxy_guards_what_overlaps():
    now = situation(builtin("github"), builtin("pypi"))
    assert faults(now) == ()
    composed = effective_policy(now)
    stamps = {
        e.host: e.provider_credentialed
        for e in composed.network_policies["_provider_pypi"].endpoints
    }
    assert [host for host, stamped in stamps.items() if stamped] == ["github.com", "api.github.com"]
    # The same connections written by an author are refused.
    authored = policy(*changed(situation(builtin("pypi"))).attached[0].profile.endpoints)
    found = faults(situation(builtin("github"), base=authored))
    assert {fault.code for fault in found} == {FaultCode.UNINSPECTED}
    assert len(found) == 2


def test_contradictions_of_layers_name_the_providers():
    skip = profile("skip", [changed(BLIND, tls="skip")], credentials=())
    now = situation(attached("work", WITH), attached("raw", skip, keys=()))
    (fault,) = faults(now)
    assert fault.code is FaultCode.LAYER_CONFLICT
    assert fault.providers == ("work", "raw")
    for part in ("_provider_raw", "_provider_work", "api.example.com:443", "tls (skip / auto)"):
        assert part in fault.message
    assert codes(changed(now, v2=False)) == []
    assert codes(changed(now, global_policy=policy())) == []


def test_a_profile_that_no_supervisor_would_load_is_refused_where_it_is_composed():
    bad = attached("bad", profile("bad", [endpoint("*.com")]))
    (fault,) = faults(situation(bad))
    assert fault.code is FaultCode.LAYER_UNSAFE
    assert fault.providers == ("bad",)
    assert codes(situation(bad, v2=False)) == []


def test_what_the_proxy_does_not_enforce_is_refused_by_name():
    now = situation(attached("work", profile(endpoints=[endpoint(protocol="graphql")])))
    assert find_faults(now, gate=True, features=EVERY_FEATURE) == ()
    (fault,) = find_faults(now, gate=True, features=())
    assert fault.code is FaultCode.LAYER_UNSAFE
    assert "graphql" in fault.message


def test_a_middleware_that_must_not_be_left_out_forbids_closed_layers():
    item = attached("raw", profile("raw", [changed(BLIND, tls="skip")], credentials=()), keys=())
    guard = MiddlewareConfig("guard", "scan", include=("**",))
    assert codes(situation(item)) == []
    base = policy(network_middlewares={"guard": guard})
    assert codes(situation(item, base=base)) == [FaultCode.LAYER_UNSAFE]


def test_the_order_of_faults_is_the_contracts():
    skip = profile("skip", [changed(BLIND, tls="skip")], credentials=[grant()])
    items = [
        attached("a", profile("a", [endpoint()], [grant(), *AWS])),
        attached("b", skip),
        *(attached(f"p{i}", keys=()) for i in range(MAX_PROVIDERS)),
    ]
    base = policy(
        endpoint("x.com", provider=" "),
        endpoint("x.com", provider="none"),
        endpoint("x.com", provider="a"),
        endpoint("sign.com", **SIGNED),
    )
    now = situation(*items, base=base, missing=("gone",))
    assert list(dict.fromkeys(codes(now))) == [
        FaultCode.PROVIDER_MISSING,
        FaultCode.TOO_MANY_PROVIDERS,
        FaultCode.KEY_CLASH,
        FaultCode.AMBIGUOUS_GRANTS,
        FaultCode.BINDING_MALFORMED,
        FaultCode.BINDING_UNATTACHED,
        FaultCode.BINDING_TWO_AUTHORITIES,
        FaultCode.SIGNING_WITHOUT_SOURCE,
        FaultCode.UNINSPECTED,
        FaultCode.LAYER_CONFLICT,
    ]


@pytest.mark.parametrize(
    ("item", "base", "stranded"),
    [
        pytest.param(attached("work", WITH), None, False, id="usable endpoint"),
        pytest.param(attached("work", profile()), None, True, id="no endpoint"),
        pytest.param(
            attached("work", profile()), policy(endpoint(provider="work")), False, id="bound"
        ),
        pytest.param(attached("work", profile(), keys=()), None, False, id="no static values"),
        pytest.param(attached("work", profile("other")), None, False, id="another profile"),
    ],
)
def test_values_that_a_changed_profile_strands(item, base, stranded):
    now = situation(item, base=base)
    expected = [FaultCode.NO_USABLE_ENDPOINT] if stranded else []
    assert [fault.code for fault in profile_faults(now, {"custom"})] == expected
    # A sandbox may have such a provider before anything binds it.
    assert codes(now) == []


BUILTIN = sorted(builtin_profiles())


@pytest.mark.parametrize("profile_id", BUILTIN)
def test_every_built_in_profile_can_be_attached_alone(profile_id):
    now = situation(builtin(profile_id), base=policy(endpoint("own.example.com")))
    assert faults(now) == ()
    composed = effective_policy(now)
    assert errors_of(validate_policy(composed, features=EVERY_FEATURE)) == ()


@pytest.mark.parametrize(("one", "two"), list(itertools.combinations(BUILTIN, 2)))
def test_built_in_profiles_go_together_unless_they_claim_one_key(one, two):
    pair = [builtin(one, keys=("ONE",)), builtin(two, keys=("TWO",))]
    assert faults(situation(*pair)) == ()
    assert faults(situation(*pair[::-1])) == ()


def test_faults_name_no_values():
    handle = Handle("db", "v1:secret-handle")
    item = attached("a")
    item = changed(item, record=changed(item.record, handles={"API_KEY": handle}))
    (fault,) = faults(situation(item, attached("b")))
    assert "secret-handle" not in repr(fault)
