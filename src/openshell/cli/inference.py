"""`openshell inference`: the model behind https://inference.local in the sandboxes of a workspace."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import click

from openshell.cli.completions import gateway_names
from openshell.cli.connection import session
from openshell.cli.failures import CliError
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.output import note, print_block, printable

if TYPE_CHECKING:
    from openshell._proto import inference_pb2
    from openshell.sdk.inference import InferenceRouteClient

__all__ = ["delete", "get", "inference", "set_", "update"]

DEFAULT_TIMEOUT = 60
"""Seconds that stand for 0."""
_SYSTEM = "sandbox-system"
_CONTRACT = frozenset({"inference.local", _SYSTEM})
_TITLES = {"": "Inference route", _SYSTEM: "System inference route"}

inference = LazyGroup(
    "inference",
    help=(
        "Choose the model behind https://inference.local.\n\n"
        "Programs in every sandbox of the workspace may ask it with any key or none; the key of the\n"
        "provider is put in outside of the sandbox."
    ),
    entries={
        "set": Entry("openshell.cli.inference:set_", "Set provider and model; tries them first."),
        "update": Entry("openshell.cli.inference:update", "Change a part of a route."),
        "get": Entry("openshell.cli.inference:get", "Show the routes."),
        "delete": Entry("openshell.cli.inference:delete", "Remove a route."),
        "usage": Entry("openshell.cli.inference_usage:usage", "Show what sandboxes asked."),
        "budget": Entry("openshell.cli.inference_usage:budget", "Limit what they may ask."),
    },
    elsewhere={
        "show": "openshell inference get",
        "list": "openshell inference get",
    },
)

_name_argument = click.argument("name", required=False, metavar="[NAME]")
_fallback_option = click.option(
    "--fallback",
    "fallbacks",
    multiple=True,
    metavar="PROVIDER=MODEL",
    help="Asked when what stands before it does not answer; may be given several times.",
)
_system_option = click.option(
    "--system", "is_system", is_flag=True, help="The route for OpenShell's own use in sandboxes."
)
_no_verify_option = click.option("--no-verify", is_flag=True, help="Do not try the route first.")


@command("set")
@_name_argument
@click.option(
    "--provider", required=True, metavar="NAME", shell_complete=gateway_names("providers")
)
@click.option("--model", required=True, metavar="MODEL", help="As the provider calls it.")
@_fallback_option
@_system_option
@_no_verify_option
@click.option(
    "--timeout",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    metavar="SECONDS",
    help=f"For answers that do not stream; 0 means {DEFAULT_TIMEOUT}.",
)
def set_(
    name: str | None,
    provider: str,
    model: str,
    fallbacks: tuple[str, ...],
    is_system: bool,
    no_verify: bool,
    timeout: int,
) -> None:
    """Set the provider and the model that answer.

    A route with a NAME answers the programs that ask for a model of this name; the one without answers
    all others.
    """
    route_name, pairs = _route_name(name, is_system), _read_fallbacks(fallbacks)
    from openshell.sdk.inference import InferenceRouteClient

    with session(start=True) as opened, _own_words():
        answer = InferenceRouteClient.from_sandbox_client(opened.client).configure(
            workspace=opened.workspace,
            provider_name=provider,
            model_id=model,
            route_name=route_name,
            no_verify=no_verify,
            timeout_secs=timeout,
            fallbacks=pairs,
        )
    _print_set(answer, len(pairs))


@command("update")
@_name_argument
@click.option("--provider", metavar="NAME", shell_complete=gateway_names("providers"))
@click.option("--model", metavar="MODEL", help="As the provider calls it.")
@_fallback_option
@click.option("--no-fallback", is_flag=True, help="Fall back on nothing.")
@_system_option
@_no_verify_option
@click.option("--timeout", type=click.IntRange(0), metavar="SECONDS")
def update(
    name: str | None,
    provider: str | None,
    model: str | None,
    fallbacks: tuple[str, ...],
    no_fallback: bool,
    is_system: bool,
    no_verify: bool,
    timeout: int | None,
) -> None:
    """Change a part of a route; what is not given stays."""
    if fallbacks and no_fallback:
        raise CliError("--fallback and --no-fallback exclude each other")
    given = provider is not None or model is not None or timeout is not None
    if not (given or fallbacks or no_fallback):
        raise CliError("nothing to change: give --provider, --model, --fallback or --timeout")
    route_name, pairs = _route_name(name, is_system), _read_fallbacks(fallbacks)
    from openshell.sdk.inference import InferenceRouteClient

    with session(start=True) as opened, _own_words():
        client = InferenceRouteClient.from_sandbox_client(opened.client)
        now = client.describe(workspace=opened.workspace, route_name=route_name)
        if not (fallbacks or no_fallback):
            pairs = [(target.provider_name, target.model_id) for target in now.fallbacks]
        answer = client.configure(
            workspace=opened.workspace,
            provider_name=now.provider_name if provider is None else provider,
            model_id=now.model_id if model is None else model,
            route_name=route_name,
            no_verify=no_verify,
            timeout_secs=now.timeout_secs if timeout is None else timeout,
            fallbacks=pairs,
        )
    _print_set(answer, len(pairs))


@command("get")
@_name_argument
@_system_option
def get(name: str | None, is_system: bool) -> None:
    """Show all routes, or one alone."""
    import grpc

    from openshell.sdk.inference import InferenceRouteClient

    one = _route_name(name, is_system)
    with session(start=False) as opened:
        client = InferenceRouteClient.from_sandbox_client(opened.client)
        if one:
            with _own_words():
                answer = client.describe(workspace=opened.workspace, route_name=one)
            _print_route(_title(one), answer)
            return
        for known, title in _TITLES.items():
            try:
                answer = client.describe(workspace=opened.workspace, route_name=known)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    raise
                is_missing = error.code() is grpc.StatusCode.NOT_FOUND
                text = "Not configured" if is_missing else f"Error: {error.details()}"
                print(f"{title}:\n  {printable(text)}")
            else:
                _print_route(title, answer)
        for named in _named_routes(client, opened.workspace):
            answer = client.describe(workspace=opened.workspace, route_name=named)
            _print_route(_title(named), answer)


@command("delete")
@_name_argument
@_system_option
def delete(name: str | None, is_system: bool) -> None:
    """Remove a route: sandboxes are refused from then on."""
    from openshell.sdk.inference import InferenceRouteClient

    route_name = _route_name(name, is_system)
    with session(start=False) as opened, _own_words():
        client = InferenceRouteClient.from_sandbox_client(opened.client)
        deleted = client.delete_route(workspace=opened.workspace, route_name=route_name)
    if deleted:
        print(f"{_title(route_name)} deleted.")
    else:
        note(f"{_title(route_name)} is not configured; nothing to delete.")


def _route_name(name: str | None, is_system: bool) -> str:
    if name and is_system:
        raise CliError("--system is a route of its own and takes no name")
    return _SYSTEM if is_system else name or ""


def _title(route_name: str) -> str:
    return _TITLES.get(route_name) or f"Inference route '{printable(route_name)}'"


def _read_fallbacks(given: tuple[str, ...]) -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for text in given:
        provider, _, model = text.partition("=")
        if not provider or not model:
            raise CliError(f"--fallback must be PROVIDER=MODEL, not '{printable(text)}'")
        pairs.append((provider, model))
    return pairs


def _named_routes(client: InferenceRouteClient, workspace: str) -> list[str]:
    """Names that an operator chose; none at a gateway that has no such routes."""
    import grpc

    try:
        listed = client.list_routes(workspace=workspace)
    except grpc.RpcError as error:
        if error.code() in {grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED}:
            return []
        raise
    return [route.route_name for route in listed if route.route_name not in _CONTRACT]


@contextlib.contextmanager
def _own_words() -> Iterator[None]:
    """Says what the gateway says and no more."""
    import grpc

    try:
        yield
    except grpc.RpcError as error:
        # What the transport says needs our words around it.
        if error.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}:
            raise
        raise CliError(error.details() or error.code().name.lower()) from None


def _print_set(answer: inference_pb2.SetInferenceRouteResponse, fallbacks: int) -> None:
    tried = [
        ("Validated", f"{endpoint.url} ({endpoint.protocol})")
        for endpoint in answer.validated_endpoints
    ]
    if not answer.validation_performed:
        tried = [("Validated", "no, as you said")]
    print_block("Inference route set", [*_pairs(answer), *tried])
    if len(answer.fallbacks) != fallbacks:
        raise CliError("this gateway keeps no fallbacks: the route was set without them")


def _print_route(title: str, answer: inference_pb2.GetInferenceRouteResponse) -> None:
    print_block(title, _pairs(answer))


def _pairs(
    answer: inference_pb2.SetInferenceRouteResponse | inference_pb2.GetInferenceRouteResponse,
) -> list[tuple[str, object]]:
    seconds = answer.timeout_secs
    return [
        ("Workspace", answer.workspace),
        ("Route", answer.route_name),
        ("Provider", answer.provider_name),
        ("Model", answer.model_id),
        *(("Fallback", f"{target.provider_name}={target.model_id}") for target in answer.fallbacks),
        ("Version", answer.version),
        ("Timeout", f"{seconds}s" if seconds else f"{DEFAULT_TIMEOUT}s (default)"),
    ]
