"""What a provider record may hold and how an update merges."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.providers.records import (
    MAX_CREDENTIALS,
    Handle,
    NewProvider,
    ProviderChange,
    ProviderRecord,
    RecordRefused,
    check_new,
    plan_update,
)
from openshell.providers.types import canonical_type

SECRET = "s3cr3t-value"


def new(**overrides):
    fields = {"name": "work", "type": "generic", "credentials": {"API_KEY": SECRET}, **overrides}
    return NewProvider(**fields)


def record(**overrides):
    fields = {
        "id": "p1",
        "name": "work",
        "workspace": "default",
        "type": "GitHub",
        "handles": {"A": Handle("db", "v1:a"), "B": Handle("db", "v1:b")},
        "config": {"region": "eu"},
        "expires_at_ms": {"A": 100},
        **overrides,
    }
    return ProviderRecord(**fields)


def test_a_plain_record_is_accepted():
    check_new(new(), "default")


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        pytest.param({"type": "  "}, "type is required", id="blank type"),
        pytest.param({"has_handles": True}, "internal state", id="handles from a client"),
        pytest.param({"profile_workspace": "other"}, "profile_workspace", id="foreign profile"),
        pytest.param({"credentials": {}}, "must not be empty", id="no credentials"),
        pytest.param({"credentials": {"A": ""}}, "must not be empty", id="empty value"),
        pytest.param({"credentials": {"1A": "x"}}, "environment variable name", id="digit first"),
        pytest.param({"credentials": {"A-B": "x"}}, "environment variable name", id="hyphen"),
        pytest.param({"credentials": {"A\n": "x"}}, "environment variable name", id="newline"),
        pytest.param({"credentials": {"v12_KEY": "x"}}, "placeholder", id="revision-like"),
        pytest.param({"credentials": {f"s{'a' * 64}_K": "x"}}, "placeholder", id="handle-like"),
        pytest.param({"credentials": {"A": "x" * 8193}}, "maximum length", id="long value"),
        pytest.param({"credentials": {"A" * 257: "x"}}, "maximum length", id="long key"),
        pytest.param({"credentials": {f"K{i}": "x" for i in range(33)}}, "too many", id="33 keys"),
        pytest.param({"config": {f"K{i}": "x" for i in range(65)}}, "too many", id="65 config"),
        pytest.param({"config": {"k": "é" * 4097}}, "maximum length", id="bytes, not characters"),
        pytest.param({"expires_at_ms": {"A": -1}}, "negative", id="negative expiry"),
        pytest.param({"type": "x" * 65}, "maximum length", id="long type"),
        pytest.param({"name": "x" * 254}, "maximum length", id="long name"),
    ],
)
def test_a_record_is_refused_by_field_without_its_values(overrides, says):
    with pytest.raises(RecordRefused, match=says) as refused:
        check_new(new(**overrides), "default")
    assert SECRET not in str(refused.value)


def test_values_are_in_no_repr():
    assert SECRET not in repr(new())
    assert SECRET not in repr(ProviderChange(credentials={"A": SECRET}))
    assert "v1:a" not in repr(Handle("db", "v1:a"))


@pytest.mark.parametrize(
    ("change", "store", "remove", "config", "expiries"),
    [
        pytest.param({}, (), (), {"region": "eu"}, {"A": 100}, id="nothing"),
        pytest.param(
            {"credentials": {"A": "x"}}, ("A",), (), {"region": "eu"}, {"A": 100}, id="replace"
        ),
        pytest.param(
            {"credentials": {"A": ""}},
            (),
            ("A",),
            {"region": "eu"},
            {"A": 100},
            id="remove keeps expiry",
        ),
        pytest.param(
            {"credentials": {"Z": ""}}, (), (), {"region": "eu"}, {"A": 100}, id="remove absent"
        ),
        pytest.param(
            {"config": {"region": "", "x": "1"}}, (), (), {"x": "1"}, {"A": 100}, id="config"
        ),
        pytest.param(
            {"expires_at_ms": {"A": 0, "B": 7}}, (), (), {"region": "eu"}, {"B": 7}, id="expiry"
        ),
        pytest.param(
            {"expires_at_ms": {"A": -5}}, (), (), {"region": "eu"}, {}, id="negative clears"
        ),
        pytest.param(
            {"type": "github"}, (), (), {"region": "eu"}, {"A": 100}, id="same type, other case"
        ),
    ],
)
def test_an_update_merges(change, store, remove, config, expiries):
    plan = plan_update(record(), ProviderChange(**change))
    assert plan.store_keys == store
    assert plan.remove_keys == remove
    assert plan.config == config
    assert plan.expires_at_ms == expiries


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"type": "gitlab"}, id="type"),
        pytest.param({"profile_workspace": "default"}, id="profile workspace"),
        pytest.param({"has_handles": True}, id="handles"),
        pytest.param({"credentials": {f"K{i}": "x" for i in range(31)}}, id="33 after the merge"),
    ],
)
def test_an_update_may_not_change(change):
    with pytest.raises(RecordRefused):
        plan_update(record(), ProviderChange(**change))


_KEYS = st.sampled_from([f"K{i}" for i in range(6)])


@given(
    have=st.sets(_KEYS),
    change=st.dictionaries(_KEYS, st.sampled_from(["", "x"])),
)
def test_a_merge_ends_with_what_was_there_and_set_less_what_was_removed(have, change):
    before = record(handles={key: Handle("db", key) for key in have})
    plan = plan_update(before, ProviderChange(credentials=change))
    after = (have - set(plan.remove_keys)) | set(plan.store_keys)
    wanted = (have | {k for k, v in change.items() if v}) - {k for k, v in change.items() if not v}
    assert after == wanted
    assert len(after) <= MAX_CREDENTIALS


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        (" GH ", "github"),
        ("claude", "claude-code"),
        ("vertex", "google-vertex-ai"),
        ("gcp", "google-cloud"),
        ("Own-Type", "own-type"),
    ],
)
def test_types_have_aliases(given, wanted):
    assert canonical_type(given) == wanted
