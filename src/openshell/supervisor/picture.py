"""The report of a sandbox's state, as the gateway keeps and shows it. Pure."""

from collections.abc import Sequence

from openshell._proto import openshell_ext_pb2
from openshell.drivers.base import Phase
from openshell.drivers.launch import Exposure
from openshell.supervisor.isolation.model import Layer

__all__ = ["picture_of"]


def picture_of(
    phases: Sequence[Phase], layers: Sequence[Layer], exposure: Exposure
) -> openshell_ext_pb2.SandboxReport:
    """Phases, what each layer achieved, and what of the caller's files is visible."""
    return openshell_ext_pb2.SandboxReport(
        phases=[
            openshell_ext_pb2.CreationPhase(
                name=phase.name,
                started_at_ms=phase.started_at_ms,
                ended_at_ms=phase.ended_at_ms,
                error_code=phase.error_code,
                error_message=phase.error_message,
            )
            for phase in phases
        ],
        enforcement=openshell_ext_pb2.EnforcementReport(
            layers=[
                openshell_ext_pb2.EnforcementReport.Layer(
                    name=layer.name, status=str(layer.status), detail=layer.detail
                )
                for layer in layers
            ],
            exposed_paths=exposure.paths,
            interpreters=exposure.interpreters,
        ),
    )
