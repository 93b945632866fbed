"""The wording of refusals: the reason, and the smallest change that would allow what was refused.

Each sentence exists once, here; the 403 body, the event, the log and the command line repeat it.
`compile` calls these with what it found; they decide nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = [
    "add_allow_rule",
    "add_binary",
    "add_endpoint",
    "add_port",
    "add_rule",
    "binary_reason",
    "cover_path",
    "endpoint_reason",
    "fix_candidate",
    "lift_deny_rule",
    "no_policy_reason",
    "place",
    "set_access",
]


def place(host: str, port: int) -> str:
    """Write host and port so that an IPv6 address keeps its border to the port."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def no_policy_reason() -> str:
    return "network connections not allowed by policy"


def endpoint_reason(host: str, port: int) -> str:
    return f"endpoint {place(host, port)} is not allowed by any policy"


def binary_reason(
    binary: str | None, key: str, ancestors: Sequence[str], cmdline: Sequence[str]
) -> str:
    return (
        f"binary '{binary or 'unknown'}' not allowed in policy '{key}' "
        f"(ancestors: [{' -> '.join(ancestors)}], cmdline: [{', '.join(cmdline)}]). "
        "SYMLINK HINT: the path shown is the one the kernel resolved; if the policy names a link, "
        f"write '{binary or 'the resolved path'}' instead"
    )


def _endpoint(host: str, port: int) -> str:
    # An IPv6 address is a YAML string in quotes only.
    shown = f'"{host}"' if ":" in host else host
    return f"{{host: {shown}, port: {port}}}"


def add_rule(host: str, port: int, binary: str | None) -> str:
    return (
        f"add a rule to network_policies with endpoint {_endpoint(host, port)} "
        f"and binary {{path: {binary or '/**'}}}"
    )


def add_endpoint(host: str, port: int, key: str) -> str:
    return f"add endpoint {_endpoint(host, port)} to rule '{key}'"


def add_port(host: str, port: int, location: str) -> str:
    return f"add port {port} to {location} (host {host})"


def add_binary(binary: str | None, key: str) -> str:
    return f"add binary {{path: {binary or '/**'}}} to rule '{key}'"


def set_access(access: str, location: str) -> str:
    return f"set access: {access} at {location}"


def add_allow_rule(method: str, path: str, location: str) -> str:
    return f"add allow {{method: {method}, path: {path}}} to {location}.rules"


def lift_deny_rule(location: str) -> str:
    return f"remove or narrow {location}"


def fix_candidate() -> str:
    return "correct the rejected policy and set it again"


def cover_path(path: str, location: str) -> str:
    return f"widen {location}.path, or add an endpoint whose path covers {path}"
