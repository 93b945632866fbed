"""What a refused call is told, whether it went through gRPC or not."""

import grpc
import grpc.aio
import pytest

from openshell.gateway.errors import ApiError


async def refused(call):
    """Status and sentence."""
    with pytest.raises((grpc.aio.AioRpcError, ApiError)) as caught:
        await call
    error = caught.value
    if isinstance(error, ApiError):
        return grpc.StatusCode[error.code.name], error.message
    return error.code(), error.details()
