"""Middleware services as an operator registers them: `[[openshell.supervisor.middleware]]`, read strictly.

Called by `config`; what becomes of a registration is `middleware`'s part.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from openshell.codec.middleware import MAX_PAYLOAD_BYTES, check_endpoint, read_timeout
from openshell.policy.validate_middleware import is_service_name

__all__ = ["Registration", "RegistrationError", "read_registrations"]

_KEYS: Final = frozenset(
    {
        "name",
        "grpc_endpoint",
        "max_payload_bytes",
        "max_body_bytes",
        "timeout",
        "tls_ca_cert_path",
        "audience",
        "allow_insecure_transport",
    }
)
# As many as one sandbox may be told of.
_MAX_REGISTRATIONS: Final = 64
_PEM_BYTES: Final = 256 * 1024
_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----")


class RegistrationError(Exception):
    """A registration cannot be used; the text goes on from the name of the table."""


@dataclass(frozen=True, slots=True)
class Registration:
    """A service, and how its supervisors reach it."""

    name: str
    endpoint: str
    max_payload_bytes: int
    # As written; empty: what the service describes, or the default.
    timeout: str = ""
    ca_pem: bytes = field(default=b"", repr=False)
    allow_insecure: bool = False


def read_registrations(value: object) -> Mapping[str, Registration]:
    """Read the array of tables. Raises RegistrationError."""
    if not isinstance(value, (list, tuple)) or not all(isinstance(one, dict) for one in value):
        raise RegistrationError(" must be an array of tables")
    if len(value) > _MAX_REGISTRATIONS:
        raise RegistrationError(f" has more than {_MAX_REGISTRATIONS} entries")
    found: dict[str, Registration] = {}
    for index, table in enumerate(value):
        where = f"[{index}]"
        registration = _read(table, where)
        if registration.name in found:
            raise RegistrationError(f"{where}.name: '{registration.name}' is registered twice")
        found[registration.name] = registration
    return MappingProxyType(found)


def _read(table: Mapping[str, Any], where: str) -> Registration:
    for key in table:
        if key not in _KEYS:
            raise RegistrationError(f"{where}.{key}: unknown key")
    if "audience" in table:
        raise RegistrationError(
            f"{where}.audience is not supported yet; leave it out: services get no token"
        )
    name = _text(table, "name", where)
    if not is_service_name(name):
        raise RegistrationError(
            f"{where}.name must be 1 to 128 letters, digits, '.', '_', '/' and '-', "
            "and not begin with openshell/"
        )
    insecure = table.get("allow_insecure_transport", False)
    if not isinstance(insecure, bool):
        raise RegistrationError(f"{where}.allow_insecure_transport must be true or false")
    endpoint = _text(table, "grpc_endpoint", where)
    timeout = _text(table, "timeout", where, "")
    try:
        _, is_tls = check_endpoint(endpoint)
    except ValueError as error:
        raise RegistrationError(f"{where}.grpc_endpoint: {error}") from error
    try:
        if timeout:
            read_timeout(timeout)
    except ValueError as error:
        raise RegistrationError(f"{where}.timeout: {error}") from error
    if not (is_tls or insecure):
        raise RegistrationError(
            f"{where}.grpc_endpoint must be https, or allow_insecure_transport = true beside it"
        )
    ca_path = _text(table, "tls_ca_cert_path", where, "")
    return Registration(
        name,
        endpoint,
        _limit(table, where),
        timeout,
        _certificates(ca_path, where) if ca_path else b"",
        insecure,
    )


def _text(table: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = table.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        raise RegistrationError(f"{where}.{key} must be a string" + ("" if value else " and given"))
    return value


def _limit(table: Mapping[str, Any], where: str) -> int:
    given = [key for key in ("max_payload_bytes", "max_body_bytes") if key in table]
    if len(given) != 1:
        raise RegistrationError(f"{where} needs max_payload_bytes (or max_body_bytes, not both)")
    value = table[given[0]]
    if type(value) is not int or not 0 < value <= MAX_PAYLOAD_BYTES:
        raise RegistrationError(f"{where}.{given[0]} must be from 1 to {MAX_PAYLOAD_BYTES}")
    return value


def _certificates(path: str, where: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            content = file.read(_PEM_BYTES + 1)
    except OSError as error:
        raise RegistrationError(f"{where}.tls_ca_cert_path: {error.strerror}") from error
    labels = set(_PEM.findall(content))
    if len(content) > _PEM_BYTES or labels != {b"CERTIFICATE"}:
        # Never said what else it holds: a key may have been put there.
        raise RegistrationError(f"{where}.tls_ca_cert_path must hold certificates and nothing else")
    return content
