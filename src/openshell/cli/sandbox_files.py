"""`openshell sandbox upload`, `download` and `sync`."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

import click

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import note, printable

if TYPE_CHECKING:
    from openshell.sdk.files.client import FilesClient, Result
    from openshell.sdk.files.transfer import Progress

__all__ = ["ProgressBar", "download", "send", "sync", "upload"]

_BAR_WIDTH = 24
_REDRAW_SECONDS = 0.1
_NAME_WIDTH = 30


class ProgressBar:
    """One line on a terminal, redrawn at most ten times a second; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._began = time.monotonic()
        self._drawn_at = 0.0
        self._drawn = False

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if self._shown and now - self._drawn_at >= _REDRAW_SECONDS:
            self._drawn_at, self._drawn = now, True
            print(f"\r\x1b[K{self.line(progress, now - self._began)}", end="", file=sys.stderr)

    def clear(self) -> None:
        if self._drawn:
            print("\r\x1b[K", end="", file=sys.stderr)

    @staticmethod
    def line(progress: Progress, seconds: float) -> str:
        share = progress.bytes_done / progress.bytes if progress.bytes else 1.0
        filled = int(share * _BAR_WIDTH)
        rate = progress.bytes_done / seconds if seconds > 0 else 0.0
        left = (progress.bytes - progress.bytes_done) / rate if rate else 0.0
        name = printable(progress.current)[-_NAME_WIDTH:]
        return (
            f"[{'#' * filled}{'.' * (_BAR_WIDTH - filled)}] {share:>4.0%} "
            f"{size(progress.bytes_done)} of {size(progress.bytes)}  {size(rate)}/s  "
            f"{left:.0f} s left  {name}"
        )


def size(count: float) -> str:
    """Bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def send(files: FilesClient, name: str, local: str, dest: str | None, **options: object) -> Result:
    """One upload with what people see of it.

    Raises:
        CliError: `local` is not there.
    """
    if not os.path.lexists(local):
        raise CliError(f"{local}: no such file or directory")
    note(f"Uploading {local} -> sandbox:{dest or '.'}")
    bar = ProgressBar()
    try:
        result = files.upload(name, local, dest, report=bar, **options)  # type: ignore[arg-type]  # passed on
    finally:
        bar.clear()
    if result.unfiltered:
        note("Warning: Git ignores everything here, so everything was sent")
    note(f"Upload complete: {_said(result)}")
    return result


def _said(result: Result) -> str:
    files = "1 file" if result.files == 1 else f"{result.files} files"
    return f"{files}, {size(result.bytes)}"


@command("upload")
@click.argument("name")
@click.argument("local")
@click.argument("dest", required=False)
@click.option("--no-git-ignore", is_flag=True, help="Send what Git ignores, too.")
def upload(name: str, local: str, dest: str | None, no_git_ignore: bool) -> None:
    """Send a file or directory into a sandbox.

    A directory lands in DEST under its own name and is merged with what is there; '.' and '/' spread their
    contents. DEST is taken from the sandbox's working directory, which it is by default.
    """
    if not os.path.lexists(local):
        raise CliError(f"{local}: no such file or directory")
    from openshell.sdk.files.client import FilesClient

    with session(start=False) as opened:
        files = FilesClient(opened.client)
        send(files, name, local, dest, workspace=opened.workspace, git_ignore=not no_git_ignore)


@command("download")
@click.argument("name")
@click.argument("source", metavar="SANDBOX_PATH")
@click.argument("dest", default=".")
def download(name: str, source: str, dest: str) -> None:
    """Fetch a file or directory from a sandbox's working directory.

    A directory's contents are spread into DEST. A link that would lead out of DEST is not made, and no link
    that is already there is followed.
    """
    from openshell.sdk.files.client import FilesClient

    with session(start=False) as opened:
        note(f"Downloading sandbox:{source} -> {dest}")
        bar = ProgressBar()
        try:
            result = FilesClient(opened.client).download(
                name, source, dest, workspace=opened.workspace, report=bar
            )
        finally:
            bar.clear()
    _tell_links(result)
    note(f"Download complete: {_said(result)}")


@command("sync")
@click.argument("name")
@click.argument("local", metavar="LOCAL_DIR")
@click.argument("dest", metavar="[SANDBOX_DIR]", default=".")
@click.option("--pull", is_flag=True, help="From the sandbox to here.")
@click.option("--delete", is_flag=True, help="Remove what only the receiving side has.")
@click.option("-n", "--dry-run", is_flag=True, help="Change nothing, say what would be done.")
@click.option("--no-git-ignore", is_flag=True, help="Treat what Git ignores as everything else.")
def sync(
    name: str,
    local: str,
    dest: str,
    pull: bool,
    delete: bool,
    dry_run: bool,
    no_git_ignore: bool,
) -> None:
    """Make a sandbox's directory like one here, or the other way with --pull.

    Only files whose size, time or mode differs are carried. Directories named .git are left alone.
    """
    from openshell.sdk.files.client import FilesClient

    if not pull and not os.path.isdir(local):
        raise CliError(f"{local}: not a directory")
    with session(start=False) as opened:
        bar = ProgressBar()
        try:
            result = FilesClient(opened.client).sync(
                name,
                local,
                dest,
                workspace=opened.workspace,
                pull=pull,
                delete=delete,
                dry_run=dry_run,
                git_ignore=not no_git_ignore,
                report=bar,
            )
        finally:
            bar.clear()
    done = ("fetch" if pull else "send") if dry_run else ("fetched" if pull else "sent")
    would = "would " if dry_run else ""
    for shown in result.planned:
        print(f"{would}{done} {printable(shown)}")
    for shown in result.removed:
        print(f"{would}{'remove' if dry_run else 'removed'} {printable(shown)}")
    _tell_links(result)
    if not result.planned and not result.removed:
        note("Nothing differs.")


def _tell_links(result: Result) -> None:
    for shown in result.refused_links:
        note(f"Warning: the link {printable(shown)} leads out of the target and was not made")
