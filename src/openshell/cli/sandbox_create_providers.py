"""Which providers a new sandbox gets: those named, and the one that its command implies.

Naming a type instead of a provider makes one of that type from the credentials of this machine, and so
does a known command where profiles do not count yet (`providers_v2_enabled` is off). What is to be
done is planned, asked about and found before the first provider is created.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import click
import grpc

from openshell.cli.connection import Session
from openshell.cli.failures import CliError
from openshell.cli.output import note
from openshell.cli.provider_lookup import Lookup
from openshell.cli.provider_types import known_type, type_of_command
from openshell.sdk.providers import ProviderClient

if TYPE_CHECKING:
    from openshell.cli.provider_discovery import Found

__all__ = ["Missing", "Wanted", "plan_providers", "resolve_providers"]

_NAMES_TRIED: Final = 5
"""An implied provider is called `type`, `type-1` .. `type-4`: the first that is free."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A provider to create: the first of `names` that is free."""

    kind: str
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Names to attach, in order, with what has to be created in its place."""

    items: tuple[str | Missing, ...]

    @property
    def missing(self) -> tuple[Missing, ...]:
        return tuple(item for item in self.items if isinstance(item, Missing))


def plan_providers(
    explicit: Sequence[str], implied: str | None, known: Mapping[str, str]
) -> Wanted:
    """Decides what is used and what has to be created.

    Args:
        explicit: The names given, in order.
        implied: The type that the command implies.
        known: Types of the workspace's providers by name, in the gateway's order.

    Raises:
        CliError: a name is neither a provider nor a type.
    """
    items: list[str | Missing] = []
    for name in dict.fromkeys(explicit):
        kind = known_type(name)
        if name in known:
            items.append(name)
        elif kind is not None:
            items.append(Missing(kind, (name,)))
        else:
            raise CliError(
                f"provider '{name}' not found, and no known type has that name\n"
                "See what there is:  openshell provider list\n"
                f"Create it:          openshell provider create --name {name} --type TYPE "
                "--credential KEY"
            )
    if implied is not None:
        present = [name for name, kind in known.items() if kind.lower() == implied]
        planned = {item.kind for item in items if isinstance(item, Missing)}
        if present and not set(present) & set(items):
            items.append(present[0])
        elif not present and implied not in planned:
            suffixes = (f"{implied}-{number}" for number in range(1, _NAMES_TRIED))
            items.append(Missing(implied, (implied, *suffixes)))
    return Wanted(tuple(items))


def resolve_providers(
    opened: Session, explicit: Sequence[str], command: Iterable[str], *, auto: bool | None
) -> list[str]:
    """The names to attach; creates what is missing and may be created.

    Args:
        opened: The gateway and workspace.
        explicit: The names given.
        command: The sandbox's command as given, empty for the default shell.
        auto: True creates without asking, False never creates, None asks.

    Raises:
        CliError: a name is unknown, or something is missing and nobody can be asked.
    """
    lookup = Lookup(opened.client, opened.workspace)
    implied = None if auto is False else next(map(type_of_command, command), None)
    if implied is not None and lookup.v2_enabled():
        implied = None
    if not explicit and implied is None:
        return []
    client = ProviderClient(opened.client)
    known = {item.metadata.name: item.type for item in client.iterate(workspace=opened.workspace)}
    wanted = plan_providers(explicit, implied, known)
    found = {
        item.names: credentials
        for item in wanted.missing
        if (credentials := _find(lookup, item, auto=auto)) is not None
    }
    names: list[str] = []
    for item in wanted.items:
        if isinstance(item, str):
            names.append(item)
        elif item.names in found:
            names.append(_create(client, opened.workspace, item, found[item.names]))
    return names


def _find(lookup: Lookup, item: Missing, *, auto: bool | None) -> Found | None:
    """The credentials of a missing provider; None: go on without it."""
    note(f"Missing provider: {item.kind}")
    if auto is False:
        note("Skipped: --no-auto-providers")
        return None
    if auto is None:
        if not sys.stdin.isatty():
            raise CliError(
                f"missing required provider '{item.names[0]}'\n"
                "Create it:             openshell provider create "
                f"--name {item.names[0]} --type {item.kind} --from-existing\n"
                "Let it be created:     --auto-providers\n"
                "Go on without it:      --no-auto-providers"
            )
        if not click.confirm("Create it from the credentials here?", default=True, err=True):
            note("Going on without it")
            return None
    found = lookup.discover(item.kind)
    if not found.credentials:
        looked = ", ".join(found.looked_for) or "no variable"
        note(f"No credentials for {item.kind} here (looked for {looked}); going on without")
        return None
    return found


def _create(client: ProviderClient, workspace: str, item: Missing, found: Found) -> str:
    for name in item.names:
        try:
            client.create(
                name, item.kind, found.credentials, workspace=workspace, config=found.config
            )
        except grpc.RpcError as error:
            taken = error.code() is grpc.StatusCode.ALREADY_EXISTS
            if not taken or len(item.names) == 1:
                raise
            continue
        note(f"Created provider {name}")
        return name
    raise CliError(
        f"no name is free for a provider of type '{item.kind}' "
        f"(tried {', '.join(item.names)}): name one with --provider"
    )
