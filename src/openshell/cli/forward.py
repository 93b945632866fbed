"""`openshell forward`: ports inside a sandbox, reachable from here."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
from typing import TYPE_CHECKING

import click

from openshell.cli.connection import Session, options, registry, session
from openshell.cli.failures import CliError
from openshell.cli.forward_tracking import Forwards, command_line
from openshell.cli.groups import Entry, LazyGroup, command
from openshell.cli.output import note, print_table

if TYPE_CHECKING:
    from openshell.cli.forward_listener import Address
    from openshell.sdk.tunnels import Port

__all__ = ["forward", "list_", "open_in_background", "service", "start", "stop", "stop_all"]

READY_SECONDS = 10.0
"""For a background forward to listen: it starts an interpreter and asks the gateway once."""

forward = LazyGroup(
    "forward",
    help="Reach ports inside a sandbox from this machine.",
    entries={
        "start": Entry("openshell.cli.forward:start", "Forward a port, under the same number."),
        "service": Entry("openshell.cli.forward:service", "Forward a port to another one here."),
        "list": Entry("openshell.cli.forward:list_", "List forwards in the background."),
        "stop": Entry("openshell.cli.forward:stop", "End a forward in the background."),
    },
)


@command("start")
@click.argument("address", metavar="[ADDR:]PORT")
@click.argument("name", required=False)
@click.option("-d", "--background", is_flag=True, help="Return as soon as the port is open.")
@click.option("--sandbox-id", hidden=True, help="Refuse to serve another sandbox of that name.")
@click.option("--ready-fd", type=click.IntRange(0), hidden=True)
def start(
    address: str, name: str | None, background: bool, sandbox_id: str | None, ready_fd: int | None
) -> None:
    """Forward PORT of this machine to the same port inside a sandbox.

    Listens on 127.0.0.1 unless ADDR says otherwise. Ends when the sandbox is stopped or deleted.
    """
    from openshell.cli.forward_listener import parse_address
    from openshell.sdk.tunnels import Port

    local = parse_address(address)
    with session(start=False) as opened:
        chosen = opened.sandbox_name(name)
        if background:
            open_in_background(opened, chosen, address)
            return
        _serve(opened, chosen, local, Port(host="localhost", port=local.port), sandbox_id, ready_fd)


@command("service")
@click.argument("name", required=False)
@click.option("--target-port", type=click.IntRange(1, 65_535), required=True, metavar="P")
@click.option(
    "--target-host", default="127.0.0.1", show_default=True, help="An address of its loopback."
)
@click.option(
    "--local", metavar="[ADDR:]PORT", help="Where to listen; 0: any free port.  [default: P]"
)
def service(name: str | None, target_port: int, target_host: str, local: str | None) -> None:
    """Forward a port of this machine to port P inside a sandbox."""
    from openshell.cli.forward_listener import parse_address
    from openshell.sdk.tunnels import Port

    address = parse_address(local if local is not None else str(target_port), lowest=0)
    with session(start=False) as opened:
        port = Port(host=target_host, port=target_port)
        _serve(opened, opened.sandbox_name(name), address, port, None, None)


@command("list")
def list_() -> None:
    """List the forwards that were started with -d."""
    found = Forwards(registry().directory).list()
    if not found:
        note("No active forwards.")
        return
    print_table(
        ["SANDBOX", "BIND", "PORT", "PID", "STATUS"],
        (
            [item.sandbox, item.bind, item.port, item.pid, "running" if item.is_running else "dead"]
            for item in found
        ),
    )


@command("stop")
@click.argument("port", type=click.IntRange(1, 65_535))
@click.argument("name", required=False)
def stop(port: int, name: str | None) -> None:
    """End the forward of PORT that was started with -d."""
    forwards = Forwards(registry().directory)
    found = [item for item in forwards.list() if item.port == port and name in (None, item.sandbox)]
    stopped = [item.sandbox for item in found if forwards.stop(item)]
    for sandbox in stopped:
        print(f"Stopped forward of port {port} to sandbox {sandbox}")
    if not stopped:
        note(f"No forward of port {port} is running.")


def stop_all(sandbox: str) -> None:
    """Ends what leads to a sandbox that is stopped or deleted."""
    forwards = Forwards(registry().directory)
    for item in forwards.list():
        if item.sandbox == sandbox and forwards.stop(item):
            note(f"Stopped forward of port {item.port} to sandbox {sandbox}")


def open_in_background(opened: Session, name: str, address: str) -> None:
    """Starts a forward in a process of its own and waits until it listens.

    Raises:
        CliError: another forward has the port, or it did not come up; nothing is left then.
    """
    from openshell.cli.forward_listener import parse_address

    local = parse_address(address)
    forwards = Forwards(opened.registry.directory)
    for other in forwards.running(port=local.port):
        raise CliError(
            f"port {local.port} is forwarded to sandbox '{other.sandbox}' already\n"
            f"Stop that first: openshell forward stop {local.port} {other.sandbox}"
        )
    sandbox_id = opened.client.describe(name, workspace=opened.workspace).metadata.id
    process = _spawn(opened, [*command_line(sandbox_id, local.host, local.port), name])
    try:
        forwards.record(name, local.port, process.pid, sandbox_id, local.host)
    except OSError as error:
        process.kill()
        raise CliError(
            f"the forward was not started: its record cannot be written: {error.strerror}"
        ) from error
    shown = "127.0.0.1" if local.host in {"0.0.0.0", "::"} else local.host
    print(f"Access at: http://{f'[{shown}]' if ':' in shown else shown}:{local.port}/")
    note(f"Stop with: openshell forward stop {local.port} {name}")


def _spawn(opened: Session, words: list[str]) -> subprocess.Popen[bytes]:
    reading, writing = os.pipe()
    given = options()
    gateway = ["--gateway", given.gateway] if given.gateway else []
    endpoint = ["--gateway-endpoint", given.gateway_endpoint] if given.gateway_endpoint else []
    try:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "openshell.cli.main"),
                *(*gateway, *endpoint, "--workspace", opened.workspace),
                *(*words, "--ready-fd", str(writing)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=(writing,),
            start_new_session=True,
        )
    finally:
        os.close(writing)
    with os.fdopen(reading, "rb") as ready:
        if _wait_readable(ready.fileno()) and ready.read(1):
            assert process.stderr is not None  # noqa: S101  asked for above
            process.stderr.close()
            return process
    process.kill()
    said = process.communicate()[1].decode(errors="replace").strip().removeprefix("Error: ")
    raise CliError(said or "the forward did not come up in time")


def _wait_readable(descriptor: int) -> bool:
    return bool(select.select([descriptor], [], [], READY_SECONDS)[0])


def _serve(
    opened: Session,
    name: str,
    address: Address,
    port: Port,
    sandbox_id: str | None,
    ready_fd: int | None,
) -> None:
    from openshell._proto import openshell_pb2
    from openshell.cli.documents import phase_name
    from openshell.cli.forward_listener import Address, bind, serve

    record = opened.client.describe(name, workspace=opened.workspace)
    if sandbox_id not in (None, record.metadata.id):
        raise CliError(f"sandbox '{name}' was replaced by another of the same name")
    if record.status.phase != openshell_pb2.SANDBOX_PHASE_READY:
        raise CliError(f"sandbox '{name}' is not ready (it is {phase_name(record)})")
    listening = bind(address)
    local = Address(address.host, listening.getsockname()[1])

    def ready() -> None:
        if ready_fd is not None:
            os.write(ready_fd, b"1")
            os.close(ready_fd)
            # Nobody reads it any more, and what is written later must not end the process.
            with contextlib.suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            return
        print(f"Forwarding {local} to {port.host}:{port.port} of sandbox {name}", flush=True)
        note("Stop with: Ctrl-C")

    serve(opened.registry, opened.target, record, listening, port, ready)
