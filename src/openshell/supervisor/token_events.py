"""One event for each token that was asked for on behalf of a grant: who it is for, and from where.

A kept token is used without one; the request that carries it has its own. The token is in neither.
Wraps what fetches tokens; called by `runtime`.
"""

from collections.abc import Callable

from openshell import ocsf
from openshell.egress.credentials.grants import TokenGrant, TokenUnavailable
from openshell.egress.token_grants import IssuedToken, Issuer
from openshell.supervisor.token_endpoint import TokenEndpoint

__all__ = ["recorded"]


def recorded(
    issue: Issuer, emit: Callable[[ocsf.Event], None], now_ms: Callable[[], int]
) -> Issuer:
    """The same fetching, with an event for every outcome."""

    async def fetch(grant: TokenGrant) -> IssuedToken:
        endpoint = TokenEndpoint.parse(grant.token_endpoint)
        place = endpoint.authority if endpoint is not None else "-"
        try:
            token = await issue(grant)
        except TokenUnavailable as error:
            emit(
                ocsf.ConfigEvent(
                    time_ms=now_ms(),
                    state="refused",
                    message=f"no token for the grant of {grant.owner} from {place}",
                    severity=ocsf.Severity.MEDIUM,
                    status=ocsf.Status.FAILURE,
                    detail=str(error),
                )
            )
            raise
        emit(
            ocsf.ConfigEvent(
                time_ms=now_ms(),
                state="granted",
                message=f"a token for the grant of {grant.owner} from {place}",
                status=ocsf.Status.SUCCESS,
            )
        )
        return token

    return fetch
