"""`openshell provider refresh`: credentials that the gateway renews by itself."""

from __future__ import annotations

import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from openshell.cli.completions import gateway_names
from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import output_option, print_structured, print_table, printable, timestamp
from openshell.cli.provider_values import epoch_ms, read_material, read_pairs

if TYPE_CHECKING:
    from openshell._proto import openshell_pb2

__all__ = ["configure", "delete", "rotate", "status"]

_STRATEGIES = (
    "oauth2-refresh-token",
    "oauth2-client-credentials",
    "google-service-account-jwt",
    "aws-sts-assume-role",
)


class _StrategyChoice(click.Choice[str]):
    """Documents write strategies in any case, with `_` or `-`: so may people."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        return super().convert(str(value).lower().replace("_", "-"), param, ctx)


_ERROR_SHOWN = 72
"""Characters of the last error in a table; `-o json` has it whole."""

_key_option = click.option(
    "--credential-key", "key", required=True, metavar="KEY", help="The variable to keep fresh."
)


def _strategy_name(item: openshell_pb2.ProviderCredentialRefreshStatus) -> str:
    from openshell._proto import openshell_pb2

    name = openshell_pb2.ProviderCredentialRefreshStrategy.Name(item.strategy)
    prefix = "PROVIDER_CREDENTIAL_REFRESH_STRATEGY_"
    return name.removeprefix(prefix).lower().replace("_", "-")


def _document(item: openshell_pb2.ProviderCredentialRefreshStatus) -> dict[str, Any]:
    return {
        "provider": item.provider_name,
        "credential_key": item.credential_key,
        "strategy": _strategy_name(item),
        "status": item.status,
        "expires_at_ms": item.expires_at_ms or None,
        "next_refresh_at_ms": item.next_refresh_at_ms or None,
        "last_refresh_at_ms": item.last_refresh_at_ms or None,
        "last_error": item.last_error or None,
    }


@command("status")
@click.argument("name", shell_complete=gateway_names("providers"))
@click.option("--credential-key", "key", default="", metavar="KEY", help="Only this one.")
@output_option()
def status(name: str, key: str, output: str) -> None:
    """Show how the renewals of provider NAME stand."""
    from openshell.sdk.providers import RefreshClient

    with session(start=False) as opened:
        found = RefreshClient(opened.client).status(name, key, workspace=opened.workspace)
    if output != "table":
        print_structured([_document(item) for item in found], output)
    elif not found:
        print(f"Provider {name} renews no credential" + (f" of name {key}" if key else ""))
    else:
        print_table(
            [
                "PROVIDER",
                "CREDENTIAL_KEY",
                "STRATEGY",
                "STATUS",
                "EXPIRES_AT",
                "NEXT_REFRESH",
                "LAST_REFRESH",
                "LAST_ERROR",
            ],
            (
                [
                    item.provider_name,
                    item.credential_key,
                    _strategy_name(item),
                    item.status,
                    timestamp(item.expires_at_ms),
                    timestamp(item.next_refresh_at_ms),
                    timestamp(item.last_refresh_at_ms),
                    item.last_error[:_ERROR_SHOWN],
                ]
                for item in found
            ),
        )


@command("configure")
@click.argument("name", shell_complete=gateway_names("providers"))
@_key_option
@click.option("--strategy", required=True, type=_StrategyChoice(_STRATEGIES))
@click.option("--material", multiple=True, metavar="K=V", help="An input that is no secret.")
@click.option(
    "--secret-material-env",
    "from_environment",
    multiple=True,
    metavar="K[=VARIABLE]",
    help="A secret input, taken from the variable here.",
)
@click.option(
    "--secret-material-key",
    "secret_keys",
    multiple=True,
    metavar="K",
    help="Treat this input of --material as a secret too.",
)
@click.option(
    "--credential-expires-at",
    "expires",
    metavar="TIME",
    help="When the present value ends: epoch milliseconds or RFC 3339; 0 clears.",
)
def configure(
    name: str,
    key: str,
    strategy: str,
    material: tuple[str, ...],
    from_environment: tuple[str, ...],
    secret_keys: tuple[str, ...],
    expires: str | None,
) -> None:
    """Let the gateway renew a credential of provider NAME.

    The endpoints come from the provider's profile, the inputs from here. Values of secret inputs are
    sealed and never shown.

    \b
    Example:
      openshell provider refresh configure graph --credential-key GRAPH_TOKEN
        --strategy oauth2-client-credentials --material client_id=c1
        --secret-material-env client_secret=GRAPH_SECRET
    """
    values, secret = read_material(material, from_environment, secret_keys, os.environ)
    option = "--credential-expires-at"
    ends = epoch_ms(expires, option, datetime.now(UTC)) if expires is not None else None
    from openshell._proto import openshell_pb2
    from openshell.cli.provider_create import warn_exposed
    from openshell.cli.refresh_notes import say_unknown
    from openshell.providers.profile.model import Strategy
    from openshell.providers.refresh import secret_names
    from openshell.sdk.providers import RefreshClient

    enum_name = f"PROVIDER_CREDENTIAL_REFRESH_STRATEGY_{strategy.replace('-', '_').upper()}"
    number = openshell_pb2.ProviderCredentialRefreshStrategy.Value(enum_name)
    shown = read_pairs(material, "--material")
    warn_exposed("--material", sorted(secret_names(None, key, Strategy(number), shown, secret)))
    with session(start=True) as opened:
        found = RefreshClient(opened.client).configure(
            name,
            key,
            number,
            values,
            workspace=opened.workspace,
            secret_keys=secret,
            expires_at_ms=ends,
        )
        say_unknown(opened, name, key, Strategy(number), values)
    print(f"Configured refresh of {key} for provider {name}")
    when = timestamp(found.next_refresh_at_ms)
    print(f"Next refresh: {'as soon as possible' if when == '-' else when}")


@command("rotate")
@click.argument("name", shell_complete=gateway_names("providers"))
@_key_option
def rotate(name: str, key: str) -> None:
    """Renew a credential of provider NAME now."""
    from openshell.sdk.providers import RefreshClient

    with session(start=True) as opened:
        found = RefreshClient(opened.client).rotate(name, key, workspace=opened.workspace)
    if found.status == "error":
        raise CliError(
            f"{key} of provider {name} was not renewed: {printable(found.last_error)}\n"
            f"See: openshell provider refresh status {name}"
        )
    print(f"Renewed {key} of provider {name} ({found.status})")
    print(f"Expires: {timestamp(found.expires_at_ms)}")


@command("delete")
@click.argument("name", shell_complete=gateway_names("providers"))
@_key_option
def delete(name: str, key: str) -> None:
    """Stop renewing a credential of provider NAME; its present value stays until it ends."""
    from openshell.sdk.providers import RefreshClient

    with session(start=True) as opened:
        deleted = RefreshClient(opened.client).delete(name, key, workspace=opened.workspace)
    print(
        f"Deleted refresh of {key} for provider {name}"
        if deleted
        else f"Provider {name} does not renew {key}; nothing to delete"
    )
