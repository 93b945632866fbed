"""The wording of refusals: the reason, and the smallest change that would allow what was refused.

Each sentence exists once, here; the 403 body, the event, the log and the command line repeat it.
`compile` calls these with what it found; they decide nothing.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from openshell.policy.model import PROVIDER_KEY_PREFIX

__all__ = [
    "add_allow_rule",
    "add_binary",
    "add_call",
    "add_endpoint",
    "add_operation",
    "add_port",
    "add_rule",
    "binary_reason",
    "comes_with_provider",
    "cover_path",
    "endpoint_reason",
    "fix_candidate",
    "keep_encoded_slash",
    "lift_deny_rule",
    "no_policy_reason",
    "place",
    "register_operation",
    "set_access",
    "set_tcp",
]


def place(host: str, port: int) -> str:
    """Write host and port so that an IPv6 address keeps its border to the port."""
    is_bare = ":" in host and not host.startswith("[")
    return f"[{host}]:{port}" if is_bare else f"{host}:{port}"


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


def comes_with_provider(place: str) -> bool:
    """Whether a rule's key, or a place in a rule, is of the layers: no change of the policy reaches those."""
    return place.startswith(PROVIDER_KEY_PREFIX)


def _in(place: str) -> str:
    """Where to change something: for what comes with a provider, in its profile."""
    if not comes_with_provider(place):
        return place
    key, _, rest = place.partition(".")
    return f"{rest} of the profile that '{key}' comes from"


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
    return f"add port {port} to {_in(location)} (host {host})"


def add_binary(binary: str | None, key: str) -> str:
    where = _in(f"{key}.binaries") if comes_with_provider(key) else f"rule '{key}'"
    return f"add binary {{path: {binary or '/**'}}} to {where}"


def set_access(access: str, location: str) -> str:
    return f"set access: {access} at {_in(location)}"


def set_tcp(location: str) -> str:
    return f"set protocol: tcp at {_in(location)}"


def add_allow_rule(method: str, path: str, location: str) -> str:
    where = _in(f"{location}.rules")
    return f"add allow {{method: {method}, path: {path}}} to {where}"


# Names as people give them; what a client made up is shown in quotes and cut.
_NAME = re.compile(r"[A-Za-z0-9_$][A-Za-z0-9_.$/-]{0,79}")
_SHOWN = 80
_MAX_FIELDS = 10


def _quoted(text: str) -> str:
    return text if _NAME.fullmatch(text) else ascii(text[:_SHOWN])


def add_call(method: str, tool: str | None, location: str) -> str:
    named = "" if tool is None else f", tool: {_quoted(tool)}"
    where = _in(f"{location}.rules")
    return f"add allow {{method: {_quoted(method)}{named}}} to {where}"


def add_operation(kind: str, fields: Sequence[str], location: str) -> str:
    named = ", ".join(_quoted(name) for name in fields[:_MAX_FIELDS])
    among = f", fields: [{named}]" if 0 < len(fields) <= _MAX_FIELDS else ""
    where = _in(f"{location}.rules")
    return f"add allow {{operation_type: {kind}{among}}} to {where}"


def register_operation(key: str, location: str) -> str:
    return (
        f"set persisted_queries: allow_registered and add {_quoted(key)} to "
        f"{_in(f'{location}.graphql_persisted_queries')}"
    )


def lift_deny_rule(location: str) -> str:
    return f"remove or narrow {_in(location)}"


def fix_candidate() -> str:
    return "correct the rejected policy and set it again"


def cover_path(path: str, location: str) -> str:
    return f"widen {_in(f'{location}.path')}, or add an endpoint whose path covers {path}"


def keep_encoded_slash(location: str) -> str:
    return f"set allow_encoded_slash: true at {_in(location)}"
