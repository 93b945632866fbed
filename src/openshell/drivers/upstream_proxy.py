"""The corporate proxy as an operator configures it: the keys of a driver's table, read strictly.

A gateway reads them when it starts and stops with the key's name when something is wrong; the launch
plan carries the result, and the supervisor reads the credential file once more when it starts. None
of it ever comes from a sandbox's environment or from a policy. No value is quoted in an error: a
password may stand anywhere in it. What goes through the proxy is decided in `egress.corporate`.
"""

import os
import re
import stat
from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from typing import Any, Final

import msgspec

__all__ = [
    "PROXY_KEYS",
    "ProxyBypass",
    "UpstreamProxy",
    "UpstreamProxyError",
    "read_proxy_credential",
    "read_proxy_table",
]

PROXY_KEYS: Final = frozenset(
    {
        "https_proxy",
        "no_proxy",
        "proxy_auth_file",
        "proxy_auth_allow_insecure",
        "proxy_connect_by_hostname",
    }
)

# The contract's; a user and a password have a few dozen.
_CREDENTIAL_BYTES: Final = 4096
# Matched for each connection, one after the other; lists of companies have a few dozen entries.
_MAX_BYPASSES: Final = 256
_MAX_PORT: Final = 65535

_NAME: Final = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DOMAIN: Final = re.compile(rf"{_NAME}(?:\.{_NAME})*").fullmatch
_URL: Final = re.compile(
    r"(?i:http)://(?:\[([0-9A-Fa-f:.]{2,45})\]|([A-Za-z0-9_.-]{1,253})):([0-9]{1,5})"
).fullmatch
_BRACKETED: Final = re.compile(r"\[([^\[\]]*)\](?::([0-9]{1,5}))?").fullmatch
_PLAIN: Final = re.compile(r"([^:]*)(?::([0-9]{1,5}))?").fullmatch
# What a user or password never has, and would break the head it is sent in or a log it is shown in.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]").search


class UpstreamProxyError(Exception):
    """The configuration of the corporate proxy cannot be used; a sentence with the key's name."""


class ProxyBypass(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Destinations that are dialled directly: those of a network, else of a domain, else all."""

    network: str = ""
    domain: str = ""
    # Zero: any.
    port: int = 0


class UpstreamProxy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where the proxy is and what it is not used for."""

    host: str
    port: int
    bypasses: tuple[ProxyBypass, ...] = ()
    # A path; empty: the proxy wants no credentials.
    auth_file: str = ""
    # Whether the proxy is given names, and so has the last word on addresses, or pinned addresses.
    by_hostname: bool = False


def read_proxy_table(table: Mapping[str, Any], prefix: str) -> UpstreamProxy | None:
    """The proxy of a driver's table, or nothing; raises UpstreamProxyError. `prefix` is the table's."""
    keys = _Keys(table, prefix)
    auth_file, no_proxy = keys.text("proxy_auth_file"), keys.text("no_proxy")
    allow_insecure = keys.switch("proxy_auth_allow_insecure")
    by_hostname = keys.switch("proxy_connect_by_hostname")
    if "https_proxy" not in table:
        asked = {
            "no_proxy": no_proxy,
            "proxy_auth_file": auth_file,
            "proxy_auth_allow_insecure": allow_insecure,
            "proxy_connect_by_hostname": by_hostname,
        }
        for key, value in asked.items():
            if value:
                raise keys.error(key, "needs https_proxy; give it, or leave this out")
        return None
    host, port = _read_url(keys)
    if auth_file and not allow_insecure:
        raise keys.error(
            "proxy_auth_file",
            "is sent to the proxy in the clear; say so with proxy_auth_allow_insecure = true",
        )
    if allow_insecure and not auth_file:
        raise keys.error("proxy_auth_allow_insecure", "needs proxy_auth_file; or leave it out")
    if auth_file:
        auth_file = os.path.abspath(auth_file)
        try:
            read_proxy_credential(auth_file)
        except UpstreamProxyError as error:
            raise keys.error("proxy_auth_file", str(error)) from None
    return UpstreamProxy(host, port, _read_bypasses(keys, no_proxy), auth_file, by_hostname)


def read_proxy_credential(path: str) -> str:
    """The `user:password` in a file; raises UpstreamProxyError, which shows nothing of it."""
    try:
        # Not blocking: a pipe that nobody writes to is refused below instead of waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UpstreamProxyError(f"{path} is no regular file")
            data = file.read(_CREDENTIAL_BYTES + 1)
    except OSError as error:
        raise UpstreamProxyError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > _CREDENTIAL_BYTES:
        raise UpstreamProxyError(f"{path} has more than {_CREDENTIAL_BYTES} bytes")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise UpstreamProxyError(f"{path} is not UTF-8") from None
    user, separator, _ = text.partition(":")
    if not user or not separator or _CONTROL(text):
        raise UpstreamProxyError(f"{path} must hold one line user:password")
    return text


class _Keys:
    """The typed values of the table."""

    def __init__(self, table: Mapping[str, Any], prefix: str) -> None:
        self._table = table
        self._prefix = prefix

    def text(self, key: str) -> str:
        value = self._table.get(key, "")
        if not isinstance(value, str):
            raise self.error(key, "must be a string")
        return value

    def switch(self, key: str) -> bool:
        value = self._table.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, "must be true or false")
        return value

    def error(self, key: str, sentence: str) -> UpstreamProxyError:
        joint = " " if sentence.startswith(("must", "needs", "is ", "has ")) else ": "
        return UpstreamProxyError(f"{self._prefix}.{key}{joint}{sentence}")


def _read_url(keys: _Keys) -> tuple[str, int]:
    found = _URL(keys.text("https_proxy"))
    if found is not None:
        six, name, port = found.groups()
        host = _read_host(six, name)
        if host and 0 < int(port) <= _MAX_PORT:
            return host, int(port)
    raise keys.error(
        "https_proxy", "must be http://HOST:PORT, without credentials, path or anything else"
    )


def _read_host(six: str | None, name: str | None) -> str:
    """The host as it is looked up; empty when it is none."""
    try:
        if six:
            return str(ip_address(six))
        if name and name.rpartition(".")[2].isdecimal():
            return str(ip_address(name))
    except ValueError:
        return ""
    return name.lower() if name and _DOMAIN(name) else ""


def _read_bypasses(keys: _Keys, text: str) -> tuple[ProxyBypass, ...]:
    entries = [entry for part in text.split(",") if (entry := part.strip())]
    if len(entries) > _MAX_BYPASSES:
        raise keys.error("no_proxy", f"has more than {_MAX_BYPASSES} entries")
    found = []
    for number, entry in enumerate(entries, 1):
        bypass = _read_bypass(entry)
        if bypass is None:
            raise keys.error(
                "no_proxy",
                f"entry {number} is no name, address, network or *, each with :PORT or without",
            )
        found.append(bypass)
    return tuple(found)


def _read_bypass(entry: str) -> ProxyBypass | None:
    if entry.startswith("["):
        found = _BRACKETED(entry)
    elif entry.count(":") > 1:
        # An IPv6 address or network without brackets has no port.
        return _network(entry, 0)
    else:
        found = _PLAIN(entry)
    if found is None:
        return None
    body, port = found[1], int(found[2] or 0)
    if found[2] is not None and not 0 < port <= _MAX_PORT:
        return None
    if body == "*":
        return ProxyBypass(port=port)
    network = _network(body, port)
    if network is not None:
        return network
    name = body.removeprefix("*").removeprefix(".").removesuffix(".").lower()
    # A mistyped address must not become a name that matches nothing.
    if entry.startswith("[") or name.rpartition(".")[2].isdecimal() or not _DOMAIN(name):
        return None
    return ProxyBypass(domain=name, port=port)


def _network(body: str, port: int) -> ProxyBypass | None:
    try:
        return ProxyBypass(network=str(ip_network(body, strict=False)), port=port)
    except ValueError:
        return None
