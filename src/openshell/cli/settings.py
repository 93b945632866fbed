"""`openshell settings`: switches beside the policy, for one sandbox or for all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from openshell.cli.confirm import confirm_global, yes_option
from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.output import note, output_option, print_structured, print_table, printable
from openshell.cli.settings_form import require_scope, whole_form
from openshell.policy.settings import (
    SETTINGS,
    Setting,
    SettingRejected,
    allowed_keys,
    parse_value,
)

if TYPE_CHECKING:
    from openshell._proto import sandbox_pb2

__all__ = ["delete", "get", "list_", "set_", "settings"]

settings = LazyGroup(
    "settings",
    help=(
        "Read and change settings of a sandbox, or of all with --global.\n\n"
        "A value for all sandboxes stands over a sandbox's own until it is deleted."
    ),
    entries={
        "get": Entry("openshell.cli.settings:get", "Show the values in force."),
        "set": Entry("openshell.cli.settings:set_", "Set one value."),
        "delete": Entry("openshell.cli.settings:delete", "Remove one value."),
        "list": Entry("openshell.cli.settings:list_", "List the keys and what they take."),
    },
    elsewhere={
        "show": "openshell settings get",
        "unset": "openshell settings delete",
    },
)

_global_option = click.option(
    "--global", "is_global", is_flag=True, help="For all sandboxes of the gateway."
)
_key_option = click.option("--key", required=True, metavar="KEY", help="See 'settings list'.")


def _refuse_name(name: str | None, *, is_global: bool) -> None:
    if is_global and name:
        raise CliError("--global concerns all sandboxes: leave out the name")


@command("get")
@click.argument("name", required=False)
@_global_option
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
@output_option()
def get(name: str | None, is_global: bool, as_json: bool, output: str) -> None:
    """Show the settings in force for a sandbox, and where each comes from."""
    _refuse_name(name, is_global=is_global)
    form = "json" if as_json else output
    if is_global:
        _get_global(form)
        return
    from openshell.cli.policy_text import source_name
    from openshell.sdk.nouns import PolicyClient

    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        record = opened.client.describe(chosen, workspace=opened.workspace)
        config = PolicyClient(opened.client).effective(record.metadata.id)
    rows = _effective(config)
    if form != "table":
        document = {
            "sandbox": chosen,
            "workspace": opened.workspace,
            "config_revision": config.config_revision,
            "policy_source": source_name(config.policy_source),
            "policy_hash": config.policy_hash,
            "settings": {key: {"value": value, "scope": scope} for key, value, scope in rows},
        }
        print_structured(document, form)
        return
    print(f"Sandbox: {chosen}")
    print(f"Config Rev: {config.config_revision}")
    print(f"Policy Source: {source_name(config.policy_source)}")
    print(f"Policy Hash: {config.policy_hash}")
    print("Settings:")
    for key, value, scope in rows:
        print(f"  {key} = {printable(value)} ({scope})")


def _effective(config: sandbox_pb2.GetSandboxConfigResponse) -> list[tuple[str, str, str]]:
    from openshell.codec.settings import scope_from_proto, value_text

    return [
        (key, value_text(item.value), scope_from_proto(item.scope).value)
        for key, item in sorted(config.settings.items())
    ]


def _get_global(form: str) -> None:
    from openshell.codec.settings import value_text
    from openshell.sdk.nouns import SettingsClient

    with session(start=False) as opened:
        found = SettingsClient(opened.client).read_global()
    rows = {key: value_text(value) for key, value in sorted(found.settings.items())}
    if form != "table":
        document: dict[str, Any] = {
            "scope": "global",
            "settings_revision": found.settings_revision,
            "settings": rows,
        }
        print_structured(document, form)
        return
    print("Scope: global")
    print(f"Settings Rev: {found.settings_revision}")
    print("Settings:")
    for key, value in rows.items():
        print(f"  {key} = {printable(value)}")


def _known(key: str) -> Setting:
    setting = SETTINGS.get(key)
    if setting is None:
        raise CliError(f"unknown setting key '{key}'. Allowed keys: {allowed_keys()}")
    return setting


@command("set", context_settings={"allow_extra_args": True})
@click.argument("name", required=False)
@click.option("--key", metavar="KEY", help="See 'settings list'.  [required]")
@click.option("--value", "text", metavar="VALUE", help="[required]")
@_global_option
@yes_option
@click.pass_context
def set_(
    context: click.Context,
    name: str | None,
    key: str | None,
    text: str | None,
    is_global: bool,
    yes: bool,
) -> None:
    """Set one value for a sandbox, or for all.

    Flags take true, yes, on, 1 or false, no, off, 0.
    """
    if context.args or key is None or text is None:
        words = [*([name] if name else []), *context.args]
        raise click.UsageError(f"write:  {whole_form(words, key, text, is_global=is_global)}")
    _refuse_name(name, is_global=is_global)
    setting = _known(key)
    try:
        value = parse_value(setting, text)
    except SettingRejected as error:
        raise CliError(str(error)) from error
    require_scope(name, is_global=is_global)
    from openshell.codec.settings import value_text, value_to_proto
    from openshell.sdk.nouns import SettingsClient

    shown = value_text(value_to_proto(value))
    if is_global:
        confirm_global(f"Set {key} to {shown} for all sandboxes?", yes=yes)
    with session(start=True) as opened:
        client = SettingsClient(opened.client)
        if is_global:
            answer = client.write_global(key, value)
        else:
            chosen = opened.sandbox_name(name)
            answer = client.write(chosen, key, value, workspace=opened.workspace)
    if not is_global and key == "providers_v2_enabled":
        note(
            f"Note: {key} of one sandbox has no effect: the value for all counts.\n"
            f"  openshell settings set --global --key {key} --value {shown}"
        )
    if setting.pending:
        note(f"Note: {key} has no effect yet: {setting.pending}")
    print(f"{key} = {shown} (revision {answer.settings_revision})")


@command("delete")
@click.argument("name", required=False)
@_key_option
@_global_option
@yes_option
def delete(name: str | None, key: str, is_global: bool, yes: bool) -> None:
    """Remove one value of a sandbox, or the one for all."""
    _refuse_name(name, is_global=is_global)
    require_scope(name, is_global=is_global)
    from openshell.sdk.nouns import SettingsClient

    if is_global:
        confirm_global(f"Remove {key} for all sandboxes?", yes=yes)
    with session(start=True) as opened:
        client = SettingsClient(opened.client)
        if is_global:
            answer = client.delete_global(key)
        else:
            chosen = opened.sandbox_name(name)
            answer = client.delete(chosen, key, workspace=opened.workspace)
    if answer.deleted:
        print(f"Deleted {key} (revision {answer.settings_revision})")
    else:
        print(f"Setting {key} not found; nothing to delete")


@command("list")
@output_option()
def list_(output: str) -> None:
    """List every key with its type, default and effect; needs no gateway."""
    if output != "table":
        document = [
            {
                "key": item.key,
                "type": item.type_name,
                "default": item.default,
                "effect": item.effect,
                "pending": item.pending or None,
            }
            for item in SETTINGS.values()
        ]
        print_structured(document, output)
        return
    print_table(
        ["KEY", "TYPE", "DEFAULT", "EFFECT"],
        (
            [
                item.key,
                item.type_name,
                str(item.default).lower(),
                f"{item.effect} ({item.pending})" if item.pending else item.effect,
            ]
            for item in SETTINGS.values()
        ),
    )
