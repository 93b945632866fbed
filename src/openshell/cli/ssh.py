"""`openshell ssh-proxy` and `openshell sandbox ssh-config`: what an SSH client needs to get inside."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import sys
from typing import TYPE_CHECKING

import click

from openshell.cli.connection import find_target, options, registry
from openshell.cli.failures import CliError
from openshell.cli.groups import command

if TYPE_CHECKING:
    from openshell.sdk.registry import Registry, Target

__all__ = ["host_alias", "host_block", "ssh_config", "ssh_proxy"]

_SAFE = re.compile(r"[A-Za-z0-9._-]+\Z")


def host_alias(name: str, workspace: str) -> str:
    """The name under which SSH clients know a sandbox."""
    return f"openshell-{name}.{workspace}"


def host_block(gateway: str, name: str, workspace: str) -> str:
    """A Host block for a client's configuration.

    Nothing inside has an identity that a known_hosts file could keep: the gateway's TLS says whom the
    client talks to, and the key of the server changes with every start.
    """
    proxy = [
        *(_executable(), "ssh-proxy", "--gateway-name", gateway),
        *("--name", name, "--workspace", workspace),
    ]
    lines = [
        f"Host {host_alias(name, workspace)}",
        "    User sandbox",
        "    StrictHostKeyChecking no",
        "    UserKnownHostsFile /dev/null",
        "    GlobalKnownHostsFile /dev/null",
        "    LogLevel ERROR",
        "    ServerAliveInterval 15",
        "    ServerAliveCountMax 3",
        f"    ProxyCommand {shlex.join(proxy).replace('%', '%%')}",
    ]
    return "\n".join(lines) + "\n"


def _executable() -> str:
    """Our own program by its path, so that it is found from an editor's environment, too."""
    own = os.path.abspath(sys.argv[0])
    if os.access(own, os.X_OK) and os.path.basename(own) == "openshell":
        return own
    return shutil.which("openshell") or "openshell"


@command("ssh-config")
@click.argument("name", required=False)
def ssh_config(name: str | None) -> None:
    """Print a Host block for ~/.ssh/config. Nothing is asked of the gateway."""
    known = registry()
    target = _named_target(known)
    workspace = options().workspace or "default"
    chosen = name or known.last_sandbox(target.name, workspace)
    if chosen is None:
        raise CliError("no sandbox was used yet: give its name, see 'openshell sandbox list'")
    if not _SAFE.match(chosen):
        raise CliError(f"'{chosen}' is not the name of a sandbox")
    print(host_block(target.name, chosen, workspace), end="")


def _named_target(known: Registry) -> Target:
    target = find_target(known)
    if target is None:
        raise CliError("No active gateway.\nStart the local one with: openshell gateway start")
    return target


@command("ssh-proxy")
@click.option("--gateway-name", metavar="NAME", help="Registered gateway.")
@click.option("--server", metavar="URL", help="Endpoint instead of a registered gateway.")
@click.option("--name", metavar="NAME", help="Sandbox, by name.")
@click.option("--sandbox-id", metavar="ID", help="Sandbox, by id; needs --token.")
@click.option("--token", metavar="TOKEN", help="Of an SSH session that exists.")
def ssh_proxy(
    gateway_name: str | None,
    server: str | None,
    name: str | None,
    sandbox_id: str | None,
    token: str | None,
) -> None:
    """Carry an SSH connection on standard input and output. For ProxyCommand."""
    by_token = bool(sandbox_id and token) and not name
    by_name = bool(name) and not (sandbox_id or token)
    if not by_token and not by_name:
        raise CliError("give --name NAME, or --sandbox-id ID with --token TOKEN")
    known = registry()
    given = options()
    # With a token --gateway is the contract's name for an endpoint.
    endpoint = server or given.gateway_endpoint
    if given.gateway and "://" in given.gateway:
        endpoint = endpoint or given.gateway
        given.gateway = None
    target = known.resolve(endpoint=endpoint or None, gateway=gateway_name or given.gateway or None)
    if target is None:
        raise CliError("no gateway: give --gateway-name NAME or --server URL")
    workspace = given.workspace or "default"
    asyncio.run(_proxy(known, target, name, workspace, sandbox_id, token))


async def _proxy(
    known: Registry,
    target: Target,
    name: str | None,
    workspace: str,
    sandbox_id: str | None,
    token: str | None,
) -> None:
    from openshell.sdk.tunnels import Ssh, Tunnels

    reader, writer = await _standard_streams()
    async with Tunnels.from_target(known, target) as tunnels:
        if name is not None:
            sandbox_id = (await tunnels.describe(name, workspace=workspace)).metadata.id
        assert sandbox_id is not None  # noqa: S101  one of the two was given
        await tunnels.carry(
            sandbox_id, Ssh(), reader, writer, service_id=f"ssh-proxy:{sandbox_id}", token=token
        )


async def _standard_streams() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    # Descriptors of their own: the transports close what they were given.
    incoming, outgoing = os.fdopen(os.dup(0), "rb", 0), os.fdopen(os.dup(1), "wb", 0)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), incoming)
    transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, outgoing)
    return reader, asyncio.StreamWriter(transport, protocol, None, loop)
