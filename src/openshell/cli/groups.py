"""Command groups that load a subcommand's module only when it is called.

Also where the global options live: every command takes them before and after its name, so each
command adds them to itself and the values meet in one `Options` object.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

__all__ = ["Entry", "LazyGroup", "Options", "command"]


@dataclass(slots=True)
class Options:
    """The global options as given; None or empty where they were not."""

    gateway: str | None = None
    gateway_endpoint: str | None = None
    workspace: str = "default"
    verbose: int = 0


@dataclass(frozen=True, slots=True)
class Entry:
    """A subcommand that is not loaded yet: where it is, one line of help, a heading to list it under."""

    target: str
    help: str
    section: str = "Commands"
    hidden: bool = False


def _store(attribute: str) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(context: click.Context, parameter: click.Parameter, value: Any) -> None:
        given = context.get_parameter_source(parameter.name or "")
        if value is not None and given is not click.core.ParameterSource.DEFAULT:
            setattr(context.ensure_object(Options), attribute, value)

    return callback


def _global_options() -> list[click.Option]:
    shared: dict[str, Any] = {"expose_value": False, "is_eager": True}
    return [
        click.Option(
            ["-g", "--gateway"],
            metavar="NAME",
            envvar="OPENSHELL_GATEWAY",
            help="Registered gateway to use.",
            callback=_store("gateway"),
            **shared,
        ),
        click.Option(
            ["--gateway-endpoint"],
            metavar="URL",
            envvar="OPENSHELL_GATEWAY_ENDPOINT",
            help="Connect here instead of to a registered gateway.",
            callback=_store("gateway_endpoint"),
            **shared,
        ),
        click.Option(
            ["--workspace"],
            metavar="NAME",
            envvar="OPENSHELL_WORKSPACE",
            help="Workspace of the command.  [default: default]",
            callback=_store("workspace"),
            **shared,
        ),
        click.Option(
            ["-v", "--verbose"],
            count=True,
            help="More log lines on stderr; up to three times.",
            callback=_store("verbose"),
            **shared,
        ),
    ]


class _Command(click.Command):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {}).setdefault("help_option_names", ["-h", "--help"])
        super().__init__(*args, **kwargs)
        self.params.extend(_global_options())

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Lists the command's own options; the global ones stand in `openshell --help`."""
        own = [
            record
            for parameter in self.get_params(ctx)
            if parameter.expose_value or parameter.name == "help"
            if (record := parameter.get_help_record(ctx)) is not None
        ]
        if own:
            with formatter.section("Options"):
                formatter.write_dl(own)


def command(*args: Any, **kwargs: Any) -> Callable[[Callable[..., Any]], click.Command]:
    """`click.command` for this program: global options, `-h`."""
    return click.command(*args, cls=_Command, **kwargs)


class LazyGroup(click.Group):
    """A group that knows its subcommands by name and loads them when asked.

    Args:
        entries: Subcommands by name, in the order of the help.
        aliases: Hidden short names.
        elsewhere: Words that people try here, with the command that does what they expect.
        with_globals: Whether the help of this group explains the global options.
    """

    def __init__(
        self,
        name: str,
        *,
        entries: Mapping[str, Entry],
        aliases: Mapping[str, str] | None = None,
        elsewhere: Mapping[str, str] | None = None,
        with_globals: bool = False,
        **kwargs: Any,
    ) -> None:
        kwargs.setdefault("context_settings", {}).setdefault("help_option_names", ["-h", "--help"])
        super().__init__(name, no_args_is_help=False, invoke_without_command=True, **kwargs)
        self.callback = _print_help
        self.params.extend(_global_options())
        self._entries = entries
        self._aliases = aliases or {}
        self._elsewhere = elsewhere or {}
        self._with_globals = with_globals

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return [name for name, entry in self._entries.items() if not entry.hidden]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        entry = self._entries.get(self._aliases.get(cmd_name, cmd_name))
        if entry is None:
            return None
        module, _, attribute = entry.target.partition(":")
        loaded = getattr(importlib.import_module(module), attribute)
        assert isinstance(loaded, click.Command)  # noqa: S101  # a wrong table is a bug of ours
        return loaded

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            meant = self._elsewhere.get(args[0])
            near = [meant] if meant else difflib.get_close_matches(args[0], self._entries, n=3)
            hint = f" Did you mean {' or '.join(repr(name) for name in near)}?" if near else ""
            raise click.UsageError(f"No such command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        sections: dict[str, list[tuple[str, str]]] = {}
        for name, entry in self._entries.items():
            if not entry.hidden:
                sections.setdefault(entry.section, []).append((name, entry.help))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self._with_globals:
            records: Sequence[tuple[str, str]] = [
                record
                for parameter in self.get_params(ctx)
                if (record := parameter.get_help_record(ctx)) is not None
            ]
            with formatter.section("Global options"):
                formatter.write_dl(records)
        self.format_commands(ctx, formatter)


@click.pass_context
def _print_help(context: click.Context) -> None:
    if context.invoked_subcommand is None:
        click.echo(context.get_help())
