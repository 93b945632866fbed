"""`openshell sandbox provider`: which providers a sandbox may use."""

from __future__ import annotations

import click

from openshell.cli.connection import session
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.output import output_option, print_structured, print_table

__all__ = ["attach", "detach", "list_", "provider"]

provider = LazyGroup(
    "provider",
    help="Attach providers to a sandbox and detach them; running sandboxes notice at once.",
    entries={
        "list": Entry("openshell.cli.sandbox_provider:list_", "List the attached providers."),
        "attach": Entry("openshell.cli.sandbox_provider:attach", "Let a sandbox use a provider."),
        "detach": Entry("openshell.cli.sandbox_provider:detach", "Take a provider away."),
    },
)


@command("list")
@click.argument("name", required=False)
@output_option()
def list_(name: str | None, output: str) -> None:
    """List the providers of a sandbox in the order of attachment."""
    from openshell.cli.documents import credential_keys, provider_document
    from openshell.sdk.nouns import ProviderClient

    with session(start=False) as opened:
        found = ProviderClient(opened.client).attached(
            opened.sandbox_name(name), workspace=opened.workspace
        )
    if output != "table":
        print_structured([provider_document(item) for item in found], output)
    elif not found:
        print("No providers attached.")
    else:
        print_table(
            ["NAME", "TYPE", "CREDENTIAL_KEYS", "CONFIG_KEYS"],
            (
                [item.metadata.name, item.type, len(credential_keys(item)), len(item.config)]
                for item in found
            ),
        )


@command("attach")
@click.argument("name")
@click.argument("provider_name", metavar="PROVIDER")
def attach(name: str, provider_name: str) -> None:
    """Let sandbox NAME use PROVIDER."""
    from openshell.sdk.nouns import ProviderClient

    with session(start=True) as opened:
        version = opened.client.describe(name, workspace=opened.workspace).metadata.resource_version
        changed = ProviderClient(opened.client).attach(
            name, provider_name, workspace=opened.workspace, expected=version
        )
    verb = "Attached" if changed else "Already attached:"
    print(f"{verb} provider {provider_name} to sandbox {name}")


@command("detach")
@click.argument("name")
@click.argument("provider_name", metavar="PROVIDER")
def detach(name: str, provider_name: str) -> None:
    """Take PROVIDER away from sandbox NAME."""
    from openshell.sdk.nouns import ProviderClient

    with session(start=True) as opened:
        version = opened.client.describe(name, workspace=opened.workspace).metadata.resource_version
        changed = ProviderClient(opened.client).detach(
            name, provider_name, workspace=opened.workspace, expected=version
        )
    print(
        f"Detached provider {provider_name} from sandbox {name}"
        if changed
        else f"Provider {provider_name} was not attached to sandbox {name}"
    )
