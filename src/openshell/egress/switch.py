"""What becomes of a request that speaks of WebSocket: a switch of protocols, an ordinary request, a refusal.

Pure. Decides whether the messages of an open WebSocket are read (`proxy.md` 13.1), under the policy of the
handshake and again when the policy changes. Called by `judging`; `writing` writes what is asked of the
server, `websocket_exchange` carries it out.
"""

from collections.abc import Iterable
from typing import Final

import msgspec

from openshell.egress.http1 import Headers
from openshell.egress.websocket.handshake import Attempt, Upgrade, offering, switching
from openshell.policy.decide import EndpointConfig

__all__ = ["Switch", "holds_credentials", "must_read", "plan_switch"]

# Where a handshake may be answered at all: other protocols have messages of their own.
_SWITCHING: Final = frozenset({"", "rest", "websocket"})


class Switch(msgspec.Struct, frozen=True):
    """One handshake on its way. `reads` says that messages are read, else bytes are copied."""

    upgrade: Upgrade
    reads: bool

    def fields(self, headers: Headers) -> Headers:
        """The fields for the server, made from those that are forwarded with any request."""
        if self.reads:
            headers = offering(headers, self.upgrade.safe_offer)
        return switching(headers)


def plan_switch(
    attempt: Upgrade | Attempt,
    config: EndpointConfig | None,
    endpoints: Iterable[EndpointConfig],
) -> Switch | bool:
    """The switch of an allowed request; otherwise whether it may go without one.

    `config` governs the request, `endpoints` are all of its connection.
    """
    if attempt is Attempt.NONE:
        return True
    reads = must_read(config, endpoints)
    if isinstance(attempt, Upgrade) and (config is None or config.protocol in _SWITCHING):
        return Switch(attempt, reads)
    return attempt is Attempt.FAILED and not reads


def must_read(config: EndpointConfig | None, endpoints: Iterable[EndpointConfig]) -> bool:
    """Whether the policy wants messages of such a WebSocket read."""
    if config is not None:
        if config.protocol == "websocket":
            return True
        if config.protocol == "rest" and config.endpoint.websocket_credential_rewrite:
            return True
    return holds_credentials(endpoints)


def holds_credentials(endpoints: Iterable[EndpointConfig]) -> bool:
    """Whether some endpoint carries a provider's credentials without consent to uninspected traffic."""
    return any(
        config.provider_credentialed and not config.endpoint.allow_uninspected_credentials
        for config in endpoints
    )
