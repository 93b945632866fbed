"""The registry of settings beside the policy. Reading lists them; setting them is not built yet."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from openshell._proto import sandbox_pb2
from openshell.gateway.errors import ApiError, invalid_argument, unimplemented

__all__ = ["REGISTERED", "Settings", "refuse_setting"]

POLICY_KEY: Final = "policy"
"""Reserved: names the gateway-wide policy, never a setting of its own."""

REGISTERED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "agent_policy_proposals_enabled": "bool",
        "ocsf_json_enabled": "bool",
        "proposal_approval_mode": "manual or auto",
        "providers_v2_enabled": "bool",
    }
)
"""Every setting with what it takes."""


def refuse_setting(key: str, *, is_global: bool) -> ApiError:
    """Why a write of this key is refused: a wrong key by its name, a right one as not built."""
    if key == POLICY_KEY:
        if is_global:
            return unimplemented("the gateway-wide policy is not built yet")
        return invalid_argument("'policy' is no setting; use the policy field (policy set)")
    if key not in REGISTERED:
        allowed = ", ".join(sorted(REGISTERED))
        return invalid_argument(f"unknown setting key '{key}'. Allowed keys: {allowed}")
    return unimplemented(f"setting '{key}' cannot be changed: settings are not built yet")


class Settings:
    """The one reading method of this noun."""

    async def GetGatewayConfig(  # noqa: N802  named as the RPC
        self, _request: sandbox_pb2.GetGatewayConfigRequest, _context: Any
    ) -> sandbox_pb2.GetGatewayConfigResponse:
        return sandbox_pb2.GetGatewayConfigResponse(
            settings={key: sandbox_pb2.SettingValue() for key in REGISTERED}
        )
