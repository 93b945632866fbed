"""`openshell status` and `whoami`: looking without starting anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openshell.cli.connection import find_target, registry, session
from openshell.cli.failures import CliError
from openshell.cli.groups import command
from openshell.cli.output import output_option, print_block, print_structured
from openshell.sdk.errors import SandboxError

if TYPE_CHECKING:
    from openshell.sdk.client import SandboxClient
    from openshell.sdk.registry import Registry, Target

__all__ = ["status", "whoami"]


@command("status")
@output_option()
def status(output: str) -> int:
    """Show which gateway is used, whether it answers and whether it knows you."""
    known = registry()
    try:
        target = find_target(known)
    except SandboxError as error:
        return _not_configured(output, str(error).splitlines()[0])
    if target is None:
        return _not_configured(output, "")
    document = _probe(known, target)
    if output != "table":
        print_structured(document, output)
    else:
        authentication = dict(document["authentication"])
        state = authentication.pop("status")
        detail = f" ({', '.join(authentication.values())})" if authentication else ""
        pairs = [
            ("Gateway", document["gateway"]),
            ("Server", document["server"]),
            ("Status", document["status"]),
            ("Authentication", f"{state}{detail}"),
        ]
        if "version" in document:
            pairs.append(("Version", document["version"]))
        print_block("Server Status", pairs)
    if document["status"] == "disconnected":
        raise CliError(
            f"cannot reach the gateway '{target.name}' at {target.endpoint}\n"
            "If it is the local one, start it with: openshell gateway start"
        )
    return 0


def _not_configured(output: str, why: str) -> int:
    if output != "table":
        print_structured({"status": "not_configured"}, output)
        return 0
    print("No gateway configured." + (f" {why}" if why else ""))
    print("Commands that create things start the local one: openshell sandbox create -- bash")
    return 0


def _probe(known: Registry, target: Target) -> dict[str, Any]:
    import grpc

    from openshell.sdk.client import SandboxClient

    document: dict[str, Any] = {"gateway": target.name, "server": target.endpoint}
    try:
        with SandboxClient.from_target(known, target, timeout=10.0) as client:
            health = client.health()
            document |= {
                "status": "connected",
                "version": health.version,
                "authentication": _authentication(client, target),
            }
    except grpc.RpcError as error:
        document |= {
            "status": "disconnected",
            "error": error.details(),
            "authentication": {"status": "unverified"},
        }
    return document


def _authentication(client: SandboxClient, target: Target) -> dict[str, str]:
    import grpc

    plaintext = target.endpoint.startswith("http://")
    try:
        client.gateway_info()
    except grpc.RpcError as error:
        match error.code():
            case grpc.StatusCode.PERMISSION_DENIED:
                return {
                    "status": "authenticated",
                    "provider": "mTLS transport; authorization denied",
                }
            case grpc.StatusCode.UNAUTHENTICATED:
                return {"status": "failed", "error": error.details() or "not authenticated"}
            case _:
                raise
    if plaintext:
        return {"status": "not_required", "mode": "gateway"}
    return {"status": "authenticated", "provider": "mTLS transport"}


@command("whoami")
@output_option()
def whoami(output: str) -> None:
    """Show whom the gateway takes you for."""
    with session(start=False) as opened:
        user = opened.client.current_user()
    if output != "table":
        print_structured(
            {
                "subject": user.subject,
                "display_name": user.display_name or None,
                "roles": list(user.roles),
                "scopes": list(user.scopes),
                "identity_provider": user.identity_provider,
            },
            output,
        )
        return
    pairs = [("Subject", user.subject)]
    if user.display_name:
        pairs.append(("Name", user.display_name))
    pairs += [
        ("Provider", user.identity_provider),
        ("Roles", ", ".join(user.roles)),
        ("Scopes", ", ".join(user.scopes)),
    ]
    print_block("User", pairs)
