"""Summaries of what was refused and how much went on, for the gateway: counted always, sent every 10 s.

Nothing is sent before the sandbox's workspace is known. A gateway that is away costs the summaries
that do not fit. What could be allowed goes along as proposals. Made by `runtime`; the sink of `Logs`
feeds it.
"""

import asyncio
from collections.abc import Callable
from typing import Final

import grpc.aio

from openshell import ocsf
from openshell._proto import openshell_pb2
from openshell.supervisor.gateway_client import GatewayClient
from openshell.supervisor.proposing import propose
from openshell.supervisor.tally import Tally, summary_of

__all__ = ["Summaries"]

# The contract's number.
_FLUSH_SECONDS: Final = 10.0
# Denials in one call: with their proposals half of what the gateway takes in one message.
_PER_CALL: Final = 32
_CALL_SECONDS: Final = 10.0


class Summaries:
    """Sends what a tally holds."""

    def __init__(
        self,
        client: GatewayClient,
        sandbox_id: str,
        sandbox: str,
        workspace: Callable[[], str],
        *,
        say: Callable[[str], None],
        seconds: float = _FLUSH_SECONDS,
    ) -> None:
        """`sandbox` is the name, `workspace` says the place once it is known, `say` tells an operator."""
        self._client = client
        self._sandbox_id = sandbox_id
        self._sandbox = sandbox
        self._workspace = workspace
        self._say = say
        self._seconds = seconds
        self._tally = Tally()
        self._arrived = asyncio.Event()

    def emit(self, event: ocsf.Event) -> None:
        """Count an event; never blocks."""
        self._tally.add(event)
        self._arrived.set()

    async def run(self) -> None:
        """Send every ten seconds in which something happened, until cancelled."""
        while True:
            # An idle sandbox wakes nobody.
            await self._arrived.wait()
            await asyncio.sleep(self._seconds)
            self._arrived.clear()
            await self.flush()

    async def flush(self) -> None:
        """Send what is there, if it is known where."""
        workspace = self._workspace()
        if not workspace:
            self._arrived.set()
            return
        denied = self._tally.take_denials()
        for start in range(0, len(denied), _PER_CALL):
            some = denied[start : start + _PER_CALL]
            await self._send(
                workspace,
                "mechanistic",
                summaries=[summary_of(each, self._sandbox_id) for each in some],
                proposed_chunks=propose(some),
            )
        activity = self._tally.take_activity()
        if activity is not None:
            await self._send(workspace, "activity", network_activity_summaries=[activity])

    async def finish(self) -> None:
        """Send what is left of a sandbox that ends."""
        await self.flush()
        if not self._tally.is_empty:
            self._say("the last summaries are lost: the workspace was never known")

    async def _send(
        self,
        workspace: str,
        mode: str,
        *,
        summaries: list[openshell_pb2.DenialSummary] | None = None,
        proposed_chunks: list[openshell_pb2.PolicyChunk] | None = None,
        network_activity_summaries: list[openshell_pb2.NetworkActivitySummary] | None = None,
    ) -> None:
        request = openshell_pb2.SubmitPolicyAnalysisRequest(
            name=self._sandbox or self._sandbox_id,
            workspace=workspace,
            analysis_mode=mode,
            summaries=summaries,
            proposed_chunks=proposed_chunks,
            network_activity_summaries=network_activity_summaries,
        )
        try:
            await self._client.stub.SubmitPolicyAnalysis(
                request, metadata=self._client.metadata(), timeout=_CALL_SECONDS
            )
        except grpc.aio.AioRpcError:
            # Each event has gone to the gateway by itself; a summary is a convenience.
            return
