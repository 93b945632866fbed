"""The SSH library, loaded when the first client comes.

It takes a fifth of a second and 25 MB, which a sandbox that nobody enters by SSH does not pay. The import
runs in a thread, so that the proxy of this sandbox answers meanwhile.
"""

from __future__ import annotations

import asyncio
import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from openshell.supervisor.ssh.door import Accept

__all__ = ["load"]


async def load() -> Accept:
    """What accepts connections, with a host key of its own; the loop is not stopped."""
    return await asyncio.to_thread(_make)


def _make() -> Accept:
    door: Any = importlib.import_module("openshell.supervisor.ssh.door")
    made: Accept = door.make_accept()
    return made
