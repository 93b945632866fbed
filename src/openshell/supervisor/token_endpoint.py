"""Which URLs tokens are fetched from, and one POST to such a place: no redirect, no proxy, all bounded.

Built from the proxy's own parsers and connections, so that a supervisor loads no HTTP library. TLS is
verified with the same roots as upstreams are. What the answer means is `token_issuer`'s part.
"""

import asyncio
import re
import socket
import ssl
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from openshell.egress.destination import Plan
from openshell.egress.http1 import (
    RESPONSE_HEAD_LIMIT,
    BodyDecoder,
    BodyRejected,
    HeadRejected,
    ResponseHead,
    ResponseHeadReader,
)
from openshell.egress.stream import Stream
from openshell.egress.tls_sessions import TlsTarget
from openshell.egress.upstream import UpstreamFailed, Upstreams

__all__ = ["EndpointFailed", "TokenEndpoint", "post_form"]

# The contract's: all of it, from the name to the last byte.
_SECONDS: Final = 30.0
_DIAL_SECONDS: Final = 10.0
# A token with claims has a few KiB.
_MAX_ANSWER: Final = 64 * 1024
_MAX_INTERIM: Final = 8
_MAX_ADDRESSES: Final = 8

_URL: Final = re.compile(
    r"((?i:https?))://(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*))"
    r"(?::([0-9]{1,5}))?(/[!-~]*)?"
).fullmatch
_IN_CLUSTER: Final = re.compile(r"[^.]+\.[^.]+\.svc(?:\.cluster\.local)?").fullmatch


class EndpointFailed(Exception):
    """No answer was had; a sentence for the log."""


@dataclass(frozen=True, slots=True)
class TokenEndpoint:
    """A URL that may be asked for tokens."""

    is_tls: bool
    host: str
    port: int
    target: str

    @classmethod
    def parse(cls, url: str) -> "TokenEndpoint | None":
        """None where the URL is none, or would carry a statement of identity in clear text."""
        found = _URL(url)
        if found is None or "#" in url:
            return None
        scheme, six, name, port, target = found.groups()
        scheme, host = scheme.lower(), (six or name).lower()
        number = int(port) if port else {"http": 80, "https": 443}[scheme]
        if not 1 <= number <= 65535 or (scheme == "http" and not _is_near(host)):
            return None
        return cls(scheme == "https", host, number, target or "/")

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.is_tls else 80
        return host if self.port == default else f"{host}:{self.port}"


async def post_form(
    endpoint: TokenEndpoint, form: bytes, context: ssl.SSLContext
) -> tuple[int, bytes]:
    """Status and body of the answer. Raises EndpointFailed."""
    try:
        async with asyncio.timeout(_SECONDS):
            stream = await _connect(endpoint, context)
            try:
                stream.write(_request(endpoint, form))
                return await _answer(stream)
            finally:
                stream.abort()
    except TimeoutError:
        raise EndpointFailed(f"{endpoint.authority} did not answer in {_SECONDS:.0f} s") from None
    except UpstreamFailed as failed:
        raise EndpointFailed(f"{endpoint.authority}: {failed.reason}") from None
    except (HeadRejected, BodyRejected) as rejected:
        reason = rejected.reason.value
        raise EndpointFailed(f"{endpoint.authority} broke its answer: {reason}") from None
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise EndpointFailed(f"{endpoint.authority}: {reason}") from None


async def _connect(endpoint: TokenEndpoint, context: ssl.SSLContext) -> Stream:
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
    addresses = dict.fromkeys(
        ip_address(str(address[0]).partition("%")[0]) for *_, address in found
    )
    upstreams = Upstreams(
        context, clock=loop.time, dial_seconds=_DIAL_SECONDS, handshake_seconds=_DIAL_SECONDS
    )
    plan = Plan(endpoint.host, endpoint.port, tuple(addresses)[:_MAX_ADDRESSES])
    stream = await upstreams.dial(plan)
    if not endpoint.is_tls:
        return stream
    return await upstreams.secure(stream, TlsTarget(endpoint.host, endpoint.port))


def _request(endpoint: TokenEndpoint, form: bytes) -> bytes:
    head = (
        f"POST {endpoint.target} HTTP/1.1\r\nHost: {endpoint.authority}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\nAccept: application/json\r\n"
        f"Content-Length: {len(form)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + form


async def _answer(stream: Stream) -> tuple[int, bytes]:
    head, rest = await _head(stream)
    decoder = BodyDecoder(head.framing)
    body, data = b"", rest
    while True:
        part = decoder.feed(data)
        body += b"".join(part.data)
        if len(body) > _MAX_ANSWER:
            raise EndpointFailed(f"the answer has more than {_MAX_ANSWER} bytes")
        if decoder.done:
            return head.status, body
        data = await stream.read()
        if not data:
            decoder.end_of_stream()


async def _head(stream: Stream) -> tuple[ResponseHead, bytes]:
    data = b""
    for _ in range(_MAX_INTERIM):
        reader = ResponseHeadReader(limit=RESPONSE_HEAD_LIMIT, request_method=b"POST")
        head = reader.feed(data) if data else None
        while head is None:
            data = await stream.read()
            if not data:
                reader.end_of_stream()
                raise EndpointFailed("the connection was closed without an answer")
            head = reader.feed(data)
        if not head.is_interim:
            return head, reader.leftover
        data = reader.leftover
    raise EndpointFailed("too many interim answers came")


def _is_near(host: str) -> bool:
    """Whether clear text does not leave the machine, or the cluster's own network."""
    if host == "localhost" or _IN_CLUSTER(host):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
