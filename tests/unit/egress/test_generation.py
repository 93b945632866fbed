"""Swapping generations: numbers grow, subscribers hear of it at once, waiters wake."""

import asyncio

import pytest

from openshell.egress.credentials import CredentialSet
from openshell.egress.generation import Generation, GenerationHolder
from openshell.policy.compile import quarantine


def generation(number):
    return Generation(number, quarantine("test", number), CredentialSet())


async def test_subscribers_are_told_before_swap_returns():
    holder = GenerationHolder(generation(1))
    heard = []
    unsubscribe = holder.subscribe(lambda new: heard.append((new.number, holder.current.number)))
    holder.swap(generation(2))
    assert heard == [(2, 2)]
    unsubscribe()
    holder.swap(generation(5))
    assert heard == [(2, 2)]


@pytest.mark.parametrize("number", [0, 1], ids=["older", "same"])
async def test_a_number_that_does_not_grow_is_refused(number):
    holder = GenerationHolder(generation(1))
    with pytest.raises(ValueError, match="does not follow"):
        holder.swap(generation(number))
    assert holder.current.number == 1


async def test_changed_wakes_for_a_newer_generation_only():
    holder = GenerationHolder(generation(1))
    assert (await holder.changed(0)).number == 1
    waiting = asyncio.create_task(holder.changed(2))
    await asyncio.sleep(0)
    holder.swap(generation(2))
    await asyncio.sleep(0.01)
    assert not waiting.done()
    holder.swap(generation(3))
    assert (await waiting).number == 3


def test_no_secret_shows_in_the_representation():
    assert "credentials" not in repr(generation(1))
