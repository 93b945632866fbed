"""Host patterns of network rules: what they match and how they are found quickly.

A pattern is a glob only if it contains `*` (then Dialect E with labels as components); otherwise it
is one name, compared without regard to case. `HostIndex` answers "which entries match this host"
by hash for names and by the literal labels at the end of a wildcard, so that its cost follows the
number of labels and of real candidates, not the number of rules.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from itertools import chain, islice
from typing import Final, Generic, TypeVar

from openshell.policy.globs import GlobError, TextMatcher, compile_glob

__all__ = [
    "HostIndex",
    "compile_host",
    "is_acceptable_host",
    "is_address",
    "is_wildcard_host",
    "normalize_host",
]

_Entry = TypeVar("_Entry")

# The longest name DNS can carry, and room for an IPv6 literal with a zone.
_MAX_HOST_LENGTH: Final = 255


# Enough to find a good suggestion; keeps a refusal as quick as an admission.
_MAX_NEAR: Final = 8


def is_wildcard_host(pattern: str) -> bool:
    return "*" in pattern


def normalize_host(host: str) -> str:
    """Lower case; IPv6 literals in their one canonical spelling, without brackets."""
    host = host.lower()
    if ":" not in host:
        return host
    try:
        return str(ipaddress.IPv6Address(host.removeprefix("[").removesuffix("]")))
    except ValueError:
        return host


def is_address(host: str) -> bool:
    """Whether a normalized host is an address; names never begin and end like one."""
    if ":" not in host and not host[-1:].isdigit():
        return False
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_acceptable_host(host: str) -> bool:
    """False for what no name server, file or URL could mean: empty, too long, controls."""
    return 0 < len(host) <= _MAX_HOST_LENGTH and host.isascii() and not _has_control(host)


def _has_control(text: str) -> bool:
    return not text.isprintable() or " " in text


def compile_host(pattern: str) -> TextMatcher:
    """A matcher for normalized hosts. A wildcard never covers a host with an empty label."""
    pattern = normalize_host(pattern)
    if not is_wildcard_host(pattern):
        return pattern.__eq__
    compiled = compile_glob(pattern, ".")
    return lambda host: compiled(host) and all(host.split("."))


def _literal_suffix(pattern: str) -> str:
    """The labels at the end that contain nothing special, joined; "" if the last one is special."""
    labels = pattern.split(".")
    taken = 0
    for label in reversed(labels):
        if any(char in label for char in "*?[]{}\\,"):
            break
        taken += 1
    return ".".join(labels[len(labels) - taken :]) if taken else ""


def _suffixes(host: str) -> Iterator[str]:
    """Every proper end of the name at a label boundary, then the empty one."""
    at = host.find(".")
    while at >= 0:
        yield host[at + 1 :]
        at = host.find(".", at + 1)
    yield ""


class HostIndex(Generic[_Entry]):
    """Immutable map from host patterns to entries. Unreadable patterns match nothing."""

    __slots__ = ("_anywhere", "_below", "_exact", "_wildcards")

    def __init__(self, entries: Iterable[tuple[str, _Entry]]) -> None:
        exact: dict[str, list[_Entry]] = {}
        below: dict[str, list[_Entry]] = {}
        wildcards: dict[str, list[tuple[TextMatcher, _Entry]]] = {}
        anywhere: list[_Entry] = []
        for pattern, entry in entries:
            host = normalize_host(pattern)
            if not host:
                anywhere.append(entry)
            elif not is_wildcard_host(host):
                exact.setdefault(host, []).append(entry)
                below.setdefault(host.partition(".")[2] or host, []).append(entry)
            else:
                try:
                    matcher = compile_host(host)
                except GlobError:
                    continue
                wildcards.setdefault(_literal_suffix(host), []).append((matcher, entry))
        self._exact = {host: tuple(found) for host, found in exact.items()}
        self._below = {host: tuple(found) for host, found in below.items()}
        self._wildcards = {suffix: tuple(found) for suffix, found in wildcards.items()}
        self._anywhere = tuple(anywhere)

    def find(self, host: str) -> list[_Entry]:
        """Entries whose pattern covers the normalized host; those without a host come too."""
        found = [*self._exact.get(host, ()), *self._anywhere]
        if self._wildcards:
            for suffix in _suffixes(host):
                for matcher, entry in self._wildcards.get(suffix, ()):
                    if matcher(host):
                        found.append(entry)
        return found

    def find_near(self, host: str) -> list[_Entry]:
        """A few entries that miss the host by its first labels: what a person may have meant."""
        if ":" in host or host.rpartition(".")[2].isdigit():
            return []
        for suffix in (host, *_suffixes(host)):
            if "." not in suffix:
                break
            near = chain(
                self._below.get(suffix, ()),
                (entry for _, entry in self._wildcards.get(suffix, ())),
                self._exact.get(suffix, ()),
            )
            found = list(islice(near, _MAX_NEAR))
            if found:
                return found
        return []
