"""Renewing the supervisor's token before it ends, for as long as the gateway can."""

import asyncio
import time

import grpc
import grpc.aio

from openshell._proto import openshell_pb2
from openshell.supervisor.bearer import Token, renewal_delay
from openshell.supervisor.gateway_client import GatewayClient, sentence_of
from openshell.supervisor.logs import Logs

__all__ = ["renew_token"]

_RETRY_SECONDS = 10.0
_CALL_SECONDS = 10.0


async def renew_token(client: GatewayClient, token: Token, logs: Logs) -> None:
    """Renew at four fifths of the token's life; returns when the gateway cannot."""
    while True:
        await asyncio.sleep(renewal_delay(token.expires_at(), time.time()))
        renewed = False
        while not renewed:
            try:
                answer = await client.stub.RefreshSandboxToken(
                    openshell_pb2.RefreshSandboxTokenRequest(),
                    metadata=client.metadata(),
                    timeout=_CALL_SECONDS,
                )
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                    return
                logs.log("warn", "token", f"not renewed: {sentence_of(error)}")
                await asyncio.sleep(_RETRY_SECONDS)
                continue
            if answer.token:
                token.replace(answer.token)
            renewed = True
