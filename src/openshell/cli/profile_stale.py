"""What to tell whoever edited a profile that somebody else has changed since.

Compares three documents: the one the file says it started from (found in the history by its resource
version), the file, and the profile as it is now. Called after the gateway answered ABORTED, and by
`diff` for a file that is behind.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc

from openshell.cli.output import printable, timestamp
from openshell.cli.profile_conflict import ThreeWay, changes, three_way
from openshell.cli.profile_report import (
    change_document,
    change_lines,
    three_way_document,
    three_way_lines,
)
from openshell.codec.profile import profile_from_proto
from openshell.providers.profile.dump import profile_to_json

if TYPE_CHECKING:
    from openshell._proto import openshell_ext_profiles_pb2 as ext
    from openshell._proto import openshell_pb2
    from openshell.cli.profile_files import ProfileFile
    from openshell.cli.profile_scope import ProfileScope
    from openshell.sdk.profiles import ProfileClient

__all__ = ["Stale", "find_stale", "newest_content", "present_profile"]


@dataclass(frozen=True, slots=True)
class Stale:
    """One file that is behind the stored profile."""

    file: ProfileFile
    scope: ProfileScope
    id: str
    expected: int
    current: int
    """0: the profile is gone."""
    theirs: dict[str, Any]
    base: dict[str, Any] | None
    """None: the history does not have it."""
    newest: ext.ProfileRevision | None
    """Who changed it last."""

    @property
    def sentence(self) -> str:
        now = f"is at version {self.current}" if self.current else "was deleted"
        return (
            f"profile '{self.id}' has changed since {self.file.path} was exported: "
            f"the file says version {self.expected}, the profile {now}"
        )

    def compared(self) -> ThreeWay | None:
        if self.base is None:
            return None
        return three_way(self.base, profile_to_json(self.file.profile), self.theirs)

    def lines(self) -> list[str]:
        """The difference and the commands to go on with."""
        return [*self._difference(), "Next:", *(f"  {line}" for line in self.next_commands())]

    def _difference(self) -> list[str]:
        found = self.compared()
        if found is not None:
            return list(three_way_lines(found, self._meanwhile()))
        mine = profile_to_json(self.file.profile)
        return [
            "The history lacks the version the file started from. From the profile to your file:",
            *(f"  {line}" for line in change_lines(changes(self.theirs, mine))),
        ]

    def _meanwhile(self) -> str:
        last = self.newest
        if last is None:
            return ""
        who = f" by {printable(last.author)}" if last.author else ""
        return f" (last: revision {last.revision}, {last.operation}{who}, {timestamp(last.created_at_ms)})"

    def next_commands(self) -> list[str]:
        stem, extension = os.path.splitext(self.file.path)
        fresh = f"{stem}.new{extension}"
        form = ("-o", "json") if extension == ".json" else ()
        if not self.current:
            return [self.scope.command("import", "-f", self.file.path) + "   # create it again"]
        export = self.scope.command("export", self.id, *form)
        return [
            f"{export} > {shlex.quote(fresh)}",
            f"# make your changes again in {fresh}",
            self.scope.command("update", self.id, "-f", fresh),
        ]

    def to_json(self) -> dict[str, Any]:
        document: dict[str, Any] = {
            "id": self.id,
            "file": self.file.path,
            "file_resource_version": self.expected,
            "resource_version": self.current,
            "next": self.next_commands(),
        }
        found = self.compared()
        if found is not None:
            return document | three_way_document(found)
        mine = profile_to_json(self.file.profile)
        return document | {
            "from_present": [change_document(item) for item in changes(self.theirs, mine)]
        }


def present_profile(
    client: ProfileClient, id_: str, scope: ProfileScope
) -> openshell_pb2.ProviderProfile | None:
    """The stored profile of exactly this scope; None when it has none."""
    try:
        found = client.get(id_, workspace=scope.workspace)
    except grpc.RpcError as error:
        if error.code() is grpc.StatusCode.NOT_FOUND:
            return None
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:
            return newest_content(client, id_, scope)
        raise
    # A workspace is answered with the platform's profile where it has none of its own.
    belongs = found.scope == ("workspace" if scope.workspace else "platform")
    return found if belongs else None


def newest_content(
    client: ProfileClient, id_: str, scope: ProfileScope
) -> openshell_pb2.ProviderProfile | None:
    """What was stored last: the way to a profile that newer rules put out of use."""
    newest = client.revision(id_, workspace=scope.workspace)
    return newest.profile if newest.HasField("profile") else None


def find_stale(
    client: ProfileClient, file: ProfileFile, id_: str, scope: ProfileScope
) -> Stale | None:
    """Whether the file is behind, and how; None when it is not.

    Without a history (another gateway's implementation, or one cut short) the difference is in two
    parts only.
    """
    expected = file.profile.resource_version
    present = present_profile(client, id_, scope)
    current = present.resource_version if present is not None else 0
    if expected in {0, current}:
        return None
    base = newest = None
    try:
        started = client.revision_at(id_, expected, workspace=scope.workspace)
        if started is not None and started.HasField("profile"):
            base = profile_to_json(profile_from_proto(started.profile))
        newest = next(iter(client.revisions(id_, workspace=scope.workspace, limit=1)), None)
    except grpc.RpcError as error:
        if error.code() not in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.NOT_FOUND}:
            raise
    theirs = profile_to_json(profile_from_proto(present)) if present is not None else {}
    return Stale(file, scope, id_, expected, current, theirs, base, newest)
