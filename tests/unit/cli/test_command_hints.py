"""Words that people try in the wrong place: what is named instead exists, and they themselves do not."""

from collections.abc import Iterator

import click
import pytest

from openshell.cli.groups import LazyGroup
from openshell.cli.main import cli


def groups(group: LazyGroup) -> Iterator[LazyGroup]:
    yield group
    for name in group.list_commands(click.Context(group)):
        found = group.get_command(click.Context(group), name)
        if isinstance(found, LazyGroup):
            yield from groups(found)


HINTS = [(group, word, meant) for group in groups(cli) for word, meant in group._elsewhere.items()]


@pytest.mark.parametrize(
    ("group", "word", "meant"), HINTS, ids=[f"{group.name} {word}" for group, word, _ in HINTS]
)
def test_a_hint_leads_somewhere(group: LazyGroup, word: str, meant: str) -> None:
    assert group.get_command(click.Context(group), word) is None, "the word would never be missed"
    at: click.Command | None = cli
    for name in meant.removeprefix("openshell ").split():
        assert isinstance(at, LazyGroup)
        at = at.get_command(click.Context(at), name)
    assert at is not None
