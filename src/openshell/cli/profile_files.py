"""Profile documents from files: one, or all of a directory, with what is wrong in them.

Everything wrong is collected as diagnostics, so that a batch is seen whole; nothing is sent from here.
A document with warnings only is sent.
Importing this loads pydantic: only the commands that read documents do.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import click

from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell._proto import openshell_pb2
from openshell.cli.failures import CliError
from openshell.cli.profile_report import ERROR, Diagnostic
from openshell.codec.profile import profile_to_proto
from openshell.policy.document import MAX_DOCUMENT_BYTES
from openshell.providers.profile.document import (
    Format,
    ProfileDocumentError,
    local_findings,
    read_profile,
)
from openshell.providers.profile.ids import is_canonical_id
from openshell.providers.profile.model import ProviderProfile

__all__ = ["Batch", "ProfileFile", "read_batch", "read_file"]

_FORMATS: Final[dict[str, Format]] = {".yaml": "yaml", ".yml": "yaml", ".json": "json"}


@dataclass(frozen=True, slots=True)
class ProfileFile:
    """One document that could be read."""

    path: str
    profile: ProviderProfile

    def import_item(self) -> openshell_pb2.ProviderProfileImportItem:
        return openshell_pb2.ProviderProfileImportItem(
            profile=profile_to_proto(self.profile), source=self.path
        )

    def apply_item(self, expected: int | None = None) -> ext.ApplyProfilesItem:
        """For a batch. `expected` None takes the document's version; 0 means create."""
        message = profile_to_proto(self.profile)
        if expected is not None:
            message.resource_version = expected
        return ext.ApplyProfilesItem(
            id=self.profile.id,
            profile=message,
            expected_resource_version=message.resource_version,
            source=self.path,
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """What could be read, what is wrong with the rest, and warnings about either."""

    files: tuple[ProfileFile, ...]
    diagnostics: tuple[Diagnostic, ...]

    @property
    def is_sound(self) -> bool:
        return not any(item.severity == ERROR for item in self.diagnostics)

    def with_targets(self) -> Batch:
        """With findings for ids that cannot name a profile to change."""
        wrong = [
            _wrong(
                file.path,
                file.profile.id,
                "id",
                "an id is lowercase kebab-case: letters and digits, single '-' between",
            )
            for file in self.files
            if not is_canonical_id(file.profile.id)
        ]
        return Batch(self.files, (*self.diagnostics, *wrong))


def read_batch(file: str | None, directory: str | None) -> Batch:
    """Reads one file or a directory's files, sorted by path.

    Raises:
        CliError: the directory cannot be read or has no such file.
        click.UsageError: not exactly one of the two is given.
    """
    if (file is None) == (directory is None):
        raise click.UsageError("give one of --file and --from")
    paths = [file] if file is not None else _directory(directory or "")
    files: list[ProfileFile] = []
    diagnostics: list[Diagnostic] = []
    for path in paths:
        found, wrong = read_file(path)
        files += [found] if found is not None else []
        diagnostics += wrong
    return Batch(tuple(files), tuple(diagnostics))


def _directory(path: str) -> list[str]:
    try:
        with os.scandir(path) as entries:
            found = sorted(
                entry.path
                for entry in entries
                if entry.is_file() and os.path.splitext(entry.name)[1] in _FORMATS
            )
    except OSError as error:
        raise CliError(f"cannot read the directory {path}: {error.strerror}") from error
    if not found:
        raise CliError(f"no provider profile files found in {path} (.yaml, .yml or .json)")
    return found


def read_file(path: str) -> tuple[ProfileFile | None, list[Diagnostic]]:
    """One document with warnings about it; None when a diagnostic is an error."""
    if os.path.isdir(path):
        return None, [_wrong(path, "", "file", "is a directory: give it with --from")]
    if not os.path.splitext(path)[1] and not os.path.exists(path):
        return None, [_wrong(path, "", "file", "cannot be read: No such file or directory")]
    extension = os.path.splitext(path)[1]
    form = _FORMATS.get(extension)
    if form is None:
        message = f"unsupported provider profile format '{extension}': use .yaml, .yml or .json"
        return None, [_wrong(path, "", "file", message)]
    try:
        text = _text(path)
        profile = read_profile(text, source=path, format=form)
        findings = local_findings(text, source=path, format=form)
    except OSError as error:
        return None, [_wrong(path, "", "file", f"cannot be read: {error.strerror}")]
    except UnicodeDecodeError:
        return None, [_wrong(path, "", "file", "is not UTF-8 text")]
    except ProfileDocumentError as error:
        return None, [_wrong(path, "", "file", str(error))]
    told = [
        Diagnostic(
            source=f"{path}:{item.line}" if item.line else path,
            profile_id=profile.id,
            field=item.field,
            message=item.message,
            severity=item.severity,
        )
        for item in findings
    ]
    is_sound = not any(item.is_error for item in findings)
    return (ProfileFile(path, profile) if is_sound else None), told


def _text(path: str) -> str:
    """One byte more than is allowed at most: the reader then says that it is too large."""
    with Path(path).open("rb") as file:
        return file.read(MAX_DOCUMENT_BYTES + 1).decode("utf-8")


def _wrong(path: str, id_: str, field: str, message: str) -> Diagnostic:
    return Diagnostic(source=path, profile_id=id_, field=field, message=message, severity=ERROR)
