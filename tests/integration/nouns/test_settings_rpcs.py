"""Settings over the real store: writes of both scopes, precedence, revisions, pushes, two writers."""

import json

import pytest

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.gateway.compute import remove_sandbox
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.records import Kind
from openshell.gateway.services.revisions import store_revision
from openshell.gateway.services.settings_rows import GLOBAL
from openshell.gateway.store import MatchResourceVersion, NewRow
from openshell.policy.parse import parse_policy
from support.policies import BOUND, OPEN

FLAG = "ocsf_json_enabled"
MODE = "proposal_approval_mode"
V2 = "providers_v2_enabled"


def value(thing):
    if thing is None:
        return sandbox_pb2.SettingValue()
    kind = {bool: "bool_value", str: "string_value", int: "int_value", bytes: "bytes_value"}
    return sandbox_pb2.SettingValue(**{kind[type(thing)]: thing})


def setting(key, thing=None, *, name="", delete=False, **fields):
    return openshell_pb2.UpdateConfigRequest(
        name=name,
        setting_key=key,
        setting_value=value(thing),
        delete_setting=delete,
        **{"global": not name},
        **fields,
    )


async def refused(call):
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


async def effective(gateway, box):
    config = await gateway.config(box)
    return {
        key: (getattr(item.value, item.value.WhichOneof("value") or "", None), item.scope)
        for key, item in config.settings.items()
    }


UNSET = (None, sandbox_pb2.SETTING_SCOPE_UNSPECIFIED)


async def test_both_scopes_override_and_deletion(gateway):
    box, other = await gateway.sandbox(), await gateway.sandbox("other")
    assert set((await effective(gateway, box)).values()) == {UNSET}

    answer = await gateway.UpdateConfig(setting(MODE, "auto", name="box"))
    assert (answer.settings_revision, answer.deleted, answer.version) == (1, False, 0)
    assert (await effective(gateway, box))[MODE] == ("auto", sandbox_pb2.SETTING_SCOPE_SANDBOX)
    assert (await effective(gateway, other))[MODE] == UNSET
    assert gateway.changes == [(box.metadata.id, "settings")]

    gateway.changes.clear()
    answer = await gateway.UpdateConfig(setting(MODE, "manual"))
    assert answer.settings_revision == 1
    for sandbox in (box, other):
        found = (await effective(gateway, sandbox))[MODE]
        assert found == ("manual", sandbox_pb2.SETTING_SCOPE_GLOBAL)
    assert sorted(gateway.changes) == sorted(
        (sandbox.metadata.id, "settings") for sandbox in (box, other)
    )

    # What is hidden is not lost.
    answer = await gateway.UpdateConfig(setting(MODE, delete=True))
    assert (answer.settings_revision, answer.deleted) == (2, True)
    assert (await effective(gateway, box))[MODE] == ("auto", sandbox_pb2.SETTING_SCOPE_SANDBOX)
    answer = await gateway.UpdateConfig(setting(MODE, name="box", delete=True))
    assert (answer.settings_revision, answer.deleted) == (2, True)
    assert (await effective(gateway, box))[MODE] == UNSET


async def test_a_revision_counts_real_changes_only(gateway):
    box = await gateway.sandbox()
    for scope in ({"name": "box"}, {}):
        for thing, revision in ((True, 1), (True, 1), (False, 2), (True, 3)):
            answer = await gateway.UpdateConfig(setting(V2, thing, **scope))
            assert answer.settings_revision == revision
        if scope:
            answer = await gateway.UpdateConfig(setting(FLAG, delete=True, **scope))
            assert (answer.settings_revision, answer.deleted) == (3, False)
            # Sandbox values are hidden by the global one: out of the way for the next round.
            assert (await gateway.UpdateConfig(setting(V2, delete=True, **scope))).deleted
    assert [reason for _key, reason in gateway.changes] == ["settings"] * 7
    assert box.metadata.resource_version == (await gateway.reload(box)).metadata.resource_version


async def test_the_gateway_lists_every_key_and_its_revision(gateway):
    await gateway.UpdateConfig(setting(FLAG, True))
    await gateway.UpdateConfig(setting(MODE, "auto"))
    answer = await gateway.GetGatewayConfig(sandbox_pb2.GetGatewayConfigRequest())
    assert answer.settings_revision == 2
    assert answer.settings[FLAG].bool_value
    assert answer.settings[MODE].string_value == "auto"
    assert answer.settings[V2].WhichOneof("value") is None
    assert len(answer.settings) == 4


async def test_a_setting_moves_the_configuration_number_of_whom_it_concerns(gateway):
    box, other = await gateway.sandbox(), await gateway.sandbox("other")
    before = [(await gateway.config(item)).config_revision for item in (box, other)]
    await gateway.UpdateConfig(setting(FLAG, True, name="box"))
    after = [(await gateway.config(item)).config_revision for item in (box, other)]
    assert after[0] != before[0]
    assert after[1] == before[1]
    # The same value from elsewhere is another configuration.
    await gateway.UpdateConfig(setting(FLAG, True))
    assert (await gateway.config(box)).config_revision not in (before[0], after[0])


# Every row of the table in the policy spec, section 13.
@pytest.mark.parametrize(
    ("request_", "code", "says"),
    [
        pytest.param(
            setting("nonsense", True, name="box"),
            Code.INVALID_ARGUMENT,
            "unknown setting key 'nonsense'. Allowed keys: agent_policy_proposals_enabled, ocsf",
            id="unknown key on write, sandbox",
        ),
        pytest.param(
            setting("nonsense", True),
            Code.INVALID_ARGUMENT,
            "unknown setting key",
            id="unknown key on write, global",
        ),
        pytest.param(
            setting("nonsense", delete=True),
            Code.INVALID_ARGUMENT,
            "unknown setting key",
            id="unknown key on global delete",
        ),
        pytest.param(
            setting("policy", True, name="box"),
            Code.INVALID_ARGUMENT,
            "policy field",
            id="policy as sandbox setting",
        ),
        pytest.param(
            setting("policy", name="box", delete=True),
            Code.INVALID_ARGUMENT,
            "policy field",
            id="policy as sandbox deletion",
        ),
        pytest.param(
            setting("policy", True),
            Code.INVALID_ARGUMENT,
            "policy set --global",
            id="policy as global set",
        ),
        pytest.param(
            setting(FLAG, name="box"), Code.INVALID_ARGUMENT, "expects bool value", id="no value"
        ),
        pytest.param(
            setting(FLAG, "true"), Code.INVALID_ARGUMENT, "expects bool value", id="wrong type"
        ),
        pytest.param(setting(FLAG, 1), Code.INVALID_ARGUMENT, "expects bool value", id="a number"),
        pytest.param(
            setting(MODE, b"auto"), Code.INVALID_ARGUMENT, "expects string value", id="bytes"
        ),
        pytest.param(
            setting(MODE, "Auto", name="box"),
            Code.INVALID_ARGUMENT,
            "expects one of [manual, auto]; got 'Auto'",
            id="string outside list",
        ),
        pytest.param(
            setting(V2, False, name="box"),
            Code.FAILED_PRECONDITION,
            f"setting '{V2}' is managed globally; delete it there first",
            id="sandbox write while set globally",
        ),
        pytest.param(
            setting(V2, name="box", delete=True),
            Code.FAILED_PRECONDITION,
            "is managed globally",
            id="sandbox delete while set globally",
        ),
        pytest.param(setting(FLAG, True, name="absent"), Code.NOT_FOUND, "absent", id="no sandbox"),
        pytest.param(
            setting(FLAG, True, name="box", workspace="absent"),
            Code.NOT_FOUND,
            "workspace",
            id="no workspace",
        ),
        pytest.param(
            setting(FLAG, True, name="box", expected_resource_version=9),
            Code.ABORTED,
            "resource_version: 1",
            id="stale",
        ),
        pytest.param(
            setting(FLAG, True, expected_resource_version=9),
            Code.INVALID_ARGUMENT,
            "expected_resource_version",
            id="expected version of the gateway",
        ),
        pytest.param(
            setting(FLAG, True, annotations={"a": "b"}),
            Code.INVALID_ARGUMENT,
            "annotations",
            id="annotations",
        ),
        pytest.param(
            setting(FLAG, True, name=" "),
            Code.INVALID_ARGUMENT,
            "name is required",
            id="no name",
        ),
    ],
)
async def test_a_write_is_refused_and_changes_nothing(gateway, request_, code, says):
    box = await gateway.sandbox()
    await gateway.UpdateConfig(setting(V2, True))
    gateway.changes.clear()
    before = await gateway.config(box)
    error = await refused(gateway.UpdateConfig(request_))
    assert error.code is code
    assert says in error.message
    assert await gateway.config(box) == before
    assert not gateway.changes


async def test_deleting_an_unknown_key_of_a_sandbox_finds_nothing(gateway):
    await gateway.sandbox()
    answer = await gateway.UpdateConfig(setting("nonsense", name="box", delete=True))
    assert not answer.deleted


async def test_a_supervisor_writes_no_setting(gateway):
    box = await gateway.sandbox()
    for request in (setting(FLAG, True, name="box"), setting(FLAG, True)):
        with gateway.as_sandbox(box):
            error = await refused(gateway.UpdateConfig(request))
        assert error.code is Code.PERMISSION_DENIED


async def test_settings_go_with_their_sandbox(gateway):
    box = await gateway.sandbox()
    await gateway.UpdateConfig(setting(FLAG, True, name="box"))
    await gateway.store.write(
        lambda tx: remove_sandbox(tx, tx.get_by_id(Kind.SANDBOX, box.metadata.id))
    )
    again = await gateway.sandbox()
    assert (await effective(gateway, again))[FLAG] == UNSET
    assert (await gateway.UpdateConfig(setting(FLAG, True, name="box"))).settings_revision == 1


async def test_damaged_settings_are_an_error_that_says_so(gateway):
    box = await gateway.sandbox()
    await gateway.UpdateConfig(setting(FLAG, True))

    def damage(tx, payload):
        row = tx.get(GLOBAL.kind, GLOBAL.workspace, GLOBAL.name)
        changed = NewRow(row.id, row.kind, payload, row.workspace, row.name)
        tx.put(changed, MatchResourceVersion(row.resource_version))

    for payload in (b"{", json.dumps({"revision": 1, "settings": {V2: "yes"}}).encode()):
        await gateway.store.write(lambda tx, payload=payload: damage(tx, payload))
        error = await refused(gateway.config(box))
        assert error.code is Code.INTERNAL
        assert "settings 'global' are damaged" in error.message


async def test_turning_composition_on_checks_every_sandbox_first(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    await gateway.UpdateConfig(setting(V2, True))
    await gateway.UpdateConfig(setting(V2, False))
    # Stored by an older version, whose checks let it through.
    clash = OPEN + OPEN.partition("network_policies:\n")[2].replace("web:", "raw:").replace(
        "protocol: rest, enforcement: enforce, access: read-only", "tls: skip"
    )

    def store(tx):
        policy = parse_policy(clash, source="test")
        store_revision(tx, box.metadata.id, "default", policy, {})

    await gateway.store.write(store)
    gateway.changes.clear()
    error = await refused(gateway.UpdateConfig(setting(V2, True)))
    assert error.code is Code.FAILED_PRECONDITION
    assert "cannot activate provider policy composition" in error.message
    assert "sandbox 'default/box'" in error.message
    answer = await gateway.GetGatewayConfig(sandbox_pb2.GetGatewayConfigRequest())
    assert not answer.settings[V2].bool_value
    assert not gateway.changes


@pytest.mark.parametrize("scope", [{}, {"name": "box"}], ids=["global", "sandbox"])
async def test_racing_writers_lose_no_change(gateways, race, scope):
    box = await gateways[0].sandbox()
    keys = (FLAG, V2, "agent_policy_proposals_enabled")
    calls = [
        gateway.UpdateConfig(setting(key, True, **scope)) for gateway in gateways for key in keys
    ]
    results = await race(*calls)
    assert not [result for result in results if isinstance(result, Exception)]
    assert max(result.settings_revision for result in results) == 3
    found = await effective(gateways[1], box)
    assert all(found[key][0] is True for key in keys)


async def test_a_sandbox_write_racing_a_global_one_never_stands_over_it(gateways, race):
    one, two = gateways
    box = await one.sandbox()
    for round_ in range(10):
        calls = [
            one.UpdateConfig(setting(FLAG, True)),
            two.UpdateConfig(setting(FLAG, bool(round_ % 2), name="box")),
        ]
        await race(*(calls if round_ % 3 else reversed(calls)))
        assert (await effective(one, box))[FLAG] == (True, sandbox_pb2.SETTING_SCOPE_GLOBAL)
        await one.UpdateConfig(setting(FLAG, delete=True))
