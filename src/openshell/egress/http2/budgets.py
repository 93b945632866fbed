"""Counts the frames of one peer that only cost: work or memory, without bringing anything.

Budgets refill with time; who overdraws one is told to be calm and disconnected. Pure; time is an argument.
Called by `reader` for every frame but those that carry data, and by `endpoint` for streams that a peer
makes us reset.
"""

from openshell.egress.http2.codes import (
    ACK,
    GOAWAY,
    PING,
    RST_STREAM,
    SETTINGS,
    ErrorCode,
    PeerBroken,
)

__all__ = ["Budget", "Budgets"]


class Budget:
    """Allows `burst` at once and `rate` a second."""

    __slots__ = ("_at", "_burst", "_left", "_rate", "code")

    def __init__(self, code: str, burst: int, rate: float) -> None:
        self.code = code
        self._burst = burst
        self._rate = rate
        self._left = float(burst)
        self._at = 0.0

    def spend(self, now: float) -> None:
        """Take one. Raises PeerBroken when nothing is left."""
        if now > self._at:
            self._left = min(self._burst, self._left + (now - self._at) * self._rate)
            self._at = now
        if self._left < 1:
            raise PeerBroken(self.code, ErrorCode.ENHANCE_YOUR_CALM)
        self._left -= 1

    def earn(self, count: int) -> None:
        """Put back what something useful has made the peer spend, up to the burst."""
        self._left = min(self._burst, self._left + count)


class Budgets:
    """Those of one direction of one connection."""

    __slots__ = ("empty", "idle", "pings", "resets", "settings")

    def __init__(self) -> None:
        # Cancelling is normal, all hundred streams at once too; rapid reset (CVE-2023-44487) is thousands.
        # What a peer makes us reset counts like what it resets itself (CVE-2025-8671).
        self.resets = Budget("http2_rapid_reset", 200, 20)
        # gRPC measures bandwidth with up to ten a second; each costs an answer.
        self.pings = Budget("http2_ping_flood", 200, 20)
        # Each costs an answer and a walk over all streams. Peers send one or two, ever.
        self.settings = Budget("http2_settings_flood", 20, 1)
        # Data frames without data, continuations without fields (CVE-2019-9518).
        self.empty = Budget("http2_empty_frame_flood", 200, 20)
        # Window updates, priorities, unknown types: they cost a look.
        self.idle = Budget("http2_idle_frame_flood", 20_000, 10_000)

    def sent(self, frames: int) -> None:
        """Data frames went out: plain receivers answer each with an update of both windows."""
        self.idle.earn(2 * frames)

    def count(self, kind: int, flags: int, now: float) -> None:
        """Count a frame that carries neither data nor fields. Raises PeerBroken."""
        if kind == RST_STREAM:
            self.resets.spend(now)
        elif kind in (SETTINGS, GOAWAY):
            self.settings.spend(now)
        elif kind == PING:
            (self.idle if flags & ACK else self.pings).spend(now)
        else:
            self.idle.spend(now)
