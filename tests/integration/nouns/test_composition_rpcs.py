"""Layers of providers in the effective policy over gRPC: rows of providers.md 21 and 24, policy.md 11, 12."""

import grpc
import pytest

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.codec.policy import policy_from_proto, policy_to_proto
from openshell.gateway.services.revisions import store_revision
from openshell.policy.features import ENFORCED, check_features
from openshell.policy.model import NetworkRule, SandboxPolicy
from openshell.policy.parse import parse_policy
from openshell.providers.profile.builtin import builtin_profiles
from support.policies import OPEN
from support.profile_values import blind, endpoint, profile
from support.statuses import refused

FAILED_PRECONDITION = grpc.StatusCode.FAILED_PRECONDITION
INVALID_ARGUMENT = grpc.StatusCode.INVALID_ARGUMENT

AUDITED = """
version: 1
network_policies:
  own:
    endpoints:
      - {host: api.acme.test, port: 443, protocol: rest, enforcement: audit, access: read-only}
    binaries: [{path: /usr/bin/curl}]
"""
BLIND = """
version: 1
network_policies:
  own:
    endpoints: [{host: api.acme.test, port: 443}]
    binaries: [{path: /usr/bin/curl}]
"""


async def rules(wire, box):
    policy = policy_from_proto((await wire.config(box)).policy)
    return {key: [e.host for e in rule.endpoints] for key, rule in policy.network_policies.items()}


async def acme(wire, name="work", *, key="ACME_KEY", **fields):
    await wire.profile(profile(**fields))
    await wire.provider(name, {key: "secret"}, kind=fields.get("profile_id", "acme"))


LAYER = {"_provider_work": ["api.acme.test"]}
OWN = {"web": ["api.example.com"]}


# 21, the table: v2 off; on; on under a global policy. And who reads: user and supervisor.
@pytest.mark.parametrize("as_supervisor", [False, True], ids=["user", "supervisor"])
async def test_layers_are_in_the_effective_policy_when_nothing_suppresses_them(wire, as_supervisor):
    await acme(wire)
    box = await wire.sandbox(providers=["work"], policy=OPEN)

    async def seen():
        if not as_supervisor:
            return await rules(wire, box)
        with wire.as_sandbox(box):
            return await rules(wire, box)

    assert await seen() == OWN
    await wire.v2()
    assert await seen() == {**OWN, **LAYER}
    await wire.set_global(OPEN.replace("api.example", "only.example"))
    assert await seen() == {"web": ["only.example.com"]}
    await wire.delete_global()
    assert await seen() == {**OWN, **LAYER}
    await wire.v2(False)
    assert await seen() == OWN


async def test_layers_are_never_stored_and_move_the_hash(wire):
    await acme(wire)
    box = await wire.sandbox(providers=["work"], policy=OPEN)
    before = await wire.config(box)
    await wire.v2()
    after = await wire.config(box)
    assert after.policy_hash != before.policy_hash
    assert after.config_revision != before.config_revision
    assert after.version == before.version
    stored = policy_from_proto((await wire.status(box)).revision.policy)
    assert set(stored.network_policies) == {"web"}
    assert set(policy_from_proto((await wire.reload(box)).spec.policy).network_policies) == {"web"}


async def test_an_edited_profile_changes_the_effective_policy_and_nothing_stored(wire):
    await acme(wire)
    box = await wire.sandbox(providers=["work"], policy=OPEN)
    await wire.v2()
    before = await wire.config(box)
    await wire.profile(profile(endpoints=[endpoint("new.acme.test")]))
    after = await wire.config(box)
    assert (await rules(wire, box))["_provider_work"] == ["new.acme.test"]
    assert after.provider_env_revision != before.provider_env_revision
    assert after.version == before.version
    assert (await wire.reload(box)).metadata.resource_version == box.metadata.resource_version


# 21, preferred key and suffixes.
async def test_layers_have_keys_of_their_own(wire):
    await wire.profile(profile())
    for name, key in (("my-github", "A"), ("Work GitHub!", "B"), ("work_github", "C")):
        await wire.provider(name, {key: "x"}, kind="acme")
    await wire.v2()
    box = await wire.sandbox(providers=["my-github", "Work GitHub!", "work_github"])
    assert sorted(await rules(wire, box)) == [
        "_provider_my_github",
        "_provider_work_github",
        "_provider_work_github_2",
    ]


# 21: no profile, skipped; an endpointless profile grants nothing.
async def test_what_has_no_endpoints_grants_nothing(wire):
    await wire.v2()
    await wire.provider("plain", {"A": "x"}, kind="openai")
    await wire.provider("cloud", {"AWS_ACCESS_KEY_ID": "x"}, kind="aws")
    box = await wire.sandbox(providers=["plain", "cloud"], policy=OPEN)
    found = await rules(wire, box)
    assert {key: hosts for key, hosts in found.items() if hosts} == OWN


# 21, conflicts: on create, attach, policy update, detach of another one; and on activation.
async def test_a_conflict_is_refused_by_every_writer(wire):
    await acme(wire)
    await wire.v2()
    says = (await refused(wire.sandbox("new", providers=["work"], policy=AUDITED)))[1]
    assert "api.acme.test" in says
    box = await wire.sandbox(policy=AUDITED)
    code, says = await refused(wire.attach(box, "work"))
    assert code is FAILED_PRECONDITION
    assert "api.acme.test" in says
    assert not (await wire.reload(box)).spec.providers
    other = await wire.sandbox("other", providers=["work"], policy=OPEN)
    code, says = await refused(wire.set_policy(other, AUDITED))
    assert code is FAILED_PRECONDITION
    assert (await wire.config(other)).version == 1


async def test_enabling_with_an_existing_conflict_is_refused_and_changes_nothing(wire):
    await acme(wire)
    await wire.sandbox("fine", providers=["work"], policy=OPEN)
    box = await wire.sandbox(providers=["work"], policy=AUDITED)
    code, says = await refused(wire.v2())
    assert code is FAILED_PRECONDITION
    assert "'default/box'" in says
    answer = await wire.GetGatewayConfig(sandbox_pb2.GetGatewayConfigRequest())
    assert answer.settings["providers_v2_enabled"].WhichOneof("value") is None
    assert set(await rules(wire, box)) == {"own"}
    await wire.set_policy(box, OPEN)
    await wire.v2()
    assert await rules(wire, box) == {**OWN, **LAYER}


async def test_deleting_the_global_policy_with_a_conflict_beneath_is_refused(wire):
    await acme(wire)
    box = await wire.sandbox(policy=AUDITED)
    await wire.set_global(OPEN)
    await wire.v2()
    await wire.attach(box, "work")
    code, says = await refused(wire.delete_global())
    assert code is FAILED_PRECONDITION
    assert "'default/box'" in says
    assert (await wire.config(box)).policy_source == sandbox_pb2.POLICY_SOURCE_GLOBAL
    await wire.v2(False)
    assert (await wire.delete_global()).deleted


# 21: the reserved prefix.
RESERVED = OPEN.replace("web:", "_provider_web:")


async def test_reserved_keys_are_refused_and_stripped_from_a_supervisors_policy(wire):
    await acme(wire)
    await wire.v2()
    box = await wire.sandbox(providers=["work"], policy=OPEN)
    merge = openshell_pb2.UpdateConfigRequest(
        name="box",
        merge_operations=[
            {
                "add_rule": {
                    "rule_name": "_provider_web",
                    "rule": {
                        "endpoints": [
                            {"host": "a.b", "port": 443, "protocol": "rest", "access": "full"}
                        ],
                        "binaries": [{"path": "/usr/bin/curl"}],
                    },
                }
            }
        ],
    )
    for call in (
        wire.set_policy(box, RESERVED),
        wire.set_global(RESERVED),
        wire.UpdateConfig(merge),
        wire.sandbox("new", policy=RESERVED),
    ):
        code, says = await refused(call)
        assert code is INVALID_ARGUMENT
        assert "reserved" in says
    with wire.as_sandbox(box):
        # What a supervisor syncs back is the policy that it was given.
        effective = (await wire.config(box)).policy
        assert "_provider_work" in effective.network_policies
        answer = await wire.UpdateConfig(
            openshell_pb2.UpdateConfigRequest(name="box", policy=effective)
        )
    assert answer.version == 1
    stored = policy_from_proto((await wire.status(box)).revision.policy)
    assert set(stored.network_policies) == {"web"}


# 24, aws-s3: its own overlapping endpoints do not count. What the proxy cannot carry out is refused
# by name, and by nothing else.
@pytest.mark.parametrize("profile_id", sorted(builtin_profiles()))
async def test_a_builtin_profile_attaches_alone_under_v2(wire, profile_id):
    builtin = builtin_profiles()[profile_id]
    keys = [key for item in builtin.credentials for key in item.env_vars] or ["ANY_KEY"]
    await wire.provider("work", dict.fromkeys(keys, "x"), kind=profile_id)
    box = await wire.sandbox()
    await wire.v2()
    rule = NetworkRule("x", "", builtin.endpoints, builtin.binaries)
    unbuilt = list(check_features(SandboxPolicy(network_policies={"x": rule}), ENFORCED))
    if unbuilt:
        code, says = await refused(wire.attach(box, "work"))
        assert code is FAILED_PRECONDITION
        assert says.count("cannot be part of a policy") == len(unbuilt)
        assert says.count("not supported yet") == len(unbuilt)
        return
    assert (await wire.attach(box, "work")).attached
    assert (await rules(wire, box))["_provider_work"] == [e.host for e in builtin.endpoints]


# 15, the gate, whatever v2 says; 24: `protocol: tcp` counts as uninspected.
@pytest.mark.parametrize("v2", [False, True], ids=["v2 off", "v2 on"])
@pytest.mark.parametrize(
    "way",
    [
        pytest.param("", id="no protocol"),
        pytest.param(
            ", protocol: rest, access: full, enforcement: enforce, tls: skip", id="tls skip"
        ),
    ],
)
async def test_an_uninspected_way_for_credentials_is_refused(wire, v2, way):
    await acme(wire)
    await wire.v2(v2)
    policy = BLIND.replace("port: 443}", f"port: 443{way}}}")
    box = await wire.sandbox(policy=policy)
    for call in (wire.attach(box, "work"), wire.sandbox("new", providers=["work"], policy=policy)):
        code, says = await refused(call)
        assert code is FAILED_PRECONDITION
        assert "api.acme.test" in says
    other = await wire.sandbox("other", providers=["work"], policy=OPEN)
    assert (await refused(wire.set_policy(other, policy)))[0] is FAILED_PRECONDITION
    if not v2:
        consent = policy.replace("port: 443", "port: 443, allow_uninspected_credentials: true")
        await wire.set_policy(box, consent)
        assert (await wire.attach(box, "work")).attached


async def test_raw_tcp_counts_as_uninspected(wire):
    await acme(wire)
    box = await wire.sandbox(policy=OPEN)
    raw = parse_policy(BLIND.replace("port: 443}", "port: 443, protocol: tcp}"), source="test")
    await wire.store.write(lambda tx: store_revision(tx, box.metadata.id, "default", raw, {}))
    code, says = await refused(wire.attach(box, "work"))
    assert code is FAILED_PRECONDITION
    assert "api.acme.test" in says


async def test_on_delivery_an_uninspected_way_is_marked_and_not_refused(wire):
    await acme(wire, endpoints=[endpoint("old.acme.test")])
    box = await wire.sandbox(providers=["work"], policy=BLIND)
    marks = (await wire.config(box)).policy.network_policies["own"].endpoints
    assert not marks[0].provider_credentialed
    # Updates of profiles are not gated.
    await wire.profile(profile())
    marks = (await wire.config(box)).policy.network_policies["own"].endpoints
    assert marks[0].provider_credentialed


async def test_marks_of_clients_count_for_nothing(wire):
    message = policy_to_proto(parse_policy(OPEN, source="test"))
    message.network_policies["web"].endpoints[0].provider_credentialed = True
    box = await wire.sandbox()
    await wire.UpdateConfig(openshell_pb2.UpdateConfigRequest(name="box", policy=message))
    found = (await wire.config(box)).policy.network_policies["web"].endpoints[0]
    assert not found.provider_credentialed


# 24, github and pypi together: the layer of a profile without credentials is exempt, the proxy
# refuses what would go there.
async def test_a_blind_layer_without_credentials_is_let_in_and_marked(wire):
    await acme(wire)
    await wire.profile(profile("mirror", endpoints=[blind()], credentials=[]))
    await wire.provider("mirror", {"M": "x"}, kind="mirror")
    box = await wire.sandbox(providers=["work"], policy=OPEN)
    await wire.v2()
    assert (await wire.attach(box, "mirror")).attached
    effective = (await wire.config(box)).policy.network_policies
    assert all(e.provider_credentialed for e in effective["_provider_mirror"].endpoints)
    assert not any(e.provider_credentialed for e in effective["web"].endpoints)
