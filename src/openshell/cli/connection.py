"""From the global options to an open client: which gateway, started if the command may start one."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from openshell.cli.failures import CliError
from openshell.cli.groups import Options
from openshell.cli.output import note
from openshell.sdk.registry import Registry, Target

if TYPE_CHECKING:
    from openshell.sdk.client import SandboxClient

__all__ = ["Session", "find_target", "registry", "session"]


@dataclass(frozen=True, slots=True)
class Session:
    """An open client with what the command line said beside it."""

    client: SandboxClient
    registry: Registry
    target: Target
    workspace: str

    def sandbox_name(self, given: str | None) -> str:
        """The name given, else the sandbox used last.

        Raises:
            CliError: neither.
        """
        if given:
            return given
        last = self.registry.last_sandbox(self.target.name, self.workspace)
        if last is None:
            raise CliError("no sandbox was used yet: give its name, see 'openshell sandbox list'")
        note(f"Using sandbox '{last}' (last used)")
        return last

    def remember(self, sandbox: str) -> None:
        """A convenience: a full disk must not turn what was done into a failure."""
        try:
            self.registry.record_last_sandbox(self.target.name, self.workspace, sandbox)
        except OSError as error:
            note(f"Warning: the name is not remembered for next time: {error.strerror}")

    def forget(self, sandbox: str) -> None:
        try:
            self.registry.clear_last_sandbox(self.target.name, self.workspace, sandbox)
        except OSError as error:
            note(f"Warning: the name is still remembered: {error.strerror}")


def registry() -> Registry:
    return Registry.from_environment(os.environ)


def options() -> Options:
    return click.get_current_context().ensure_object(Options)


def find_target(known: Registry) -> Target | None:
    """The gateway that the options name; None when nothing is configured."""
    given = options()
    return known.resolve(endpoint=given.gateway_endpoint or None, gateway=given.gateway or None)


@contextlib.contextmanager
def session(*, start: bool) -> Iterator[Session]:
    """Opens a client.

    Args:
        start: Whether the embedded gateway may be started for this command. Commands that create or
            change things say yes, commands that only look say no.

    Raises:
        CliError: there is no gateway.
    """
    from openshell.sdk.client import SandboxClient
    from openshell.sdk.embedded import EmbeddedGateway

    known = registry()
    target = find_target(known)
    embedded = EmbeddedGateway.from_environment(os.environ)
    if target is None or embedded.is_endpoint(target.endpoint):
        if start:
            if not embedded.is_running():
                note("Starting the local gateway ...")
                embedded.start()
            embedded.register_again(known)
            target = target or find_target(known)
        elif target is None:
            raise CliError(
                "No active gateway.\n"
                "Start the local one with:      openshell gateway start\n"
                "Choose a registered one with:  openshell gateway select NAME"
            )
    if target is None:
        raise CliError("the local gateway started but did not register itself; see its log")
    with SandboxClient.from_target(known, target) as client:
        yield Session(client, known, target, options().workspace or "default")
