"""From the gateway's request to a launch plan: what the local driver accepts and what it refuses.

Everything is checked before anything exists. What the driver cannot do is refused by name with
FAILED_PRECONDITION; what is malformed with INVALID_ARGUMENT. Touches the file system only to look
at the directories that are to be exposed.
"""

import decimal
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from openshell.drivers.base import DriverError, DriverErrorCode, DriverSandbox, Resources

__all__ = [
    "DEFAULT_IMAGE",
    "Limits",
    "LocalConfig",
    "check_credentials",
    "check_request",
    "parse_config",
    "parse_limits",
]

# Stands for the host's own view; has "/" and ":" so that `--from` keeps it as it is.
DEFAULT_IMAGE = "openshell/host:local"

# Directories of one PATH, and named ones: more is a mistake, and each costs a mount.
_MAX_TOOL_DIRS = 128
_MAX_HOST_PATHS = 64
_MAX_PATH = 4096

_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?)(m|[kMGTPE]i?)?\Z")
_SCALE = {
    "": decimal.Decimal(1),
    "m": decimal.Decimal("0.001"),
    **{unit: decimal.Decimal(1000) ** power for power, unit in enumerate("kMGTPE", 1)},
    **{f"{unit}i": decimal.Decimal(1024) ** power for power, unit in enumerate("KMGTPE", 1)},
    "ki": decimal.Decimal(1024),
}
# Less than this cannot run an interpreter and a shell.
_MIN_MEMORY = 16 << 20
_MIN_CPU_MILLIS = 10
# More than any machine has, and small enough for every file of the kernel that takes it.
_MAX_MEMORY = 1 << 50
_MAX_CPU_MILLIS = 10_000_000


@dataclass(frozen=True, slots=True)
class LocalConfig:
    """Settings of `template.driver_config.local`."""

    tool_dirs: tuple[str, ...] = ()
    host_paths: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Limits:
    """Zero: none was asked for."""

    memory_bytes: int = 0
    cpu_millis: int = 0


def check_request(sandbox: DriverSandbox) -> None:
    """Refuse what this driver has no notion of."""
    if sandbox.image not in {"", DEFAULT_IMAGE}:
        _unsupported(
            f"the local driver shows the host's own files and cannot run the image "
            f"'{sandbox.image}': leave the image out, or use another compute driver"
        )
    if sandbox.agent_socket:
        _unsupported("the local driver has no agent_socket: leave it out")
    if sandbox.platform_config:
        names = ", ".join(sorted(sandbox.platform_config))
        _unsupported(f"the local driver has no such template settings: {names}")
    if sandbox.resources.gpu:
        _unsupported("the local driver cannot give a sandbox a GPU yet")
    if sandbox.resources.cpu_request or sandbox.resources.memory_request:
        _unsupported("the local driver has no requests, only limits: use resources.limits")


def check_credentials(sandbox: DriverSandbox, endpoint: str) -> None:
    """Refuse a sandbox whose supervisor could not reach its gateway."""
    if not sandbox.token:
        _unsupported("the local driver needs a token for the supervisor: enable sandbox tokens")
    if not sandbox.endpoint and not endpoint:
        _unsupported("the local driver needs the address of the gateway's local socket")


def parse_config(config: Mapping[str, Any]) -> LocalConfig:
    """Read driver_config.local strictly."""
    unknown = sorted(set(config) - {"tool_dirs", "host_paths"})
    if unknown:
        _malformed(f"driver_config.local has no key '{unknown[0]}'")
    return LocalConfig(
        tool_dirs=_paths(config.get("tool_dirs", ()), "tool_dirs", _MAX_TOOL_DIRS),
        host_paths=_host_paths(config.get("host_paths", ())),
    )


def parse_limits(resources: Resources) -> Limits:
    """Kubernetes quantities into bytes and thousandths of a processor."""
    memory = _quantity(resources.memory_limit, "memory limit")
    cpu = _quantity(resources.cpu_limit, "cpu limit")
    memory_bytes = int(memory)
    cpu_millis = int(cpu * 1000)
    if resources.memory_limit and memory_bytes < _MIN_MEMORY:
        _malformed(f"the memory limit must be at least {_MIN_MEMORY >> 20}Mi")
    if resources.cpu_limit and cpu_millis < _MIN_CPU_MILLIS:
        _malformed(f"the cpu limit must be at least {_MIN_CPU_MILLIS}m")
    if memory_bytes > _MAX_MEMORY:
        _malformed(f"the memory limit must be at most {_MAX_MEMORY >> 40}Ti")
    if cpu_millis > _MAX_CPU_MILLIS:
        _malformed(f"the cpu limit must be at most {_MAX_CPU_MILLIS // 1000}")
    return Limits(memory_bytes, cpu_millis)


def _quantity(text: str, what: str) -> decimal.Decimal:
    if not text:
        return decimal.Decimal(0)
    match = _QUANTITY.match(text) if len(text) <= 32 else None
    if match is None:
        _malformed(f"the {what} is no quantity such as 500m or 2Gi")
    return decimal.Decimal(match[1]) * _SCALE[match[2] or ""]


def _paths(value: object, name: str, limit: int) -> tuple[str, ...]:
    if not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        _malformed(f"driver_config.local.{name} must be a list of paths")
    if len(value) > limit:
        _malformed(f"driver_config.local.{name} has more than {limit} entries")
    paths: list[str] = []
    for item in value:
        if not isinstance(item, str) or not item.startswith("/") or "\0" in item:
            _malformed(f"driver_config.local.{name} holds something that is no absolute path")
        if len(os.fsencode(item)) > _MAX_PATH:
            _malformed(f"driver_config.local.{name} holds a path of more than {_MAX_PATH} bytes")
        paths.append(os.path.normpath(item))
    return tuple(dict.fromkeys(paths))


def _host_paths(value: object) -> tuple[str, ...]:
    paths = _paths(value, "host_paths", _MAX_HOST_PATHS)
    for path in paths:
        if not os.path.exists(path):
            _unsupported(f"{path} does not exist, so it cannot be made visible in the sandbox")
    return paths


def _malformed(message: str) -> NoReturn:
    raise DriverError(DriverErrorCode.INVALID_ARGUMENT, message)


def _unsupported(message: str) -> NoReturn:
    raise DriverError(DriverErrorCode.FAILED_PRECONDITION, message)
