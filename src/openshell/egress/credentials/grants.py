"""Token grants of a sandbox: which request gets a token that is fetched for it, and in which field.

Pure selection and placing. A set belongs to one `CredentialSet` and so swaps with it; it also names the
source of tokens, which outlives it and is `egress.token_grants`' part. Nothing here is ever part of an
agent's environment. The rules are those of `providers.md` 9 and 16.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, Protocol

from openshell.egress.credentials.binding import BadPattern, BoundEndpoint, EndpointScope
from openshell.egress.http1 import Headers, is_token
from openshell.providers.token_grants import score

__all__ = [
    "NO_GRANTS",
    "GrantRejected",
    "GrantSet",
    "TokenGrant",
    "TokenUnavailable",
    "Tokens",
    "field_of",
    "inject",
    "is_token68",
]

_BEARER: Final = "Bearer "
_AUTHORIZATION: Final = "Authorization"
# Fields that decide framing or routing never carry a token; the first four are the contract's.
_NEVER: Final = frozenset(
    {
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
    }
)
_TOKEN68: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*").fullmatch
# The contract's own limit of a credential's value.
_MAX_TOKEN: Final = 8192


class GrantRejected(ValueError):
    """A grant that cannot be used as sent; the sentence names no value."""


class TokenUnavailable(Exception):
    """No token could be had; a sentence for the log."""


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """One grant at one selector."""

    key: str
    """The contract's key: host, port, path and `provider:credential`, with tabs between."""
    endpoint: BoundEndpoint
    token_endpoint: str
    svid_audience: str
    assertion_type: str
    audience: str = ""
    scopes: tuple[str, ...] = ()
    cache_ttl_seconds: int = 0
    header: str = _AUTHORIZATION
    is_bearer: bool = True
    fault: str = ""
    """Why it can never be used. Its requests are refused, and no lesser grant stands in for it."""

    @classmethod
    def place(cls, key: str) -> tuple[BoundEndpoint, str]:
        """Endpoint and owner of a key. Raises GrantRejected."""
        parts = key.split("\t")
        if len(parts) != 4 or not parts[1].isascii() or not parts[1].isdecimal():
            raise GrantRejected("a token grant's key is malformed")
        try:
            return BoundEndpoint(parts[0], int(parts[1][:6]), parts[2]), parts[3]
        except BadPattern as error:
            raise GrantRejected(f"a token grant is for an impossible endpoint: {error}") from None

    @property
    def owner(self) -> str:
        """`provider:credential`, for people."""
        return self.key.rpartition("\t")[2]

    @property
    def cache_key(self) -> tuple[str | tuple[str, ...] | int, ...]:
        """All that a token depends on: a changed grant never gets a token of its predecessor."""
        return (
            self.key,
            self.token_endpoint,
            self.svid_audience,
            self.assertion_type,
            self.audience,
            self.scopes,
            self.cache_ttl_seconds,
        )


class Tokens(Protocol):
    """Where tokens come from."""

    def ready(self, grant: TokenGrant) -> str | None:
        """A token that is at hand."""
        ...

    async def token(self, grant: TokenGrant) -> str:
        """A token, fetched if need be. Raises TokenUnavailable."""
        ...


class _NoTokens:
    """Nobody fetches tokens here."""

    def ready(self, grant: TokenGrant) -> str | None:
        del grant
        return None

    async def token(self, grant: TokenGrant) -> str:
        raise TokenUnavailable(f"nothing fetches tokens for {grant.owner} here")


@dataclass(frozen=True, slots=True)
class GrantSet:
    """The grants of one moment, the most specific first."""

    grants: tuple[TokenGrant, ...] = ()
    tokens: Tokens = field(default_factory=_NoTokens, repr=False, compare=False)

    @classmethod
    def build(cls, grants: Iterable[TokenGrant], tokens: Tokens | None) -> GrantSet:
        def rank(grant: TokenGrant) -> tuple[int, str]:
            return score(grant.endpoint.host, grant.endpoint.path), grant.key

        ordered = tuple(sorted(grants, key=rank, reverse=True))
        return cls(ordered, tokens) if tokens is not None else cls(ordered)

    def __bool__(self) -> bool:
        return bool(self.grants)

    def choose(self, scope: EndpointScope) -> TokenGrant | None:
        """The grant for a request. A tie, which fit sandboxes have not, goes to the greatest key."""
        return next((grant for grant in self.grants if grant.endpoint.covers(scope)), None)


NO_GRANTS: Final = GrantSet()


def field_of(auth_style: str, header_name: str) -> tuple[str, bool]:
    """Field name and whether the scheme goes before the token. Raises GrantRejected."""
    style = auth_style.strip().lower()
    if style not in ("", "bearer", "header"):
        raise GrantRejected("its auth_style is neither bearer nor header")
    name = header_name.strip() or ("" if style == "header" else _AUTHORIZATION)
    if not name.isascii() or not is_token(name.encode()):
        raise GrantRejected("it names no usable header")
    if name.lower() in _NEVER:
        raise GrantRejected("it names a header that decides framing or routing")
    return name, style != "header"


def inject(grant: TokenGrant, token: str, headers: Headers) -> Headers:
    """The fields with the token in them, instead of any field of that name."""
    name = grant.header.encode()
    text = f"{_BEARER}{token}" if grant.is_bearer else token
    kept = [pair for pair in headers if pair[0].lower() != name.lower()]
    return (*kept, (name, text.encode()))


def is_token68(text: str) -> bool:
    """Whether a token can stand in a field as it is."""
    return len(text) <= _MAX_TOKEN and _TOKEN68(text) is not None
