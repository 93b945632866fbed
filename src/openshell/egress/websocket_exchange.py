"""From the server's 101 to an open WebSocket: the answer is checked, passed on, and what follows is served.

Whether messages are read was decided with the handshake (`switch`). Called by `exchange`.
"""

from openshell.egress.connection import ClientConnection, Services
from openshell.egress.http1 import ResponseHead, end_to_end, render_response_head
from openshell.egress.judging import Judged
from openshell.egress.stream import Stream
from openshell.egress.transfer import BadAnswer
from openshell.egress.websocket.handshake import AnswerRejected, check_answer, switching
from openshell.egress.websocket_copying import CopiedSocket
from openshell.egress.websocket_reading import ReadSocket

__all__ = ["switch_protocols"]


async def switch_protocols(
    services: Services,
    connection: ClientConnection,
    judged: Judged,
    upstream: Stream,
    answer: ResponseHead,
    rest: bytes,
) -> None:
    """Pass the 101 on and serve what follows. Raises BadAnswer while nothing was passed on."""
    switch = judged.switch
    if switch is None:
        raise BadAnswer("it switched protocols without being asked")
    try:
        compressed = check_answer(switch.upgrade, answer, parsed=switch.reads)
    except AnswerRejected as rejected:
        raise BadAnswer(str(rejected)) from None
    upstream.unread(rest)
    shown = answer.with_headers(switching(end_to_end(answer.headers)))
    connection.stream.write(render_response_head(shown))
    if switch.reads:
        socket: CopiedSocket = ReadSocket(
            services, connection, judged, upstream, compressed=compressed
        )
    else:
        socket = CopiedSocket(services, connection, judged, upstream)
        if judged.route.configs:
            where = judged.where
            services.log.connection_allowed(
                connection.actor,
                where.place,
                judged.decision.policy,
                f"WebSocket {where.place}{where.path}: L7 enforcement no longer active",
                engine="l7-websocket",
            )
    connection.websocket = socket
    try:
        await socket.run()
    finally:
        connection.websocket = None
