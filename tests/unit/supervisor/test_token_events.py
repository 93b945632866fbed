"""One event for each token that is fetched, whatever came of it, and never the token."""

import pytest

from openshell import ocsf
from openshell.egress.credentials import BoundEndpoint
from openshell.egress.credentials.grants import TokenGrant, TokenUnavailable
from openshell.egress.token_grants import IssuedToken, TokenCache
from openshell.supervisor.token_events import recorded

TOKEN = "s3cret-token"


def grant() -> TokenGrant:
    key = "api.example\t443\t\twork:KEY"
    endpoint, _ = TokenGrant.place(key)
    assert isinstance(endpoint, BoundEndpoint)
    return TokenGrant(
        key,
        endpoint,
        token_endpoint="https://login.example/oauth/token?x=1",
        svid_audience="a",
        assertion_type="t",
        audience="",
        scopes=(),
        cache_ttl_seconds=60,
        header="Authorization",
        is_bearer=True,
        fault="",
    )


async def test_a_fetched_token_has_one_event_and_a_kept_one_none() -> None:
    events: list[ocsf.Event] = []

    async def issue(_grant: TokenGrant) -> IssuedToken:
        return IssuedToken(TOKEN)

    cache = TokenCache(recorded(issue, events.append, lambda: 7), lambda: 0.0)
    assert [await cache.token(grant()) for _ in range(3)] == [TOKEN] * 3
    assert [ocsf.to_line(event) for event in events] == [
        f"CONFIG:GRANTED [INFO] a token for the grant of {grant().owner} from login.example"
    ]
    assert TOKEN not in repr(events)


async def test_a_token_that_was_not_had_has_an_event_with_the_reason() -> None:
    events: list[ocsf.Event] = []

    async def issue(_grant: TokenGrant) -> IssuedToken:
        raise TokenUnavailable("the token endpoint answered 400")

    with pytest.raises(TokenUnavailable):
        await recorded(issue, events.append, lambda: 7)(grant())
    (event,) = events
    assert isinstance(event, ocsf.ConfigEvent)
    assert (event.severity, event.detail) == (
        ocsf.Severity.MEDIUM,
        "the token endpoint answered 400",
    )
