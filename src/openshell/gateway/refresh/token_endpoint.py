"""Sends one form to a token endpoint and reads a bounded answer.

What leaves here holds an account, so nothing of the surroundings has a say: no redirects, no proxies
and no certificates from the environment, no cookies, one connection per request. What may be asked
and what an answer means is pure and lies in `openshell.providers`.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from typing import TYPE_CHECKING, Final

from openshell.providers.refresh import RefreshReason, RefreshRefused
from openshell.providers.refresh_answers import MAX_ANSWER_BYTES
from openshell.providers.refresh_requests import TokenRequest

if TYPE_CHECKING:
    import httpx

__all__ = ["TIMEOUT_SECONDS", "TokenEndpoint"]

TIMEOUT_SECONDS: Final = 30.0
"""For the whole exchange; the contract's limit."""


class TokenEndpoint:
    """The way to token endpoints. `tls` stands in for the system's authorities, for tests."""

    def __init__(
        self, *, tls: ssl.SSLContext | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self._tls = tls
        self._timeout_seconds = timeout_seconds
        # They name URLs and headers, which may hold what must not be written anywhere.
        for foreign in ("httpx", "httpcore"):
            logging.getLogger(foreign).setLevel(logging.WARNING)

    async def send(self, request: TokenRequest) -> tuple[int, bytes]:
        """Status and body. Raises `RefreshRefused` when there is no answer to read."""
        import httpx  # noqa: PLC0415  most gateways never refresh anything

        if self._tls is None:
            self._tls = await asyncio.to_thread(ssl.create_default_context)
        failure = ""
        try:
            async with (
                asyncio.timeout(self._timeout_seconds),
                httpx.AsyncClient(
                    verify=self._tls,
                    trust_env=False,
                    follow_redirects=False,
                    timeout=self._timeout_seconds,
                    headers={"accept": "application/json", "accept-encoding": "identity"},
                ) as client,
                client.stream("POST", request.url, data=dict(request.form)) as response,
            ):
                return response.status_code, await _read(response)
        except TimeoutError:
            failure = f"no answer within {self._timeout_seconds:g} seconds"
        except (httpx.HTTPError, httpx.InvalidURL, OSError, UnicodeError) as error:
            failure = type(error).__name__
        # Outside of the handler: a chained exception would carry the request.
        raise RefreshRefused(
            RefreshReason.UNREACHABLE,
            f"the token endpoint at {request.host} could not be asked ({failure})",
        )


async def _read(response: httpx.Response) -> bytes:
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise RefreshRefused(
            RefreshReason.PRECONDITION, "the token endpoint's answer is compressed unasked"
        )
    body = bytearray()
    async for chunk in response.aiter_raw():
        body += chunk
        if len(body) > MAX_ANSWER_BYTES:
            # Enough for the reader to refuse it.
            break
    return bytes(body)
