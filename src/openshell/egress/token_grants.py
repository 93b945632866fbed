"""Tokens that grants stand for, kept while they are good and fetched once however many ask.

Fetching itself is the supervisor's: an awaitable that talks to identity and token endpoint. The cache
outlives generations; a grant that changed is another grant, and `keep` drops what no grant asks for any
more. Failures are not remembered: the next request tries again. The rules are those of `providers.md` 16.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from openshell.egress.credentials.grants import TokenGrant, TokenUnavailable

__all__ = ["IssuedToken", "Issuer", "TokenCache", "seconds_good"]

# The contract's numbers: without an end a token is taken to last five minutes, with one at most an
# hour, and it is renewed half a minute before its end so that none ends on its way.
_DEFAULT_SECONDS: Final = 300
_LONGEST_SECONDS: Final = 3600
_MARGIN_SECONDS: Final = 30

_Key: TypeAlias = tuple[str | tuple[str, ...] | int, ...]


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """What a token endpoint answered."""

    value: str = field(repr=False)
    expires_in: int = 0
    """Zero or less: it did not say."""


Issuer: TypeAlias = Callable[[TokenGrant], Awaitable[IssuedToken]]


@dataclass(frozen=True, slots=True)
class _Kept:
    value: str = field(repr=False)
    until: float


def seconds_good(grant: TokenGrant, issued: IssuedToken) -> float:
    """How long a token is used."""
    if grant.cache_ttl_seconds > 0:
        return grant.cache_ttl_seconds
    said = issued.expires_in if issued.expires_in > 0 else _DEFAULT_SECONDS
    return max(1, min(said, _LONGEST_SECONDS) - _MARGIN_SECONDS)


class TokenCache:
    """The tokens of one sandbox. Used from one event loop."""

    def __init__(self, issue: Issuer, clock: Callable[[], float]) -> None:
        self._issue = issue
        self._clock = clock
        self._kept: dict[_Key, _Kept] = {}
        self._fetching: dict[_Key, asyncio.Task[str]] = {}

    def ready(self, grant: TokenGrant) -> str | None:
        """A token that is at hand and still good."""
        kept = self._kept.get(grant.cache_key)
        return kept.value if kept is not None and self._clock() < kept.until else None

    async def token(self, grant: TokenGrant) -> str:
        """A token, fetched if need be; everybody who waits for one fetch shares what came of it."""
        found = self.ready(grant)
        if found is not None:
            return found
        key = grant.cache_key
        fetch = self._fetching.get(key)
        if fetch is None:
            fetch = asyncio.create_task(self._fetch(grant), name=f"token for {grant.owner}")
            self._fetching[key] = fetch
            fetch.add_done_callback(lambda done: self._fetched(key, done))
        try:
            # Who gives up waiting does not take the token from the others.
            return await asyncio.shield(fetch)
        except asyncio.CancelledError:
            waiter = asyncio.current_task()
            if fetch.cancelled() and (waiter is None or not waiter.cancelling()):
                raise TokenUnavailable(
                    f"the token grant of {grant.owner} is no longer there"
                ) from None
            raise

    def keep(self, grants: Iterable[TokenGrant]) -> None:
        """Forget, and stop fetching, what none of these grants stands for."""
        wanted = {grant.cache_key for grant in grants}
        for key in self._kept.keys() - wanted:
            del self._kept[key]
        for key in self._fetching.keys() - wanted:
            self._fetching.pop(key).cancel()

    async def close(self) -> None:
        """End every fetch."""
        fetches = tuple(self._fetching.values())
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
        self._kept.clear()

    async def _fetch(self, grant: TokenGrant) -> str:
        issued = await self._issue(grant)
        self._kept[grant.cache_key] = _Kept(
            issued.value, self._clock() + seconds_good(grant, issued)
        )
        return issued.value

    def _fetched(self, key: _Key, done: asyncio.Task[str]) -> None:
        if self._fetching.get(key) is done:
            del self._fetching[key]
        if not done.cancelled():
            # Seen, also when everybody who waited has gone.
            done.exception()
