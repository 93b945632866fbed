"""Which value a placeholder stands for, through rotations, replacements, revocations."""

from __future__ import annotations

import pytest

from openshell.egress.credentials import (
    Binding,
    BoundEndpoint,
    CredentialSet,
    EndpointScope,
    SnapshotRejected,
    Unresolved,
    parse_placeholder,
)

HOME = EndpointScope("api.example", 443, "/")
AWAY = EndpointScope("evil.example", 443, "/")
HANDLE = "ab" * 32
MISMATCH, UNAVAILABLE = Unresolved.MISMATCH, Unresolved.UNAVAILABLE


def bind(identity: str = "p1", handle: str = "") -> Binding:
    return Binding((BoundEndpoint("api.example", 443),), identity, handle)


def build(
    revision: int, previous: CredentialSet | None = None, *, identity: str = "p1", **values: str
) -> CredentialSet:
    return CredentialSet.build(
        revision, values, {key: bind(f"{identity}:{key}") for key in values}, previous=previous
    )


def ask(
    credentials: CredentialSet, form: str, scope: EndpointScope = HOME, now_ms: int = 0
) -> str | Unresolved:
    placeholder = parse_placeholder(f"openshell:resolve:env:{form}".encode())
    assert placeholder is not None
    return credentials.resolve(placeholder, scope, now_ms=now_ms)


def test_what_the_agent_gets_resolves_at_its_endpoint_only() -> None:
    credentials = build(5, KEY="value")
    environment = credentials.child_environment()
    assert environment == {"KEY": "openshell:resolve:env:v5_KEY"}
    assert ask(credentials, "v5_KEY") == "value"
    assert ask(credentials, "v5_KEY", AWAY) is MISMATCH


def test_bare_and_alias_forms_never_stand_for_a_bound_key() -> None:
    credentials = build(5, KEY="value")
    assert ask(credentials, "KEY") is UNAVAILABLE
    assert ask(credentials, "KEY", AWAY) is MISMATCH
    alias = parse_placeholder(b"sk-OPENSHELL-RESOLVE-ENV-KEY")
    assert alias is not None
    assert credentials.resolve(alias, HOME, now_ms=0) is UNAVAILABLE


def test_unbound_keys_resolve_anywhere_in_every_form() -> None:
    credentials = CredentialSet.build(5, {"REGION": "eu"}, {}, non_secret_keys=("REGION",))
    for form in ("REGION", "v5_REGION", "v99_REGION"):
        assert ask(credentials, form, AWAY) == "eu"
    assert ask(credentials, f"s{HANDLE}_REGION") is UNAVAILABLE


def test_unknown_keys_and_revisions_have_no_value() -> None:
    credentials = build(5, KEY="value")
    assert ask(credentials, "v5_OTHER") is UNAVAILABLE
    assert ask(credentials, "v4_KEY") is UNAVAILABLE
    assert ask(CredentialSet(), "v5_KEY") is UNAVAILABLE


def test_a_retained_revision_gives_its_own_value_and_an_aged_one_the_current() -> None:
    credentials = build(1, KEY="value1")
    for revision in range(2, 11):
        credentials = build(revision, credentials, KEY=f"value{revision}")
    assert ask(credentials, "v10_KEY") == "value10"
    assert ask(credentials, "v3_KEY") == "value3"
    assert ask(credentials, "v2_KEY") == "value10"


def test_a_replaced_identity_takes_its_old_revisions_along() -> None:
    credentials = build(2, build(1, KEY="old"), identity="p2", KEY="new")
    assert ask(credentials, "v1_KEY") is UNAVAILABLE
    assert ask(credentials, "v2_KEY") == "new"


def test_another_key_added_clears_retained_values_not_the_identity() -> None:
    credentials = build(2, build(1, KEY="old"), KEY="new", MORE="x")
    assert ask(credentials, "v1_KEY") == "new"
    assert ask(credentials, "v1_MORE") is UNAVAILABLE


def test_a_revision_that_comes_back_counts_anew() -> None:
    first = build(1, KEY="one")
    second = build(2, first, identity="p2", KEY="two")
    third = build(1, second, KEY="three")
    assert ask(third, "v1_KEY") == "three"
    assert ask(third, "v2_KEY") is UNAVAILABLE


def test_revocation_removes_every_value_and_success_revives() -> None:
    before = build(2, build(1, KEY="one"), KEY="two")
    revoked = before.revoked()
    assert revoked.epoch > before.epoch
    for form in ("v1_KEY", "v2_KEY"):
        assert ask(revoked, form) is UNAVAILABLE
        assert ask(revoked, form, AWAY) is MISMATCH
    assert dict(revoked.child_environment()) == {}
    after = build(3, revoked, KEY="three")
    assert ask(after, "v1_KEY") == "three"
    assert ask(build(3, revoked, identity="p2", KEY="three"), "v1_KEY") is UNAVAILABLE


def test_an_empty_snapshot_forgets_placeholders_but_not_that_the_key_was_bound() -> None:
    empty = CredentialSet.build(2, {}, {}, previous=build(1, KEY="one"))
    assert ask(empty, "v1_KEY") is MISMATCH
    again = build(3, empty, KEY="three")
    assert ask(again, "v1_KEY") is UNAVAILABLE
    assert ask(again, "v3_KEY") == "three"


def test_a_withdrawn_key_stays_denied_even_when_listed_as_not_secret() -> None:
    credentials = CredentialSet.build(
        2, {"KEY": "x"}, {}, non_secret_keys=("KEY",), previous=build(1, KEY="one")
    )
    assert ask(credentials, "v2_KEY") is MISMATCH


def test_handles_give_the_current_value_only() -> None:
    first = CredentialSet.build(1, {"KEY": "one"}, {"KEY": bind("refresh:1", HANDLE)})
    assert first.child_environment() == {"KEY": f"openshell:resolve:env:s{HANDLE}_KEY"}
    second = CredentialSet.build(
        2, {"KEY": "two"}, {"KEY": bind("refresh:1", HANDLE)}, previous=first
    )
    assert ask(second, f"s{HANDLE}_KEY") == "two"
    assert ask(second, f"s{'cd' * 32}_KEY") is UNAVAILABLE
    assert ask(second, f"s{HANDLE}_KEY", AWAY) is MISMATCH


@pytest.mark.parametrize("value", ["a\r\nX: b", "a\nb", "a\0b", "a\x7fb", "a\tb", "", "\ud800"])
def test_values_that_break_a_field_are_unavailable(value: str) -> None:
    assert ask(build(1, KEY=value), "v1_KEY") is UNAVAILABLE


def test_expiry() -> None:
    credentials = CredentialSet.build(1, {"KEY": "v"}, {"KEY": bind()}, expires_at_ms={"KEY": 1000})
    assert ask(credentials, "v1_KEY", now_ms=999) == "v"
    assert ask(credentials, "v1_KEY", now_ms=1000) is UNAVAILABLE


@pytest.mark.parametrize("key", ["v1_KEY", "s" + "ab" * 32 + "_KEY", "A-B", "É"])
def test_names_that_read_like_a_form_are_left_out(key: str) -> None:
    credentials = build(1, **{key: "x", "GOOD": "y"})
    assert credentials.skipped == (key,)
    assert list(credentials.child_environment()) == ["GOOD"]


GOOD = Binding((BoundEndpoint("a", 1),), "p")
REJECTED = {
    "key_not_classified": ({"A": "x"}, {}, ()),
    "key_bound_and_non_secret": ({"A": "x"}, {"A": GOOD}, ("A",)),
    "non_secret_key_missing": ({}, {}, ("A",)),
    "non_secret_key_repeated": ({"A": "x"}, {}, ("A", "A")),
    "bound_key_missing": ({}, {"A": GOOD}, ()),
    "identity_blank": ({"A": "x"}, {"A": Binding(GOOD.endpoints, " ")}, ()),
    "binding_without_endpoints": ({"A": "x"}, {"A": Binding((), "p")}, ()),
    "malformed_handle": ({"A": "x"}, {"A": Binding(GOOD.endpoints, "p", "AB" * 32)}, ()),
}


@pytest.mark.parametrize(("code", "snapshot"), REJECTED.items(), ids=REJECTED.keys())
def test_contradictory_snapshots_are_rejected(code: str, snapshot) -> None:
    environment, bindings, non_secret = snapshot
    with pytest.raises(SnapshotRejected) as caught:
        CredentialSet.build(1, environment, bindings, non_secret_keys=non_secret)
    assert caught.value.code == code


def test_no_value_in_any_text() -> None:
    credentials = build(2, build(1, KEY="first-secret"), KEY="second-secret")
    shown = repr(credentials) + repr(credentials._values) + repr(credentials._retained)
    assert "secret" not in shown


def test_epochs_differ_between_sets() -> None:
    first = build(1, KEY="a")
    second = build(1, first, KEY="a")
    assert len({CredentialSet().epoch, first.epoch, second.epoch, second.revoked().epoch}) == 4
