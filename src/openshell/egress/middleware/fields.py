"""Which header fields a stage sees, which it may change, and changing them. Pure.

Fields that carry credentials, say where a request goes or how it is framed are neither shown nor touched,
nor are those that `Connection` names. A stage adds fields of one prefix only, and clients may not send that
prefix through a chain: a server can trust it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from openshell.egress.credentials import find_marker
from openshell.egress.http1 import Headers
from openshell.egress.middleware.values import Existing, Mutation, Remove, StageFault, Write

__all__ = [
    "MAX_FIELDS",
    "MAX_FIELD_BYTES",
    "MAX_MUTATIONS",
    "OWN_PREFIX",
    "mutate",
    "visible_fields",
    "without_own_fields",
]

# The contract's numbers: what is shown to a stage, and what it may answer.
MAX_FIELDS: Final = 128
MAX_FIELD_BYTES: Final = 64 * 1024
MAX_MUTATIONS: Final = 64
_MAX_NAME: Final = 256
_MAX_VALUE: Final = 32 * 1024
_MAX_VALUES: Final = 64 * 1024

OWN_PREFIX: Final = b"x-openshell-middleware-"

_PROTECTED: Final = frozenset(
    {
        b"authorization",
        b"proxy-authorization",
        b"proxy-authenticate",
        b"cookie",
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"proxy-connection",
        b"keep-alive",
        b"te",
        b"trailer",
        b"upgrade",
        b"expect",
    }
)
_PROTECTED_PREFIXES: Final = (b"x-amz-", b"x-openshell-credential")
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Printable ASCII, blanks inside: no line can be broken and no two readers disagree.
_VALUE = re.compile(rb"(?:[!-~](?:[ \t!-~]*[!-~])?)?")


def visible_fields(headers: Headers) -> tuple[tuple[str, str], ...] | None:
    """The fields that a stage sees; None if there are more than may be shown."""
    hidden = _named_by_connection(headers)
    shown = tuple(
        (name.decode("ascii"), _text(value))
        for name, value in headers
        if not _is_protected(name.lower(), hidden)
    )
    size = sum(len(name) + len(value) for name, value in shown)
    return None if len(shown) > MAX_FIELDS or size > MAX_FIELD_BYTES else shown


def without_own_fields(headers: Headers) -> Headers:
    """Drop what a client sent in the name of a stage."""
    if not any(name.lower().startswith(OWN_PREFIX) for name, _ in headers):
        return headers
    return tuple(pair for pair in headers if not pair[0].lower().startswith(OWN_PREFIX))


def mutate(headers: Headers, mutations: Iterable[Mutation]) -> Headers | StageFault:
    """Make all changes in their order, or none."""
    todo = tuple(mutations)
    if not todo:
        return headers
    hidden = _named_by_connection(headers)
    values = sum(len(m.value) for m in todo if isinstance(m, Write))
    if len(todo) > MAX_MUTATIONS or values > _MAX_VALUES:
        return StageFault.MUTATION
    for mutation in todo:
        changed = _changed(headers, mutation, hidden)
        if changed is None:
            return StageFault.MUTATION
        headers = changed
    return headers


def _changed(headers: Headers, mutation: Mutation, hidden: frozenset[bytes]) -> Headers | None:
    if mutation is None:
        return None
    try:
        name = mutation.name.encode("ascii")
    except UnicodeEncodeError:
        return None
    lower = name.lower()
    if len(name) > _MAX_NAME or not _NAME.fullmatch(name) or _is_protected(lower, hidden):
        return None
    if isinstance(mutation, Remove):
        return tuple(pair for pair in headers if pair[0].lower() != lower)
    if not lower.startswith(OWN_PREFIX) or mutation.existing is None or find_marker(name):
        return None
    try:
        value = mutation.value.encode("ascii")
    except UnicodeEncodeError:
        return None
    # A placeholder would be replaced: no stage has a credential put anywhere.
    if len(value) > _MAX_VALUE or not _VALUE.fullmatch(value) or find_marker(value):
        return None
    exists = any(pair[0].lower() == lower for pair in headers)
    if exists and mutation.existing is Existing.SKIP:
        return headers
    if exists and mutation.existing is Existing.OVERWRITE:
        headers = tuple(pair for pair in headers if pair[0].lower() != lower)
    return (*headers, (name, value))


def _is_protected(name: bytes, hidden: frozenset[bytes]) -> bool:
    return name in _PROTECTED or name in hidden or name.startswith(_PROTECTED_PREFIXES)


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    return frozenset(
        item.strip().lower()
        for name, value in headers
        if name.lower() in (b"connection", b"proxy-connection")
        for item in value.split(b",")
    )


def _text(value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        return value.decode("latin-1")
