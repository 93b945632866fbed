"""Client for holding sandboxes and for snapshots of their workspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from openshell._proto import openshell_ext_snapshots_pb2 as ext
from openshell._proto import openshell_ext_snapshots_pb2_grpc, openshell_pb2

if TYPE_CHECKING:
    from openshell.sdk.client import SandboxClient

__all__ = ["COPY_SECONDS", "SnapshotClient"]

COPY_SECONDS = 3600.0
"""For calls that copy a workspace: as long as the largest takes on a slow disk."""


class SnapshotClient:
    """Pause, resume, snapshot, restore and fork.

    Args:
        client: an open client; it stays the caller's to close.

    Raises:
        grpc.RpcError: every method, with the gateway's sentence as details.
    """

    def __init__(self, client: SandboxClient) -> None:
        self._timeout = client._timeout
        self._pausing = openshell_ext_snapshots_pb2_grpc.PausingStub(client._channel)
        self._snapshots = openshell_ext_snapshots_pb2_grpc.SnapshotsStub(client._channel)

    def pause(self, name: str, *, workspace: str) -> openshell_pb2.Sandbox:
        """Holds every process of a running sandbox where it is."""
        request = ext.PauseRequest(workspace=workspace, name=name)
        return self._pausing.Pause(request, timeout=self._timeout).sandbox

    def resume(self, name: str, *, workspace: str) -> openshell_pb2.Sandbox:
        """Lets a paused sandbox go on."""
        request = ext.PauseRequest(workspace=workspace, name=name)
        return self._pausing.Resume(request, timeout=self._timeout).sandbox

    def create(self, sandbox: str, *, workspace: str, name: str = "") -> ext.Snapshot:
        """Copies the workspace of a sandbox; its processes are held meanwhile where they can be."""
        request = ext.CreateSnapshotRequest(workspace=workspace, sandbox=sandbox, name=name)
        return self._snapshots.Create(request, timeout=COPY_SECONDS)

    def list(self, sandbox: str, *, workspace: str) -> tuple[ext.Snapshot, ...]:
        """The snapshots of a sandbox, oldest first."""
        request = ext.ListSnapshotsRequest(workspace=workspace, sandbox=sandbox)
        return tuple(self._snapshots.List(request, timeout=self._timeout).snapshots)

    def delete(self, sandbox: str, name: str, *, workspace: str) -> bool:
        """Removes a snapshot; False when there was none."""
        request = ext.DeleteSnapshotRequest(workspace=workspace, sandbox=sandbox, name=name)
        return self._snapshots.Delete(request, timeout=COPY_SECONDS).deleted

    def restore(self, sandbox: str, snapshot: str, *, workspace: str) -> openshell_pb2.Sandbox:
        """Replaces the workspace of a stopped sandbox."""
        request = ext.RestoreRequest(workspace=workspace, sandbox=sandbox, snapshot=snapshot)
        return self._snapshots.Restore(request, timeout=COPY_SECONDS).sandbox

    def fork(
        self,
        sandbox: str,
        *,
        workspace: str,
        snapshot: str = "",
        name: str = "",
        without_providers: bool = False,
    ) -> openshell_pb2.Sandbox:
        """A new sandbox like this one, with a copy of its workspace or of a snapshot."""
        request = ext.ForkRequest(
            workspace=workspace,
            sandbox=sandbox,
            snapshot=snapshot,
            name=name,
            without_providers=without_providers,
        )
        return self._snapshots.Fork(request, timeout=COPY_SECONDS).sandbox
