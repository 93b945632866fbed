"""Calls of models, counted at the gateway: asked before where a budget holds, told after in any case.

Told in batches with numbers, so that one that is sent again counts once; what was not delivered stays and
is added to. Where a budget holds and the gateway cannot be asked, nothing goes out.
"""

import asyncio
import contextlib
import uuid
from collections.abc import Callable
from typing import Final

import grpc.aio

from openshell._proto import openshell_ext_inference_pb2 as ext
from openshell.egress.inference.metering import OverBudget, Spent
from openshell.supervisor.gateway_client import GatewayClient

__all__ = ["InferenceMeter"]

ASK_SECONDS: Final = 5.0
"""For a transaction at the gateway, which takes a millisecond."""
TELL_SECONDS: Final = 2.0
"""Between two batches where no budget waits for them."""
RETRY_SECONDS: Final = 5
"""What a client is told when the gateway could not be asked."""
TARGETS_MAX: Final = 500
"""Routes and models in one batch; operators name them, so there are a few."""


class InferenceMeter:
    """The meter of one sandbox."""

    def __init__(self, client: GatewayClient, is_budgeted: Callable[[], bool]) -> None:
        self._client = client
        self._is_budgeted = is_budgeted
        self._instance = uuid.uuid4().hex
        self._sequence = 0
        self._gathered: dict[tuple[str, str], ext.InferenceCalls] = {}
        self._sending: ext.ReportInferenceRequest | None = None
        self._arrived = asyncio.Event()
        self._telling = asyncio.Lock()

    async def admit(self, route: str) -> OverBudget | None:
        """Asks where a budget holds."""
        if not self._is_budgeted():
            return None
        try:
            # What is known of tokens goes first: the answer is about it.
            await self._tell()
            answer = await self._client.metering.AdmitInference(
                ext.AdmitInferenceRequest(route=route),
                metadata=self._client.metadata(),
                timeout=ASK_SECONDS,
            )
        except grpc.aio.AioRpcError:
            sentence = "the gateway cannot be asked about the budget of this sandbox"
            return OverBudget(503, sentence, RETRY_SECONDS)
        if answer.admitted:
            return None
        return OverBudget(429, answer.message, max(1, answer.retry_after_secs))

    def used(self, spent: Spent) -> None:
        key = spent.route, spent.model
        calls = self._gathered.get(key)
        if calls is None:
            if len(self._gathered) >= TARGETS_MAX:
                return
            calls = self._gathered[key] = ext.InferenceCalls(route=key[0], model=key[1])
        calls.requests += 1
        calls.prompt_tokens += spent.prompt_tokens
        calls.completion_tokens += spent.completion_tokens
        calls.estimated_tokens += spent.estimated_tokens
        calls.errors += spent.failed
        calls.fallbacks += spent.is_fallback
        self._arrived.set()

    async def run(self) -> None:
        """Tells what was counted, until cancelled."""
        while True:
            await self._arrived.wait()
            if not self._is_budgeted():
                await asyncio.sleep(TELL_SECONDS)
            try:
                await self._tell()
            except grpc.aio.AioRpcError:
                await asyncio.sleep(TELL_SECONDS)

    async def finish(self) -> None:
        """The last batch of a sandbox that ends; what cannot be told now is lost."""
        with contextlib.suppress(grpc.aio.AioRpcError):
            await self._tell()

    async def _tell(self) -> None:
        async with self._telling:
            while self._sending is not None or self._gathered:
                if self._sending is None:
                    self._sequence += 1
                    gathered, self._gathered = self._gathered, {}
                    self._sending = ext.ReportInferenceRequest(
                        instance_id=self._instance,
                        sequence=self._sequence,
                        calls=gathered.values(),
                    )
                await self._client.metering.ReportInference(
                    self._sending, metadata=self._client.metadata(), timeout=ASK_SECONDS
                )
                self._sending = None
            self._arrived.clear()
