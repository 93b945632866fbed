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

__all__ = ["KeptSession", "SessionCache", "TlsTarget"]

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


@dataclass(frozen=True, slots=True)
class KeptSession:
    """A session, the only context that takes it, and when the chain was verified that it stands for."""

    session: ssl.SSLSession
    context: ssl.SSLContext
    verified: float


class SessionCache:
    """The newest session for each target."""

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        # Oldest first.
        self._kept: OrderedDict[TlsTarget, KeptSession] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def put(self, target: TlsTarget, kept: KeptSession) -> None:
        self._kept[target] = kept
        self._kept.move_to_end(target)
        while len(self._kept) > MAX_SESSIONS:
            self._kept.popitem(last=False)

    def get(self, target: TlsTarget, context: ssl.SSLContext, now: float) -> KeptSession | None:
        """Return a session that a connection of this context can begin with."""
        kept = self._kept.get(target)
        if kept is None:
            return None
        age = now - kept.verified
        limit = min(SESSION_SECONDS, float(kept.session.timeout or SESSION_SECONDS))
        if kept.context is not context or age > limit:
            del self._kept[target]
            return None
        return kept

    def forget(self, target: TlsTarget) -> None:
        self._kept.pop(target, None)

    def drop_older(self, credential_epoch: int) -> None:
        for target in [t for t in self._kept if t.credential_epoch < credential_epoch]:
            del self._kept[target]
