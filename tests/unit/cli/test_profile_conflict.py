"""What two people made of one profile: fields, elements by what they are about, and where they meet."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.cli.profile_conflict import ABSENT, changes, three_way
from openshell.cli.profile_report import (
    change_document,
    change_lines,
    three_way_document,
    three_way_lines,
)

BASE = {
    "id": "work",
    "resource_version": 3,
    "display_name": "Work",
    "credentials": (
        {"name": "key", "env_vars": ("WORK_KEY",), "required": True},
        {"name": "other", "env_vars": ("OTHER_KEY",), "required": False},
    ),
    "endpoints": (
        {"host": "a.example", "port": 443, "access": "read-only"},
        {
            "host": "b.example",
            "ports": (443, 8443),
            "path": "/v1",
            "rules": ({"allow": {"method": "GET", "path": "/x"}},),
        },
    ),
    "binaries": ("/usr/bin/curl",),
    "scope": "workspace",
}


def edited(**fields):
    return copy.deepcopy(BASE) | fields


def with_endpoint(index, **fields):
    endpoints = copy.deepcopy(BASE["endpoints"])
    endpoints[index].update(fields)
    return edited(endpoints=endpoints)


@pytest.mark.parametrize(
    ("after", "expected"),
    [
        pytest.param(edited(), [], id="the same"),
        pytest.param(edited(resource_version=9, scope="platform", source="user"), [], id="marks"),
        pytest.param(
            edited(display_name="Play"), ['~ display_name: "Work" -> "Play"'], id="scalar"
        ),
        pytest.param(edited(description="x"), ['+ description: "x"'], id="key added"),
        pytest.param(
            {k: v for k, v in BASE.items() if k != "binaries"},
            ['- binaries: ["/usr/bin/curl"]'],
            id="key removed",
        ),
        pytest.param(
            with_endpoint(0, access="full"),
            ['~ endpoints[a.example:443].access: "read-only" -> "full"'],
            id="a field of an element",
        ),
        pytest.param(
            edited(endpoints=({"host": "n.example", "port": 1}, *BASE["endpoints"])),
            ['+ endpoints[n.example:1]: {"host": "n.example", "port": 1}'],
            id="an element put in front is one change",
        ),
        pytest.param(
            edited(endpoints=BASE["endpoints"][:1]),
            [
                (
                    '- endpoints[b.example:443,8443/v1]: {"host": "b.example", "ports": [443, 8443], '
                    '"path": "/v1", "rules": [{"allow": {"method": "GET", "path": "/x"}}]}'
                )
            ],
            id="an element removed",
        ),
        pytest.param(
            edited(display_name="x" * 250),
            ['~ display_name: "Work" -> "' + "x" * 199 + "..."],
            id="a long value is cut",
        ),
        pytest.param(
            with_endpoint(
                1, rules=(*BASE["endpoints"][1]["rules"], {"allow": {"method": "PUT", "path": "/x"}})
            ),
            [
                (
                "+ endpoints[b.example:443,8443/v1].rules[PUT /x]: "
                '{"allow": {"method": "PUT", "path": "/x"}}'
                )
            ],
            id="a rule",
        ),
        pytest.param(
            edited(endpoints=BASE["endpoints"][::-1]),
            [
                (
                '~ endpoints[order]: ["a.example:443", "b.example:443,8443/v1"] -> '
                '["b.example:443,8443/v1", "a.example:443"]'
                )
            ],
            id="order alone",
        ),
        pytest.param(
            edited(credentials=(BASE["credentials"][0] | {"required": False}, BASE["credentials"][1])),
            ["~ credentials[key].required: true -> false"],
            id="a credential by its name",
        ),
        pytest.param(
            edited(binaries=("/a", "/a")),
            ['~ binaries: ["/usr/bin/curl"] -> ["/a", "/a"]'],
            id="two about the same are compared whole",
        ),
    ],
)  # fmt: skip
def test_changes(after, expected):
    assert list(change_lines(changes(BASE, after))) == expected


def test_three_way_tells_mine_theirs_and_both_apart():
    mine = with_endpoint(0, access="full") | {"display_name": "Mine"}
    theirs = edited(display_name="Theirs", binaries=(*BASE["binaries"], "/bin/b"))
    found = three_way(BASE, mine, theirs)
    assert list(three_way_lines(found, " (last: revision 4)")) == [
        "You changed:",
        '  ~ display_name: "Work" -> "Mine"',
        '  ~ endpoints[a.example:443].access: "read-only" -> "full"',
        "Changed meanwhile (last: revision 4):",
        '  ~ display_name: "Work" -> "Theirs"',
        '  + binaries[/bin/b]: "/bin/b"',
        "Changed by both:",
        '  yours   ~ display_name: "Work" -> "Mine"',
        '  theirs  ~ display_name: "Work" -> "Theirs"',
    ]
    assert three_way_document(found)["both"] == [
        {
            "mine": {"path": "display_name", "before": "Work", "after": "Mine"},
            "theirs": {"path": "display_name", "before": "Work", "after": "Theirs"},
        }
    ]


def test_a_removed_whole_meets_a_changed_part():
    mine = edited(endpoints=BASE["endpoints"][1:])
    found = three_way(BASE, mine, with_endpoint(0, access="full"))
    assert [(p.mine.dotted, p.theirs.dotted) for p in found.twice] == [
        ("endpoints[a.example:443]", "endpoints[a.example:443].access")
    ]


@pytest.mark.parametrize(
    "theirs",
    [edited(display_name="Same"), edited(description="only theirs")],
    ids=["the same change twice", "different fields"],
)
def test_nothing_meets(theirs):
    found = three_way(BASE, edited(display_name="Same"), theirs)
    assert found.twice == ()
    assert list(three_way_lines(found, ""))[-1] == "Nothing was changed by both."


def test_neighbours_with_a_common_beginning_do_not_meet():
    base = {"endpoints": ({"host": "a", "port": 1, "path": ""}, {"host": "a", "port": 12})}
    mine = {
        "endpoints": ({"host": "a", "port": 1, "path": "", "tls": "skip"}, base["endpoints"][1])
    }
    theirs = {"endpoints": (base["endpoints"][0], {"host": "a", "port": 12, "tls": "skip"})}
    assert three_way(base, mine, theirs).twice == ()


def test_what_is_absent_is_absent_in_the_document():
    (added,) = changes({}, {"a": None})
    assert change_document(added) == {"path": "a", "after": None}
    assert added.before is ABSENT


def test_control_characters_do_not_reach_the_terminal():
    (line,) = change_lines(changes({"a": "x"}, {"a": "x", "b\x1b[2J": 1}))
    assert "\x1b" not in line


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("nhp"), inner),
    max_leaves=12,
)
documents = st.dictionaries(st.sampled_from(["id", "host", "name", "list"]), json_values)


@given(documents, documents)
def test_no_change_means_equal_and_the_reverse(before, after):
    found = changes(before, after)
    assert bool(found) == (before != after)
    assert len(list(change_lines(found))) == len(found)


@given(documents, documents)
def test_one_side_alone_never_meets(base, mine):
    assert three_way(base, mine, base).twice == ()
    assert three_way(base, mine, mine).twice == ()
