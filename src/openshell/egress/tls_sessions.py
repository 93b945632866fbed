"""TLS sessions of one sandbox's upstreams, so that the next handshake costs less.

A session stands for what was verified when it began: it is kept under the host name, the port, the credential
epoch and the client certificate, belongs to one TLS context (OpenSSL refuses it in another) and is given up
after ten minutes, so that an expired or replaced certificate is looked at again. Nothing is shared between
sandboxes: each has its own `Upstreams`. Synchronous; time comes in.
"""

from __future__ import annotations

import ssl
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from openshell.egress.client_identity import ClientIdentity

__all__ = ["SessionCache", "TlsTarget"]

# A session holds the server's chain, about 5 KiB; a sandbox talks to a few dozen hosts.
MAX_SESSIONS: Final = 32
# How long a verification may stand for the next one. Servers keep theirs for five minutes to a day.
SESSION_SECONDS: Final = 600.0


@dataclass(frozen=True, slots=True)
class TlsTarget:
    """Whom to speak TLS with, and as whom."""

    host: str
    port: int
    credential_epoch: int = 0
    identity: ClientIdentity | None = None


class SessionCache:
    """The newest session for each target."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        # Oldest first. Beside the session: when its chain was verified.
        self._kept: OrderedDict[TlsTarget, tuple[ssl.SSLSession, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, target: TlsTarget, session: ssl.SSLSession, verified: float) -> None:
        self._kept[target] = (session, verified)
        self._kept.move_to_end(target)
        while len(self._kept) > MAX_SESSIONS:
            self._kept.popitem(last=False)

    def get(self, target: TlsTarget, now: float) -> tuple[ssl.SSLSession, float] | None:
        """Return a session and when its chain was verified."""
        kept = self._kept.get(target)
        if kept is None:
            return None
        session, verified = kept
        if now - verified > min(SESSION_SECONDS, float(session.timeout or SESSION_SECONDS)):
            del self._kept[target]
            return None
        return kept

    def forget(self, target: TlsTarget) -> None:
        self._kept.pop(target, None)

    def drop_older(self, credential_epoch: int) -> None:
        for target in [t for t in self._kept if t.credential_epoch < credential_epoch]:
            del self._kept[target]
