"""The bus: wake-ups melt together, values are bounded, pushes gather."""

import asyncio

import pytest

from openshell.gateway.events import CONFIG, PLATFORM, SANDBOX, Bus, Lagged


async def test_wake_ups_melt_and_values_keep_their_order():
    bus = Bus()
    with bus.subscribe([SANDBOX, PLATFORM], "a") as subscription:
        bus.publish(SANDBOX, "a")
        bus.publish(PLATFORM, "a", 1)
        bus.publish(SANDBOX, "a")
        bus.publish(PLATFORM, "a", 2)
        bus.publish(SANDBOX, "other")
        got = [await subscription.get() for _ in range(3)]
    assert got == [(SANDBOX, None), (PLATFORM, 1), (PLATFORM, 2)]


async def test_a_waiting_subscriber_is_woken():
    bus = Bus()
    with bus.subscribe([SANDBOX], "a") as subscription:
        waiting = asyncio.ensure_future(subscription.get())
        await asyncio.sleep(0)
        bus.publish(SANDBOX, "a")
        assert await waiting == (SANDBOX, None)


async def test_too_slow_is_told_after_what_was_kept():
    bus = Bus()
    with bus.subscribe([PLATFORM], "a", limit=2) as subscription:
        for value in range(1, 6):
            bus.publish(PLATFORM, "a", value)
        assert [(await subscription.get())[1] for _ in range(2)] == [1, 2]
        with pytest.raises(Lagged) as lagged:
            await subscription.get()
    assert lagged.value.dropped == 3


async def test_a_closed_subscription_is_forgotten():
    bus = Bus()
    bus.subscribe([SANDBOX], "a").close()
    bus.publish(SANDBOX, "a")
    assert bus._subscribers == {}


async def test_config_changes_reach_listeners_and_watchers():
    bus = Bus()
    heard = []
    bus.listen(CONFIG, lambda key, value: heard.append((key, value)))
    with bus.subscribe([SANDBOX], "b") as subscription:
        bus.config_changed(["a", "b"], "policy")
        assert heard == [("a", "policy"), ("b", "policy")]
        assert await subscription.get() == (SANDBOX, None)
