"""What of the caller's files the sandboxes of this machine see: decided at create, again at start.

Keeps the search for credential files off the event loop, its answers between sandboxes, and the
list of homes. What may be shown at all is `tools`' decision. Used by the driver.
"""

import asyncio
import contextlib
import os
import pwd
from collections.abc import Callable, Collection, Coroutine, Mapping

from openshell.drivers.base import DriverError, DriverErrorCode
from openshell.drivers.launch import Exposure
from openshell.drivers.local.credential_files import CredentialFinder, TooManyFiles
from openshell.drivers.local.request import LocalConfig
from openshell.drivers.local.tools import Homes, expose, expose_again

__all__ = ["Exposing", "homes_of"]

# A start takes a tenth of this.
_REFRESH_SECONDS = 1.0


class Exposing:
    """One for a driver; `spawn` runs what nobody waits for."""

    def __init__(
        self,
        environment: Mapping[str, str],
        state_dir: str,
        spawn: Callable[[Coroutine[None, None, None], str], None],
    ) -> None:
        self._environment = environment
        self._state_dir = state_dir
        self._spawn = spawn
        self._finder = CredentialFinder()
        self._deciding = asyncio.Lock()

    async def decide(self, config: LocalConfig) -> Exposure:
        """For a new sandbox; raises DriverError where a path that was asked for by name is not."""
        if not config.tool_dirs and not config.host_paths:
            return Exposure()
        homes = homes_of(self._environment, self._state_dir)
        async with self._deciding:
            exposure = await asyncio.to_thread(
                expose, config.tool_dirs, config.host_paths, homes, self._finder
            )
        due = [path for path in exposure.paths if self._finder.is_due(path)]
        if due:
            self._spawn(self._refresh(due), "credential files")
        refused = dict(exposure.skipped)
        for path in config.host_paths:
            # Asked for by name: leaving it out would be a surprise. PATH directories are offers.
            reason = refused.get(os.path.realpath(path)) or refused.get(path)
            if reason:
                raise DriverError(
                    DriverErrorCode.FAILED_PRECONDITION,
                    f"{path} cannot be made visible in the sandbox: {reason}",
                )
        return exposure

    async def decide_again(self, exposure: Exposure) -> Exposure:
        """For a sandbox that starts again: the files may have changed since, also by much."""
        if not exposure.paths:
            return exposure
        homes = homes_of(self._environment, self._state_dir)
        async with self._deciding:
            return await asyncio.to_thread(expose_again, exposure, homes, self._finder)

    async def _refresh(self, paths: Collection[str]) -> None:
        """Look for credential files again, for the sandboxes that come next."""
        # Not while the sandbox that asked is starting: it needs the processors more.
        await asyncio.sleep(_REFRESH_SECONDS)
        async with self._deciding:
            for path in paths:
                # Found again, with the same sentence, by whoever needs it.
                with contextlib.suppress(TooManyFiles):
                    await asyncio.to_thread(self._finder.refresh, path)


def homes_of(environment: Mapping[str, str], state_dir: str) -> Homes:
    """The homes of people on this machine, our own wherever it is, and what is ours in it."""
    found = {environment.get("HOME", "")}
    for entry in pwd.getpwall():
        if entry.pw_uid in {0, os.getuid()} or entry.pw_uid >= 1000:
            found.add(entry.pw_dir)
    with contextlib.suppress(OSError):
        found.update(f"/home/{name}" for name in os.listdir("/home"))
    absolute = {path for path in found if path.startswith("/")}
    real = absolute | {os.path.realpath(path) for path in absolute}
    configured = environment.get("XDG_CONFIG_HOME") or f"{environment.get('HOME', '')}/.config"
    # The gateway's database and keys lie beside the driver's own directory.
    ours = {os.path.dirname(state_dir), f"{configured}/openshell"}
    return Homes(
        os.getuid(),
        tuple(sorted(path for path in real if len(path) > 1)),
        tuple(sorted({os.path.realpath(path) for path in ours if len(path) > 1})),
    )
