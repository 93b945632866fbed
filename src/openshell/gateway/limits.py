"""Limits of what clients may send (byte lengths unless a name says otherwise). Pure.

Each check raises INVALID_ARGUMENT with a sentence that names the field and the limit, never the
value. Called by services before anything is read from the store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from openshell._proto import openshell_pb2
from openshell.gateway.errors import invalid_argument

__all__ = [
    "check_annotations",
    "check_command",
    "check_create",
    "check_environment",
    "check_exec",
    "check_labels",
    "check_name",
    "check_required",
]

NAME_MAX = 19
"""Characters: three names and two separators must fit one DNS label of 63."""
PROVIDER_NAME_MAX = 253
"""A DNS name's length, as in other object stores."""
PROVIDERS_MAX = 32
"""Per sandbox; bounds one environment and one policy composition."""
LOG_LEVEL_MAX = 32
ENVIRONMENT_ENTRIES_MAX = 128
ENVIRONMENT_KEY_MAX = 256
ENVIRONMENT_VALUE_MAX = 8_192
ENVIRONMENT_TOTAL_MAX = 262_144
"""Keys and values of one map; with the command it stays below the kernel's argument limit."""
TEMPLATE_TEXT_MAX = 1_024
TEMPLATE_MAP_ENTRIES_MAX = 128
TEMPLATE_MAP_KEY_MAX = 256
TEMPLATE_MAP_VALUE_MAX = 8_192
TEMPLATE_STRUCT_MAX = 65_536
POLICY_MAX = 262_144
COMMAND_ARGS_MAX = 256
COMMAND_TOTAL_MAX = 262_144
ARG_MAX = 32_768
EXEC_ARGS_MAX = 1_024
EXEC_VALUE_MAX = 32_768
EXEC_WORKDIR_MAX = 4_096
LABEL_KEY_MAX = 253
LABEL_PART_MAX = 63
ANNOTATION_ENTRIES_MAX = 128
ANNOTATION_KEY_MAX = 256
ANNOTATION_VALUE_MAX = 8_192

RESERVED_PREFIX = "OPENSHELL_"
"""Environment keys that only the product itself sets."""
RESERVED_EXEC_EXCEPTION = "OPENSHELL_PYFUNC_B64"
"""The one reserved key that the SDK's `exec_python` sends with an exec."""

_NAME = re.compile(r"[a-z0-9](?:-?[a-z0-9])*\Z")
_ENV_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_LABEL_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?\Z")
_LABEL_PREFIX = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?\Z")
_LINE_BREAKING = ("\0", "\r", "\n")


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def check_required(field: str, value: str) -> None:
    if not value:
        raise invalid_argument(f"{field} is required")


def check_name(field: str, name: str) -> None:
    """Names of sandboxes, workspaces and services."""
    if not name or len(name) > NAME_MAX:
        raise invalid_argument(f"{field} must have 1 to {NAME_MAX} characters")
    if not _NAME.match(name):
        raise invalid_argument(
            f"{field} may hold a-z, 0-9 and single hyphens, and must begin and end with a letter or digit"
        )


def check_labels(field: str, labels: Mapping[str, str]) -> None:
    for key, value in labels.items():
        check_label_key(f"a key of {field}", key)
        if value and (_size(value) > LABEL_PART_MAX or not _LABEL_NAME.match(value)):
            raise invalid_argument(
                f"the value of {field} '{key}' must be empty or up to {LABEL_PART_MAX} characters "
                "of A-Z a-z 0-9 - _ . beginning and ending with a letter or digit"
            )


def check_label_key(field: str, key: str) -> None:
    if _size(key) > LABEL_KEY_MAX:
        raise invalid_argument(f"{field} is longer than {LABEL_KEY_MAX} bytes")
    prefix, separator, name = key.rpartition("/")
    if separator and (not _LABEL_PREFIX.match(prefix) or ".." in prefix):
        raise invalid_argument(f"{field} has a prefix that is no lower-case DNS name")
    if len(name) > LABEL_PART_MAX or not _LABEL_NAME.match(name):
        raise invalid_argument(
            f"{field} must be [prefix/]name with a name of 1 to {LABEL_PART_MAX} characters of "
            "A-Z a-z 0-9 - _ . beginning and ending with a letter or digit"
        )


def check_annotations(field: str, annotations: Mapping[str, str]) -> None:
    if len(annotations) > ANNOTATION_ENTRIES_MAX:
        raise invalid_argument(f"{field} may have at most {ANNOTATION_ENTRIES_MAX} entries")
    for key, value in annotations.items():
        if _size(key) > ANNOTATION_KEY_MAX:
            raise invalid_argument(f"a key of {field} is longer than {ANNOTATION_KEY_MAX} bytes")
        check_label_key(f"a key of {field}", key)
        if _size(value) > ANNOTATION_VALUE_MAX:
            raise invalid_argument(
                f"the value of {field} '{key}' is longer than {ANNOTATION_VALUE_MAX} bytes"
            )


def check_environment(field: str, environment: Mapping[str, str]) -> None:
    if len(environment) > ENVIRONMENT_ENTRIES_MAX:
        raise invalid_argument(f"{field} may have at most {ENVIRONMENT_ENTRIES_MAX} entries")
    total = 0
    for key, value in environment.items():
        _check_env_key(field, key)
        if key.startswith(RESERVED_PREFIX):
            raise invalid_argument(
                f"{field} '{key}': names beginning {RESERVED_PREFIX} are reserved"
            )
        _check_env_value(field, key, value, ENVIRONMENT_VALUE_MAX)
        total += _size(key) + _size(value)
    if total > ENVIRONMENT_TOTAL_MAX:
        raise invalid_argument(f"{field} is larger than {ENVIRONMENT_TOTAL_MAX} bytes in all")


def _check_env_key(field: str, key: str) -> None:
    if len(key) > ENVIRONMENT_KEY_MAX or not _ENV_KEY.match(key):
        raise invalid_argument(
            f"a key of {field} is no variable name (letters, digits, _; not beginning with a digit; "
            f"at most {ENVIRONMENT_KEY_MAX} bytes)"
        )


def _check_env_value(field: str, key: str, value: str, limit: int) -> None:
    if _size(value) > limit:
        raise invalid_argument(f"{field} '{key}' is longer than {limit} bytes")
    if any(character in value for character in _LINE_BREAKING):
        raise invalid_argument(f"{field} '{key}' must not hold NUL or line breaks")


def check_command(field: str, command: Sequence[str], args_max: int = COMMAND_ARGS_MAX) -> None:
    if not command or not command[0]:
        raise invalid_argument(f"{field} needs a program as its first element")
    if len(command) > args_max:
        raise invalid_argument(f"{field} may have at most {args_max} elements")
    total = 0
    for position, argument in enumerate(command):
        size = _size(argument)
        if size > ARG_MAX:
            raise invalid_argument(f"{field}[{position}] is longer than {ARG_MAX} bytes")
        if "\0" in argument:
            raise invalid_argument(f"{field}[{position}] must not hold NUL")
        total += size
    if total > COMMAND_TOTAL_MAX:
        raise invalid_argument(f"{field} is longer than {COMMAND_TOTAL_MAX} bytes in all")


def check_create(request: openshell_pb2.CreateSandboxRequest) -> None:
    """Everything in a create request that has a size; the policy's content is checked elsewhere."""
    spec, template = request.spec, request.spec.template
    if request.name:
        check_name("name", request.name)
    if _size(spec.log_level) > LOG_LEVEL_MAX:
        raise invalid_argument(f"spec.log_level is longer than {LOG_LEVEL_MAX} bytes")
    if len(spec.providers) > PROVIDERS_MAX:
        raise invalid_argument(f"spec.providers may have at most {PROVIDERS_MAX} entries")
    if len(set(spec.providers)) != len(spec.providers):
        raise invalid_argument("spec.providers names a provider twice")
    for provider in spec.providers:
        if not provider or _size(provider) > PROVIDER_NAME_MAX:
            raise invalid_argument(
                f"a name in spec.providers must have 1 to {PROVIDER_NAME_MAX} bytes"
            )
    check_environment("spec.environment", spec.environment)
    check_environment("spec.template.environment", template.environment)
    for field in ("image", "runtime_class_name", "agent_socket"):
        if _size(getattr(template, field)) > TEMPLATE_TEXT_MAX:
            raise invalid_argument(
                f"spec.template.{field} is longer than {TEMPLATE_TEXT_MAX} bytes"
            )
    _check_map("spec.template.labels", template.labels)
    _check_map("spec.template.annotations", template.annotations)
    for field in ("resources", "driver_config"):
        if getattr(template, field).ByteSize() > TEMPLATE_STRUCT_MAX:
            raise invalid_argument(
                f"spec.template.{field} is larger than {TEMPLATE_STRUCT_MAX} bytes"
            )
    if spec.policy.ByteSize() > POLICY_MAX:
        raise invalid_argument(f"spec.policy is larger than {POLICY_MAX} bytes")
    if spec.command:
        check_command("spec.command", spec.command)
    gpu = spec.resource_requirements.gpu
    if gpu.HasField("count") and gpu.count == 0:
        raise invalid_argument("spec.resource_requirements.gpu.count must be above 0 when given")
    check_labels("labels", request.labels)
    check_annotations("annotations", request.annotations)


def _check_map(field: str, entries: Mapping[str, str]) -> None:
    if len(entries) > TEMPLATE_MAP_ENTRIES_MAX:
        raise invalid_argument(f"{field} may have at most {TEMPLATE_MAP_ENTRIES_MAX} entries")
    for key, value in entries.items():
        if _size(key) > TEMPLATE_MAP_KEY_MAX or _size(value) > TEMPLATE_MAP_VALUE_MAX:
            raise invalid_argument(
                f"{field}: keys have at most {TEMPLATE_MAP_KEY_MAX} bytes, "
                f"values {TEMPLATE_MAP_VALUE_MAX}"
            )


def check_exec(request: openshell_pb2.ExecSandboxRequest) -> None:
    """An exec request, in the order of the contract."""
    check_required("sandbox_id", request.sandbox_id)
    if not request.command:
        raise invalid_argument("command is required")
    for key in request.environment:
        _check_env_key("environment", key)
    check_command("command", request.command, EXEC_ARGS_MAX)
    for key, value in request.environment.items():
        if key.startswith(RESERVED_PREFIX) and key != RESERVED_EXEC_EXCEPTION:
            raise invalid_argument(
                f"environment '{key}': names beginning {RESERVED_PREFIX} are reserved"
            )
        _check_env_value("environment", key, value, EXEC_VALUE_MAX)
    total = sum(_size(key) + _size(value) for key, value in request.environment.items())
    if total > ENVIRONMENT_TOTAL_MAX:
        raise invalid_argument(f"environment is larger than {ENVIRONMENT_TOTAL_MAX} bytes in all")
    workdir = request.workdir
    if _size(workdir) > EXEC_WORKDIR_MAX or any(c in workdir for c in _LINE_BREAKING):
        raise invalid_argument(
            f"workdir has at most {EXEC_WORKDIR_MAX} bytes and holds no NUL or line break"
        )
