"""From a token grant to a token: a statement of who we are, exchanged at the grant's token endpoint.

The client assertion flow of OAuth 2.0 (RFC 7523) with a JWT-SVID as the assertion. Called by the cache
of `egress.token_grants` when a request needs a token that is not at hand. What a token endpoint says
of an error is shown to operators, cleaned and cut; the rest of its answer never is.
"""

import json
import ssl
from collections.abc import Callable
from typing import Final
from urllib.parse import urlencode

from openshell.egress.credentials.grants import TokenGrant, TokenUnavailable, is_token68
from openshell.egress.token_grants import IssuedToken
from openshell.supervisor.svid import SvidSource, SvidUnavailable
from openshell.supervisor.token_endpoint import EndpointFailed, TokenEndpoint, post_form

__all__ = ["TokenIssuer", "read_answer"]

_SHOWN: Final = 256


class TokenIssuer:
    """Fetches tokens for one sandbox."""

    def __init__(self, source: SvidSource, context: Callable[[], ssl.SSLContext]) -> None:
        """`context` verifies token endpoints; asked for when the first one is spoken to."""
        self._source = source
        self._make_context = context
        self._context: ssl.SSLContext | None = None

    async def issue(self, grant: TokenGrant) -> IssuedToken:
        """A new token. Raises TokenUnavailable."""
        endpoint = TokenEndpoint.parse(grant.token_endpoint)
        if endpoint is None:
            raise TokenUnavailable("the token endpoint is neither https nor near enough for http")
        try:
            svid = await self._source.jwt(grant.svid_audience)
            form = urlencode(_form(grant, svid)).encode()
            status, body = await post_form(endpoint, form, self._roots())
        except (SvidUnavailable, EndpointFailed) as error:
            raise TokenUnavailable(str(error)) from None
        return read_answer(status, body)

    def _roots(self) -> ssl.SSLContext:
        """Made once: an operator's bundle is read and parsed for it."""
        if self._context is None:
            self._context = self._make_context()
        return self._context


def read_answer(status: int, body: bytes) -> IssuedToken:
    """What a token endpoint answered. Raises TokenUnavailable."""
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError):
        answer = None
    known = answer if isinstance(answer, dict) else {}
    if not 200 <= status <= 299:
        words = [_shown(known.get(name)) for name in ("error", "error_description")]
        said = ": ".join(word for word in words if word)
        raise TokenUnavailable(f"the token endpoint answered {status}" + (said and f" ({said})"))
    token = known.get("access_token")
    if not isinstance(token, str) or not is_token68(token):
        raise TokenUnavailable("the token endpoint's answer holds no usable access_token")
    return IssuedToken(token, _seconds(known.get("expires_in")))


def _form(grant: TokenGrant, svid: str) -> dict[str, str]:
    form = {
        "grant_type": "client_credentials",
        "client_assertion_type": grant.assertion_type,
        "client_assertion": svid,
    }
    if grant.audience:
        form["audience"] = grant.audience
    if grant.scopes:
        form["scope"] = " ".join(grant.scopes)
    return form


def _shown(value: object) -> str:
    if not isinstance(value, str):
        return ""
    return "".join(c if c.isprintable() else " " for c in value[:_SHOWN]).strip()


def _seconds(value: object) -> int:
    """Some servers write the number as text."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        value = int(value[:12])
    if isinstance(value, bool) or not isinstance(value, int | float):
        return 0
    return int(min(max(value, 0), 1e12)) if value == value else 0  # noqa: PLR0124 # NaN is not itself
