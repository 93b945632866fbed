"""Merge operations over the real store: one transaction, one revision, checked like a replacement."""

import pytest

from openshell._proto import openshell_pb2
from openshell.codec.merge import operation_to_proto
from openshell.codec.policy import policy_from_proto, policy_to_proto
from openshell.gateway.errors import ApiError, Code, error_to_status
from openshell.gateway.services.revisions import store_revision
from openshell.policy.merge import (
    AddAllowRules,
    AddDenyRules,
    AddRule,
    RemoveBinary,
    RemoveEndpoint,
    RemoveRule,
)
from openshell.policy.model import Binary, CredentialBinding, Endpoint, L7Rule, NetworkRule
from openshell.policy.parse import parse_policy
from support.policies import BOUND, OPEN

PENDING = openshell_pb2.POLICY_STATUS_PENDING
SUPERSEDED = openshell_pb2.POLICY_STATUS_SUPERSEDED
CURL = Binary("/usr/bin/curl")
HOST = "api.example.com"


def added(host="b.example.com", *, port=443, key="", binaries=(CURL,), **fields):
    key = key or host.replace(".", "_")
    endpoint = Endpoint(host=host, ports=(port,), **fields)
    return AddRule(key, NetworkRule(key, key, (endpoint,), tuple(binaries)))


def allow(method, path="/**", host=HOST):
    return AddAllowRules(host, 443, (L7Rule(method=method, path=path),))


def merge(*operations, name="box", **fields):
    return openshell_pb2.UpdateConfigRequest(
        name=name, merge_operations=[operation_to_proto(item) for item in operations], **fields
    )


async def refused(call):
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


async def history(gateway):
    request = openshell_pb2.ListSandboxPoliciesRequest(name="box")
    answer = await gateway.ListSandboxPolicies(request)
    return [(revision.version, revision.status) for revision in answer.revisions]


async def latest(gateway, box):
    return policy_from_proto((await gateway.status(box)).revision.policy)


async def test_a_batch_makes_one_revision_and_one_announcement(gateway):
    box = await gateway.sandbox(policy=OPEN)
    before = await latest(gateway, box)
    answer = await gateway.UpdateConfig(
        merge(
            added(),
            added("c.example.com"),
            RemoveRule("c_example_com"),
            allow("POST", "/v1/items"),
            AddDenyRules(HOST, 443, (L7Rule(method="POST", path="/v1/items/7"),)),
        )
    )
    assert answer.version == 2
    assert await history(gateway) == [(2, PENDING), (1, SUPERSEDED)]
    assert gateway.changes == [(box.metadata.id, "policy")]
    policy = await latest(gateway, box)
    assert sorted(policy.network_policies) == ["b_example_com", "web"]
    (endpoint,) = policy.network_policies["web"].endpoints
    # The preset was expanded, the new rules stand behind it.
    assert not endpoint.access
    assert [rule.method for rule in endpoint.rules] == ["GET", "HEAD", "OPTIONS", "POST"]
    assert [rule.path for rule in endpoint.deny_rules] == ["/v1/items/7"]
    assert policy.filesystem == before.filesystem
    config = await gateway.config(box)
    assert (config.version, config.policy_hash) == (2, answer.policy_hash)


async def test_removals(gateway):
    box = await gateway.sandbox(policy=OPEN)
    await gateway.UpdateConfig(
        merge(added(binaries=(CURL, Binary("/usr/bin/wget"))), added("c.example.com"))
    )
    await gateway.UpdateConfig(
        merge(RemoveBinary("b_example_com", "/usr/bin/wget"), RemoveEndpoint("c.example.com", 443))
    )
    policy = await latest(gateway, box)
    assert policy.network_policies["b_example_com"].binaries == (CURL,)
    assert "c_example_com" not in policy.network_policies


async def test_the_first_operation_that_fails_undoes_all_of_them(gateway):
    box = await gateway.sandbox(policy=OPEN)
    error = await refused(
        gateway.UpdateConfig(
            merge(added(), allow("POST", host="absent.example.com"), added("c.x.y"))
        )
    )
    assert error.code is Code.FAILED_PRECONDITION
    assert error.message.startswith("merge_operations[1]: ")
    assert await history(gateway) == [(1, PENDING)]
    assert list((await latest(gateway, box)).network_policies) == ["web"]
    assert not gateway.changes


@pytest.mark.parametrize(
    ("operation", "code", "says"),
    [
        pytest.param(
            added(key="_provider_x"), Code.INVALID_ARGUMENT, "reserved '_provider_'", id="reserved"
        ),
        pytest.param(added("127.0.0.1"), Code.INVALID_ARGUMENT, "always blocked", id="loopback"),
        pytest.param(RemoveRule(" "), Code.INVALID_ARGUMENT, "rule_name", id="no rule name"),
        pytest.param(
            added("*.com"), Code.INVALID_ARGUMENT, "policy contains unsafe content", id="safety"
        ),
        pytest.param(
            added(protocol="sql", access="full", enforcement="enforce"),
            Code.INVALID_ARGUMENT,
            "sql",
            id="not built",
        ),
        pytest.param(
            added(HOST, key="raw", path="/x", tls="skip", binaries=(Binary("/bin/sh"),)),
            Code.FAILED_PRECONDITION,
            "network endpoint ambiguity validation failed",
            id="ambiguity",
        ),
        pytest.param(
            added(HOST, key="web", port=8443, binaries=(Binary("/usr/bin/wget"),)),
            Code.FAILED_PRECONDITION,
            "undeclared authorization",
            id="undeclared scope",
        ),
    ],
)
async def test_a_merge_is_refused_and_stores_nothing(gateway, operation, code, says):
    box = await gateway.sandbox(policy=OPEN)
    # The probe works: what is refused below is not refused for the request's own shape.
    assert (await gateway.UpdateConfig(merge(added("first.example.com")))).version == 2
    gateway.changes.clear()
    error = await refused(gateway.UpdateConfig(merge(operation)))
    assert error.code is code
    assert says in error.message
    assert (await gateway.status(box)).revision.version == 2
    assert not gateway.changes


async def test_a_merge_may_not_lay_raw_access_over_a_bound_credential(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    wget = (Binary("/usr/bin/wget"),)
    raw = added("*.example.com", key="raw", binaries=wget)
    error = await refused(gateway.UpdateConfig(merge(raw)))
    assert error.code is Code.FAILED_PRECONDITION
    assert "allow_uninspected_credentials" in error.message
    consenting = added(
        "*.example.com", key="raw", binaries=wget, allow_uninspected_credentials=True
    )
    assert (await gateway.UpdateConfig(merge(consenting))).version == 2
    assert "raw" in (await latest(gateway, box)).network_policies


BINDING = added(
    protocol="rest",
    enforcement="enforce",
    access="full",
    credential_binding=CredentialBinding("work"),
)


async def test_a_merge_may_bind_attached_providers_only(gateway):
    await gateway.provider()
    box = await gateway.sandbox(policy=OPEN)
    error = await refused(gateway.UpdateConfig(merge(BINDING)))
    assert error.code is Code.FAILED_PRECONDITION
    assert "provider 'work' is not attached" in error.message
    await gateway.attach(box, "work")
    assert (await gateway.UpdateConfig(merge(BINDING))).version == 2
    assert (await refused(gateway.detach(box, "work"))).code is Code.FAILED_PRECONDITION


@pytest.mark.parametrize("round_", range(6))
async def test_a_binding_merge_racing_a_detach_never_binds_nobody(gateways, race, round_):
    one, two = gateways
    await one.provider()
    box = await one.sandbox(providers=["work"], policy=OPEN)
    calls = [one.UpdateConfig(merge(BINDING)), two.detach(box, "work")]
    results = await race(*(calls if round_ % 2 else reversed(calls)))
    losers = [result for result in results if isinstance(result, Exception)]
    assert [error_to_status(loser)[0] for loser in losers] == [Code.FAILED_PRECONDITION]
    assert (await one.config(box)).version in (1, 2)


async def test_nothing_to_do_is_the_latest_version(gateway):
    box = await gateway.sandbox(policy=OPEN)
    await gateway.UpdateConfig(merge(added(), annotations={"why": "ticket 7"}))
    gateway.changes.clear()
    for operation in (RemoveRule("absent"), added(), RemoveEndpoint("absent", 1)):
        answer = await gateway.UpdateConfig(merge(operation))
        assert answer.version == 2
        assert answer.policy_hash == (await gateway.status(box)).revision.policy_hash
        assert dict(answer.annotations) == {"why": "ticket 7"}
    assert not gateway.changes
    # Provenance of its own is a revision of its own, as with a replacement.
    answer = await gateway.UpdateConfig(merge(added(), annotations={"why": "ticket 8"}))
    assert answer.version == 3


async def test_marks_of_others_stay_and_a_persons_own_are_cleared(gateway):
    box = await gateway.sandbox(policy=OPEN)

    def propose(tx):
        policy = parse_policy(OPEN, source="test")
        marked = added("marked.example.com", advisor_proposed=True).rule
        store_revision(
            tx,
            box.metadata.id,
            "default",
            type(policy)(network_policies={**policy.network_policies, "marked": marked}),
            {},
        )

    await gateway.store.write(propose)
    await gateway.UpdateConfig(merge(added(advisor_proposed=True, provider_credentialed=True)))
    rules = (await latest(gateway, box)).network_policies
    assert rules["marked"].endpoints[0].advisor_proposed
    assert not rules["b_example_com"].endpoints[0].advisor_proposed
    assert not rules["b_example_com"].endpoints[0].provider_credentialed


async def test_a_stale_writer_is_told_the_version_and_can_go_on(gateway):
    box = await gateway.sandbox(policy=OPEN)
    seen = box.metadata.resource_version
    assert (await gateway.UpdateConfig(merge(added(), expected_resource_version=seen))).version == 2
    stale = merge(added("c.example.com"), expected_resource_version=seen)
    error = await refused(gateway.UpdateConfig(stale))
    assert error.code is Code.ABORTED
    current = (await gateway.reload(box)).metadata.resource_version
    assert f"resource_version: {current}" in error.message
    again = merge(added("c.example.com"), expected_resource_version=current)
    assert (await gateway.UpdateConfig(again)).version == 3


async def test_a_supervisor_merges_nothing(gateway):
    box = await gateway.sandbox(policy=OPEN)
    with gateway.as_sandbox(box):
        error = await refused(gateway.UpdateConfig(merge(added())))
    assert error.code is Code.PERMISSION_DENIED


async def test_merges_cannot_pile_up_a_policy_beyond_the_limit(gateway):
    await gateway.sandbox(policy=OPEN)
    rules = [
        tuple(L7Rule(method="GET", path=f"/{number}/{index}/{'x' * 1000}") for index in range(100))
        for number in range(3)
    ]
    for version, some in enumerate(rules[:2], start=2):
        answer = await gateway.UpdateConfig(merge(AddAllowRules(HOST, 443, some)))
        assert answer.version == version
    error = await refused(gateway.UpdateConfig(merge(AddAllowRules(HOST, 443, rules[2]))))
    assert error.code is Code.INVALID_ARGUMENT
    assert "serialized size exceeds maximum" in error.message
    assert (await history(gateway))[0] == (3, PENDING)


async def test_merges_racing_through_two_stores_all_take_effect(gateways, race):
    box = await gateways[0].sandbox(policy=OPEN)
    hosts = [f"h{number}.example.com" for number in range(10)]
    results = await race(
        *(gateways[n % 2].UpdateConfig(merge(added(host))) for n, host in enumerate(hosts))
    )
    assert not [result for result in results if isinstance(result, Exception)]
    assert sorted(result.version for result in results) == list(range(2, 12))
    rules = (await latest(gateways[1], box)).network_policies
    assert len(rules) == 11
    assert [version for version, _status in await history(gateways[0])] == list(range(11, 0, -1))


async def test_conditional_merges_racing_have_one_winner(gateways, race):
    box = await gateways[0].sandbox(policy=OPEN)
    seen = box.metadata.resource_version
    results = await race(
        *(
            gateway.UpdateConfig(merge(added(f"h{n}.example.com"), expected_resource_version=seen))
            for n, gateway in enumerate(gateways * 3)
        )
    )
    losers = [result for result in results if isinstance(result, Exception)]
    assert len(losers) == 5
    assert {error_to_status(loser)[0] for loser in losers} == {Code.ABORTED}


async def test_rolling_back_is_a_new_revision_with_the_old_content(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    await gateway.set_policy(box, OPEN)
    old = (await gateway.status(box, 1)).revision
    answer = await gateway.UpdateConfig(
        openshell_pb2.UpdateConfigRequest(name="box", policy=old.policy)
    )
    assert (answer.version, answer.policy_hash) == (3, old.policy_hash)
    # Checked like any update: what fitted then need not fit now.
    await gateway.set_policy(box, OPEN)
    await gateway.detach(box, "work")
    error = await refused(
        gateway.UpdateConfig(openshell_pb2.UpdateConfigRequest(name="box", policy=old.policy))
    )
    assert error.code is Code.FAILED_PRECONDITION
    assert "is not attached" in error.message
    assert (await gateway.status(box)).revision.version == 4
    assert (
        policy_to_proto(await latest(gateway, box)) == (await gateway.status(box)).revision.policy
    )
