"""The corporate proxy: which destinations go through it, and how a tunnel through it is opened.

Everything has been decided before: the policy has allowed the connection and the destination rules
have judged its addresses. The proxy is asked for these addresses, one after the other, so that its own
idea of a name changes nothing, unless the operator has it asked by name. Its answer is read like that of
any upstream: bounded in bytes and time, and believed only when it is a plain 200. Credentials go to
the proxy alone and are shown nowhere.

Plain requests (absolute targets) never come here; `upstream.Upstreams` calls for all the rest.
"""

import asyncio
import base64
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network
from typing import Final, TypeAlias

from openshell.egress.destination import HOST_ALIASES, Address, Plan, unmapped
from openshell.egress.http1 import HeadRejected, ResponseHeadReader
from openshell.egress.stream import Stream, StreamLost, dial

__all__ = ["Bypass", "CorporateProxy", "CorporateTunnels", "TunnelFailed"]

# The contract's: all of it, shared by the addresses that are asked for.
_SECONDS: Final = 30.0
# One address of the proxy; a proxy that is up answers in milliseconds.
_DIAL_SECONDS: Final = 10.0
# The contract's; what proxies answer has a few hundred bytes.
_HEAD_LIMIT: Final = 8 * 1024

_OK: Final = 200
# The second is what tinyproxy answers to a wrong password.
_WANTS_CREDENTIALS: Final = (407, 401)
_FIRST_SERVER_ERROR: Final = 500

Resolve: TypeAlias = Callable[[str], Awaitable[tuple[Address, ...]]]


@dataclass(frozen=True, slots=True)
class Bypass:
    """Destinations that are dialled directly; without network and domain it is all of them."""

    network: IPv4Network | IPv6Network | None = None
    domain: str = ""
    # Zero: any.
    port: int = 0

    def has_name(self, host: str, port: int) -> bool:
        """Whether the host's name says that it is dialled directly."""
        if self.network is not None or self.port not in (0, port):
            return False
        return not self.domain or host == self.domain or host.endswith("." + self.domain)

    def has_address(self, address: Address, port: int) -> bool:
        network = self.network
        return (
            network is not None
            and self.port in (0, port)
            and address.version == network.version
            and address in network
        )


@dataclass(frozen=True, slots=True)
class CorporateProxy:
    """Where the proxy is, what it is not used for, and who we are there."""

    host: str
    port: int
    bypasses: tuple[Bypass, ...] = ()
    # "user:password"; empty: none.
    credential: str = field(default="", repr=False)
    by_hostname: bool = False

    def bypassed(self, plan: Plan) -> tuple[Address, ...]:
        """The addresses that are dialled directly; none: the proxy is asked."""
        host = plan.host.rstrip(".").lower()
        if host in HOST_ALIASES or any(rule.has_name(host, plan.port) for rule in self.bypasses):
            return plan.addresses
        return tuple(address for address in plan.addresses if self._is_near(address, plan.port))

    def _is_near(self, address: Address, port: int) -> bool:
        plain = unmapped(address)
        return plain.is_loopback or any(rule.has_address(plain, port) for rule in self.bypasses)


class TunnelFailed(Exception):
    """There is no tunnel; `reason` says what can be done and is safe to show to the agent."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class _Refused(Exception):
    """The proxy did not open this one; another address of the destination may be answered better."""


class CorporateTunnels:
    """Opens tunnels for one sandbox."""

    def __init__(
        self,
        proxy: CorporateProxy,
        resolve: Resolve,
        *,
        clock: Callable[[], float],
        seconds: float = _SECONDS,
    ) -> None:
        self._resolve = resolve
        self._clock = clock
        self._seconds = seconds
        self.proxy = proxy

    async def open(self, plan: Plan) -> Stream:
        """A stream that leads to the destination. Raises TunnelFailed."""
        ends = self._clock() + self._seconds
        here = await self._resolve(self.proxy.host)
        if not here:
            raise TunnelFailed(_unreachable("its name has no address"))
        targets = (plan.host.rstrip("."),) if self.proxy.by_hostname else plan.addresses
        reason = f"the corporate proxy was not asked for {_shown(plan)}: no time was left"
        for left, target in zip(range(len(targets), 0, -1), targets, strict=True):
            share = (ends - self._clock()) / left
            if share <= 0:
                break
            try:
                return await self._ask(here, f"{_bracketed(str(target))}:{plan.port}", plan, share)
            except _Refused as refused:
                reason = str(refused)
        raise TunnelFailed(reason)

    async def _ask(
        self, here: tuple[Address, ...], authority: str, plan: Plan, seconds: float
    ) -> Stream:
        ends = self._clock() + seconds
        stream = await self._reach(here, min(seconds / len(here), _DIAL_SECONDS))
        try:
            stream.write(self._request(authority))
            async with asyncio.timeout(max(ends - self._clock(), 0)):
                await self._answer(stream, plan)
        except TimeoutError:
            stream.abort()
            raise _Refused(
                f"the corporate proxy did not answer for {_shown(plan)} in {seconds:.0f} s:"
                " try again, or ask the operator to look after it"
            ) from None
        except BaseException:
            stream.abort()
            raise
        return stream

    async def _reach(self, here: tuple[Address, ...], seconds: float) -> Stream:
        reason = ""
        for address in here:
            try:
                return await dial(str(address), self.proxy.port, seconds)
            except TimeoutError:
                reason = "timed out"
            except OSError as error:
                # Not the loop's own words: these hold the proxy's address.
                reason = os.strerror(error.errno) if error.errno else type(error).__name__
        # Asking for another address of the destination would end the same.
        raise TunnelFailed(_unreachable(reason))

    def _request(self, authority: str) -> bytes:
        head = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n"
        if self.proxy.credential:
            token = base64.b64encode(self.proxy.credential.encode()).decode()
            head += f"Proxy-Authorization: Basic {token}\r\n"
        return (head + "\r\n").encode()

    async def _answer(self, stream: Stream, plan: Plan) -> None:
        """Read the answer's head; what came behind it belongs to the tunnel."""
        reader = ResponseHeadReader(limit=_HEAD_LIMIT, request_method=b"CONNECT")
        head = None
        try:
            while head is None:
                data = await stream.read()
                if not data:
                    raise _Refused(
                        f"the corporate proxy closed the connection when asked for {_shown(plan)}:"
                        " ask the operator whether it allows that destination"
                    )
                head = reader.feed(data)
        except StreamLost:
            raise _Refused(
                f"the corporate proxy reset the connection when asked for {_shown(plan)}:"
                " ask the operator whether it allows that destination"
            ) from None
        except HeadRejected as rejected:
            raise TunnelFailed(
                f"the corporate proxy broke its answer ({rejected.reason.value}): ask the operator"
                " whether https_proxy leads to an HTTP proxy"
            ) from None
        # Fields that would announce a body mean nothing here (RFC 9110 9.3.6).
        if head.status != _OK:
            raise self._failure(head.status, plan)
        stream.unread(reader.leftover)

    def _failure(self, status: int, plan: Plan) -> Exception:
        if status in _WANTS_CREDENTIALS:
            what = (
                f"does not accept the credentials in proxy_auth_file ({status}): ask the operator to"
                " renew them"
                if self.proxy.credential
                else f"wants credentials ({status}): ask the operator to give it proxy_auth_file"
            )
            return TunnelFailed(f"the corporate proxy {what}")
        if status >= _FIRST_SERVER_ERROR:
            return _Refused(f"the corporate proxy could not reach {_shown(plan)} ({status})")
        return _Refused(
            f"the corporate proxy refused a tunnel to {_shown(plan)} ({status}): ask its"
            " administrator to allow that destination, or the operator to add it to no_proxy"
        )


def _unreachable(reason: str) -> str:
    return (
        f"the corporate proxy cannot be reached ({reason}): ask the operator to check https_proxy"
        " in the gateway's configuration"
    )


def _shown(plan: Plan) -> str:
    return f"{_bracketed(plan.host)}:{plan.port}"


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
