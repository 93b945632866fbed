"""The flags of `policy update` as merge operations. Text in, values or a refusal out; no calls.

Segments are separated by colons, so an IPv6 address cannot be written here: use a policy file.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from openshell.cli.failures import CliError
from openshell.policy.merge_operations import (
    AddAllowRules,
    AddDenyRules,
    AddRule,
    MergeOperation,
    RemoveEndpoint,
    RemoveRule,
)
from openshell.policy.model import Binary, Endpoint, L7Rule, NetworkRule

__all__ = ["Flags", "default_rule_name", "operations_of"]

_ACCESS: Final = ("read-only", "read-write", "full")
_PROTOCOLS: Final = ("tcp", "rest", "websocket", "sql")
_ENFORCEMENT: Final = ("enforce", "audit")
_ENDPOINT_GRAMMAR: Final = "host:port[:access[:protocol[:enforcement[:options]]]]"
_OPTIONS: Final = (
    "allow-uninspected-credentials, websocket-credential-rewrite, "
    "request-body-credential-rewrite, allowed-ip=ADDRESS"
)
_EXAMPLE_BINARY: Final = "/usr/bin/curl"
_BAD_HOST: Final = re.compile(r"[\s/]")


@dataclass(frozen=True, slots=True)
class Flags:
    """What was given, as it was written."""

    add_endpoints: Sequence[str] = ()
    remove_endpoints: Sequence[str] = ()
    remove_rules: Sequence[str] = ()
    add_allows: Sequence[str] = ()
    add_denies: Sequence[str] = ()
    binaries: Sequence[str] = ()
    rule_name: str | None = None


def operations_of(flags: Flags) -> tuple[MergeOperation, ...]:
    """All operations in the order they are sent: added, removed, allowed, denied.

    Raises:
        CliError: a flag does not say what it must; the message names flag and grammar.
    """
    if flags.binaries and not flags.add_endpoints:
        raise CliError("--binary says who may use an added endpoint: give --add-endpoint too")
    if flags.rule_name is not None and len(flags.add_endpoints) != 1:
        raise CliError("--rule-name names one added rule: give exactly one --add-endpoint")
    if not all(path.strip() for path in flags.binaries):
        raise CliError("--binary must not be empty: give the path of a program, or '/**' for any")
    binaries = tuple(Binary(path) for path in dict.fromkeys(flags.binaries))
    operations: list[MergeOperation] = [
        _added(text, binaries, flags.rule_name) for text in flags.add_endpoints
    ]
    if operations and not binaries:
        raise CliError(
            "--add-endpoint needs --binary: a rule without binaries matches no program\n"
            f"Add to it:  --binary PATH, for example {_EXAMPLE_BINARY}, or --binary '/**' for any program"
        )
    for text in flags.remove_endpoints:
        segments = text.split(":")
        if len(segments) != 2:
            raise _refused("--remove-endpoint", text, "write host:port")
        operations.append(RemoveEndpoint(*_place("--remove-endpoint", text, segments)))
    for name in flags.remove_rules:
        if not name.strip():
            raise CliError("--remove-rule must not be empty: give the key of a rule")
        operations.append(RemoveRule(name))
    allows = _grouped("--add-allow", flags.add_allows)
    denies = _grouped("--add-deny", flags.add_denies)
    operations += [AddAllowRules(host, port, rules) for (host, port), rules in allows]
    operations += [AddDenyRules(host, port, rules) for (host, port), rules in denies]
    if not operations:
        raise CliError(
            "nothing to change: give --add-endpoint, --remove-endpoint, --remove-rule, "
            "--add-allow or --add-deny"
        )
    return tuple(operations)


def default_rule_name(host: str, port: int) -> str:
    """`allow_api_github_com_443` for api.github.com:443."""
    name = re.sub(r"[^A-Za-z0-9_]", "", re.sub(r"[.-]", "_", host))
    return f"allow_{name}_{port}"


def _added(text: str, binaries: tuple[Binary, ...], rule_name: str | None) -> AddRule:
    endpoint = _endpoint(text)
    name = (
        rule_name if rule_name is not None else default_rule_name(endpoint.host, endpoint.ports[0])
    )
    if not name.strip():
        raise CliError("--rule-name must not be empty")
    return AddRule(name, NetworkRule(name, name, (endpoint,), binaries))


def _endpoint(text: str) -> Endpoint:
    flag, segments = "--add-endpoint", text.split(":")
    if not 2 <= len(segments) <= 6:
        raise _refused(flag, text, f"write {_ENDPOINT_GRAMMAR}")
    host, port = _place(flag, text, segments)
    access, protocol, enforcement, options = (*segments[2:], "", "", "", "")[:4]
    if len(segments) == 3 and not access:
        raise _refused(flag, text, "the access is empty: write it, or leave out the last ':'")
    if len(segments) == 6 and not options:
        raise _refused(flag, text, "the options are empty: write one, or leave out the last ':'")
    for what, value, choices in (
        ("access", access, _ACCESS),
        ("protocol", protocol, _PROTOCOLS),
        ("enforcement", enforcement, _ENFORCEMENT),
    ):
        if value and value not in choices:
            raise _refused(flag, text, f"the {what} is one of {', '.join(choices)}")
    # Without one nothing is inspected, so only `full` would mean what it says.
    if access not in ("", "full") and not protocol:
        example = f"{host}:{port}:{access}:rest:{enforcement or 'enforce'}"
        raise _refused(flag, text, f"an access needs a protocol: {example}")
    if enforcement and not protocol:
        raise _refused(flag, text, "an enforcement needs a protocol")
    if protocol == "tcp" and (access or enforcement):
        raise _refused(flag, text, "protocol tcp takes neither access nor enforcement")
    endpoint = Endpoint(
        host=host, ports=(port,), access=access, protocol=protocol, enforcement=enforcement
    )
    for option in options.split(",") if options else ():
        endpoint = _with_option(endpoint, option.strip(), text)
    return endpoint


def _with_option(endpoint: Endpoint, option: str, text: str) -> Endpoint:
    flag, protocol = "--add-endpoint", endpoint.protocol
    if option == "allow-uninspected-credentials":
        return replace(endpoint, allow_uninspected_credentials=True)
    if option == "websocket-credential-rewrite":
        if protocol not in ("rest", "websocket"):
            raise _refused(flag, text, f"{option} needs protocol rest or websocket")
        return replace(endpoint, websocket_credential_rewrite=True)
    if option == "request-body-credential-rewrite":
        if protocol != "rest":
            raise _refused(flag, text, f"{option} needs protocol rest")
        return replace(endpoint, request_body_credential_rewrite=True)
    name, _, address = option.partition("=")
    if name == "allowed-ip":
        try:
            ipaddress.ip_network(address, strict=False)
        except ValueError:
            raise _refused(flag, text, "allowed-ip takes an IP address or CIDR") from None
        return replace(endpoint, allowed_ips=(*endpoint.allowed_ips, address))
    raise _refused(flag, text, f"unknown option '{option}'; there are {_OPTIONS}")


def _grouped(flag: str, texts: Iterable[str]) -> list[tuple[tuple[str, int], tuple[L7Rule, ...]]]:
    """Rules by endpoint, in the order in which each was first named."""
    groups: dict[tuple[str, int], list[L7Rule]] = {}
    for text in texts:
        segments = text.split(":", 3)
        if len(segments) != 4:
            raise _refused(flag, text, "write host:port:METHOD:path")
        host, port = _place(flag, text, segments)
        method, path = segments[2].strip().upper(), segments[3]
        if not method:
            raise _refused(flag, text, "the method is empty: write one, or '*' for any")
        if not (path.startswith(("/", "**/")) or path == "**"):
            raise _refused(flag, text, "the path starts with '/' or '**/', or is '**'")
        groups.setdefault((host.lower(), port), []).append(L7Rule(method=method, path=path))
    return [(place, tuple(rules)) for place, rules in groups.items()]


def _place(flag: str, text: str, segments: Sequence[str]) -> tuple[str, int]:
    host, number = segments[0], segments[1]
    if not host or _BAD_HOST.search(host):
        raise _refused(flag, text, "the host is a name without spaces and '/'")
    if not (
        number.isascii() and number.isdigit() and len(number) <= 5 and 1 <= int(number) <= 65535
    ):
        raise _refused(flag, text, "the port is a number from 1 to 65535")
    return host, int(number)


def _refused(flag: str, text: str, why: str) -> CliError:
    return CliError(f"{flag} '{text}': {why}")
