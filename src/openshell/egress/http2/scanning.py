"""Looks for placeholders in a body that is streamed: nothing replaces them there, so none may go out.

Called by `request` with what the client sends; the words of the refusal are those of HTTP/1.
"""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from openshell.egress.credentials import MarkerScanner, refuse_marker
from openshell.egress.denials import Denial
from openshell.egress.http2.intake import Intake
from openshell.egress.judging import Judged
from openshell.egress.refusing import marker_in_body

if TYPE_CHECKING:
    from openshell.egress.http2.session import Session

__all__ = ["BodyScan"]


class BodyScan:
    """The scan of one stream's body, trailers included."""

    __slots__ = ("_intake", "_scanner", "_session")

    def __init__(self, session: "Session", intake: Intake) -> None:
        """Begin with what has come so far."""
        self._session = session
        self._intake = intake
        self._scanner = MarkerScanner()
        self._scanner.feed(bytes(intake.early))

    @property
    def found(self) -> bool:
        return self._scanner.found

    def feed(self, data: bytes) -> bool:
        """Take more of the body; say whether there is a placeholder in it. Nothing more may go out then."""
        return self._scanner.feed(data)

    async def refusal(self, judged: Judged) -> Denial:
        """Read a little more when the placeholder's name is cut, then say what is refused."""
        services, scanner, intake = self._session.services, self._scanner, self._intake
        with suppress(TimeoutError):
            async with asyncio.timeout(services.limits.refusal_peek_seconds):
                while not (scanner.is_settled or intake.ended):
                    intake.arrived.clear()
                    await intake.arrived.wait()
        refused = refuse_marker(
            services.holder.current.credentials,
            scanner.placeholder,
            judged.scope,
            now_ms=services.now_ms(),
        )
        return marker_in_body(services, self._session.connection, judged, refused)
