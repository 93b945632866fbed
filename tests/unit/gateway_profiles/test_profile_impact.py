"""Answers about many sandboxes stay within bounds and lose no number."""

from openshell.gateway.services.profile_impact import (
    SENTENCES_IN_ALL,
    SENTENCES_PER_LIST,
    Effects,
    Impact,
    impact_messages,
)
from openshell.providers.situation import Fault, FaultCode


def impact(name, **effects):
    return Impact("default", name, f"id-{name}", Effects(**effects))


def test_sandboxes_without_any_change_are_left_out():
    (message,) = impact_messages([impact("quiet"), impact("loud", gained=("a",))])
    assert (message.sandbox, message.sandbox_id, list(message.gained)) == ("loud", "id-loud", ["a"])


def test_a_long_list_ends_with_the_number_of_the_rest():
    many = tuple(map(str, range(SENTENCES_PER_LIST + 3)))
    exact = many[:SENTENCES_PER_LIST]
    (message,) = impact_messages([impact("box", gained=many, lost=exact)])
    assert list(message.gained) == [*exact, "and 3 more"]
    assert list(message.lost) == list(exact)


def test_after_so_many_sentences_only_numbers_are_told():
    full = tuple(map(str, range(SENTENCES_PER_LIST)))
    count = SENTENCES_IN_ALL // SENTENCES_PER_LIST
    fault = Fault(FaultCode.KEY_CLASH, "both claim it")
    messages = impact_messages(
        [
            *(impact(f"s{n}", gained=full) for n in range(count)),
            impact("last", lost=full, faults=(fault,)),
        ]
    )
    assert len(messages) == count + 1
    assert list(messages[-1].lost) == [f"and {SENTENCES_PER_LIST} more"]
    assert [(c.code, c.message) for c in messages[-1].conflicts] == [("key_clash", "both claim it")]
    assert sum(len(m.gained) + len(m.lost) for m in messages) <= SENTENCES_IN_ALL + 1
