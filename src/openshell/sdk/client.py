"""`SandboxClient`: everything about sandboxes that a program asks of a gateway.

Calls are synchronous. A failed call raises `grpc.RpcError` unchanged; what the library itself
detects raises `SandboxError`. Providers, policies and logs have clients of their own beside this one,
which share its channel.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self

import grpc

from openshell._proto import openshell_ext_pb2_grpc, openshell_pb2, openshell_pb2_grpc
from openshell.sdk.channel import TlsConfig, channel_arguments, open_channel
from openshell.sdk.errors import SandboxError
from openshell.sdk.refs import ExecChunk, ExecResult, SandboxRef, sandbox_ref
from openshell.sdk.registry import Registry, Target

__all__ = ["SandboxClient"]

_EXEC_GRACE_SECONDS = 10
"""How long after a command's own timeout the gateway may take to say so."""


class SandboxClient:
    """Talks to one gateway about sandboxes.

    Args:
        endpoint: `host:port`, without a scheme.
        tls: Certificates; None means no encryption at all.
        timeout: Deadline of each unary call in seconds.
        cluster_name: Name of the gateway in the registry, if it came from there.

    Raises:
        SandboxError: a certificate file cannot be read.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        tls: TlsConfig | None = None,
        timeout: float = 30.0,
        cluster_name: str | None = None,
    ) -> None:
        self._address = (endpoint, tls)
        self._channel = open_channel(endpoint, tls)
        self._stub = openshell_pb2_grpc.OpenShellStub(self._channel)
        self._ext = openshell_ext_pb2_grpc.SandboxesStub(self._channel)
        self._timeout = timeout
        self.cluster_name = cluster_name

    @classmethod
    def from_active_cluster(cls, *, cluster: str | None = None, timeout: float = 30.0) -> Self:
        """Connects to the gateway that the command line would use.

        Args:
            cluster: Name of a registered gateway; default `OPENSHELL_GATEWAY`, else the active one.
            timeout: Deadline of each unary call in seconds.

        Raises:
            SandboxError: no gateway is configured, or its certificates are missing.
        """
        registry = Registry.from_environment(os.environ)
        target = registry.resolve(
            endpoint=None, gateway=cluster or os.environ.get("OPENSHELL_GATEWAY") or None
        )
        if target is None:
            raise SandboxError(
                "no active gateway: start one with 'openshell gateway start' "
                "or choose one with 'openshell gateway select NAME'"
            )
        return cls.from_target(registry, target, timeout=timeout)

    @classmethod
    def from_target(cls, registry: Registry, target: Target, *, timeout: float = 30.0) -> Self:
        """Connects to a resolved gateway with the certificates kept under its name.

        Raises:
            SandboxError: the endpoint is not a URL, its certificates are missing, or its way of
                authentication is not built yet.
        """
        address, tls = channel_arguments(registry, target)
        return cls(address, tls=tls, timeout=timeout, cluster_name=target.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def address(self) -> tuple[str, TlsConfig | None]:
        """Endpoint and certificates, for who needs another connection."""
        return self._address

    def close(self) -> None:
        """Closes the channel; may be called again."""
        self._channel.close()

    # Gateway

    def health(self) -> openshell_pb2.HealthResponse:
        """Asks whether the gateway serves; needs no credentials."""
        return self._stub.Health(openshell_pb2.HealthRequest(), timeout=self._timeout)

    def gateway_info(self) -> openshell_pb2.GetGatewayInfoResponse:
        """Version, drivers and capabilities of the gateway."""
        return self._stub.GetGatewayInfo(
            openshell_pb2.GetGatewayInfoRequest(), timeout=self._timeout
        )

    def current_user(self) -> openshell_pb2.GetCurrentUserResponse:
        """Whom the gateway takes the caller for."""
        return self._stub.GetCurrentUser(
            openshell_pb2.GetCurrentUserRequest(), timeout=self._timeout
        )

    # Life of a sandbox

    def create(
        self,
        *,
        workspace: str,
        spec: openshell_pb2.SandboxSpec | None = None,
        name: str | None = None,
        labels: Mapping[str, str] | None = None,
    ) -> SandboxRef:
        """Creates a sandbox and returns at once; `wait_ready` waits.

        Args:
            workspace: Workspace of the new sandbox.
            spec: What to run and under which policy; None means the defaults of the gateway.
            name: None lets the gateway choose one.
            labels: Labels to select it by.

        Raises:
            SandboxError: the gateway answered without an id.
        """
        response = self._stub.CreateSandbox(
            openshell_pb2.CreateSandboxRequest(
                spec=spec or openshell_pb2.SandboxSpec(),
                name=name or "",
                labels=dict(labels or {}),
                workspace=workspace,
            ),
            timeout=self._timeout,
        )
        ref = sandbox_ref(response.sandbox)
        if not ref.id:
            raise SandboxError("the gateway created a sandbox without an id; update the gateway")
        return ref

    def describe(self, name: str, *, workspace: str) -> openshell_pb2.Sandbox:
        """The whole record of a sandbox, as the gateway keeps it."""
        return self._stub.GetSandbox(
            openshell_pb2.GetSandboxRequest(name=name, workspace=workspace), timeout=self._timeout
        ).sandbox

    def get(self, name: str, *, workspace: str) -> SandboxRef:
        return sandbox_ref(self.describe(name, workspace=workspace))

    def describe_all(
        self,
        *,
        workspace: str,
        limit: int = 100,
        offset: int = 0,
        label_selector: str | None = None,
        all_workspaces: bool = False,
    ) -> list[openshell_pb2.Sandbox]:
        """Whole records, oldest first, at most 1,000 at a time."""
        response = self._stub.ListSandboxes(
            openshell_pb2.ListSandboxesRequest(
                limit=limit,
                offset=offset,
                label_selector=label_selector or "",
                workspace="" if all_workspaces else workspace,
                all_workspaces=all_workspaces,
            ),
            timeout=self._timeout,
        )
        return list(response.sandboxes)

    def list(
        self,
        *,
        workspace: str,
        limit: int = 100,
        offset: int = 0,
        label_selector: str | None = None,
    ) -> list[SandboxRef]:
        sandboxes = self.describe_all(
            workspace=workspace, limit=limit, offset=offset, label_selector=label_selector
        )
        return [sandbox_ref(sandbox) for sandbox in sandboxes]

    def delete(self, name: str, *, workspace: str) -> bool:
        """Asks for deletion; False when there was nothing. `wait_deleted` waits for the end."""
        return self._stub.DeleteSandbox(
            openshell_pb2.DeleteSandboxRequest(name=name, workspace=workspace),
            timeout=self._timeout,
        ).deleted

    def stop(self, name: str, *, workspace: str) -> SandboxRef:
        """Ends the processes of a sandbox and keeps its workspace."""
        response = self._stub.StopSandbox(
            openshell_pb2.StopSandboxRequest(name=name, workspace=workspace),
            timeout=self._timeout,
        )
        return sandbox_ref(response.sandbox)

    def start(self, name: str, *, workspace: str) -> SandboxRef:
        """Starts a stopped sandbox again; `wait_ready` waits."""
        response = self._stub.StartSandbox(
            openshell_pb2.StartSandboxRequest(name=name, workspace=workspace),
            timeout=self._timeout,
        )
        return sandbox_ref(response.sandbox)

    # Waiting

    def watch(
        self, request: openshell_pb2.WatchSandboxRequest, *, timeout: float | None = None
    ) -> Iterator[openshell_pb2.SandboxStreamEvent]:
        """Events of one sandbox, the present state first; close the iterator to end it."""
        call = self._stub.WatchSandbox(request, timeout=timeout)
        try:
            yield from call
        finally:
            call.cancel()  # type: ignore[no-untyped-call]  # the stub package lacks this signature

    def wait_ready(
        self, name: str, *, workspace: str, timeout_seconds: float = 300.0
    ) -> SandboxRef:
        """Waits until a sandbox takes commands.

        Raises:
            SandboxError: creation failed (with its reason), or the time ran out.
        """
        return self._wait(name, workspace, timeout_seconds, openshell_pb2.SANDBOX_PHASE_READY)

    def wait_stopped(
        self, name: str, *, workspace: str, timeout_seconds: float = 300.0
    ) -> SandboxRef:
        """Waits until no process of a sandbox is left.

        Raises:
            SandboxError: the sandbox failed, or the time ran out.
        """
        return self._wait(name, workspace, timeout_seconds, openshell_pb2.SANDBOX_PHASE_STOPPED)

    def wait_deleted(self, name: str, *, workspace: str, timeout_seconds: float = 60.0) -> None:
        """Waits until nothing is left of a sandbox.

        Raises:
            SandboxError: the time ran out.
        """
        deadline = time.monotonic() + timeout_seconds
        try:
            sandbox = self.describe(name, workspace=workspace)
            request = openshell_pb2.WatchSandboxRequest(id=sandbox.metadata.id, follow_status=True)
            for _event in self.watch(request, timeout=max(0.0, deadline - time.monotonic())):
                pass
            self.describe(name, workspace=workspace)
        except grpc.RpcError as error:
            if error.code() in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.CANCELLED}:
                return
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
        raise SandboxError(f"sandbox '{name}' is not gone after {timeout_seconds:g} s")

    def _wait(self, name: str, workspace: str, seconds: float, phase: int) -> SandboxRef:
        sandbox = self.describe(name, workspace=workspace)
        request = openshell_pb2.WatchSandboxRequest(id=sandbox.metadata.id, follow_status=True)
        try:
            for event in self.watch(request, timeout=seconds):
                if event.WhichOneof("payload") != "sandbox":
                    continue
                if event.sandbox.status.phase == phase:
                    return sandbox_ref(event.sandbox)
                if event.sandbox.status.phase == openshell_pb2.SANDBOX_PHASE_ERROR:
                    raise SandboxError(f"sandbox '{name}' failed: {why_not_ready(event.sandbox)}")
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            wanted = openshell_pb2.SandboxPhase.Name(phase)  # type: ignore[arg-type]  # stub wants the enum type, the field is an int
            raise SandboxError(
                f"sandbox '{name}' did not reach {wanted} within {seconds:g} s"
            ) from error
        raise SandboxError(f"sandbox '{name}' was deleted while waiting for it")

    # Commands

    def exec_stream(
        self,
        sandbox_id: str,
        command: Sequence[str],
        *,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_seconds: int | None = None,
    ) -> Iterator[ExecChunk | ExecResult]:
        """Runs a command and yields its output as it comes, an `ExecResult` last.

        Args:
            sandbox_id: Id, not name.
            command: The argv itself; no shell is involved.
            workdir: Directory inside; default the workspace.
            env: Added to the sandbox's environment.
            stdin: Whole input; None means empty.
            timeout_seconds: Then the process and its children are ended, with exit code 124.

        Raises:
            SandboxError: the command is empty, or its end could not be learnt.
        """
        if not command:
            raise SandboxError("the command is empty")
        request = openshell_pb2.ExecSandboxRequest(
            sandbox_id=sandbox_id,
            command=list(command),
            workdir=workdir or "",
            environment=dict(env or {}),
            timeout_seconds=timeout_seconds or 0,
            stdin=stdin or b"",
        )
        deadline = max(self._timeout, (timeout_seconds or 0) + _EXEC_GRACE_SECONDS)
        streams: dict[str, bytearray] = {"stdout": bytearray(), "stderr": bytearray()}
        for event in self._stub.ExecSandbox(request, timeout=deadline):
            match event.WhichOneof("payload"):
                case "stdout":
                    streams["stdout"] += event.stdout.data
                    yield ExecChunk("stdout", event.stdout.data)
                case "stderr":
                    streams["stderr"] += event.stderr.data
                    yield ExecChunk("stderr", event.stderr.data)
                case "exit":
                    yield ExecResult(
                        event.exit.exit_code,
                        streams["stdout"].decode(errors="replace"),
                        streams["stderr"].decode(errors="replace"),
                    )
                    return
        raise SandboxError("the stream ended without an exit code: the command's fate is unknown")

    def exec(
        self,
        sandbox_id: str,
        command: Sequence[str],
        *,
        stream_output: bool = False,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
        stdin: bytes | None = None,
        timeout_seconds: int | None = None,
    ) -> ExecResult:
        """Runs a command to its end; arguments as for `exec_stream`.

        A non-zero exit code is a result, not an exception.

        Args:
            sandbox_id: Id, not name.
            command: The argv itself.
            stream_output: Copies the output to this process's own streams as it comes.
            workdir: Directory inside.
            env: Added to the sandbox's environment.
            stdin: Whole input.
            timeout_seconds: Limit of the command.

        Raises:
            SandboxError: the command is empty, or its end could not be learnt.
        """
        for item in self.exec_stream(
            sandbox_id,
            command,
            workdir=workdir,
            env=env,
            stdin=stdin,
            timeout_seconds=timeout_seconds,
        ):
            if isinstance(item, ExecResult):
                return item
            if stream_output:
                target = sys.stdout if item.stream == "stdout" else sys.stderr
                target.buffer.write(item.data)
                target.buffer.flush()
        raise SandboxError("the stream ended without an exit code: the command's fate is unknown")

    def exec_interactive(
        self, requests: Iterator[openshell_pb2.ExecSandboxInput]
    ) -> grpc.CallIterator[openshell_pb2.ExecSandboxEvent]:
        """Raw bidirectional exec: the first request is `start`."""
        return self._stub.ExecSandboxInteractive(requests)

    @property
    def unary(self) -> tuple[openshell_pb2_grpc.OpenShellStub, float]:
        """Stub and deadline, for the clients of other nouns."""
        return self._stub, self._timeout

    @property
    def extensions(self) -> openshell_ext_pb2_grpc.SandboxesStub:
        """Stub of this implementation's extension service."""
        return self._ext


def why_not_ready(sandbox: openshell_pb2.Sandbox) -> str:
    """The reason of the condition that keeps a sandbox from being ready, in one line."""
    for phase in sandbox.status.creation_phases:
        if phase.error_code:
            return f"{phase.name}: {phase.error_message or phase.error_code}"
    for condition in sandbox.status.conditions:
        if condition.type == "Ready" and condition.status == "False":
            return f"{condition.reason}: {condition.message}".rstrip(": ")
    return "no reason was recorded"
