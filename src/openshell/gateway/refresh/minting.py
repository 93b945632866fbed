"""One mint: the strategy's request to its issuer, and the values it answered with.

Knows no store. What is asked is planned in `openshell.providers.refresh_requests`; the issuers are
`token_endpoint.py` and `roles.py`, given from outside so that tests can bring their own.
"""

from __future__ import annotations

from openshell.gateway.refresh.roles import RoleAssumer
from openshell.gateway.refresh.token_endpoint import TokenEndpoint
from openshell.providers.profile.model import Strategy
from openshell.providers.refresh_answers import Minted, read_token_answer
from openshell.providers.refresh_requests import MintInputs, plan_role, plan_token_request

__all__ = ["Minter"]


class Minter:
    """Asks issuers for new values."""

    def __init__(
        self, endpoint: TokenEndpoint | None = None, roles: RoleAssumer | None = None
    ) -> None:
        self._endpoint = endpoint or TokenEndpoint()
        self._roles = roles or RoleAssumer()

    async def mint(self, key: str, inputs: MintInputs, now_ms: int) -> Minted:
        """New values for the key, and for what comes with it. Raises `RefreshRefused`."""
        lifetime = inputs.lifetime_seconds
        if inputs.strategy is Strategy.AWS_STS_ASSUME_ROLE:
            return await self._roles.assume(
                plan_role(inputs), key, asked_at_ms=now_ms, lifetime_seconds=lifetime
            )
        request = plan_token_request(inputs, now_ms)
        status, body = await self._endpoint.send(request)
        minted = read_token_answer(
            status, body, key=key, asked_at_ms=now_ms, lifetime_seconds=lifetime
        )
        if request.rotates and minted.refresh_token != inputs.get("refresh_token"):
            return minted
        return Minted(minted.values, minted.expires_at_ms)
