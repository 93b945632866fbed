"""A middleware service: refuses requests that carry a project's code name and marks all others.

python service.py 127.0.0.1:50061
"""

import asyncio
import sys
from typing import Any

import grpc.aio

from openshell._proto import supervisor_middleware_pb2 as pb
from openshell._proto import supervisor_middleware_pb2_grpc as rpc


class CodeNames(rpc.SupervisorMiddlewareServicer):
    """Answers for every sandbox whose policy names it."""

    async def Describe(self, _request: Any, _context: Any) -> pb.MiddlewareManifest:  # noqa: N802 - named as the RPC
        """Say what we take: bodies up to 64 KiB, before credentials are put in."""
        binding = pb.MiddlewareBinding(
            operation=pb.SUPERVISOR_MIDDLEWARE_OPERATION_HTTP_REQUEST,
            phase=pb.SUPERVISOR_MIDDLEWARE_PHASE_PRE_CREDENTIALS,
            max_payload_bytes=64 * 1024,
            timeout="500ms",
        )
        return pb.MiddlewareManifest(name="code-names", service_version="1", bindings=[binding])

    async def ValidateConfig(self, request: Any, _context: Any) -> pb.ValidateConfigResponse:  # noqa: N802 - named as the RPC
        """Refuse a policy that gives us no word to look for."""
        word = request.config.fields["word"].string_value
        return pb.ValidateConfigResponse(valid=bool(word), reason="" if word else "word is missing")

    async def EvaluateHttpRequest(self, request: Any, _context: Any) -> pb.HttpRequestResult:  # noqa: N802 - named as the RPC
        """Judge one request."""
        word = request.config.fields["word"].string_value
        if word.encode() in request.body:
            finding = pb.Finding(type="code-name", label="A code name", count=1, severity="high")
            return pb.HttpRequestResult(
                decision=pb.DECISION_DENY, reason_code="code_name", findings=[finding]
            )
        mark = pb.WriteHeader(
            name="X-OpenShell-Middleware-Checked",
            value="code-names",
            on_existing=pb.EXISTING_HEADER_ACTION_OVERWRITE,
        )
        return pb.HttpRequestResult(
            decision=pb.DECISION_ALLOW, header_mutations=[pb.HeaderMutation(write=mark)]
        )


async def serve(address: str) -> tuple[grpc.aio.Server, int]:
    """Start serving; the port, and what to stop."""
    server = grpc.aio.server()
    rpc.add_SupervisorMiddlewareServicer_to_server(CodeNames(), server)
    port = server.add_insecure_port(address)
    await server.start()
    return server, port


async def main() -> None:
    """Serve until interrupted."""
    server, port = await serve(sys.argv[1])
    print(f"serving on port {port}", flush=True)
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main())
