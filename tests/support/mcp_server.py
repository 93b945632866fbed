"""An MCP server of the protocol's own SDK, over streamable HTTP on loopback, in a thread."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from mcp.server.mcpserver import MCPServer
from mcp.server.transport_security import TransportSecuritySettings

__all__ = ["ToolServer", "mcp_server"]


class ToolServer:
    """Its port and the tools that were called."""

    def __init__(self) -> None:
        self.port = 0
        self.called: list[str] = []

    def build(self) -> MCPServer:
        server = MCPServer("files")

        @server.tool()
        def read_file(path: str) -> str:
            self.called.append("read_file")
            return f"content of {path}"

        @server.tool()
        def delete_file(path: str) -> str:
            self.called.append("delete_file")
            return f"deleted {path}"

        return server


@contextlib.contextmanager
def mcp_server() -> Iterator[ToolServer]:
    """Serves until the block ends."""
    tools = ToolServer()
    listener = socket.create_server(("127.0.0.1", 0))
    tools.port = listener.getsockname()[1]
    app = tools.build().streamable_http_app(
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False)
    )
    config = uvicorn.Config(app, log_level="error", ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        yield tools
    finally:
        server.should_exit = True
        thread.join(10)
        listener.close()
