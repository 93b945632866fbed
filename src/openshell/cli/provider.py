"""`openshell provider`: named holders of credentials. Values go in and never come out."""

from __future__ import annotations

import os

import click

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.output import output_option, print_block, print_structured, print_table

__all__ = ["create", "delete", "get", "list_", "provider", "update"]

provider = LazyGroup(
    "provider",
    help=(
        "Keep credentials outside the sandboxes that use them.\n\n"
        "A sandbox sees a placeholder; the proxy puts the value into requests to the endpoints "
        "that the policy binds to the provider."
    ),
    entries={
        "create": Entry("openshell.cli.provider:create", "Store credentials under a name."),
        "list": Entry("openshell.cli.provider:list_", "List providers."),
        "get": Entry("openshell.cli.provider:get", "Show one provider, without values."),
        "update": Entry("openshell.cli.provider:update", "Change or remove values."),
        "delete": Entry("openshell.cli.provider:delete", "Delete providers."),
    },
)


def _credentials(items: tuple[str, ...]) -> dict[str, str]:
    """`KEY=VALUE`, or `KEY` for the value of the variable of that name here."""
    values: dict[str, str] = {}
    for item in items:
        key, separator, value = item.partition("=")
        key = key.strip()
        if not key:
            raise CliError("--credential needs a name: write KEY or KEY=VALUE")
        if not separator:
            value = os.environ.get(key, "")
            if not value.strip():
                raise CliError(f"--credential {key}: the variable {key} is not set here")
        values[key] = value
    return values


def _config(items: tuple[str, ...]) -> dict[str, str]:
    values: dict[str, str] = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator or not key.strip():
            raise CliError(f"--config '{item}' is not of the form KEY=VALUE")
        values[key.strip()] = value
    return values


@command("create")
@click.option("--name", required=True, metavar="NAME")
@click.option(
    "--type", "kind", required=True, metavar="TYPE", help="Kind of service, or 'generic'."
)
@click.option(
    "--credential",
    "credentials",
    multiple=True,
    required=True,
    metavar="KEY[=VALUE]",
    help="Without a value it is taken from the variable KEY here.",
)
@click.option("--config", multiple=True, metavar="K=V", help="A setting that is no secret.")
def create(name: str, kind: str, credentials: tuple[str, ...], config: tuple[str, ...]) -> None:
    """Store credentials under NAME.

    \b
    Example (the value does not reach the shell's history):
      openshell provider create --name github --type generic --credential GITHUB_TOKEN
    """
    values, settings = _credentials(credentials), _config(config)
    from openshell.sdk.nouns import ProviderClient

    with session(start=True) as opened:
        ProviderClient(opened.client).create(
            name, kind, values, workspace=opened.workspace, config=settings
        )
    print(f"Created provider {name}")


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
    from openshell.sdk.nouns import ProviderClient

    with session(start=False) as opened:
        found = ProviderClient(opened.client).list(
            workspace=opened.workspace, limit=limit, offset=offset, all_workspaces=all_workspaces
        )
    if names:
        for item in found:
            print(item.metadata.name)
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
@click.argument("name")
@output_option()
def get(name: str, output: str) -> None:
    """Show one provider; values are never shown."""
    from openshell.cli.documents import credential_keys, provider_document
    from openshell.sdk.nouns import ProviderClient

    with session(start=False) as opened:
        item = ProviderClient(opened.client).get(name, workspace=opened.workspace)
    if output != "table":
        print_structured(provider_document(item), output)
        return
    print_block(
        "Provider",
        [
            ("Id", item.metadata.id),
            ("Name", item.metadata.name),
            ("Type", item.type),
            ("Resource version", item.metadata.resource_version),
            ("Credential keys", ", ".join(credential_keys(item)) or "<none>"),
            ("Config keys", ", ".join(sorted(item.config)) or "<none>"),
        ],
    )


@command("update")
@click.argument("name")
@click.option(
    "--credential",
    "credentials",
    multiple=True,
    metavar="KEY[=VALUE]",
    help="New value; KEY= removes it.",
)
@click.option("--config", multiple=True, metavar="K=V", help="New setting; K= removes it.")
def update(name: str, credentials: tuple[str, ...], config: tuple[str, ...]) -> None:
    """Change values of NAME; what is not named stays."""
    values, settings = _credentials(credentials), _config(config)
    if not values and not settings:
        raise click.UsageError("nothing to change: give --credential or --config")
    from openshell.sdk.nouns import ProviderClient

    with session(start=True) as opened:
        ProviderClient(opened.client).update(
            name, workspace=opened.workspace, credentials=values, config=settings
        )
    print(f"Updated provider {name}")


@command("delete")
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
def delete(names: tuple[str, ...]) -> None:
    """Delete providers with their credentials. Attached ones are refused."""
    import grpc

    from openshell.sdk.nouns import ProviderClient

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
