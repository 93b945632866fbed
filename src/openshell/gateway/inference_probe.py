"""Tries an inference route once before it is stored: the smallest request that a model answers.

Asked from the gateway, with the same rules for destinations as in a sandbox: loopback, link-local
and the host's own addresses are not dialled but by the host alias, and never on a port of the
gateway. Addresses are looked up once and then dialled as they are. Nothing of an answer is kept or
shown but its status. Called by `services/inference.py`, outside of any transaction.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
from collections.abc import Callable, Collection, Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address
from types import MappingProxyType
from typing import Any, Final
from urllib.parse import quote

from openshell.providers.inference_endpoint import ALIAS, Endpoint
from openshell.providers.inference_routes import RoutePlan
from openshell.providers.inference_types import (
    ANTHROPIC_MESSAGES,
    BEDROCK_INVOKE,
    CHAT_COMPLETIONS,
    COMPLETIONS,
    EMBEDDINGS,
    RESPONSES,
    Auth,
)

__all__ = ["Probe", "ProbeFailed"]

TIMEOUT_SECONDS: Final = 20.0
"""For all of it; the client's own deadline is 30 seconds."""

_PATHS: Final[Mapping[str, str]] = MappingProxyType(
    {
        CHAT_COMPLETIONS: "/v1/chat/completions",
        COMPLETIONS: "/v1/completions",
        RESPONSES: "/v1/responses",
        EMBEDDINGS: "/v1/embeddings",
        ANTHROPIC_MESSAGES: "/v1/messages",
    }
)
_ASK: Final = [{"role": "user", "content": "ping"}]
# A model may lack one way of being asked; these statuses say so, others say more.
_TRY_NEXT: Final = frozenset({400, 404, 405, 422})
_KEY_REFUSED: Final = frozenset({401, 403})


class ProbeFailed(Exception):
    """Why the route does not work; never holds a key or anything of an answer."""


class Probe:
    """The way to endpoints of models."""

    def __init__(
        self,
        make_tls: Callable[[], ssl.SSLContext] = ssl.create_default_context,
        *,
        closed_ports: Callable[[], Collection[int]] = tuple,
        timeout_seconds: float = TIMEOUT_SECONDS,
    ) -> None:
        """`make_tls` trusts whom sandboxes trust; `closed_ports` are the gateway's on this host."""
        self._make_tls = make_tls
        self._closed_ports = closed_ports
        self._timeout_seconds = timeout_seconds
        self._tls: ssl.SSLContext | None = None
        for foreign in ("httpx", "httpcore"):
            logging.getLogger(foreign).setLevel(logging.WARNING)

    async def run(self, plan: RoutePlan, key: str) -> tuple[tuple[str, str], ...]:
        """URL and protocol of what answered. Raises `ProbeFailed`."""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                address = await self._address(plan.endpoint)
                return await self._try_each(plan, key, address)
        except TimeoutError:
            raise ProbeFailed(
                f"{plan.endpoint.authority} did not answer within {self._timeout_seconds:g} seconds"
            ) from None

    async def _try_each(
        self, plan: RoutePlan, key: str, address: str
    ) -> tuple[tuple[str, str], ...]:
        status = 0
        for protocol, target, body in _requests(plan):
            status = await self._send(plan, key, address, target, body)
            url = (
                f"{'https' if plan.endpoint.is_tls else 'http'}://{plan.endpoint.authority}{target}"
            )
            # Without a body that fits the model, its complaint about the body is the proof.
            if 200 <= status < 300 or (protocol == BEDROCK_INVOKE and status in {400, 422}):
                return ((url, protocol),)
            if status not in _TRY_NEXT:
                break
        if status in _KEY_REFUSED:
            raise ProbeFailed(f"{plan.endpoint.authority} refused the key (status {status})")
        raise ProbeFailed(
            f"{plan.endpoint.authority} answered {status} to a request for model '{plan.model}'"
        )

    async def _send(self, plan: RoutePlan, key: str, address: str, target: str, body: bytes) -> int:
        import httpx  # noqa: PLC0415  most gateways never try a route

        endpoint = plan.endpoint
        if self._tls is None:
            self._tls = await asyncio.to_thread(self._make_tls)
        shown = f"[{address}]" if ":" in address else address
        scheme = "https" if endpoint.is_tls else "http"
        failure = ""
        try:
            async with (
                httpx.AsyncClient(
                    verify=self._tls,
                    trust_env=False,
                    follow_redirects=False,
                    timeout=self._timeout_seconds,
                ) as client,
                client.stream(
                    "POST",
                    f"{scheme}://{shown}:{endpoint.port}{target}",
                    content=body,
                    headers=_headers(plan, key),
                    extensions={"sni_hostname": endpoint.host},
                ) as response,
            ):
                return response.status_code
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            failure = type(error).__name__
        # Outside of the handler: a chained exception would carry the request.
        raise ProbeFailed(f"{endpoint.authority} could not be asked ({failure})")

    async def _address(self, endpoint: Endpoint) -> str:
        """The address to dial. Raises `ProbeFailed` for one that no route leads to."""
        if endpoint.host == ALIAS:
            if endpoint.port in self._closed_ports():
                raise ProbeFailed(f"port {endpoint.port} of the host is the gateway's")
            return "127.0.0.1"
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(endpoint.host, endpoint.port, type=socket.SOCK_STREAM)
        except (OSError, UnicodeError):
            raise ProbeFailed(f"{endpoint.host} has no address") from None
        addresses = [ip_address(str(entry[0]).partition("%")[0]) for *_, entry in found]
        if not addresses or any(_is_closed(address) for address in addresses):
            raise ProbeFailed(
                f"{endpoint.host} leads to this host itself or to a link-local address; "
                f"for a model on this host use {ALIAS}"
            )
        return str(addresses[0])


def _requests(plan: RoutePlan) -> list[tuple[str, str, bytes]]:
    """Protocol, target and body of what is tried, in order."""
    made = []
    for protocol in plan.protocols:
        for fields in _bodies(protocol):
            document = dict(fields)
            if plan.path_override is not None:
                target = plan.endpoint.path + plan.path_override
            elif protocol == BEDROCK_INVOKE:
                target = plan.endpoint.target(f"/model/{quote(plan.model, safe='')}/invoke")
            else:
                target = plan.endpoint.target(_PATHS[protocol])
            if not plan.model_in_path:
                document["model"] = plan.model
            elif protocol == ANTHROPIC_MESSAGES:
                document["anthropic_version"] = "vertex-2023-10-16"
            made.append((protocol, target, json.dumps(document).encode()))
    return made


def _bodies(protocol: str) -> tuple[Mapping[str, Any], ...]:
    """The smallest requests of a protocol; newer models want another name for the bound."""
    match protocol:
        case "openai_chat_completions":
            bounds = ("max_tokens", "max_completion_tokens")
            return tuple({"messages": _ASK, bound: 16} for bound in bounds)
        case "openai_responses":
            return ({"input": "ping", "max_output_tokens": 16},)
        case "openai_completions":
            return ({"prompt": "ping", "max_tokens": 16},)
        case "openai_embeddings":
            return ({"input": "ping"},)
        case "anthropic_messages":
            return ({"messages": _ASK, "max_tokens": 16},)
        case "aws_bedrock_invoke":
            return ({},)
        case _:
            return ()


def _headers(plan: RoutePlan, key: str) -> dict[str, str]:
    headers = {
        "host": plan.endpoint.authority,
        "content-type": "application/json",
        "accept": "application/json",
        "accept-encoding": "identity",
        "user-agent": "openshell-gateway",
        **plan.kind.headers,
    }
    if plan.kind.auth is Auth.BEARER:
        headers["authorization"] = f"Bearer {key}"
    elif plan.kind.auth is Auth.API_KEY:
        headers["x-api-key"] = key
    return headers


def _is_closed(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address.is_loopback or address.is_link_local or address.is_unspecified:
        return True
    return address.is_multicast or _is_own(address)


def _is_own(address: IPv4Address | IPv6Address) -> bool:
    """Whether the kernel takes the address for one of this host: only these can be bound."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((str(address), 0))
        except OSError:
            return False
        return True
