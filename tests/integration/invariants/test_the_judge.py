"""The judge sees what must not be: rows that no writer would leave behind, one fault at a time."""

import pytest

from integration.invariants.test_at_random import deleted_in_use
from integration.invariants.universe import Request, as_policy
from integration.invariants.world import BEFORE_V2, SINCE_V2, audited
from openshell._proto import datamodel_pb2, openshell_pb2
from support.invariants import Grant, Picture, hosts_meet, paths_meet, violations
from support.policies import BOUND

MESSAGES = {
    "sandbox": openshell_pb2.Sandbox,
    "provider": datamodel_pb2.Provider,
    "provider_credential_refresh_state": openshell_pb2.StoredProviderCredentialRefreshState,
    "sandbox_policy": openshell_pb2.PolicyRevisionPayload,
}


def changed(rows, kind, change, name=None):
    """The rows with one message changed: that of a name, or the first."""
    rows = list(rows)
    at = next(i for i, r in enumerate(rows) if r.kind == kind and name in (None, r.name))
    message = MESSAGES[kind].FromString(rows[at].payload)
    change(message)
    rows[at] = rows[at]._replace(payload=message.SerializeToString())
    return rows


def attached(*names):
    return lambda rows: changed(rows, "sandbox", lambda m: m.spec.providers.extend(names))


def without(kind, name=None):
    def remove(rows):
        at = next(i for i, r in enumerate(rows) if r.kind == kind and name in (None, r.name))
        return [row for index, row in enumerate(rows) if index != at]

    return remove


def governed(text):
    return lambda rows: changed(
        rows, "sandbox_policy", lambda m: m.policy.CopyFrom(as_policy(text))
    )


def twice_refreshed(rows):
    """A second refresh of what `plain` has refreshed, for another attached provider."""
    (row,) = [r for r in rows if r.kind == "provider_credential_refresh_state"]
    (other,) = [r for r in rows if r.kind == "provider" and r.name == "other"]
    message = MESSAGES[row.kind].FromString(row.payload)
    message.provider_id = other.id
    message.secret_material_handles.clear()
    return [*rows, row._replace(id="x", scope=other.id, payload=message.SerializeToString())]


def same_secret(rows):
    (plain,) = [r for r in rows if r.kind == "provider" and r.name == "plain"]
    handle = MESSAGES["provider"].FromString(plain.payload).credential_handles["PLAIN"]
    return changed(
        rows, "provider", lambda m: m.credential_handles["MORE"].CopyFrom(handle), "worker"
    )


def holding(name, key):
    def change(rows):
        return changed(rows, "provider", lambda m: m.credential_handles[key].SetInParent(), name)

    return change


def derived(rows):
    def change(message):
        message.type = "google-cloud"
        message.config["project_id"] = "x"

    rows = changed(rows, "provider", change, "first")
    return holding("plain", "GOOGLE_CLOUD_PROJECT")(rows)


FAULTS = [
    ("two owners", holding("other", "PLAIN"), "(a) plain and other both claim PLAIN"),
    ("a refreshed key", holding("other", "OLD"), "(a) plain and other both claim OLD"),
    ("a setting", derived, "(a) GOOGLE_CLOUD_PROJECT is a credential of plain and a setting of"),
    ("two grants", attached("p1", "p2"), "(b) Grant(provider='p1'"),
    ("no provider", attached("ghost"), "(c) provider ghost does not exist"),
    ("attached twice", attached("plain"), "a provider is attached twice"),
    ("a contradiction", governed(audited("calm.acme.test")), "(d) audited0 and layer of calmer"),
    ("two refreshes", twice_refreshed, "(e) 2 refreshes write OLD"),
    ("a stranger bound", governed(BOUND), "rule web binds work, which is not attached"),
    (
        "two authorities",
        governed(BOUND.replace("provider: work", "provider: calmer")),
        "rule web binds calmer, whose profile has endpoints itself",
    ),
    ("a secret of nobody", without("provider", "extra"), "is orphaned"),
    ("a secret that went", without("credential.gateway-encrypted"), "is missing"),
    ("a secret of two", same_secret, "has 2 owners"),
    ("a refresh of nobody", without("provider", "plain"), "a refresh of provider"),
    ("a policy of nobody", without("sandbox"), "a policy of sandbox"),
    ("no policy", without("sandbox_policy"), "sandbox box has no policy"),
]


@pytest.mark.parametrize(("spoil", "says"), [f[1:] for f in FAULTS], ids=[f[0] for f in FAULTS])
def test_a_fault_is_seen(worlds, spoil, says):
    assert not violations(worlds[SINCE_V2].rows)
    found = violations(spoil(worlds[SINCE_V2].rows))
    assert any(says in sentence for sentence in found), found


def test_without_composition_layers_contradict_nothing(worlds):
    spoilt = governed(audited("calm.acme.test"))
    assert violations(spoilt(worlds[SINCE_V2].rows))
    assert not violations(spoilt(worlds[BEFORE_V2].rows))


@pytest.mark.parametrize(
    ("one", "two", "ambiguous"),
    [
        (("api.x.com", 443, "/v1/**"), ("api.x.com", 443, "/v1/**"), True),
        (("api.x.com", 443, "/v1/**"), ("api.x.com", 443, "/v2/**"), False),
        (("api.x.com", 443, "/v1/**"), ("api.x.com", 443, "/v1/admin/**"), False),
        (("api.x.com", 443, ""), ("*.x.com", 443, ""), False),
        (("api.x.com", 443, ""), ("api.x.com", 8443, ""), False),
    ],
)
def test_grants_as_in_the_contract(one, two, ambiguous):
    """The contract's own table (providers.md 9)."""
    first, second = Grant("p", "a", *one), Grant("q", "b", *two)
    assert ambiguous == (
        first.port == second.port
        and first.score == second.score
        and hosts_meet(first.host, second.host)
        and paths_meet(first.path, second.path)
    )


def request(verb, about, began, ended, status="OK"):
    return Request(verb, about, 0, None, frozenset(), status, "", began, ended)


@pytest.mark.parametrize(
    ("calls", "wrong"),
    [
        ([], True),
        ([request("DetachSandboxProvider", ("box", "calmer"), 1, 2)], False),
        ([request("DetachSandboxProvider", ("box", "calmer"), 1, 2, "NOT_FOUND")], True),
        ([request("DetachSandboxProvider", ("box", "calmer"), 5.5, 7)], False),
        ([request("DetachSandboxProvider", ("box", "calmer"), 6.5, 7)], True),
        ([request("DeleteSandbox", ("box",), 1, 2)], False),
        ([request("DetachSandboxProvider", ("box", "plain"), 1, 2)], True),
    ],
)
def test_a_profile_that_went_while_it_was_used(worlds, calls, wrong):
    """The deletion takes from 5 to 6; `calmer` was attached before everything."""
    before = Picture.of(worlds[SINCE_V2].rows)
    before.providers["default", "calmer"][1].profile_workspace = ""
    deletion = request("DeleteProviderProfile", ("", "calm"), 5, 6)
    assert bool(list(deleted_in_use(before, [*calls, deletion]))) == wrong
