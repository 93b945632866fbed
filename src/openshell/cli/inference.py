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

__all__ = ["delete", "get", "inference", "set_", "update"]

DEFAULT_TIMEOUT = 60
"""Seconds that stand for 0."""
_SYSTEM = "sandbox-system"
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
    },
    elsewhere={
        "show": "openshell inference get",
        "list": "openshell inference get",
    },
)

_system_option = click.option(
    "--system", "is_system", is_flag=True, help="The route for OpenShell's own use in sandboxes."
)
_no_verify_option = click.option("--no-verify", is_flag=True, help="Do not try the route first.")


@command("set")
@click.option(
    "--provider", required=True, metavar="NAME", shell_complete=gateway_names("providers")
)
@click.option("--model", required=True, metavar="MODEL", help="As the provider calls it.")
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
def set_(provider: str, model: str, is_system: bool, no_verify: bool, timeout: int) -> None:
    """Set the provider and the model that answer."""
    from openshell.sdk.inference import InferenceRouteClient

    with session(start=True) as opened, _own_words():
        answer = InferenceRouteClient.from_sandbox_client(opened.client).configure(
            workspace=opened.workspace,
            provider_name=provider,
            model_id=model,
            route_name=_SYSTEM if is_system else "",
            no_verify=no_verify,
            timeout_secs=timeout,
        )
    _print_set(answer)


@command("update")
@click.option("--provider", metavar="NAME", shell_complete=gateway_names("providers"))
@click.option("--model", metavar="MODEL", help="As the provider calls it.")
@_system_option
@_no_verify_option
@click.option("--timeout", type=click.IntRange(0), metavar="SECONDS")
def update(
    provider: str | None, model: str | None, is_system: bool, no_verify: bool, timeout: int | None
) -> None:
    """Change a part of a route; what is not given stays."""
    if provider is None and model is None and timeout is None:
        raise CliError("nothing to change: give --provider, --model or --timeout")
    from openshell.sdk.inference import InferenceRouteClient

    name = _SYSTEM if is_system else ""
    with session(start=True) as opened, _own_words():
        client = InferenceRouteClient.from_sandbox_client(opened.client)
        now = client.describe(workspace=opened.workspace, route_name=name)
        answer = client.configure(
            workspace=opened.workspace,
            provider_name=now.provider_name if provider is None else provider,
            model_id=now.model_id if model is None else model,
            route_name=name,
            no_verify=no_verify,
            timeout_secs=now.timeout_secs if timeout is None else timeout,
        )
    _print_set(answer)


@command("get")
@_system_option
def get(is_system: bool) -> None:
    """Show both routes, or the system's alone."""
    import grpc

    from openshell.sdk.inference import InferenceRouteClient

    with session(start=False) as opened:
        client = InferenceRouteClient.from_sandbox_client(opened.client)
        if is_system:
            with _own_words():
                answer = client.describe(workspace=opened.workspace, route_name=_SYSTEM)
            _print_route(_TITLES[_SYSTEM], answer)
            return
        for name, title in _TITLES.items():
            try:
                answer = client.describe(workspace=opened.workspace, route_name=name)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.UNAVAILABLE:
                    raise
                is_missing = error.code() is grpc.StatusCode.NOT_FOUND
                text = "Not configured" if is_missing else f"Error: {error.details()}"
                print(f"{title}:\n  {printable(text)}")
            else:
                _print_route(title, answer)


@command("delete")
@_system_option
def delete(is_system: bool) -> None:
    """Remove a route: sandboxes are refused from then on."""
    from openshell.sdk.inference import InferenceRouteClient

    name = _SYSTEM if is_system else ""
    with session(start=False) as opened, _own_words():
        client = InferenceRouteClient.from_sandbox_client(opened.client)
        deleted = client.delete_route(workspace=opened.workspace, route_name=name)
    if deleted:
        print(f"{_TITLES[name]} deleted.")
    else:
        note(f"{_TITLES[name]} is not configured; nothing to delete.")


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


def _print_set(answer: inference_pb2.SetInferenceRouteResponse) -> None:
    tried = [
        ("Validated", f"{endpoint.url} ({endpoint.protocol})")
        for endpoint in answer.validated_endpoints
    ]
    if not answer.validation_performed:
        tried = [("Validated", "no, as you said")]
    print_block("Inference route set", [*_pairs(answer), *tried])


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
        ("Version", answer.version),
        ("Timeout", f"{seconds}s" if seconds else f"{DEFAULT_TIMEOUT}s (default)"),
    ]
