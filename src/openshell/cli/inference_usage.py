"""`openshell inference usage` and `inference budget`: what sandboxes ask of models, and how much they may."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.logs import span_start_ms
from openshell.cli.output import note, output_option, print_structured, print_table

if TYPE_CHECKING:
    from openshell._proto import openshell_ext_inference_pb2 as ext

__all__ = ["budget", "delete", "list_", "set_", "usage"]

_HERE = "openshell.cli.inference_usage"

budget = LazyGroup(
    "budget",
    help="Limit what the sandboxes of a workspace may ask of models, each for itself.",
    entries={
        "set": Entry(f"{_HERE}:set_", "Set a budget, in place of the same one before."),
        "list": Entry(f"{_HERE}:list_", "List the budgets."),
        "delete": Entry(f"{_HERE}:delete", "Remove a budget."),
    },
)

_sandbox = click.option("--sandbox", default="", metavar="NAME", help="Default: every sandbox.")
_route = click.option("--route", default="", metavar="NAME", help="Default: all routes together.")
_window = click.option(
    "--per",
    "window",
    required=True,
    type=click.Choice(("minute", "hour", "day")),
    help="By the clock, in UTC.",
)


@command("usage")
@click.argument("sandbox", required=False, default="")
@click.option("--since", metavar="TIME", help="For example 30m, 12h or 7d.  [default: all kept]")
@output_option()
def usage(sandbox: str, since: str | None, output: str) -> None:
    """Show requests and tokens by sandbox, route and model."""
    from openshell.sdk.inference import InferenceRouteClient

    begin = span_start_ms(since) if since else 0
    with session(start=False) as opened:
        found = InferenceRouteClient.from_sandbox_client(opened.client).usage(
            workspace=opened.workspace, sandbox=sandbox, since_ms=begin
        )
    if output != "table":
        print_structured([_document(item) for item in found], output)
    elif not found:
        note("No requests for models.")
    else:
        print_table(
            ["SANDBOX", "ROUTE", "MODEL", "REQUESTS", "IN", "OUT", "ERRORS", "FALLBACKS"],
            (
                [
                    item.sandbox,
                    item.calls.route,
                    item.calls.model,
                    item.calls.requests,
                    item.calls.prompt_tokens,
                    item.calls.completion_tokens,
                    item.calls.errors,
                    item.calls.fallbacks,
                ]
                for item in found
            ),
        )
        estimated = sum(item.calls.estimated_tokens for item in found)
        if estimated:
            note(f"{estimated} of these tokens are estimated: their providers said nothing.")


def _document(item: ext.InferenceUsage) -> dict[str, object]:
    calls = item.calls
    return {
        "sandbox": item.sandbox,
        "route": calls.route,
        "model": calls.model,
        "requests": calls.requests,
        "prompt_tokens": calls.prompt_tokens,
        "completion_tokens": calls.completion_tokens,
        "estimated_tokens": calls.estimated_tokens,
        "errors": calls.errors,
        "fallbacks": calls.fallbacks,
    }


@command("set")
@_sandbox
@_route
@_window
@click.option("--requests", type=click.IntRange(1), metavar="N", help="Requests in the window.")
@click.option("--tokens", type=click.IntRange(1), metavar="N", help="Tokens, in and out together.")
def set_(sandbox: str, route: str, window: str, requests: int | None, tokens: int | None) -> None:
    """Set a budget. It holds from the next request on.

    A request beyond it is answered with status 429 until the window ends. Tokens are known when an answer has
    ended, so what was under way then may pass a limit of tokens.
    """
    if requests is None and tokens is None:
        raise click.UsageError("give --requests, --tokens or both")
    from openshell.sdk.inference import InferenceRouteClient

    with session(start=True) as opened:
        made = InferenceRouteClient.from_sandbox_client(opened.client).set_budget(
            workspace=opened.workspace,
            sandbox=sandbox,
            route=route,
            window=window,
            requests=requests or 0,
            tokens=tokens or 0,
        )
    print(f"Budget of {_whose(made)}: {_limits(made)} per {made.window}")


@command("list")
@output_option()
def list_(output: str) -> None:
    """List the budgets of the workspace."""
    from openshell.sdk.inference import InferenceRouteClient

    with session(start=False) as opened:
        found = InferenceRouteClient.from_sandbox_client(opened.client).list_budgets(
            workspace=opened.workspace
        )
    if output != "table":
        print_structured(
            [
                {
                    "sandbox": item.sandbox or None,
                    "route": item.route or None,
                    "per": item.window,
                    "requests": item.requests or None,
                    "tokens": item.tokens or None,
                }
                for item in found
            ],
            output,
        )
    elif not found:
        note("No budgets.")
    else:
        print_table(
            ["SANDBOX", "ROUTE", "PER", "REQUESTS", "TOKENS"],
            (
                [
                    item.sandbox or "each",
                    item.route or "all",
                    item.window,
                    item.requests or "-",
                    item.tokens or "-",
                ]
                for item in found
            ),
        )


@command("delete")
@_sandbox
@_route
@_window
def delete(sandbox: str, route: str, window: str) -> None:
    """Remove the budget with these names."""
    from openshell.sdk.inference import InferenceRouteClient

    with session(start=False) as opened:
        deleted = InferenceRouteClient.from_sandbox_client(opened.client).delete_budget(
            workspace=opened.workspace, sandbox=sandbox, route=route, window=window
        )
    if not deleted:
        raise CliError("there is no such budget: see openshell inference budget list")
    print("Budget deleted")


def _whose(made: ext.InferenceBudget) -> str:
    whose = f"sandbox {made.sandbox}" if made.sandbox else "each sandbox"
    return f"{whose} on route {made.route}" if made.route else whose


def _limits(made: ext.InferenceBudget) -> str:
    said = []
    if made.requests:
        said.append(f"{made.requests} requests")
    if made.tokens:
        said.append(f"{made.tokens} tokens")
    return " and ".join(said)
