"""One stream of a client: judged, sent, and relayed both ways, as `exchange` does for HTTP/1.

Judging may have to wait (for a token, the body, a connection), so it runs in a task of its own; what
comes after is driven by the frames that arrive, and nothing here waits. What the last look at the
generation said goes to the upstream without waiting in between. A refusal ends the stream, never the
connection.

Owned by `session`, called by it for the client's frames and by `far` for the upstream's.
"""

import asyncio
from typing import TYPE_CHECKING, Final

from openshell.egress.denials import Denial, bare
from openshell.egress.generation import Generation
from openshell.egress.http1 import Headers, NoBody, RequestHead
from openshell.egress.http2.answers import write_denial
from openshell.egress.http2.asking import Asking
from openshell.egress.http2.codes import ErrorCode
from openshell.egress.http2.far import Far
from openshell.egress.http2.fields import (
    Malformed,
    ResponseFields,
    write_request,
    write_response,
    write_trailers,
)
from openshell.egress.http2.half import Half
from openshell.egress.http2.happenings import DataCame
from openshell.egress.http2.intake import Intake
from openshell.egress.http2.peer import Peer
from openshell.egress.http2.scanning import BodyScan
from openshell.egress.judging import Judged, Refused
from openshell.egress.recording import record_allowed
from openshell.egress.refusing import refuse_request
from openshell.egress.upstream import UpstreamFailed
from openshell.ocsf import Refusal

if TYPE_CHECKING:
    from openshell.egress.http2.session import Session

__all__ = ["StreamExchange"]

_NO_ERROR: Final = ErrorCode.NO_ERROR
_INTERNAL: Final = ErrorCode.INTERNAL
_CANCEL: Final = ErrorCode.CANCEL
_REFUSED: Final = ErrorCode.REFUSED_STREAM
# Times that a request is sent again which upstreams refuse because they are about to close.
_MAX_REFUSED: Final = 3
_PROTOCOL: Final = ErrorCode.PROTOCOL
# Interim heads before one response, as in HTTP/1.
_MAX_INTERIM: Final = 32
# Methods that may be sent again when a kept connection turns out to be closed, as in HTTP/1.
_REPEATABLE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE"})


class StreamExchange:
    """A request and its response."""

    def __init__(self, session: "Session", stream_id: int, head: RequestHead) -> None:
        self._session = session
        self._services = session.services
        self._connection = session.connection
        self.stream_id = stream_id
        self._head = head
        self._intake = Intake(session.peer, stream_id, head)
        self._asking = Asking(session, head, self._intake)
        self._judged: Judged | None = None
        self._far: Far | None = None
        self._far_id = 0
        self._up: Half | None = None
        self._down: Half | None = None
        self._scan: BodyScan | None = None
        self._interim = 0
        self._begun = False
        self._answered = False
        # How often it was sent again.
        self._tries = 0
        self.closed = False
        # For `sweep`: when and at which count something moved last.
        self._touched = self._services.clock()
        self._counts = (0, 0, 0, 0)
        self._task = asyncio.create_task(self._run(), name="http2 stream")

    # The request, until it goes out.

    async def _run(self) -> None:
        try:
            ready = await self._ask()
            if self.closed:
                return
            if isinstance(ready, Refused):
                self._say(refuse_request(self._services, self._connection, ready))
            elif ready is not None:
                self._send(*ready)
        except Exception as error:
            # A bug of ours; the operator must hear of it and the client must not wait for ever.
            self._services.log.connection_failed(
                self._connection.actor, None, f"internal error: {type(error).__name__}"
            )
            self._abort(_INTERNAL)
            raise
        finally:
            self._session.flush()

    async def _ask(self) -> tuple[Judged, Far] | Refused | None:
        """What goes out and where, or why not; None where the client has been told."""
        admitted = await self._asking.admit()
        if isinstance(admitted, Refused):
            return admitted
        try:
            return await self._asking.reach(admitted)
        except UpstreamFailed as failed:
            self._fail(f"{failed.stage}: {failed.reason}", admitted, failed.code)
            place, denials = admitted.where, self._services.denials
            self._say(
                denials.upstream_unreachable(place.host, place.port, failed.reason, failed.code)
            )
            return None

    def _send(self, judged: Judged, far: Far) -> None:
        """Send what policy allowed."""
        self._judged = judged
        pending, intake = self._asking.pending, self._intake
        pending.is_streaming = True
        if judged.scan_body and pending.body is None:
            self._scan = BodyScan(self._session, intake)
            if self._scan.found or intake.has_marked_trailers:
                self._found_marker()
                return
        far_id = far.open(self)
        if far_id is None:
            self._say(bare(503))
            return
        self._far, self._far_id = far, far_id
        if not self._send_head(judged, far.peer, far_id):
            self._broken("it takes no more streams", _INTERNAL)
            return
        if judged.is_signed:
            intake.ask()
        self.moves()
        if not self._tries:
            record_allowed(self._services, self._connection, judged)

    def _send_head(self, judged: Judged, peer: Peer, far_id: int) -> bool:
        """Send the header list and have what there is of the body follow; False if it is not taken."""
        intake, body_is_ours = self._intake, self._asking.pending.body is not None
        fields, body = write_request(judged.wire, self._head, judged.route.scheme)
        client = None if body_is_ours else (self._session.peer, self.stream_id)
        up = self._up = Half((peer, far_id), client, self._session.shares)
        if body_is_ours:
            up.finished = not body
        else:
            up.finished = intake.ended and not intake.early and not intake.trailers
        if not peer.send_headers(far_id, fields, end=up.finished):
            return False
        if body_is_ours:
            up.push((body,))
            up.end()
            return True
        early, counted = intake.take()
        up.push((early,) if early else (), counted)
        if intake.ended:
            up.end(write_trailers(intake.trailers))
        return True

    # What the client sends.

    def on_data(self, came: DataCame) -> None:
        self._touched = self._services.clock()
        self._intake.received += came.size
        if self._answered:
            return
        if self._scan is not None:
            known = self._scan.found
            if self._scan.feed(b"".join(came.pieces)):
                self._intake.arrived.set()
                self._session.peer.open_window(self.stream_id, came.counted)
                if not known:
                    self._found_marker()
                return
        if self._up is None:
            self._intake.keep(came.pieces, came.counted)
        else:
            self._up.push(came.pieces, came.counted)
            self.moves()

    def on_end(self, trailers: Headers) -> None:
        """The client has sent all of its request."""
        intake = self._intake
        intake.end(trailers)
        self._touched = self._services.clock()
        if not intake.has_declared_length:
            self.on_broken(Malformed.LENGTH_BROKEN.value)
        elif self._scan is not None and self._scan.found:
            return
        elif self._scan is not None and intake.has_marked_trailers:
            self._found_marker()
        elif self._up is not None and self._asking.pending.body is None:
            self._up.end(write_trailers(trailers))
            self.moves()

    def on_broken(self, reason: str) -> None:
        """The client broke a rule of its body."""
        self._services.log.request_denied(
            self._connection.actor,
            self._session.where(self._head) if self._judged is None else self._judged.where,
            self._session.route.admitted.decision.matched_policy,
            engine="http-parser",
            reason=f"the request body was rejected: {reason}",
            refusal=Refusal(
                reason, group="l7_parse_rejection", ancestors=self._connection.actor.ancestors
            ),
            code=400,
        )
        self._drop_far(_CANCEL)
        if self._begun:
            self._abort(_PROTOCOL)
        else:
            self._say(bare(400))

    def on_cancelled(self) -> None:
        """The client has reset its stream, or is gone."""
        self._drop_far(_CANCEL)
        self._close()

    # What the upstream sends.

    def on_response(self, head: ResponseFields, *, ended: bool) -> None:
        self._touched = self._services.clock()
        if head.is_interim:
            self._interim += 1
            if self._interim > _MAX_INTERIM:
                self.on_response_broken("it sent too many interim responses")
                return
        elif self._far is not None:
            self._begun = True
            client = self._session.peer, self.stream_id
            self._down = Half(client, (self._far.peer, self._far_id), self._session.shares)
            # Ended as it came: gRPC tells answers without a body by that.
            self._down.ended = self._down.finished = ended
        fields = write_response(head.status, head.headers)
        self._session.peer.send_headers(self.stream_id, fields, end=ended)
        if ended:
            self.moves()

    def on_response_data(self, came: DataCame) -> None:
        self._touched = self._services.clock()
        if self._down is None:
            self.on_response_broken("it sent data before a response")
        else:
            self._down.push(came.pieces, came.counted)
            self.moves()

    def on_response_end(self, trailers: Headers) -> None:
        if self._down is None:
            self.on_response_broken("it ended without a response")
        else:
            self._down.end(write_trailers(trailers))
            self.moves()

    def on_response_broken(self, reason: str) -> None:
        self._drop_far(_CANCEL)
        self._broken(reason, _INTERNAL)

    def on_far_reset(self, error: int) -> None:
        """The upstream has reset the stream; after its response that only ends the request."""
        if self._down is not None and self._down.ended:
            if self._up is not None:
                self._up.drop()
            self._forget_far()
            return
        self._forget_far()
        # What an upstream refuses it has not looked at (RFC 9113 8.7): it may go out again.
        if error == _REFUSED and self._goes_again(_MAX_REFUSED):
            return
        if self._judged is not None:
            self._fail(f"the upstream reset the stream: error {error}", self._judged)
        self._abort(error)

    def on_far_lost(self, reason: str) -> None:
        if self._down is not None and self._down.ended:
            self._forget_far()
            return
        self._forget_far()
        # The upstream may have closed a connection that was kept, before it saw the request.
        if self._head.method not in _REPEATABLE or not self._goes_again(1):
            self._broken(reason, _INTERNAL)

    def _goes_again(self, most: int) -> bool:
        """Send the request again, where nothing of an answer has come and its body is still at hand."""
        at_hand = isinstance(self._head.framing, NoBody) or self._asking.pending.body is not None
        if self.closed or self._begun or self._interim or not at_hand or self._tries >= most:
            return False
        self._tries += 1
        if self._up is not None:
            self._up.drop()
            self._up = None
        self._task = asyncio.create_task(self._run(), name="http2 stream")
        return True

    def moves(self) -> None:
        """Ask for a turn: there may be room for what waits."""
        self._session.moves(self)

    def pump(self) -> bool:
        """Send a turn's worth both ways; say whether there may be room for more. See `Session.flush`."""
        if self.closed:
            return False
        more = self._up is not None and self._up.pump()
        down = self._down
        if down is None:
            return more
        more = down.pump() or more
        if down.finished:
            # After the last of its answer the exchange is over.
            if not self._intake.ended:
                # The answer did not wait for the rest of the request (RFC 9113 8.1).
                self._session.peer.reset(self.stream_id, _NO_ERROR)
            if self._up is not None and not self._up.finished:
                self._drop_far(_NO_ERROR)
            self._close()
        return more

    @property
    def waiting(self) -> int:
        """Bytes that the client has no room for."""
        return 0 if self._down is None else self._down.held

    # Time and policy.

    def sweep(self, now: float) -> None:
        """End what does not move: a reader that does not read, a sender that does not send."""
        up, down, limits = self._up, self._down, self._services.limits
        counts = (
            up.moved if up else 0,
            down.moved if down else 0,
            up.held if up else 0,
            down.held if down else 0,
        )
        if counts != self._counts:
            self._counts, self._touched = counts, now
        idle = now - self._touched
        if down is not None and down.held:
            if idle > limits.stalled_reader_seconds:
                self._end("the client does not read", _CANCEL)
        elif (
            # Once there is a response both talk: such streams may be silent for long.
            not self._begun
            and (not self._intake.ended or (up is not None and up.held))
            and self._task.done()
            and idle > limits.body_idle_seconds
        ):
            self._end("the request body stopped", _CANCEL)

    def reevaluate(self, generation: Generation) -> None:
        """Judge a running exchange again; what has not gone out yet is judged before it goes."""
        judged = self._judged
        if judged is None or self.closed:
            return
        reason = self._asking.objection(generation, judged)
        if reason is None:
            return
        self._services.log.connection_closed(
            self._connection.actor,
            judged.where.place,
            judged.decision.policy,
            f"the policy changed: {reason}",
        )
        self.on_policy_end()

    def on_policy_end(self) -> None:
        """The connection is not allowed any more."""
        self._drop_far(_CANCEL)
        self._abort(_CANCEL)

    # Ends.

    def _found_marker(self) -> None:
        """A placeholder stands in the body, where nothing replaces it: nothing more of it goes out."""
        self._drop_far(_CANCEL)
        self._task = asyncio.create_task(self._refuse_marker(), name="http2 marker")

    async def _refuse_marker(self) -> None:
        if self._scan is None or self._judged is None:
            return
        denial = await self._scan.refusal(self._judged)
        if self._begun:
            self._abort(_CANCEL)
        else:
            self._say(denial)
        self._session.flush()

    def _say(self, denial: Denial) -> None:
        """Answer in the upstream's stead."""
        if self.closed:
            return
        fields, body = write_denial(denial, self._head)
        self._answered = self._begun = True
        self._intake.drop()
        self._session.peer.send_headers(self.stream_id, fields, end=not body)
        self._down = Half((self._session.peer, self.stream_id), None, self._session.shares)
        self._down.finished = not body
        self._down.push((body,))
        self._down.end()
        self.moves()

    def _broken(self, reason: str, error: int) -> None:
        """The upstream failed: told where nothing has been answered yet, a reset elsewhere."""
        judged = self._judged
        if self.closed or judged is None:
            return
        if self._begun:
            self._fail(f"the upstream broke its response: {reason}", judged)
            self._abort(error)
            return
        self._fail(f"invalid response: {reason}", judged)
        place = judged.where
        self._say(self._services.denials.upstream_invalid(place.host, place.port, reason))

    def _end(self, reason: str, error: int) -> None:
        if self._judged is not None:
            self._fail(reason, self._judged)
        self._drop_far(error)
        self._abort(error)

    def _fail(self, message: str, judged: Judged, code: str = "") -> None:
        log = self._services.log
        log.connection_failed(self._connection.actor, judged.where.place, message, code)

    def _abort(self, error: int) -> None:
        if not self.closed:
            self._session.peer.reset(self.stream_id, error)
            self._close()

    def _drop_far(self, error: int) -> None:
        if self._far is not None:
            self._far.peer.reset(self._far_id, error)
            self._forget_far()

    def _forget_far(self) -> None:
        far, self._far = self._far, None
        if far is not None:
            far.forget(self._far_id)

    def _close(self) -> None:
        if self.closed:
            return
        self.closed = True
        self._forget_far()
        for half in (self._up, self._down):
            if half is not None:
                half.drop()
        self._intake.drop()
        self._asking.close()
        if self._task is not asyncio.current_task():
            self._task.cancel()
        self._session.forget(self.stream_id)
