"""Environment variables that a provider's configuration stands for: plain settings, no secrets.

Only Google's two types have any. A variable is left out when its setting is missing or blank. The
caller lets credentials of the same name win. `env_keys` and `environment` ask.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from openshell.providers.records import ProviderRecord

__all__ = ["METADATA_HOST", "plugin_environment"]

METADATA_HOST: Final = "gcp.metadata.openshell.internal"
"""Where Google's libraries look for tokens; the supervisor puts its own listener in its place."""

_GCLOUD: Final = "google-cloud"
_VERTEX: Final = "google-vertex-ai"

_FROM_CONFIG: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        _GCLOUD: MappingProxyType(
            {
                "project_id": ("GCP_PROJECT_ID", "GOOGLE_CLOUD_PROJECT"),
                "region": ("CLOUD_ML_REGION", "GCP_LOCATION"),
                "service_account_email": ("GCP_SERVICE_ACCOUNT_EMAIL",),
            }
        ),
        _VERTEX: MappingProxyType(
            {
                "VERTEX_AI_PROJECT_ID": (
                    "GCP_PROJECT_ID",
                    "GOOGLE_CLOUD_PROJECT",
                    "ANTHROPIC_VERTEX_PROJECT_ID",
                ),
                "VERTEX_AI_REGION": ("CLOUD_ML_REGION", "GCP_LOCATION", "VERTEX_LOCATION"),
            }
        ),
    }
)
_ALWAYS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        _GCLOUD: ("GCE_METADATA_HOST", METADATA_HOST),
        _VERTEX: ("GOOSE_PROVIDER", "gcp_vertex_ai"),
    }
)


def plugin_environment(record: ProviderRecord) -> dict[str, str]:
    kind = record.canonical_type
    if kind not in _ALWAYS:
        return {}
    name, fixed = _ALWAYS[kind]
    found = {name: fixed}
    for setting, variables in _FROM_CONFIG[kind].items():
        value = record.config.get(setting, "").strip()
        # No setting has line breaks, and no process starts with a NUL in its environment.
        if value and value.isprintable():
            found.update(dict.fromkeys(variables, value))
    return found
