"""Which gateway hosts a sandbox, where several share one database.

The scope of a sandbox's row is the id of the compute host that runs it: made once per state directory
and kept there, beside the compute itself. Only its gateway touches the compute, judges its lease and
removes the record; every other may read it and change what it is configured with.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Collection
from pathlib import Path

from openshell._proto import openshell_pb2
from openshell.gateway.config import ConfigError
from openshell.gateway.errors import failed_precondition
from openshell.gateway.records import Kind, load_all, to_row
from openshell.gateway.store.model import MatchResourceVersion, Row, Tx

__all__ = ["adopt", "load_host_id", "refuse_foreign"]

HOST_ID_FILE = "host-id"
_HOST_ID = re.compile(r"[0-9a-f]{32}")


def load_host_id(directory: Path) -> str:
    """The id of this compute host, made if there is none. Call it while the directory is locked."""
    path = directory / HOST_ID_FILE
    try:
        found = path.read_text("ascii").strip()
    except FileNotFoundError:
        return _make(path)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: it must hold the id of this host") from error
    if not _HOST_ID.fullmatch(found):
        raise ConfigError(
            f"{path} holds no host id: restore it, or remove it if no sandbox is left"
        )
    return found


def _make(path: Path) -> str:
    made = secrets.token_hex(16)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            file.write(f"{made}\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
    return made


def refuse_foreign(row: Row, host_id: str) -> None:
    """Refuses what needs the compute of a sandbox that another gateway hosts."""
    if row.scope not in (None, host_id):
        raise failed_precondition(
            f"sandbox '{row.name}' is hosted by another gateway (compute host {row.scope}); "
            "ask that gateway",
            compute_host=row.scope or "",
        )


def adopt(tx: Tx, host_id: str, listed: Collection[str]) -> set[str]:
    """Takes rows of before there were hosts, if the driver has their compute.

    The ids of the sandboxes whose lease this gateway judges: its own, and those that are nobody's.
    """
    judged: set[str] = set()
    for row in tx.all(Kind.SANDBOX):
        if row.scope is None and row.id in listed:
            for sandbox in load_all([row], openshell_pb2.Sandbox):
                owned = to_row(Kind.SANDBOX, sandbox, scope=host_id, status=row.status)
                tx.put(owned, MatchResourceVersion(row.resource_version))
        if row.scope in (None, host_id):
            judged.add(row.id)
    return judged
