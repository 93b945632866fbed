"""`openshell gateway`: starting and stopping the embedded gateway, choosing among registered ones."""

from __future__ import annotations

import os

import click

from openshell.cli.connection import find_target, options, registry, session
from openshell.cli.failures import CliError
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.output import note, output_option, print_block, print_structured, print_table
from openshell.sdk.embedded import EmbeddedGateway

__all__ = ["gateway", "info", "list_", "remove", "select", "start", "stop"]

_EMBEDDED = "Local gateway"
_REGISTRY = "Registry"

gateway = LazyGroup(
    "gateway",
    help="Start and stop the local gateway; choose among registered ones.",
    entries={
        "start": Entry("openshell.cli.gateway:start", "Start the local gateway.", _EMBEDDED),
        "stop": Entry("openshell.cli.gateway:stop", "Stop it, with its sandboxes.", _EMBEDDED),
        "info": Entry("openshell.cli.gateway:info", "Show version and drivers.", _REGISTRY),
        "list": Entry("openshell.cli.gateway:list_", "List registered gateways.", _REGISTRY),
        "select": Entry("openshell.cli.gateway:select", "Choose the active gateway.", _REGISTRY),
        "remove": Entry("openshell.cli.gateway:remove", "Forget a gateway.", _REGISTRY),
    },
    elsewhere={
        "status": "openshell status",
        "show": "openshell gateway info",
        "logs": "openshell logs",
    },
)


@command("start")
def start() -> None:
    """Start the local gateway unless it runs. Commands that create things do this by themselves."""
    embedded = EmbeddedGateway.from_environment(os.environ)
    if embedded.is_running():
        embedded.register_again(registry())
        record = embedded.record()
        note(f"The local gateway runs already: {record.endpoint if record else ''}")
        return
    record = embedded.start()
    note(f"Local gateway: {record.endpoint} (pid {record.pid}, log {embedded.log_path})")


@command("stop")
@click.option("--keep", is_flag=True, help="Leave the sandboxes running for the next gateway.")
def stop(keep: bool) -> None:
    """Stop the local gateway and its sandboxes; their workspaces stay."""
    stopped = EmbeddedGateway.from_environment(os.environ).stop(keep_sandboxes=keep)
    note("Stopped the local gateway." if stopped else "The local gateway is not running.")


@command("info")
@output_option()
def info(output: str) -> None:
    """Show version, health and drivers of the gateway."""
    from openshell._proto import openshell_pb2

    with session(start=False) as opened:
        answer = opened.client.gateway_info()
        target = opened.target
    status = openshell_pb2.ServiceStatus.Name(answer.status)
    health = status.removeprefix("SERVICE_STATUS_").lower().replace("unspecified", "unknown")
    drivers = [
        {
            "name": driver.name,
            "capabilities": {
                "driver_name": driver.capabilities.driver_name,
                "driver_version": driver.capabilities.driver_version,
            },
        }
        for driver in answer.compute_drivers
    ]
    if output != "table":
        print_structured(
            {
                "gateway": target.name,
                "server": target.endpoint,
                "auth": None,
                "status": health,
                "version": answer.gateway_version,
                "compute_drivers": drivers,
            },
            output,
        )
        return
    print_block(
        "Gateway Info",
        [
            ("Gateway", target.name),
            ("Server", target.endpoint),
            ("Status", health),
            ("Version", answer.gateway_version),
            (
                "Compute drivers",
                ", ".join(
                    f"{driver.name} {driver.capabilities.driver_version}".strip()
                    for driver in answer.compute_drivers
                ),
            ),
        ],
    )


@command("list")
@output_option()
def list_(output: str) -> None:
    """List registered gateways; asks none of them."""
    known = registry()
    active = options().gateway or known.active()
    records = known.list()
    if output != "table":
        print_structured(
            [
                {
                    "active": record.name == active,
                    "auth": record.auth,
                    "endpoint": record.endpoint,
                    "is_remote": record.is_remote,
                    "name": record.name,
                    "remote_host": record.remote_host or None,
                    "resolved_host": None,
                    "source": record.source,
                    "type": record.type,
                }
                for record in records
            ],
            output,
        )
    elif not records:
        print("No gateways found.")
        note("Start the local one with: openshell gateway start")
    else:
        print_table(
            ["  NAME", "ENDPOINT", "TYPE", "SOURCE", "AUTH"],
            (
                [
                    ("* " if record.name == active else "  ") + record.name,
                    record.endpoint,
                    record.type,
                    record.source,
                    record.auth,
                ]
                for record in records
            ),
        )


@command("select")
@click.argument("name")
def select(name: str) -> None:
    """Make NAME the gateway that commands use."""
    known = registry()
    if known.get(name) is None:
        raise CliError(f"Unknown gateway '{name}'.\nSee: openshell gateway list")
    known.select(name)
    override = os.environ.get("OPENSHELL_GATEWAY")
    if override and override != name:
        note(f"Warning: OPENSHELL_GATEWAY is set to '{override}' and still wins")
    note(f"Active gateway: {name}")


@command("remove")
@click.argument("name", required=False)
def remove(name: str | None) -> None:
    """Forget a registered gateway (default: the active one)."""
    known = registry()
    target = find_target(known)
    chosen = name or (target.name if target else None)
    if chosen is None:
        raise CliError("No active gateway.\nSee: openshell gateway list")
    known.remove(chosen)
    note(f"Gateway registration '{chosen}' removed.")
