"""From a driver's name and its table of settings to the driver. The only place that knows a name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from openshell._proto import openshell_pb2
from openshell.drivers.base import ComputeDriver
from openshell.drivers.local import LocalDriver, LocalDriverConfig
from openshell.drivers.local.paths import StateDirError, secure_directory, socket_path
from openshell.drivers.upstream_proxy import PROXY_KEYS, UpstreamProxyError, read_proxy_table
from openshell.gateway.config import ConfigError, Settings
from openshell.gateway.errors import failed_precondition

__all__ = ["local_directory", "make_driver", "restrict_for_stranger", "supervisor_socket"]

PIDS_LIMIT_MAX = 4_194_304
"""The kernel's own limit of process ids."""


def supervisor_socket(settings: Settings) -> str:
    """Where this machine's supervisors find the gateway; its directory exists afterwards."""
    directory = local_directory(settings)
    try:
        secure_directory(os.fspath(settings.state_root))
        secure_directory(directory)
        return socket_path(directory, "gateway.sock")
    except StateDirError as error:
        raise ConfigError(str(error)) from error


def local_directory(settings: Settings) -> str:
    """What belongs to this machine's compute: the local driver's state, the id of the host."""
    return os.fspath(settings.state_root / "local")


def make_driver(
    settings: Settings,
    *,
    endpoint: str,
    gateway_addresses: Sequence[str],
    environ: Mapping[str, str],
) -> ComputeDriver:
    return LocalDriver(
        local_directory(settings),
        endpoint,
        _local_config(settings.driver_table, tuple(gateway_addresses)),
        environment=environ,
    )


_PATHS: Final = ("provider_spiffe_workload_api_socket_path", "provider_spiffe_jwt_svid_file")


def _local_config(
    table: Mapping[str, Any], gateway_addresses: tuple[str, ...]
) -> LocalDriverConfig:
    unknown = sorted(set(table) - {"upstream_ca_bundle", "pids_limit", *_PATHS, *PROXY_KEYS})
    if unknown:
        raise ConfigError(f"unknown key openshell.drivers.local.{unknown[0]}")
    bundle = table.get("upstream_ca_bundle", "")
    if not isinstance(bundle, str):
        raise ConfigError("openshell.drivers.local.upstream_ca_bundle must be a path")
    if bundle and not os.path.isfile(bundle):
        raise ConfigError(
            f"openshell.drivers.local.upstream_ca_bundle: {bundle} is no file; give a PEM file"
        )
    for name in _PATHS:
        if not isinstance(table.get(name, ""), str):
            raise ConfigError(f"openshell.drivers.local.{name} must be a path")
    limit = table.get("pids_limit", 0)
    if type(limit) is not int or not 0 <= limit <= PIDS_LIMIT_MAX:
        raise ConfigError(
            f"openshell.drivers.local.pids_limit must be a number from 0 to {PIDS_LIMIT_MAX}"
        )
    try:
        proxy = read_proxy_table(table, "openshell.drivers.local")
    except UpstreamProxyError as error:
        raise ConfigError(str(error)) from None
    return LocalDriverConfig(
        upstream_proxy=proxy,
        upstream_ca_bundle=os.path.abspath(bundle) if bundle else "",
        spiffe_workload_api_socket=table.get("provider_spiffe_workload_api_socket_path", ""),
        spiffe_jwt_svid_file=table.get("provider_spiffe_jwt_svid_file", ""),
        pids_limit=limit,
        gateway_addresses=gateway_addresses,
    )


def restrict_for_stranger(sandbox: openshell_pb2.Sandbox, driver_name: str) -> None:
    """Takes back what only the gateway's own user may ask for: a view of that user's files.

    Directories of a PATH are offers and are left out; paths asked for by name are refused.
    """
    section = sandbox.spec.template.driver_config.fields.get(driver_name)
    if section is None or driver_name != "local":
        return
    asked = section.struct_value.fields
    if "host_paths" in asked and asked["host_paths"].list_value.values:
        raise failed_precondition(
            "host paths are shown only to the user that the gateway runs as, on its machine; "
            "leave them out and copy the files in"
        )
    section.struct_value.fields.pop("tool_dirs", None)
