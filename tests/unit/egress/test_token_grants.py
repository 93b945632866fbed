"""Tokens are kept while they are good, fetched once for many, and forgotten with their grants."""

import asyncio
from dataclasses import replace

import pytest

from openshell.egress.credentials import TokenGrant, TokenUnavailable
from openshell.egress.token_grants import IssuedToken, TokenCache, seconds_good

KEY = "api.example\t443\t\tp:c"
GRANT = TokenGrant(KEY, TokenGrant.place(KEY)[0], "https://idp.example/token", "aud", "type")


class World:
    """A token endpoint that answers when it is told to, and a clock that is turned by hand."""

    def __init__(self):
        self.now = 1000.0
        self.fetches = []
        self.answer = None
        self.expires_in = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.cache = TokenCache(self.issue, lambda: self.now)

    async def issue(self, grant):
        self.fetches.append(grant)
        number = len(self.fetches)
        await self.gate.wait()
        if self.answer is not None:
            raise TokenUnavailable(self.answer)
        return IssuedToken(f"token-{number}", self.expires_in)


@pytest.mark.parametrize(
    ("ttl", "expires_in", "seconds"),
    [
        (0, 0, 270),
        (0, -5, 270),
        (0, 100, 70),
        (0, 30, 1),
        (0, 5, 1),
        (0, 3600, 3570),
        (0, 10**9, 3570),
        (7, 3600, 7),
        (7200, 60, 7200),
        (-1, 100, 70),
    ],
)
def test_how_long_a_token_is_used(ttl, expires_in, seconds):
    assert (
        seconds_good(replace(GRANT, cache_ttl_seconds=ttl), IssuedToken("t", expires_in)) == seconds
    )


async def test_a_token_is_kept_until_shortly_before_its_end():
    world = World()
    world.expires_in = 100
    assert world.cache.ready(GRANT) is None
    assert await world.cache.token(GRANT) == "token-1"
    world.now += 69
    assert world.cache.ready(GRANT) == "token-1"
    assert await world.cache.token(GRANT) == "token-1"
    world.now += 1
    assert world.cache.ready(GRANT) is None
    assert await world.cache.token(GRANT) == "token-2"


async def test_many_who_ask_at_once_cause_one_fetch():
    world = World()
    world.gate.clear()
    asking = [asyncio.ensure_future(world.cache.token(GRANT)) for _ in range(20)]
    await asyncio.sleep(0)
    # Who gives up takes nothing from the others.
    asking[0].cancel()
    world.gate.set()
    answers = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(answers[0], asyncio.CancelledError)
    assert answers[1:] == ["token-1"] * 19
    assert len(world.fetches) == 1


async def test_a_failure_is_shared_and_not_remembered():
    world = World()
    world.answer = "no"
    answers = await asyncio.gather(
        *(world.cache.token(GRANT) for _ in range(3)), return_exceptions=True
    )
    assert [type(answer) for answer in answers] == [TokenUnavailable] * 3
    assert len(world.fetches) == 1
    world.answer = None
    assert await world.cache.token(GRANT) == "token-2"


CHANGES = {
    "endpoint": {"token_endpoint": "https://other.example/token"},
    "identity": {"svid_audience": "other"},
    "assertion": {"assertion_type": "other"},
    "audience": {"audience": "other"},
    "scopes": {"scopes": ("a", "b")},
    "time": {"cache_ttl_seconds": 5},
    "owner": {"key": KEY.replace("p:c", "q:c")},
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
async def test_a_changed_grant_gets_a_token_of_its_own(change):
    world = World()
    assert await world.cache.token(GRANT) == "token-1"
    changed = replace(GRANT, **change)
    assert world.cache.ready(changed) is None
    assert await world.cache.token(changed) == "token-2"
    assert world.cache.ready(GRANT) == "token-1"


async def test_what_no_grant_stands_for_any_more_is_forgotten():
    world = World()
    other = replace(GRANT, audience="other")
    for grant in (GRANT, other):
        await world.cache.token(grant)
    world.cache.keep([other])
    assert world.cache.ready(GRANT) is None
    assert world.cache.ready(other) == "token-2"


async def test_those_who_wait_for_a_grant_that_goes_are_told():
    world = World()
    world.gate.clear()
    waiting = asyncio.ensure_future(world.cache.token(GRANT))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    world.cache.keep([])
    with pytest.raises(TokenUnavailable, match="no longer"):
        await waiting
    world.gate.set()
    # It may come back at once.
    assert await world.cache.token(GRANT) == "token-2"


async def test_closing_ends_what_is_fetched():
    world = World()
    world.gate.clear()
    waiting = asyncio.ensure_future(world.cache.token(GRANT))
    await asyncio.sleep(0)
    await world.cache.close()
    with pytest.raises(TokenUnavailable):
        await waiting


async def test_nothing_shows_a_token():
    world = World()
    await world.cache.token(GRANT)
    assert "token-1" not in repr(world.cache.__dict__) + repr(IssuedToken("token-1"))
