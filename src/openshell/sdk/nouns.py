"""Clients for what surrounds a sandbox: policies, settings, logs; providers, from their own module.

The clients share a client's channel. `PolicyClient` and `SettingsClient` speak of one sandbox or, in
the methods named so, of all of them. The policy language is loaded by the methods that speak it: it
takes as long as all the rest, and most commands never need it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from openshell._proto import openshell_pb2, sandbox_pb2
from openshell.sdk.providers import ProviderClient, RefreshClient

if TYPE_CHECKING:
    from openshell.policy.merge_operations import MergeOperation
    from openshell.policy.settings import Value
    from openshell.sdk.client import SandboxClient

__all__ = [
    "DraftClient",
    "LogClient",
    "PolicyClient",
    "ProviderClient",
    "RefreshClient",
    "SettingsClient",
]

_EVERYWHERE: Mapping[str, Any] = {"global": True}
"""The field's name is a word of the language, so it cannot be written as an argument."""
_PAGE = 1_000
"""Log lines asked for at a time: events of requests then stay well within one answer."""


class DraftClient:
    """Rules that agents have proposed; none of them is in force."""

    def __init__(self, client: SandboxClient) -> None:
        self._stub, self._timeout = client.unary

    def get(
        self, sandbox: str, *, workspace: str, status: str = ""
    ) -> openshell_pb2.GetDraftPolicyResponse:
        """The proposals of a sandbox, newest first, all or those of a status."""
        request = openshell_pb2.GetDraftPolicyRequest(
            name=sandbox, status_filter=status, workspace=workspace
        )
        return self._stub.GetDraftPolicy(request, timeout=self._timeout)

    def history(self, sandbox: str, *, workspace: str) -> list[openshell_pb2.DraftHistoryEntry]:
        """What was proposed and decided, oldest first."""
        request = openshell_pb2.GetDraftHistoryRequest(name=sandbox, workspace=workspace)
        return list(self._stub.GetDraftHistory(request, timeout=self._timeout).entries)


class PolicyClient:
    """Policies: what is effective, stored revisions, replacing, merging, going back."""

    def __init__(self, client: SandboxClient) -> None:
        self._stub, self._timeout = client.unary

    def effective(self, sandbox_id: str) -> sandbox_pb2.GetSandboxConfigResponse:
        """What a sandbox runs under now, with the revision numbers."""
        request = sandbox_pb2.GetSandboxConfigRequest(sandbox_id=sandbox_id)
        return self._stub.GetSandboxConfig(request, timeout=self._timeout)

    def revision(
        self, sandbox: str, version: int = 0, *, workspace: str
    ) -> openshell_pb2.GetSandboxPolicyStatusResponse:
        """One stored revision; version 0 means the newest."""
        request = openshell_pb2.GetSandboxPolicyStatusRequest(
            name=sandbox, version=version, workspace=workspace
        )
        return self._stub.GetSandboxPolicyStatus(request, timeout=self._timeout)

    def revisions(
        self, sandbox: str, *, workspace: str, limit: int = 20
    ) -> list[openshell_pb2.SandboxPolicyRevision]:
        """Stored revisions, newest first."""
        request = openshell_pb2.ListSandboxPoliciesRequest(
            name=sandbox, limit=limit, workspace=workspace
        )
        return list(self._stub.ListSandboxPolicies(request, timeout=self._timeout).revisions)

    def replace(
        self,
        sandbox: str,
        policy: sandbox_pb2.SandboxPolicy,
        *,
        workspace: str,
        expected: int = 0,
    ) -> openshell_pb2.UpdateConfigResponse:
        """Replaces a sandbox's policy as a whole. `expected` is a resource version, 0 for any."""
        request = openshell_pb2.UpdateConfigRequest(
            name=sandbox,
            policy=policy,
            expected_resource_version=expected,
            workspace=workspace,
        )
        return self._stub.UpdateConfig(request, timeout=self._timeout)

    def merge(
        self,
        sandbox: str,
        operations: Sequence[MergeOperation],
        *,
        workspace: str,
        expected: int = 0,
    ) -> openshell_pb2.UpdateConfigResponse:
        """Applies operations to a sandbox's policy in order, all or none of them."""
        from openshell.codec.merge import operation_to_proto  # noqa: PLC0415  see the module's text

        request = openshell_pb2.UpdateConfigRequest(
            name=sandbox,
            merge_operations=[operation_to_proto(operation) for operation in operations],
            expected_resource_version=expected,
            workspace=workspace,
        )
        return self._stub.UpdateConfig(request, timeout=self._timeout)

    def rollback(
        self, sandbox: str, version: int, *, workspace: str, expected: int = 0
    ) -> openshell_pb2.UpdateConfigResponse:
        """Makes an older revision's content the newest revision, checked like any update."""
        old = self.revision(sandbox, version, workspace=workspace).revision
        return self.replace(sandbox, old.policy, workspace=workspace, expected=expected)

    def global_revision(self, version: int = 0) -> openshell_pb2.GetSandboxPolicyStatusResponse:
        """One stored revision of the policy for all sandboxes; version 0 means the newest.

        It is in force while its status is LOADED; deleting the policy supersedes it.
        """
        request = openshell_pb2.GetSandboxPolicyStatusRequest(version=version, **_EVERYWHERE)
        return self._stub.GetSandboxPolicyStatus(request, timeout=self._timeout)

    def global_revisions(self, *, limit: int = 20) -> list[openshell_pb2.SandboxPolicyRevision]:
        """Stored revisions of the policy for all sandboxes, newest first."""
        request = openshell_pb2.ListSandboxPoliciesRequest(limit=limit, **_EVERYWHERE)
        return list(self._stub.ListSandboxPolicies(request, timeout=self._timeout).revisions)

    def replace_global(
        self, policy: sandbox_pb2.SandboxPolicy
    ) -> openshell_pb2.UpdateConfigResponse:
        """Puts a policy in force for all sandboxes, in place of their own."""
        request = openshell_pb2.UpdateConfigRequest(policy=policy, **_EVERYWHERE)
        return self._stub.UpdateConfig(request, timeout=self._timeout)

    def delete_global(self) -> openshell_pb2.UpdateConfigResponse:
        """Gives all sandboxes their own policies back; `deleted` is false when they had them."""
        request = openshell_pb2.UpdateConfigRequest(
            setting_key="policy", delete_setting=True, **_EVERYWHERE
        )
        return self._stub.UpdateConfig(request, timeout=self._timeout)


class SettingsClient:
    """Settings beside the policy; a value for all sandboxes stands over a sandbox's own.

    A sandbox's effective settings come with its configuration (`PolicyClient.effective`).
    """

    def __init__(self, client: SandboxClient) -> None:
        self._stub, self._timeout = client.unary

    def read_global(self) -> sandbox_pb2.GetGatewayConfigResponse:
        """The values for all sandboxes, and the number of their last change."""
        request = sandbox_pb2.GetGatewayConfigRequest()
        return self._stub.GetGatewayConfig(request, timeout=self._timeout)

    def write(
        self, sandbox: str, key: str, value: Value, *, workspace: str
    ) -> openshell_pb2.UpdateConfigResponse:
        """Sets one value of a sandbox; refused while the key is set for all sandboxes."""
        from openshell.codec.settings import value_to_proto  # noqa: PLC0415  see the module's text

        request = openshell_pb2.UpdateConfigRequest(
            name=sandbox, setting_key=key, setting_value=value_to_proto(value), workspace=workspace
        )
        return self._stub.UpdateConfig(request, timeout=self._timeout)

    def delete(
        self, sandbox: str, key: str, *, workspace: str
    ) -> openshell_pb2.UpdateConfigResponse:
        """Removes a sandbox's value; `deleted` is false when it had none."""
        request = openshell_pb2.UpdateConfigRequest(
            name=sandbox, setting_key=key, delete_setting=True, workspace=workspace
        )
        return self._stub.UpdateConfig(request, timeout=self._timeout)

    def write_global(self, key: str, value: Value) -> openshell_pb2.UpdateConfigResponse:
        """Sets one value for all sandboxes."""
        from openshell.codec.settings import value_to_proto  # noqa: PLC0415  see the module's text

        request = openshell_pb2.UpdateConfigRequest(
            setting_key=key, setting_value=value_to_proto(value), **_EVERYWHERE
        )
        return self._stub.UpdateConfig(request, timeout=self._timeout)

    def delete_global(self, key: str) -> openshell_pb2.UpdateConfigResponse:
        """Removes the value for all sandboxes; `deleted` is false when there was none."""
        request = openshell_pb2.UpdateConfigRequest(
            setting_key=key, delete_setting=True, **_EVERYWHERE
        )
        return self._stub.UpdateConfig(request, timeout=self._timeout)


class LogClient:
    """Log lines of sandboxes: what the proxy decided, what the supervisor did."""

    def __init__(self, client: SandboxClient) -> None:
        self._client = client
        self._stub, self._timeout = client.unary

    def read(
        self,
        sandbox_id: str,
        *,
        workspace: str,
        lines: int = 200,
        since_ms: int = 0,
        sources: Sequence[str] = (),
        min_level: str = "",
    ) -> list[openshell_pb2.SandboxLogLine]:
        """The newest lines, oldest first; the filters apply to those `lines`."""
        pages = [
            answer.logs
            for answer in self.pages(
                sandbox_id,
                workspace=workspace,
                lines=lines,
                since_ms=since_ms,
                sources=sources,
                min_level=min_level,
            )
        ]
        return [line for page in reversed(pages) for line in page]

    def pages(
        self,
        sandbox_id: str,
        *,
        workspace: str,
        lines: int = 0,
        since_ms: int = 0,
        sources: Sequence[str] = (),
        min_level: str = "",
    ) -> Iterator[openshell_pb2.GetSandboxLogsResponse]:
        """All kept lines, or the newest `lines`, page by page, the newest page first.

        A page's own lines begin with the oldest. `is_complete` of the last page says whether nothing
        that was asked for is missing.
        """
        before, left = 0, lines
        while True:
            request = openshell_pb2.GetSandboxLogsRequest(
                sandbox_id=sandbox_id,
                lines=min(left, _PAGE) if lines else _PAGE,
                since_ms=since_ms,
                sources=sources,
                min_level=min_level,
                workspace=workspace,
                before_id=before,
            )
            answer = self._stub.GetSandboxLogs(request, timeout=self._timeout)
            yield answer
            before, left = answer.oldest_id, left - answer.buffer_total
            if not before or (lines and left <= 0):
                return

    def follow(
        self,
        sandbox_id: str,
        *,
        lines: int = 200,
        since_ms: int = 0,
        sources: Sequence[str] = (),
        min_level: str = "",
    ) -> Iterator[openshell_pb2.SandboxLogLine]:
        """Lines as they come, after the newest `lines` of the past; ends with the sandbox."""
        request = openshell_pb2.WatchSandboxRequest(
            id=sandbox_id,
            follow_logs=True,
            log_tail_lines=lines,
            log_since_ms=since_ms,
            log_sources=sources,
            log_min_level=min_level,
        )
        for event in self._client.watch(request):
            if event.WhichOneof("payload") == "log":
                yield event.log
