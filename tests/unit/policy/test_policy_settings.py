"""The registry of settings: types, choices, words, precedence."""

import pytest

from openshell._proto import sandbox_pb2
from openshell.codec.settings import (
    scope_from_proto,
    scope_to_proto,
    value_from_proto,
    value_text,
    value_to_proto,
)
from openshell.policy.settings import (
    SETTINGS,
    Scope,
    SettingRejected,
    allowed_keys,
    check_value,
    parse_value,
    resolve,
)

FLAG = SETTINGS["providers_v2_enabled"]
MODE = SETTINGS["proposal_approval_mode"]


def test_the_registry_is_that_of_the_contract():
    # Policy spec 13, gateway spec 13.1.
    assert {key: (item.type_name, item.default) for key, item in SETTINGS.items()} == {
        "providers_v2_enabled": ("bool", False),
        "ocsf_json_enabled": ("bool", False),
        "agent_policy_proposals_enabled": ("bool", False),
        "proposal_approval_mode": ("manual or auto", "manual"),
    }
    assert "policy" not in SETTINGS
    assert all(item.effect for item in SETTINGS.values())
    assert allowed_keys().startswith("agent_policy_proposals_enabled, ocsf")


@pytest.mark.parametrize("text", ["1", "true", "yes", "y", "on", " TRUE ", "On", "Y"])
def test_words_for_true(text):
    assert parse_value(FLAG, text) is True


@pytest.mark.parametrize("text", ["0", "false", "no", "n", "off", "False\n", "OFF"])
def test_words_for_false(text):
    assert parse_value(FLAG, text) is False


@pytest.mark.parametrize(
    ("setting", "text", "says"),
    [
        pytest.param(FLAG, "", "expects bool", id="nothing for a flag"),
        pytest.param(FLAG, "2", "expects bool", id="another number"),
        pytest.param(FLAG, "enabled", "expects bool", id="another word"),
        pytest.param(MODE, "Auto", "expects one of [manual, auto]; got 'Auto'", id="case counts"),
        pytest.param(MODE, " auto", "expects one of", id="spaces count"),
        pytest.param(MODE, "x" * 99, "got '" + "x" * 40 + "'", id="long values are cut"),
    ],
)
def test_a_text_is_refused(setting, text, says):
    with pytest.raises(SettingRejected) as refused:
        parse_value(setting, text)
    assert says in str(refused.value)


@pytest.mark.parametrize("value", [None, 1, 0, "true", b"\x01"])
def test_a_flag_takes_a_boolean_only(value):
    with pytest.raises(SettingRejected, match="expects bool value"):
        check_value(FLAG, value)
    assert check_value(FLAG, True) is True


@pytest.mark.parametrize("value", [None, 1, True, b"auto"])
def test_a_choice_takes_a_string_only(value):
    with pytest.raises(SettingRejected, match="expects string value"):
        check_value(MODE, value)
    assert check_value(MODE, "auto") == "auto"


@pytest.mark.parametrize(
    ("everywhere", "own", "expected"),
    [
        pytest.param({}, {}, (None, Scope.UNSET), id="unset"),
        pytest.param({}, {"k": True}, (True, Scope.SANDBOX), id="sandbox"),
        pytest.param({"k": False}, {}, (False, Scope.GLOBAL), id="global"),
        pytest.param({"k": False}, {"k": True}, (False, Scope.GLOBAL), id="global over sandbox"),
        pytest.param(
            {"j": False}, {"k": True}, (True, Scope.SANDBOX), id="other keys do not count"
        ),
    ],
)
def test_precedence_is_global_then_sandbox_then_unset(everywhere, own, expected):
    assert resolve("k", everywhere, own) == expected


def test_values_and_scopes_travel_both_ways():
    for value in (None, True, False, "auto"):
        assert value_from_proto(value_to_proto(value)) == value
    for scope in Scope:
        assert scope_from_proto(scope_to_proto(scope)) is scope
    assert scope_from_proto(99) is Scope.UNSET


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (sandbox_pb2.SettingValue(), "<unset>"),
        (sandbox_pb2.SettingValue(bool_value=False), "false"),
        (sandbox_pb2.SettingValue(bool_value=True), "true"),
        (sandbox_pb2.SettingValue(string_value="auto"), "auto"),
        (sandbox_pb2.SettingValue(int_value=7), "7"),
        (sandbox_pb2.SettingValue(bytes_value=b"abc"), "<bytes:3>"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_a_value_as_text(message, text):
    assert value_text(message) == text
