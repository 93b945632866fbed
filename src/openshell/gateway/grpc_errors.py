"""Domain errors to gRPC statuses: the one place. An interceptor inside the one for authentication.

A bug is answered INTERNAL without its text, which may hold anything; the log has the traceback.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, NoReturn

import grpc
import grpc.aio

from openshell.gateway.errors import ApiError, Code, error_to_status

__all__ = ["ErrorInterceptor"]

_STATUS = {code: grpc.StatusCode[code.name] for code in Code}

MAX_MESSAGE: Final = 4_000
"""Bytes of a status as it travels: in a header, and clients give the whole call up above 8 kB of those."""
_MORE: Final = " [...]"

_log = logging.getLogger(__name__)


# The stubs call this class generic, at run time it is not.
class ErrorInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Wraps each handler once; handlers that are no coroutines are left to who refuses them."""

    def __init__(self) -> None:
        self._wrapped: dict[str, Any] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        method = handler_call_details.method
        wrapped = self._wrapped.get(method)
        if wrapped is None:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            wrapped = self._wrapped[method] = _wrap(method, handler)
        return wrapped


def _wrap(method: str, handler: Any) -> Any:
    if handler.request_streaming:
        name = "stream_stream" if handler.response_streaming else "stream_unary"
    else:
        name = "unary_stream" if handler.response_streaming else "unary_unary"
    inner = getattr(handler, name)
    if inspect.isasyncgenfunction(inner):
        behaviour: Any = _translating_generator(method, inner)
    elif inspect.iscoroutinefunction(inner):
        behaviour = _translating(method, inner)
    else:
        return handler
    return handler._replace(**{name: behaviour})


def _translating(method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    async def behaviour(request: Any, context: Any) -> Any:
        try:
            return await inner(request, context)
        except Exception as error:
            await _answer(method, context, error)

    return behaviour


def _translating_generator(method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    async def behaviour(request: Any, context: Any) -> AsyncIterator[Any]:
        try:
            async for response in inner(request, context):
                yield response
        except Exception as error:
            await _answer(method, context, error)

    return behaviour


async def _answer(method: str, context: Any, error: Exception) -> NoReturn:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    told = error_to_status(error)
    if told is None:
        if context.cancelled() or context.done():
            # Writing to a caller that left fails in many ways; none is a bug.
            _log.debug("%s: the caller left", method, exc_info=error)
            raise asyncio.CancelledError from error
        _log.error("%s failed", method, exc_info=error)
        told = Code.INTERNAL, "internal error; the gateway's log says more"
    code, message = told[0], _fitting(told[1])
    if isinstance(error, ApiError) and error.details:
        metadata = tuple(
            (f"openshell-{key.replace('_', '-')}", _ascii(value))
            for key, value in error.details.items()
        )
        await context.abort(_STATUS[code], message, metadata)
    await context.abort(_STATUS[code], message)
    raise AssertionError("abort returned")


def _fitting(message: str) -> str:
    """The message, or its beginning: a sentence about hundreds of things would not arrive at all."""
    left = MAX_MESSAGE
    for at, char in enumerate(message):
        # As gRPC writes it: what is not printable ASCII, and the percent sign, takes three bytes for one.
        left -= 1 if " " <= char <= "~" and char != "%" else 3 * len(char.encode(errors="replace"))
        if left < 0:
            return message[:at] + _MORE
    return message


def _ascii(value: str) -> str:
    # Trailing metadata is printable ASCII; whatever else a detail holds is shown escaped.
    return value.encode("ascii", "backslashreplace").decode()
