"""`ProfileClient`: what types of providers mean, changed singly or in batches, with history.

A workspace of "" is the scope of the platform. Documents that cannot be stored are no exceptions: the
answers carry diagnostics, and say by `imported`, `updated`, `valid` or `applied` what was done.
Reading and writing the documents themselves is `openshell.providers.profile.document`'s part.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell._proto import openshell_ext_profiles_pb2_grpc, openshell_pb2

if TYPE_CHECKING:
    from openshell.sdk.client import SandboxClient

__all__ = ["ProfileClient"]

_PAGE: Final = 100
"""Profiles or revisions asked for at once when all are wanted."""


class ProfileClient:
    """Provider profiles of one gateway, sharing a client's channel."""

    def __init__(self, client: SandboxClient) -> None:
        self._stub, self._timeout = client.unary
        self._ext = openshell_ext_profiles_pb2_grpc.ProviderProfilesStub(client._channel)

    # One document at a time: the contract's methods

    def get(self, id: str, *, workspace: str) -> openshell_pb2.ProviderProfile:  # noqa: A002  # the contract's word
        """The profile in force for an id: the workspace's own, else the platform's or a built-in.

        Raises:
            grpc.RpcError: NOT_FOUND; INVALID_ARGUMENT when it cannot be an id.
        """
        request = openshell_pb2.GetProviderProfileRequest(id=id, workspace=workspace)
        return self._stub.GetProviderProfile(request, timeout=self._timeout).profile

    def list(
        self, *, workspace: str, limit: int = 100, offset: int = 0
    ) -> list[openshell_pb2.ProviderProfile]:
        """Profiles by id, shadowed ones of the platform after the one that shadows them."""
        request = openshell_pb2.ListProviderProfilesRequest(
            limit=limit, offset=offset, workspace=workspace
        )
        return list(self._stub.ListProviderProfiles(request, timeout=self._timeout).profiles)

    def iterate(self, *, workspace: str) -> Iterator[openshell_pb2.ProviderProfile]:
        """All profiles, page by page."""
        offset = 0
        while page := self.list(workspace=workspace, limit=_PAGE, offset=offset):
            yield from page
            if len(page) < _PAGE:
                return
            offset += len(page)

    def lint(
        self, items: Sequence[openshell_pb2.ProviderProfileImportItem], *, workspace: str
    ) -> openshell_pb2.LintProviderProfilesResponse:
        """Judges documents without storing anything."""
        request = openshell_pb2.LintProviderProfilesRequest(profiles=items, workspace=workspace)
        return self._stub.LintProviderProfiles(request, timeout=self._timeout)

    def import_(
        self, items: Sequence[openshell_pb2.ProviderProfileImportItem], *, workspace: str
    ) -> openshell_pb2.ImportProviderProfilesResponse:
        """Creates profiles, all of them or none; an existing id is a diagnostic."""
        request = openshell_pb2.ImportProviderProfilesRequest(profiles=items, workspace=workspace)
        return self._stub.ImportProviderProfiles(request, timeout=self._timeout)

    def update(
        self,
        id: str,  # noqa: A002  # the contract's word
        item: openshell_pb2.ProviderProfileImportItem,
        *,
        workspace: str,
        expected: int = 0,
    ) -> openshell_pb2.UpdateProviderProfilesResponse:
        """Replaces the content of one profile.

        Args:
            id: The profile to change; must equal the document's own id.
            item: The new document.
            workspace: Scope of the profile.
            expected: The resource version it must have; 0 takes the document's.

        Raises:
            grpc.RpcError: ABORTED when the profile is at another version; the message names it.
        """
        request = openshell_pb2.UpdateProviderProfilesRequest(
            id=id, profile=item, expected_resource_version=expected, workspace=workspace
        )
        return self._stub.UpdateProviderProfiles(request, timeout=self._timeout)

    def delete(self, id: str, *, workspace: str) -> bool:  # noqa: A002  # the contract's word
        """Deletes a stored profile.

        Raises:
            grpc.RpcError: NOT_FOUND; FAILED_PRECONDITION for a built-in one and while sandboxes use
                it, which the message lists.
        """
        request = openshell_pb2.DeleteProviderProfileRequest(id=id, workspace=workspace)
        return self._stub.DeleteProviderProfile(request, timeout=self._timeout).deleted

    # Batches, history, going back: the extension

    def apply(
        self, items: Sequence[ext.ApplyProfilesItem], *, workspace: str, dry_run: bool = False
    ) -> ext.ApplyProfilesResponse:
        """Creates and updates profiles, all of them or none; says what sandboxes gain and lose.

        Args:
            items: Documents, each with the id it is for and the version it started from.
            workspace: Scope of the profiles.
            dry_run: Only say what would be.

        Raises:
            grpc.RpcError: ABORTED when a profile is at another version than its item expects.
        """
        request = ext.ApplyProfilesRequest(workspace=workspace, items=items, dry_run=dry_run)
        return self._ext.Apply(request, timeout=self._timeout)

    def revisions(
        self,
        id: str,  # noqa: A002  # the contract's word
        *,
        workspace: str,
        limit: int = 100,
        offset: int = 0,
    ) -> Sequence[ext.ProfileRevision]:
        """The history of a profile without contents, newest first; it outlives the profile."""
        request = ext.ListProfileRevisionsRequest(
            workspace=workspace, id=id, limit=limit, offset=offset
        )
        return list(self._ext.ListRevisions(request, timeout=self._timeout).revisions)

    def revision(self, id: str, number: int = 0, *, workspace: str) -> ext.ProfileRevision:  # noqa: A002  # the contract's word
        """One revision with its content; 0 means the newest.

        Raises:
            grpc.RpcError: NOT_FOUND.
        """
        request = ext.GetProfileRevisionRequest(workspace=workspace, id=id, revision=number)
        return self._ext.GetRevision(request, timeout=self._timeout).revision

    def revision_at(
        self,
        id: str,  # noqa: A002  # the contract's word
        resource_version: int,
        *,
        workspace: str,
    ) -> ext.ProfileRevision | None:
        """The revision that made a resource version, with its content; None when it is unknown."""
        offset = 0
        while page := self.revisions(id, workspace=workspace, limit=_PAGE, offset=offset):
            for item in page:
                if item.resource_version == resource_version:
                    return self.revision(id, item.revision, workspace=workspace)
            if len(page) < _PAGE:
                return None
            offset += len(page)
        return None

    def rollback(
        self,
        id: str,  # noqa: A002  # the contract's word
        to: int,
        *,
        workspace: str,
        expected: int = 0,
        dry_run: bool = False,
    ) -> ext.ApplyProfilesResponse:
        """Makes an older revision's content the newest revision, checked like any update.

        Args:
            id: The profile.
            to: Number of the revision whose content is wanted.
            workspace: Scope of the profile.
            expected: The resource version the profile must have; 0 for any.
            dry_run: Only say what would be.

        Raises:
            grpc.RpcError: NOT_FOUND; ABORTED when the profile is at another version.
        """
        request = ext.RollbackProfileRequest(
            workspace=workspace,
            id=id,
            to_revision=to,
            expected_resource_version=expected,
            dry_run=dry_run,
        )
        return self._ext.Rollback(request, timeout=self._timeout)
