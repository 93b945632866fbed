"""`openshell provider list`, `get`, `update` and `delete`. Values go in and never come out."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import click

from openshell.cli.completions import gateway_names
from openshell.cli.connection import session
from openshell.cli.groups import command
from openshell.cli.output import (
    output_option,
    print_block,
    print_structured,
    print_table,
    printable,
)
from openshell.cli.provider_values import (
    read_credentials,
    read_expiries,
    read_pairs,
    values_on_command_line,
)

__all__ = ["delete", "get", "list_", "update"]


@command("list")
@click.option("--limit", type=click.IntRange(1, 1000), default=100, show_default=True)
@click.option("--offset", type=click.IntRange(0), default=0, show_default=True)
@click.option("--names", is_flag=True, help="Print names only.")
@click.option("--all-workspaces", is_flag=True)
@output_option()
def list_(limit: int, offset: int, names: bool, all_workspaces: bool, output: str) -> None:
    """List providers."""
    if names and output != "table":
        raise click.UsageError("use one of --names and -o")
    from openshell.cli.documents import credential_keys, provider_document
    from openshell.sdk.providers import ProviderClient

    with session(start=False) as opened:
        found = ProviderClient(opened.client).list(
            workspace=opened.workspace, limit=limit, offset=offset, all_workspaces=all_workspaces
        )
    if names:
        for item in found:
            workspace = f"{item.metadata.workspace}/" if all_workspaces else ""
            print(printable(f"{workspace}{item.metadata.name}"))
    elif output != "table":
        print_structured([provider_document(item) for item in found], output)
    elif not found:
        print("No providers found.")
    else:
        first = ["WORKSPACE"] if all_workspaces else []
        print_table(
            [*first, "NAME", "TYPE", "CREDENTIAL_KEYS", "CONFIG_KEYS"],
            (
                [
                    *([item.metadata.workspace] if all_workspaces else []),
                    item.metadata.name,
                    item.type,
                    len(credential_keys(item)),
                    len(item.config),
                ]
                for item in found
            ),
        )


@command("get")
@click.argument("name", shell_complete=gateway_names("providers"))
@output_option()
def get(name: str, output: str) -> None:
    """Show one provider; values are never shown."""
    from openshell.cli.documents import credential_keys, provider_document
    from openshell.cli.output import timestamp
    from openshell.sdk.providers import ProviderClient

    with session(start=False) as opened:
        item = ProviderClient(opened.client).get(name, workspace=opened.workspace)
    if output != "table":
        print_structured(provider_document(item), output)
        return
    expiries = [
        (f"Expires {key}", timestamp(expires))
        for key, expires in sorted(item.credential_expires_at_ms.items())
    ]
    print_block(
        "Provider",
        [
            ("Id", item.metadata.id),
            ("Name", item.metadata.name),
            ("Type", item.type),
            ("Resource version", item.metadata.resource_version),
            ("Credential keys", ", ".join(credential_keys(item)) or "<none>"),
            ("Config keys", ", ".join(sorted(item.config)) or "<none>"),
            *expiries,
        ],
    )


@command("update")
@click.argument("name", shell_complete=gateway_names("providers"))
@click.option(
    "--credential",
    "credentials",
    multiple=True,
    metavar="KEY[=VALUE]",
    help="New value; KEY= removes it.",
)
@click.option("--from-existing", is_flag=True, help="Take what the type's tools use here.")
@click.option("--config", multiple=True, metavar="K=V", help="New setting; K= removes it.")
@click.option(
    "--credential-expires-at",
    "expiries",
    multiple=True,
    metavar="KEY=TIME",
    help="When a value ends: epoch milliseconds or RFC 3339; 0 clears.",
)
def update(
    name: str,
    credentials: tuple[str, ...],
    from_existing: bool,
    config: tuple[str, ...],
    expiries: tuple[str, ...],
) -> None:
    """Change values of NAME; what is not named stays."""
    if from_existing and credentials:
        raise click.UsageError("use one of --from-existing and --credential")
    values = read_credentials(credentials, os.environ)
    settings = read_pairs(config, "--config")
    ends = read_expiries(expiries, datetime.now(UTC))
    if not (values or settings or ends or from_existing):
        raise click.UsageError(
            "nothing to change: give --credential, --from-existing, --config "
            "or --credential-expires-at"
        )
    from openshell.cli.provider_create import nothing_found, warn_exposed
    from openshell.sdk.providers import ProviderClient

    warn_exposed("--credential", values_on_command_line(credentials))
    with session(start=True) as opened:
        client = ProviderClient(opened.client)
        if from_existing:
            from openshell.cli.provider_lookup import Lookup
            from openshell.providers.types import canonical_type

            record = client.get(name, workspace=opened.workspace)
            kind = canonical_type(record.type)
            found = Lookup(opened.client, record.profile_workspace).discover(kind)
            if not (found.credentials or found.config):
                raise nothing_found(kind, found)
            values, settings = found.credentials, {**found.config, **settings}
        client.update(
            name,
            workspace=opened.workspace,
            credentials=values,
            config=settings,
            expires_at_ms=ends,
        )
    print(f"Updated provider {name}")


@command("delete")
@click.argument(
    "names",
    nargs=-1,
    required=True,
    metavar="NAME...",
    shell_complete=gateway_names("providers"),
)
def delete(names: tuple[str, ...]) -> None:
    """Delete providers with their credentials. Attached ones are refused."""
    import grpc

    from openshell.sdk.providers import ProviderClient

    with session(start=False) as opened:
        client = ProviderClient(opened.client)
        for name in names:
            try:
                found = client.delete(name, workspace=opened.workspace)
            except grpc.RpcError as error:
                if error.code() is not grpc.StatusCode.NOT_FOUND:
                    raise
                found = False
            print(f"Deleted provider {name}" if found else f"Provider {name} not found")
