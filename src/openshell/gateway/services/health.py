"""Health, GetGatewayInfo, GetCurrentUser: what the gateway says of itself and of the caller."""

from __future__ import annotations

from typing import Any

from openshell._proto import openshell_pb2
from openshell.drivers.base import Capabilities
from openshell.gateway.auth.principal import require_user

__all__ = ["HealthService"]


class HealthService:
    """Answers from memory alone."""

    def __init__(self, version: str, driver: Capabilities) -> None:
        self._version = version
        self._driver = driver

    async def Health(  # noqa: N802  named as the RPC
        self, _request: openshell_pb2.HealthRequest, _context: Any
    ) -> openshell_pb2.HealthResponse:
        return openshell_pb2.HealthResponse(
            status=openshell_pb2.SERVICE_STATUS_HEALTHY, version=self._version
        )

    async def GetGatewayInfo(  # noqa: N802  named as the RPC
        self, _request: openshell_pb2.GetGatewayInfoRequest, _context: Any
    ) -> openshell_pb2.GetGatewayInfoResponse:
        driver = self._driver
        return openshell_pb2.GetGatewayInfoResponse(
            status=openshell_pb2.SERVICE_STATUS_HEALTHY,
            gateway_version=self._version,
            compute_drivers=[
                openshell_pb2.ComputeDriverInfo(
                    name=driver.driver_name,
                    capabilities=openshell_pb2.ComputeDriverCapabilities(
                        driver_name=driver.driver_name, driver_version=driver.driver_version
                    ),
                )
            ],
        )

    async def GetCurrentUser(  # noqa: N802  named as the RPC
        self, _request: openshell_pb2.GetCurrentUserRequest, _context: Any
    ) -> openshell_pb2.GetCurrentUserResponse:
        user = require_user()
        return openshell_pb2.GetCurrentUserResponse(
            subject=user.subject,
            display_name=user.display_name,
            roles=user.roles,
            scopes=user.scopes,
            identity_provider=user.provider.value,
        )
