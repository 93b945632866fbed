"""`openshell provider create`: credentials from here, from Google's login, or none yet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from openshell.cli.connection import Session, session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import note
from openshell.cli.provider_values import read_credentials, read_pairs, values_on_command_line

if TYPE_CHECKING:
    from openshell.cli.provider_discovery import Found
    from openshell.cli.provider_lookup import Lookup
    from openshell.providers.profile.model import ProviderProfile

__all__ = ["create", "nothing_found", "warn_exposed"]

_SOURCES = {
    "from_existing": "--from-existing",
    "credentials": "--credential",
    "from_gcloud_adc": "--from-gcloud-adc",
    "runtime_credentials": "--runtime-credentials",
}


@command("create")
@click.option("--name", required=True, metavar="NAME")
@click.option("--type", "kind", required=True, metavar="TYPE", help="A profile's id, or 'generic'.")
@click.option(
    "--credential",
    "credentials",
    multiple=True,
    metavar="KEY[=VALUE]",
    help="Without a value it is taken from the variable KEY here.",
)
@click.option("--from-existing", is_flag=True, help="Take what the type's tools use here.")
@click.option("--from-gcloud-adc", is_flag=True, help="Take the login of gcloud, and renew it.")
@click.option(
    "--runtime-credentials", is_flag=True, help="Store none: they come into being at run time."
)
@click.option("--config", multiple=True, metavar="K=V", help="A setting that is no secret.")
@click.option(
    "--global-profile", is_flag=True, help="Use the platform's profile, not the workspace's."
)
def create(
    name: str, kind: str, config: tuple[str, ...], global_profile: bool, **given: Any
) -> None:
    """Store credentials under NAME, from exactly one source.

    \b
    Examples (no value reaches the shell's history):
      openshell provider create --name github --type generic --credential GITHUB_TOKEN
      openshell provider create --name claude --type claude-code --from-existing
      openshell provider create --name vertex --type google-vertex-ai --from-gcloud-adc
    """
    chosen = [option for key, option in _SOURCES.items() if given[key]]
    if len(chosen) != 1:
        raise click.UsageError(f"give exactly one of {', '.join(_SOURCES.values())}")
    values = read_credentials(given["credentials"], os.environ)
    settings = read_pairs(config, "--config")
    warn_exposed("--credential", values_on_command_line(given["credentials"]))
    from openshell.cli.provider_lookup import Lookup
    from openshell.sdk.providers import ProviderClient

    with session(start=True) as opened:
        lookup = Lookup(opened.client, "" if global_profile else opened.workspace)
        kind = lookup.type_of(kind)
        if given["from_gcloud_adc"]:
            _create_from_adc(opened, lookup, name, kind, settings)
        else:
            if given["from_existing"]:
                found = lookup.discover(kind)
                if not found.credentials:
                    raise nothing_found(kind, found)
                values, settings = found.credentials, {**found.config, **settings}
            elif given["runtime_credentials"]:
                _require_runtime(lookup.require_profile(kind, "--runtime-credentials needs one"))
            ProviderClient(opened.client).create(
                name,
                kind,
                values,
                workspace=opened.workspace,
                config=settings,
                profile_workspace=lookup.scope,
            )
    print(f"Created provider {name}")


def warn_exposed(option: str, keys: list[str]) -> None:
    """Says that values in a command line are not kept from others."""
    if keys:
        note(
            f"Warning: {option} {', '.join(keys)}: values in a command line can be read by other "
            "programs and stay in the shell's history; leave them out to take them from variables"
        )


def nothing_found(kind: str, found: Found) -> CliError:
    """A refusal that says where was looked and what else would do."""
    looked = ", ".join(found.looked_for) or "nothing: the type is not discovered"
    hints = [f"Give one yourself:  openshell provider create ... --type {kind} --credential KEY"]
    if kind in {"google-cloud", "google-vertex-ai"}:
        hints.append("Use gcloud's login: openshell provider create ... --from-gcloud-adc")
    return CliError(
        "\n".join([f"no credentials for type '{kind}' are set here (looked for {looked})", *hints])
    )


def _require_runtime(profile: ProviderProfile) -> None:
    if profile.allows_empty_credentials:
        return
    needed = [c.name for c in profile.credentials if c.required and not profile.is_resolvable(c)]
    reason = (
        f"it requires {', '.join(needed)}"
        if needed
        else "none of its credentials comes into being at run time"
    )
    raise CliError(
        f"profile '{profile.id}' does not allow --runtime-credentials: {reason}\n"
        "Give values instead:  --credential KEY  or  --from-existing"
    )


def _create_from_adc(
    opened: Session, lookup: Lookup, name: str, kind: str, settings: dict[str, str]
) -> None:
    """Creates the provider and hands over the grant; takes the provider back when that fails."""
    import grpc

    from openshell._proto import openshell_pb2
    from openshell.cli.provider_adc import credential_key_for, read_adc
    from openshell.sdk.providers import ProviderClient, RefreshClient

    key = credential_key_for(lookup.require_profile(kind, "--from-gcloud-adc needs one"))
    user = read_adc(os.environ)
    providers, refresh = ProviderClient(opened.client), RefreshClient(opened.client)
    providers.create(
        name,
        kind,
        {},
        workspace=opened.workspace,
        config=settings,
        profile_workspace=lookup.scope,
    )
    try:
        refresh.configure(
            name,
            key,
            openshell_pb2.PROVIDER_CREDENTIAL_REFRESH_STRATEGY_OAUTH2_REFRESH_TOKEN,
            user.material,
            workspace=opened.workspace,
            secret_keys=("client_secret", "refresh_token"),
        )
        status = refresh.rotate(name, key, workspace=opened.workspace)
        if status.status == "error":
            raise CliError(f"the first token could not be had: {status.last_error}")
    except (grpc.RpcError, CliError, KeyboardInterrupt) as error:
        reason = error.details() if isinstance(error, grpc.RpcError) else str(error)
        try:
            providers.delete(name, workspace=opened.workspace)
        except grpc.RpcError as second:
            raise CliError(
                f"{reason or 'interrupted'}\nProvider '{name}' was created and could not be deleted "
                f"again ({second.details()}): openshell provider delete {name}"
            ) from error
        raise CliError(
            f"{reason or 'interrupted'}\nProvider '{name}' was deleted again; "
            "renew the login with: gcloud auth application-default login"
        ) from error
