"""`openshell sandbox provider`: which providers a sandbox may use."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import click

from openshell.cli.completions import gateway_names
from openshell.cli.connection import session
from openshell.cli.failures import CliError
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
    elsewhere={
        "add": "openshell sandbox provider attach",
        "remove": "openshell sandbox provider detach",
    },
)


@command("list")
@click.argument("name", required=False, shell_complete=gateway_names("sandboxes"))
@output_option()
def list_(name: str | None, output: str) -> None:
    """List the providers of a sandbox in the order of attachment."""
    from openshell.cli.documents import credential_keys, provider_document
    from openshell.sdk.providers import ProviderClient

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
@click.argument("name", shell_complete=gateway_names("sandboxes"))
@click.argument("provider_name", metavar="PROVIDER", shell_complete=gateway_names("providers"))
def attach(name: str, provider_name: str) -> None:
    """Let sandbox NAME use PROVIDER."""
    from openshell.cli.provider_notes import say_idle
    from openshell.sdk.providers import ProviderClient

    with session(start=True) as opened:
        record = opened.client.describe(name, workspace=opened.workspace)
        with _retry_hint(name):
            changed = ProviderClient(opened.client).attach(
                name,
                provider_name,
                workspace=opened.workspace,
                expected=record.metadata.resource_version,
            )
        verb = "Attached" if changed else "Already attached:"
        print(f"{verb} provider {provider_name} to sandbox {name}")
        say_idle(opened, record.metadata.id, [provider_name])


@command("detach")
@click.argument("name", shell_complete=gateway_names("sandboxes"))
@click.argument("provider_name", metavar="PROVIDER", shell_complete=gateway_names("providers"))
def detach(name: str, provider_name: str) -> None:
    """Take PROVIDER away from sandbox NAME."""
    from openshell.sdk.providers import ProviderClient

    with session(start=True) as opened:
        version = opened.client.describe(name, workspace=opened.workspace).metadata.resource_version
        with _retry_hint(name):
            changed = ProviderClient(opened.client).detach(
                name, provider_name, workspace=opened.workspace, expected=version
            )
    print(
        f"Detached provider {provider_name} from sandbox {name}"
        if changed
        else f"Provider {provider_name} was not attached to sandbox {name}"
    )


@contextlib.contextmanager
def _retry_hint(name: str) -> Iterator[None]:
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.ABORTED:
            raise
        raise CliError(
            f"sandbox '{name}' was modified at the same time; nothing was changed: run this again"
        ) from error
