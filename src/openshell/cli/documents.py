"""The JSON and YAML documents of the contract, made of the gateway's messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from openshell._proto import openshell_pb2
from openshell.cli.output import timestamp

if TYPE_CHECKING:
    from openshell._proto import datamodel_pb2, openshell_ext_pb2

__all__ = [
    "credential_keys",
    "enforcement_document",
    "phase_name",
    "phases_document",
    "provider_document",
    "sandbox_document",
]


def phase_name(sandbox: openshell_pb2.Sandbox) -> str:
    """`Ready`, `Error`, ...; `Exited (0)` for a sandbox whose main process has ended; `Paused`."""
    status = sandbox.status
    if status.phase == openshell_pb2.SANDBOX_PHASE_ERROR and status.HasField("exit_code"):
        return f"Exited ({status.exit_code})"
    if status.phase == openshell_pb2.SANDBOX_PHASE_READY and any(
        condition.type == "Paused" and condition.status == "True" for condition in status.conditions
    ):
        return "Paused"
    name = openshell_pb2.SandboxPhase.Name(status.phase)
    return name.removeprefix("SANDBOX_PHASE_").capitalize()


def sandbox_document(sandbox: openshell_pb2.Sandbox) -> dict[str, Any]:
    metadata = sandbox.metadata
    document: dict[str, Any] = {
        "annotations": dict(metadata.annotations),
        "created_at": timestamp(metadata.created_at_ms),
        "current_policy_version": sandbox.status.current_policy_version,
        "id": metadata.id,
        "labels": dict(metadata.labels),
        "name": metadata.name,
        "phase": phase_name(sandbox),
        "resource_version": metadata.resource_version,
        "workspace": metadata.workspace,
    }
    if sandbox.status.HasField("exit_code"):
        document["exit_code"] = sandbox.status.exit_code
    return document


def phases_document(sandbox: openshell_pb2.Sandbox) -> list[dict[str, Any]]:
    return [
        {
            "name": phase.name,
            "milliseconds": max(0, phase.ended_at_ms - phase.started_at_ms)
            if phase.ended_at_ms
            else None,
            "error_code": phase.error_code,
            "error_message": phase.error_message,
        }
        for phase in sandbox.status.creation_phases
    ]


def enforcement_document(report: openshell_ext_pb2.EnforcementReport) -> dict[str, Any]:
    return {
        "layers": [
            {"name": layer.name, "status": layer.status, "detail": layer.detail}
            for layer in report.layers
        ],
        "exposed_paths": list(report.exposed_paths),
        "interpreters": list(report.interpreters),
    }


def credential_keys(provider: datamodel_pb2.Provider) -> list[str]:
    """Names of the credentials, wherever their values are kept."""
    return sorted({*provider.credentials, *provider.credential_handles})


def provider_document(provider: datamodel_pb2.Provider) -> dict[str, Any]:
    metadata = provider.metadata
    document: dict[str, Any] = {
        "id": metadata.id,
        "name": metadata.name,
        "workspace": metadata.workspace,
        "type": provider.type,
        "credential_keys": credential_keys(provider),
    }
    optional: dict[str, Any] = {
        "config_keys": sorted(provider.config),
        "labels": dict(metadata.labels),
        "resource_version": metadata.resource_version,
        "created_at": timestamp(metadata.created_at_ms) if metadata.created_at_ms else "",
        "credential_expires_at_ms": dict(provider.credential_expires_at_ms),
    }
    document.update({key: value for key, value in optional.items() if value})
    return document
