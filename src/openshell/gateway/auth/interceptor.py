"""The gate before every handler: finds the caller, decides, and only then lets the call in.

One interceptor per server, because what is accepted depends on the listener. Handlers see the caller
through `principal.current_principal()`. The gate sits around the handler and not before it, since
only the handler's context knows the verified certificate; so a request may be decoded before it is
refused (bounded by the server's message limit), but never reaches a handler.

A method that the contract names and this gateway does not build yet is left to the generated base
class, whose methods are plain functions; ours are all coroutines. The former are answered
UNIMPLEMENTED with their name, after the same checks as any other.
"""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn, TypeAlias

import grpc
import grpc.aio

from openshell.gateway.auth.authentication import (
    AuthSettings,
    CallEvidence,
    Listener,
    authenticate,
)
from openshell.gateway.auth.authorization import (
    AuthorizationTable,
    Denied,
    Rule,
    authorize,
    check_sandbox_scope,
)
from openshell.gateway.auth.principal import Principal, SandboxPrincipal, bind_principal
from openshell.gateway.errors import Code

__all__ = ["AuthInterceptor", "SandboxExists"]

Context: TypeAlias = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = Any
SandboxExists: TypeAlias = Callable[[str], Awaitable[bool]]

# Standard services that we do not offer: clients probe for them and expect to be told so.
_PROBED_PREFIXES: Final = ("/grpc.health.", "/grpc.reflection.")

_STATUS: Final = {code: grpc.StatusCode[code.name] for code in Code}


# The stubs call this class generic, at run time it is not.
class AuthInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[type-arg]
    """Admits or refuses every call of one server."""

    def __init__(
        self,
        table: AuthorizationTable,
        settings: AuthSettings,
        listener: Listener,
        sandbox_exists: SandboxExists | None = None,
    ) -> None:
        self._table = table
        self._settings = settings
        self._listener = listener
        self._sandbox_exists = sandbox_exists
        # Handlers are the same objects for every call, so each is wrapped once.
        self._guarded: dict[str, Handler] = {}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler:
        method = handler_call_details.method
        guarded = self._guarded.get(method)
        if guarded is not None:
            return guarded
        handler = await continuation(handler_call_details)
        if handler is None:
            # Not kept: the names of unknown methods are the caller's choice and without end.
            return grpc.stream_stream_rpc_method_handler(self._refuse_unknown(method))
        guarded = self._guard(method, handler)
        self._guarded[method] = guarded
        return guarded

    async def _admit(self, method: str, context: Context) -> tuple[Rule | None, Principal]:
        rule = self._table.rule(method)
        if self._listener is Listener.SUPERVISORS and not (rule and rule.for_supervisors):
            await _refuse(
                context,
                Denied(
                    Code.PERMISSION_DENIED,
                    "this listener accepts calls of supervisors only; use the gateway's port",
                ),
            )
        principal = authenticate(rule, _evidence(context), self._settings, self._listener)
        if isinstance(principal, Denied):
            await _refuse(context, principal)
        decision = authorize(rule, principal, self._settings.roles)
        if isinstance(decision, Denied):
            await _refuse(context, decision)
        if isinstance(principal, SandboxPrincipal) and not await self._exists(principal.sandbox_id):
            await _refuse(context, Denied(Code.NOT_FOUND, "sandbox not found"))
        bind_principal(principal)
        return rule, principal

    async def _exists(self, sandbox_id: str) -> bool:
        # Tokens outlive their sandbox; what was deleted has no say any more.
        return self._sandbox_exists is None or await self._sandbox_exists(sandbox_id)

    def _refuse_unknown(self, method: str) -> Callable[[Any, Context], Awaitable[None]]:
        async def refuse(_requests: object, context: Context) -> None:
            if not method.startswith(_PROBED_PREFIXES):
                await self._admit(method, context)
            await _refuse(context, Denied(Code.UNIMPLEMENTED, f"unknown method {method}"))

        return refuse

    def _guard(self, method: str, handler: Handler) -> Handler:
        if handler.request_streaming:
            inner = handler.stream_stream or handler.stream_unary
            entry: _Entry = self._admit_stream
        else:
            inner = handler.unary_stream or handler.unary_unary
            entry = self._admit_unary
        if inspect.isasyncgenfunction(inner):
            behaviour = _guard_generator(entry, method, inner)
        else:
            behaviour = _guard_coroutine(entry, method, inner)
        make = _MAKERS[handler.request_streaming, handler.response_streaming]
        return make(behaviour, handler.request_deserializer, handler.response_serializer)

    async def _admit_unary(self, method: str, request: Any, context: Context) -> Any:
        rule, principal = await self._admit(method, context)
        await _check_scope(rule, principal, request, context)
        return request

    async def _admit_stream(self, method: str, requests: Any, context: Context) -> Any:
        rule, principal = await self._admit(method, context)
        if rule is None or not rule.sandbox_fields or not isinstance(principal, SandboxPrincipal):
            return requests
        return _scoped(rule, principal, requests, context)


_Entry: TypeAlias = Callable[[str, Any, Context], Awaitable[Any]]

_MAKERS: Final[dict[tuple[bool, bool], Callable[..., Handler]]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def _guard_generator(entry: _Entry, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    async def behaviour(request: Any, context: Context) -> AsyncIterator[Any]:
        admitted = await entry(method, request, context)
        async with aclosing(inner(admitted, context)) as responses:
            async for response in responses:
                yield response

    return behaviour


def _guard_coroutine(entry: _Entry, method: str, inner: Callable[..., Any]) -> Callable[..., Any]:
    is_built = inspect.iscoroutinefunction(inner)

    async def behaviour(request: Any, context: Context) -> Any:
        admitted = await entry(method, request, context)
        if not is_built:
            await _refuse(
                context, Denied(Code.UNIMPLEMENTED, f"{method} is not built yet in this gateway")
            )
        return await inner(admitted, context)

    return behaviour


async def _scoped(
    rule: Rule, principal: Principal, requests: AsyncIterator[Any], context: Context
) -> AsyncIterator[Any]:
    async for request in requests:
        await _check_scope(rule, principal, request, context)
        yield request


async def _check_scope(
    rule: Rule | None, principal: Principal, request: Any, context: Context
) -> None:
    denied = check_sandbox_scope(rule, principal, request) if rule is not None else None
    if denied is not None:
        await _refuse(context, denied)


def _evidence(context: Context) -> CallEvidence:
    authorization = tuple(
        value if isinstance(value, str) else ""
        for key, value in context.invocation_metadata() or ()
        if key == "authorization"
    )
    # Present only when the server asked for a certificate and TLS verified it.
    certificates = tuple(context.auth_context().get("x509_pem_cert", ()))
    return CallEvidence(authorization, certificates[0] if len(certificates) == 1 else None)


async def _refuse(context: Context, denied: Denied) -> NoReturn:
    await context.abort(_STATUS[denied.code], denied.message)
    raise AssertionError("abort returned")  # the contract of abort is to raise
