"""A sandbox as an object: `SandboxSession` on an open client, `Sandbox` as a context manager."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

import grpc

from openshell._proto import openshell_pb2
from openshell.sdk.client import SandboxClient
from openshell.sdk.errors import SandboxError
from openshell.sdk.refs import ExecResult, SandboxRef

__all__ = ["Sandbox", "SandboxSession"]


class SandboxSession:
    """One sandbox and the client to reach it; the client stays the caller's."""

    def __init__(self, client: SandboxClient, sandbox: SandboxRef) -> None:
        self._client = client
        self.sandbox = sandbox

    @property
    def id(self) -> str:
        return self.sandbox.id

    def exec(
        self,
        command: Sequence[str],
        *,
        stream_output: bool = False,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_seconds: int | None = None,
    ) -> ExecResult:
        """Runs a command to its end; see `SandboxClient.exec`."""
        return self._client.exec(
            self.id,
            command,
            stream_output=stream_output,
            workdir=workdir,
            env=env,
            stdin=stdin,
            timeout_seconds=timeout_seconds,
        )

    def delete(self) -> bool:
        return self._client.delete(self.sandbox.name, workspace=self.sandbox.workspace)

    def stop(self) -> None:
        self.sandbox = self._client.stop(self.sandbox.name, workspace=self.sandbox.workspace)

    def start(self) -> None:
        self.sandbox = self._client.start(self.sandbox.name, workspace=self.sandbox.workspace)


class Sandbox:
    """A sandbox for the length of a `with` block.

    Args:
        workspace: Workspace of the sandbox.
        cluster: Name of a registered gateway; None means the active one.
        sandbox: Attach to this one instead of creating; its own workspace wins for a ref.
        delete_on_exit: Delete it, attached ones too, and wait until it is gone.
        spec: What to create.
        name: Name of the new sandbox.
        labels: Labels of the new sandbox.
        timeout: Deadline of each unary call in seconds.
        ready_timeout_seconds: How long `with` waits for the sandbox.

    Raises:
        SandboxError: contradictory arguments, no gateway, or the sandbox did not become ready.

    Example:
        >>> with Sandbox(workspace="default") as sandbox:  # doctest: +SKIP
        ...     print(sandbox.exec(["uname", "-s"]).stdout)
    """

    def __init__(
        self,
        *,
        workspace: str,
        cluster: str | None = None,
        sandbox: str | SandboxRef | None = None,
        delete_on_exit: bool = True,
        spec: openshell_pb2.SandboxSpec | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float = 30.0,
        ready_timeout_seconds: float = 120.0,
    ) -> None:
        self._workspace = workspace
        self._cluster = cluster
        self._wanted = sandbox
        self._delete_on_exit = delete_on_exit
        self._spec = spec
        self._name = name
        self._labels = labels
        self._timeout = timeout
        self._ready_timeout = ready_timeout_seconds
        self._client: SandboxClient | None = None
        self._session: SandboxSession | None = None

    def __enter__(self) -> Self:
        if self._wanted is not None and (self._name is not None or self._labels is not None):
            raise SandboxError("name and labels belong to a new sandbox: leave out sandbox=")
        self._client = SandboxClient.from_active_cluster(
            cluster=self._cluster, timeout=self._timeout
        )
        try:
            ref = self._find_or_create(self._client)
            self._session = SandboxSession(self._client, ref)
            self._session.sandbox = self._client.wait_ready(
                ref.name, workspace=ref.workspace, timeout_seconds=self._ready_timeout
            )
        except BaseException:
            self._leave(delete=self._wanted is None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._leave(delete=self._delete_on_exit)

    def _find_or_create(self, client: SandboxClient) -> SandboxRef:
        match self._wanted:
            case None:
                return client.create(
                    workspace=self._workspace, spec=self._spec, name=self._name, labels=self._labels
                )
            case str(name):
                return client.get(name, workspace=self._workspace)
            case ref:
                return client.get(ref.name, workspace=ref.workspace)

    def _leave(self, *, delete: bool) -> None:
        client, session = self._client, self._session
        self._client = self._session = None
        if client is None:
            return
        with contextlib.closing(client):
            if delete and session is not None:
                ref = session.sandbox
                try:
                    client.delete(ref.name, workspace=ref.workspace)
                    client.wait_deleted(ref.name, workspace=ref.workspace)
                except grpc.RpcError as error:
                    if error.code() is not grpc.StatusCode.NOT_FOUND:
                        raise

    def _entered(self) -> SandboxSession:
        if self._session is None:
            raise SandboxError("use the sandbox inside its 'with' block")
        return self._session

    @property
    def id(self) -> str:
        return self._entered().id

    @property
    def sandbox(self) -> SandboxRef:
        return self._entered().sandbox

    def exec(
        self,
        command: Sequence[str],
        *,
        stream_output: bool = False,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_seconds: int | None = None,
    ) -> ExecResult:
        """Runs a command to its end; see `SandboxClient.exec`."""
        return self._entered().exec(
            command,
            stream_output=stream_output,
            workdir=workdir,
            env=env,
            stdin=stdin,
            timeout_seconds=timeout_seconds,
        )
