"""docs/policy.md and the table of fields say what the code does."""

import re
from pathlib import Path

import pytest

import openshell.policy
from openshell.policy import parse_policy, validate_policy
from openshell.policy.features import EVERY_FEATURE
from openshell.policy.fields import CODES, SECTIONS
from unit.policy.policy_cases import load

PAGE = Path(__file__).parents[3] / "docs" / "policy.md"
EXAMPLES = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
ROOM = Path(openshell.policy.__file__).parent


@pytest.mark.parametrize("text", EXAMPLES, ids=range(len(EXAMPLES)))
def test_examples_are_valid(text):
    assert validate_policy(parse_policy(text, source="page"), features=EVERY_FEATURE) == ()


def test_there_are_examples():
    assert len(EXAMPLES) >= 5


def test_every_code_that_the_checks_know_is_explained_and_nothing_else():
    checks = [*ROOM.glob("validate*.py"), ROOM / "features.py", ROOM / "ambiguity.py"]
    made = set()
    for path in checks:
        made |= set(
            re.findall(
                r'(?:\.error|\.warning|\.l7|_error|_warning|Finding)\(\s*"(\w+)"', path.read_text()
            )
        )
    assert made == set(CODES)


def test_every_code_stands_at_a_field():
    placed = {code for section in SECTIONS for field in section.fields for code in field.codes}
    assert placed == set(CODES)


def test_nearly_every_code_has_a_case_of_its_own():
    """The others are long lists and marks, made in test_policy_validate."""
    shown = {
        code
        for case in load("findings")
        for severity in ("error", "warning")
        for code in case.values[0].get(severity, ())
    }
    assert set(CODES) - shown == {
        "ambiguous_endpoints",
        "not_supported_yet",
        "path_nul",
        "path_too_long",
        "reserved_key",
        "too_many_middlewares",
        "too_many_paths",
        "too_many_selectors",
    }


def test_limits_in_the_table_are_those_of_the_checks():
    from openshell.policy import validate, validate_middleware
    from openshell.policy.protocols import DEFAULT_BODY_BYTES, PROTOCOLS

    text = {(one.key, field.name): field for one in SECTIONS for field in one.fields}
    paths = text["filesystem_policy", "read_only"].limit
    assert f"{validate.MAX_FILESYSTEM_PATHS} paths" in paths
    assert f"{validate.MAX_PATH_BYTES} bytes" in paths
    assert text["policy", "network_middlewares"].limit == str(validate_middleware.MAX_MIDDLEWARES)
    assert str(validate_middleware.MAX_SELECTORS) in text["selector", "include"].limit
    for place in (("endpoint", "graphql_max_body_bytes"), ("json_rpc", "max_body_bytes")):
        assert text[place].default == str(DEFAULT_BODY_BYTES)
    assert set(re.findall(r"`([\w-]+)`", text["endpoint", "protocol"].type)) == set(PROTOCOLS)
