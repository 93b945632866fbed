"""A public sandbox record as its compute driver sees it, and driver errors as the API's. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format, struct_pb2

from openshell._proto import openshell_pb2
from openshell.drivers.base import (
    DriverError,
    DriverErrorCode,
    DriverSandbox,
    PlatformEvent,
    Resources,
)
from openshell.gateway.errors import ApiError, Code, invalid_argument

__all__ = ["driver_error", "driver_sandbox", "platform_event"]

_QUANTITY_GROUPS = ("requests", "limits")
_QUANTITIES = ("cpu", "memory")

_CODES = {
    DriverErrorCode.ALREADY_EXISTS: Code.ALREADY_EXISTS,
    DriverErrorCode.NOT_FOUND: Code.NOT_FOUND,
    DriverErrorCode.INVALID_ARGUMENT: Code.INVALID_ARGUMENT,
    DriverErrorCode.FAILED_PRECONDITION: Code.FAILED_PRECONDITION,
    DriverErrorCode.INTERNAL: Code.INTERNAL,
}


def driver_error(error: DriverError, prefix: str = "") -> ApiError:
    """The same code and sentence, for a client."""
    return ApiError(_CODES[error.code], f"{prefix}{error.message}")


def driver_sandbox(
    sandbox: openshell_pb2.Sandbox, driver_name: str, *, endpoint: str
) -> DriverSandbox:
    """What the driver needs, without token and configuration. Raises INVALID_ARGUMENT."""
    spec, template = sandbox.spec, sandbox.spec.template
    resources = _plain(template.resources)
    quantities, raw = _split_resources(resources)
    platform: dict[str, Any] = {}
    if raw:
        platform["resources_raw"] = raw
    if template.runtime_class_name:
        platform["runtime_class_name"] = template.runtime_class_name
    if template.annotations:
        platform["annotations"] = dict(template.annotations)
    if template.HasField("user_namespaces"):
        platform["host_users"] = not template.user_namespaces
    gpu = spec.resource_requirements.gpu
    return DriverSandbox(
        id=sandbox.metadata.id,
        name=sandbox.metadata.name,
        workspace=sandbox.metadata.workspace,
        command=tuple(spec.command),
        tty=spec.tty,
        environment={**template.environment, **spec.environment},
        image=template.image,
        labels=dict(template.labels),
        resources=Resources(
            cpu_request=quantities.get(("requests", "cpu"), ""),
            cpu_limit=quantities.get(("limits", "cpu"), ""),
            memory_request=quantities.get(("requests", "memory"), ""),
            memory_limit=quantities.get(("limits", "memory"), ""),
            gpu=(gpu.count or 1) if spec.resource_requirements.HasField("gpu") else 0,
        ),
        agent_socket=template.agent_socket,
        platform_config=platform,
        driver_config=_own_config(template.driver_config, driver_name),
        log_level=spec.log_level,
        endpoint=endpoint,
    )


def _plain(struct: struct_pb2.Struct) -> dict[str, Any]:
    """A Struct's values as Python's; whole numbers become integers again."""
    return {key: _integral(value) for key, value in json_format.MessageToDict(struct).items()}


def _integral(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _integral(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_integral(item) for item in value]
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return int(value)
    return value


def _split_resources(
    resources: Mapping[str, Any],
) -> tuple[dict[tuple[str, str], str], dict[str, Any]]:
    quantities: dict[tuple[str, str], str] = {}
    raw: dict[str, Any] = {}
    for group, content in resources.items():
        if group not in _QUANTITY_GROUPS or not isinstance(content, Mapping):
            raw[group] = content
            continue
        for name, value in content.items():
            if name in _QUANTITIES and isinstance(value, str):
                quantities[group, name] = value
            else:
                raw.setdefault(group, {})[name] = value
    return quantities, raw


def _own_config(config: struct_pb2.Struct, driver_name: str) -> dict[str, Any]:
    if driver_name not in config.fields:
        return {}
    own = config.fields[driver_name]
    if own.WhichOneof("kind") != "struct_value":
        raise invalid_argument(f"template.driver_config.{driver_name} must be an object")
    return _plain(own.struct_value)


def platform_event(event: PlatformEvent) -> openshell_pb2.PlatformEvent:
    return openshell_pb2.PlatformEvent(
        timestamp_ms=event.timestamp_ms,
        source=event.source,
        type=event.type,
        reason=event.reason,
        message=event.message,
        metadata=dict(event.metadata),
    )
