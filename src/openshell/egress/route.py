"""The way of one client's requests to one upstream, and one request on it before it has an answer.

Values that judging and writing share; neither decides anything here.
"""

from dataclasses import dataclass, field
from typing import Final

from openshell.egress.admission import Admitted
from openshell.egress.credentials import TokenGrant
from openshell.egress.http1 import Headers, RequestHead
from openshell.egress.middleware import Passage
from openshell.policy.decide import EndpointConfig
from openshell.policy.messages import Content

__all__ = ["DEFAULT_PORTS", "KeptFields", "Pending", "Route"]

DEFAULT_PORTS: Final = {"http": 80, "https": 443}
# What an author writes at an endpoint that speaks TLS.
_TLS_WORDS: Final = frozenset({"terminate", "passthrough"})


class KeptFields:
    """The fields of a route's last request that held nothing to replace, as they went upstream.

    Recognised by being the very same object (see `http1.FieldMemory`), so that a client which repeats
    its fields has them written once. No value of a credential is ever kept here.
    """

    __slots__ = ("headers", "wire")

    def __init__(self) -> None:
        self.headers: Headers | None = None
        self.wire = b""


@dataclass(frozen=True, slots=True)
class Route:
    """Requests of one client to one upstream. `absolute` is the form of plain proxy requests."""

    admitted: Admitted
    scheme: str
    absolute: bool
    hosts: frozenset[bytes] = field(init=False)
    # The shortest spelling, written upstream.
    host_field: bytes = field(init=False)
    configs: tuple[EndpointConfig, ...] = field(init=False)
    keeps_slash: bool = field(init=False)
    # Clear text where TLS belongs: whoever downgraded it must not get a value of a credential.
    is_downgraded: bool = field(init=False)
    # Whether some request of it may have to be signed.
    signs: bool = field(init=False)
    # Whether some request of it may have to be read beyond its head.
    reads_content: bool = field(init=False)
    kept: KeptFields = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Prepare what every request needs: spellings of the Host field, inspecting endpoints."""
        host, port = self.admitted.request.host.lower(), self.admitted.request.port
        shown = f"[{host}]" if ":" in host else host
        hosts = {f"{shown}:{port}".encode()}
        if DEFAULT_PORTS[self.scheme] == port:
            hosts.add(shown.encode())
        configs = self.admitted.decision.l7_configs
        object.__setattr__(self, "hosts", frozenset(hosts))
        object.__setattr__(self, "host_field", min(hosts, key=len))
        object.__setattr__(self, "configs", configs)
        # Nobody judges paths on a route that is not inspected.
        keeps_slash = not configs or any(config.allow_encoded_slash for config in configs)
        object.__setattr__(self, "keeps_slash", keeps_slash)
        downgraded = self.scheme == "http" and _expects_tls(self.admitted)
        object.__setattr__(self, "is_downgraded", downgraded)
        signs = any(c.endpoint.credential_signing for c in self.admitted.decision.endpoints)
        object.__setattr__(self, "signs", signs)
        object.__setattr__(self, "reads_content", any(c.body_bytes for c in configs))
        object.__setattr__(self, "kept", KeptFields())

    def renewed(self, admitted: Admitted) -> "Route":
        return Route(admitted, self.scheme, self.absolute)


class Pending:
    """A request on its way to an answer, and what was got for it so far. Never shown."""

    __slots__ = (
        "body",
        "content",
        "digest",
        "has_place",
        "head",
        "is_queued",
        "is_streaming",
        "passage",
        "staged",
        "token",
    )

    def __init__(self, head: RequestHead) -> None:
        self.head = head
        # The grant that a token was got for, and the token: it serves this request even if it is
        # good for a moment only.
        self.token: tuple[TokenGrant, str] | None = None
        self.body: bytes | None = None
        # Of the body, once it was needed.
        self.digest = ""
        # What it says beyond its head, and the protocol it was read as.
        self.content: tuple[str, Content] | None = None
        # It takes one of the places that large bodies have.
        self.has_place = False
        # The body is being forwarded as it comes, so that it cannot be had as a whole any more.
        self.is_streaming = False
        # Its way through the stages of its host, and what they have made of it by now.
        self.passage: Passage | None = None
        self.staged: Pending | None = None
        # It takes one of the places of requests that are shown to stages.
        self.is_queued = False


def _expects_tls(admitted: Admitted) -> bool:
    endpoints = admitted.decision.endpoints
    return admitted.request.port == DEFAULT_PORTS["https"] or any(
        config.endpoint.tls.lower() in _TLS_WORDS for config in endpoints
    )
