"""RefreshSandboxToken: a supervisor renews its own token before it expires."""

from __future__ import annotations

from typing import Any

from openshell._proto import openshell_pb2
from openshell.gateway.auth.principal import SandboxSource, require_sandbox
from openshell.gateway.auth.tokens import SandboxTokens
from openshell.gateway.errors import permission_denied, unimplemented

__all__ = ["TokenService"]


class TokenService:
    """One RPC; that the sandbox still exists was checked with the token."""

    def __init__(self, tokens: SandboxTokens) -> None:
        self._tokens = tokens

    async def RefreshSandboxToken(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.RefreshSandboxTokenRequest, _context: Any
    ) -> openshell_pb2.RefreshSandboxTokenResponse:
        principal = require_sandbox()
        if principal.source is not SandboxSource.GATEWAY_TOKEN:
            raise permission_denied("only a token of this gateway can be renewed")
        if request.extension_service_names:
            raise unimplemented("extension tokens are not built yet")
        issued = self._tokens.issue(principal.sandbox_id)
        return openshell_pb2.RefreshSandboxTokenResponse(
            token=issued.token, expires_at_ms=issued.expires_at_ms
        )
