"""Sandbox RPCs: create, get, list, delete, stop, start. Compute is `lifecycle.py`'s part."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable
from typing import Any

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.codec.policy import policy_from_proto
from openshell.gateway.compute import Compute
from openshell.gateway.errors import ApiError, Code, invalid_argument, not_found
from openshell.gateway.lifecycle import Lifecycle
from openshell.gateway.limits import NAME_MAX, check_create, check_label_key, check_required
from openshell.gateway.middleware import MiddlewareServices
from openshell.gateway.names import WORDS_FIRST, WORDS_SECOND
from openshell.gateway.records import Kind, load, load_all
from openshell.gateway.store import Store, Tx
from openshell.gateway.store.selector import SelectorError, parse_label_selector
from openshell.gateway.workspaces import open_workspace, workspace_name

__all__ = ["DEFAULT_COMMAND", "SandboxService", "create_named", "generate_name", "plan_sandbox"]

SHORT_LIST = 100
"""Records that are read without a change of threads: a millisecond at most."""
DEFAULT_COMMAND = ("/bin/bash", "-l")
"""What runs when nothing was asked for; then with a terminal."""


NAME_TRIES = 20
"""Of names made of two words, of which there are 22,000: among fifty sandboxes two agree one time in twenty."""


def generate_name(choose: Callable[[tuple[str, ...]], str]) -> str:
    """Two words and a hyphen, cut to the limit of names."""
    name = f"{choose(WORDS_FIRST)}-{choose(WORDS_SECOND)}"
    return name[:NAME_MAX].rstrip("-")


async def create_named(
    sandbox: openshell_pb2.Sandbox,
    create: Callable[[openshell_pb2.Sandbox], Awaitable[openshell_pb2.Sandbox]],
    *,
    given: str,
    choose: Callable[[tuple[str, ...]], str],
) -> openshell_pb2.Sandbox:
    """Creates; a name that nobody chose and that is taken is chosen again."""
    for _ in range(NAME_TRIES):
        try:
            return await create(sandbox)
        except ApiError as error:
            if given or error.code is not Code.ALREADY_EXISTS:
                raise
        sandbox.metadata.name = sandbox.status.sandbox_name = generate_name(choose)
    return await create(sandbox)


def plan_sandbox(
    request: openshell_pb2.CreateSandboxRequest, *, sandbox_id: str, name: str, default_image: str
) -> openshell_pb2.Sandbox:
    """The record of a checked request, as it is first stored; the creating transaction dates it."""
    sandbox = openshell_pb2.Sandbox(
        metadata=datamodel_pb2.ObjectMeta(
            id=sandbox_id,
            name=name,
            workspace=workspace_name(request.workspace),
            labels=request.labels,
            annotations=request.annotations,
        ),
        spec=request.spec,
        status=openshell_pb2.SandboxStatus(
            sandbox_name=name, phase=openshell_pb2.SANDBOX_PHASE_PROVISIONING
        ),
    )
    if not sandbox.spec.command:
        sandbox.spec.command.extend(DEFAULT_COMMAND)
        sandbox.spec.tty = True
    if not sandbox.spec.template.image:
        sandbox.spec.template.image = default_image
    return sandbox


class SandboxService:
    """The RPCs on sandboxes that are not streams."""

    def __init__(
        self,
        store: Store,
        compute: Compute,
        lifecycle: Lifecycle,
        *,
        new_id: Callable[[], str],
        default_image: str,
        restrict: Callable[[openshell_pb2.Sandbox, Any], None],
        choose: Callable[[tuple[str, ...]], str] = secrets.choice,
        middleware: MiddlewareServices | None = None,
    ) -> None:
        """`restrict` takes from a new record what this caller, a gRPC context, may not ask for."""
        self._store = store
        self._compute = compute
        self._lifecycle = lifecycle
        self._new_id = new_id
        self._default_image = default_image
        self._restrict = restrict
        self._choose = choose
        self._middleware = middleware or MiddlewareServices({})

    async def CreateSandbox(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.CreateSandboxRequest, context: Any
    ) -> openshell_pb2.SandboxResponse:
        if not request.HasField("spec"):
            raise invalid_argument("spec is required")
        check_create(request)
        sandbox = plan_sandbox(
            request,
            sandbox_id=self._new_id(),
            name=request.name or generate_name(self._choose),
            default_image=self._default_image,
        )
        self._restrict(sandbox, context)
        if sandbox.spec.policy.network_middlewares:
            await self._middleware.check(policy_from_proto(sandbox.spec.policy))
        created = await create_named(
            sandbox, self._lifecycle.create, given=request.name, choose=self._choose
        )
        return self._answer(created)

    async def GetSandbox(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.GetSandboxRequest, _context: Any
    ) -> openshell_pb2.SandboxResponse:
        check_required("name", request.name)

        def read(tx: Tx) -> openshell_pb2.Sandbox:
            row = tx.get(Kind.SANDBOX, open_workspace(tx, request.workspace), request.name)
            if row is None:
                raise not_found(f"sandbox '{request.name}' not found")
            return load(row, openshell_pb2.Sandbox)

        return self._answer(await self._store.look_up(read))

    async def ListSandboxes(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.ListSandboxesRequest, _context: Any
    ) -> openshell_pb2.ListSandboxesResponse:
        try:
            selector = parse_label_selector(request.label_selector)
        except SelectorError as error:
            raise invalid_argument(str(error)) from error
        for key in selector:
            check_label_key("a key of label_selector", key)
        if request.all_workspaces and request.workspace:
            raise invalid_argument("give a workspace or all_workspaces, not both")

        def read(tx: Tx) -> list[openshell_pb2.Sandbox]:
            every = request.all_workspaces
            rows = tx.list(
                Kind.SANDBOX,
                workspace=None if every else open_workspace(tx, request.workspace),
                label_selector=selector,
                limit=request.limit,
                offset=request.offset,
            )
            return load_all(rows, openshell_pb2.Sandbox)

        short = 0 < request.limit <= SHORT_LIST and not request.offset
        found = await (self._store.look_up(read) if short else self._store.read(read))
        return openshell_pb2.ListSandboxesResponse(
            sandboxes=[self._compute.show(sandbox) for sandbox in found]
        )

    async def DeleteSandbox(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.DeleteSandboxRequest, _context: Any
    ) -> openshell_pb2.DeleteSandboxResponse:
        check_required("name", request.name)
        deleted = await self._lifecycle.delete(request.workspace, request.name)
        return openshell_pb2.DeleteSandboxResponse(deleted=deleted)

    async def StopSandbox(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.StopSandboxRequest, _context: Any
    ) -> openshell_pb2.SandboxResponse:
        check_required("name", request.name)
        return self._answer(await self._lifecycle.stop(request.workspace, request.name))

    async def StartSandbox(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.StartSandboxRequest, _context: Any
    ) -> openshell_pb2.SandboxResponse:
        check_required("name", request.name)
        return self._answer(await self._lifecycle.start(request.workspace, request.name))

    def _answer(self, sandbox: openshell_pb2.Sandbox) -> openshell_pb2.SandboxResponse:
        return openshell_pb2.SandboxResponse(sandbox=self._compute.show(sandbox))
