"""Reports that must arrive: what became of a policy revision, and how the main process ended.

Both are repeated until the gateway has taken them. Policy reports go in order, one at a time; an
answer that no repetition can change drops that report alone. The exit report has no limit: the
gateway is the only one who keeps the exit code.
"""

import asyncio

import grpc.aio

from openshell._proto import openshell_pb2
from openshell.supervisor.backoff import Backoff
from openshell.supervisor.gateway_client import GatewayClient, is_transient, sentence_of
from openshell.supervisor.logs import Logs

__all__ = ["PolicyReporter", "report_exit"]

_CALL_SECONDS = 10.0
# Revisions whose report waits for a gateway that is away; older ones are superseded anyway.
_MAX_WAITING = 64


class PolicyReporter:
    """A queue of outcomes and the task that delivers them."""

    def __init__(self, client: GatewayClient, sandbox_id: str, logs: Logs) -> None:
        self._client = client
        self._sandbox_id = sandbox_id
        self._logs = logs
        self._queue: asyncio.Queue[tuple[int, str]] = asyncio.Queue()

    def policy(self, version: int, error: str) -> None:
        """Report that a revision was loaded, or why it was not."""
        if self._queue.qsize() >= _MAX_WAITING:
            self._queue.get_nowait()
        self._queue.put_nowait((version, error))

    async def run(self) -> None:
        """Deliver until cancelled."""
        while True:
            version, error = await self._queue.get()
            await self._deliver(version, error)

    async def _deliver(self, version: int, error: str) -> None:
        backoff = Backoff(1.0, 32.0)
        request = openshell_pb2.ReportPolicyStatusRequest(
            sandbox_id=self._sandbox_id,
            version=version,
            status=openshell_pb2.POLICY_STATUS_FAILED
            if error
            else openshell_pb2.POLICY_STATUS_LOADED,
            load_error=error,
        )
        while True:
            try:
                await self._client.stub.ReportPolicyStatus(
                    request, metadata=self._client.metadata(), timeout=_CALL_SECONDS
                )
                return
            except grpc.aio.AioRpcError as failure:
                if not is_transient(failure):
                    self._logs.log(
                        "warn",
                        "config",
                        f"the gateway does not take the report on policy version {version}: "
                        f"{sentence_of(failure)}",
                    )
                    return
            await asyncio.sleep(backoff.next())


async def report_exit(
    client: GatewayClient, sandbox_id: str, instance_id: str, exit_code: int
) -> None:
    """Report the main process's end until the gateway has acknowledged it."""
    backoff = Backoff(0.25, 2.0)
    request = openshell_pb2.ReportMainProcessExitRequest(
        sandbox_id=sandbox_id, instance_id=instance_id, exit_code=exit_code
    )
    while True:
        try:
            await client.stub.ReportMainProcessExit(
                request, metadata=client.metadata(), timeout=_CALL_SECONDS
            )
            return
        except grpc.aio.AioRpcError as error:
            if error.code() in {
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.PERMISSION_DENIED,
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.UNIMPLEMENTED,
            }:
                # The sandbox is not this gateway's any more: nobody is left to tell.
                return
        await asyncio.sleep(backoff.next())
