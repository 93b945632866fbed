"""What changes of settings need to be told, looked at before a gateway is started. `settings` calls it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from openshell.cli.connection import find_target, options, registry
from openshell.cli.failures import CliError

__all__ = ["require_scope", "whole_form"]


def require_scope(name: str | None, *, is_global: bool) -> None:
    """Checks that the command or an earlier one says for whom the change is.

    Raises:
        CliError: neither does.
    """
    known = registry()
    target = find_target(known)
    workspace = options().workspace or "default"
    if name or is_global or (target and known.last_sandbox(target.name, workspace)):
        return
    raise CliError("give the name of a sandbox, or --global for all sandboxes")


def whole_form(words: Sequence[str], key: str | None, text: str | None, *, is_global: bool) -> str:
    """The command as it has to be written, with what can be told of the words that were given."""
    meant = list(words)
    scope = "--global" if is_global else meant.pop(0) if len(meant) != 2 and meant else "[NAME]"
    key = key or (meant.pop(0) if meant else "KEY")
    text = text or (meant.pop(0) if meant else "VALUE")
    parts = (part if part == "[NAME]" else shlex.quote(part) for part in (scope, key, text))
    return "openshell settings set {} --key {} --value {}".format(*parts)
