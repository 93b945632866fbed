"""A client's connection to `inference.local`: TLS with the sandbox's own authority, then its calls.

Both doors of the proxy lead here for this one name and port, before any network policy: what may be
asked is decided by the operator's routes. Without routes from the gateway, or without an authority,
the connection is closed.
"""

import ssl

from openshell.egress.connection import ClientConnection, Services
from openshell.egress.http1 import TUNNEL_HEAD_LIMIT
from openshell.egress.inference.call import HOST, PORT, Calls
from openshell.egress.inference.health import Health
from openshell.egress.inference.relaying import HeldAnswers
from openshell.egress.local_names import LocalName
from openshell.egress.pipeline import Pipeline
from openshell.egress.stream import TlsStream
from openshell.ocsf import HostPort, Refusal

__all__ = ["inference_local"]

_PLACE = HostPort(HOST, PORT)


def inference_local(pipeline: Pipeline) -> LocalName:
    """The name for the proxy; at other ports it is the policy's affair."""
    return LocalName(HOST, PORT, take=_Door(pipeline).serve)


class _Door:
    """Serves connections of one sandbox to `inference.local`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._services: Services = pipeline.services
        self._held = HeldAnswers()
        self._health = Health(self._services.clock)

    async def serve(self, connection: ClientConnection) -> None:
        """Serve a connection that has been opened."""
        context = self._services.server_context(HOST)
        if context is None or self._services.holder.current.inference is None:
            self._closed(connection, is_tls=context is not None)
            connection.stream.reset()
            return
        if not await self._secure(connection, context):
            return
        calls = Calls(self._services, connection, self._held, self._health)
        try:
            while True:
                head = await self._pipeline.next_head(connection, TUNNEL_HEAD_LIMIT, _PLACE)
                if head is None or not await calls.serve(head):
                    return
        finally:
            calls.close()

    async def _secure(self, connection: ClientConnection, context: ssl.SSLContext) -> bool:
        secure = TlsStream(connection.stream, context)
        connection.stream = secure
        connection.deadline = None
        try:
            await secure.handshake(self._services.limits.handshake_seconds)
        except (ssl.SSLError, OSError, TimeoutError) as error:
            reason = getattr(error, "reason", None) or "ended"
            self._services.log.connection_failed(
                connection.actor, _PLACE, f"the client's TLS handshake failed: {reason}"
            )
            secure.close()
            return False
        return True

    def _closed(self, connection: ClientConnection, *, is_tls: bool) -> None:
        reason = (
            "the gateway has sent no inference routes"
            if is_tls
            else "the sandbox has no certificate authority"
        )
        self._services.log.connection_denied(
            connection.actor,
            _PLACE,
            engine="inference",
            reason=reason,
            refusal=Refusal("inference_unavailable", ancestors=connection.actor.ancestors),
        )
