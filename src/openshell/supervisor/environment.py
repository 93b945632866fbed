"""The environment of a program inside a sandbox, from its layers.

Pure. The order of the layers differs between the main process and later ones, as the contract
has it; secrets never appear here (provider values are placeholders). The session calls it for
each program with the snapshot of that moment.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass

from openshell.supervisor.isolation.model import TRUST_DIRECTORY, TRUST_FILES, WORKSPACE
from openshell.supervisor.isolation.network import PROXY_ADDRESS, PROXY_PORT
from openshell.supervisor.isolation.spawning import DEFAULT_PATH

__all__ = [
    "SHOWN_KEYS",
    "SUPERVISOR_ONLY",
    "ProgramRole",
    "SandboxUser",
    "child_environment",
    "search_path",
]

_PREFIX = "OPENSHELL_"
_NO_PROXY = "127.0.0.1,localhost,::1"

# Of the supervisor alone: no layer may bring them in, a provider's least of all.
SUPERVISOR_ONLY = frozenset(
    {
        "OPENSHELL_OCI_IMAGE_USER",
        "OPENSHELL_SANDBOX_UID",
        "OPENSHELL_SANDBOX_GID",
        "OPENSHELL_SANDBOX_TOKEN",
        "OPENSHELL_SANDBOX_TOKEN_FILE",
        "OPENSHELL_K8S_SA_TOKEN_FILE",
        "OPENSHELL_TLS_CA",
        "OPENSHELL_TLS_CERT",
        "OPENSHELL_TLS_KEY",
        "OPENSHELL_PROVIDER_SPIFFE_WORKLOAD_API_SOCKET",
        "OPENSHELL_PROVIDER_SPIFFE_JWT_SVID_FILE",
        "OPENSHELL_NETWORK_RUNTIME_CAPABILITIES",
    }
)

# Tell Google's libraries to ask a metadata server on the sandbox's loopback. There is none yet, and a
# library that waits for one hangs where it would otherwise use what it was given.
_METADATA_SERVER = frozenset({"GCE_METADATA_HOST", "GCE_METADATA_IP", "METADATA_SERVER_DETECTION"})
# Settings from a provider's configuration that tools read themselves: a placeholder in them would go
# nowhere to be replaced. Shown only when the gateway lists them as no secret.
SHOWN_KEYS = _METADATA_SERVER | {
    "ANTHROPIC_VERTEX_PROJECT_ID",
    "CLOUD_ML_REGION",
    "GCP_LOCATION",
    "GCP_PROJECT_ID",
    "GCP_SERVICE_ACCOUNT_EMAIL",
    "GOOGLE_CLOUD_PROJECT",
    "GOOSE_PROVIDER",
    "VERTEX_LOCATION",
}
_PLACEHOLDER = "openshell:resolve:env:"


class ProgramRole(enum.Enum):
    MAIN = "main"
    EXEC = "exec"


@dataclass(frozen=True, slots=True)
class SandboxUser:
    """Whom the program runs as, as it sees itself."""

    name: str = "sandbox"
    home: str = WORKSPACE
    shell: str = "/bin/bash"


def search_path(exposed: tuple[str, ...]) -> str:
    """PATH with exposed program directories before the system's, as the caller had them."""
    return ":".join(dict.fromkeys((*exposed, *DEFAULT_PATH.split(":"))))


def _proxy_variables(port: int) -> dict[str, str]:
    url = f"http://{PROXY_ADDRESS}:{port}"
    names = (
        "ALL_PROXY",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "http_proxy",
        "https_proxy",
        "grpc_proxy",
    )
    return {
        **dict.fromkeys(names, url),
        "NO_PROXY": _NO_PROXY,
        "no_proxy": _NO_PROXY,
        "NODE_USE_ENV_PROXY": "1",
    }


def _trust_variables(directory: str) -> dict[str, str]:
    own, bundle = (f"{directory}/{name}" for name in TRUST_FILES)
    return {
        **dict.fromkeys(("NODE_EXTRA_CA_CERTS", "DENO_CERT"), own),
        **dict.fromkeys(
            ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO"), bundle
        ),
        # A file of the host's that is shown inside may name roots of its own (`cafile` in a npmrc, `cert`
        # in a pip.conf): only these variables outrank it. gRPC's C core knows none of those above.
        **dict.fromkeys(
            ("npm_config_cafile", "PIP_CERT", "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH"), bundle
        ),
    }


def child_environment(
    *,
    role: ProgramRole,
    user_env: Mapping[str, str],
    provider_env: Mapping[str, str],
    terminal: str | None,
    user: SandboxUser | None = None,
    path: str = DEFAULT_PATH,
    proxy_port: int = PROXY_PORT,
    trust_directory: str | None = TRUST_DIRECTORY,
) -> dict[str, str]:
    """Lay the layers over each other, later ones winning.

    `terminal` is the TERM of a program on a terminal (empty means the usual one), None for one on
    pipes. Without a CA `trust_directory` is None and the TLS variables are absent.
    """
    who = user or SandboxUser()
    term = "dumb" if terminal is None else terminal or "xterm-256color"
    own = {"HOME": who.home, "USER": who.name, "SHELL": who.shell, "TERM": term}
    given = {k: v for k, v in user_env.items() if not k.startswith(_PREFIX)}
    provided = {k: v for k, v in provider_env.items() if _may_provide(k, v)}
    mark = {"OPENSHELL_SANDBOX": "1"}
    network = _proxy_variables(proxy_port)
    trust = _trust_variables(trust_directory) if trust_directory is not None else {}
    if role is ProgramRole.MAIN:
        kept = {name: value for name, value in own.items() if name not in given}
        layers = ({"PATH": path}, given, mark, provided, kept, network, trust)
    else:
        layers = ({"PATH": path}, mark, own, given, network, trust, provided)
    merged: dict[str, str] = {}
    for layer in layers:
        merged |= layer
    return merged


def _may_provide(key: str, value: str) -> bool:
    if key in _METADATA_SERVER:
        # As a secret of that name it is the user's own affair, and a placeholder here.
        return value.startswith(_PLACEHOLDER)
    return key not in SUPERVISOR_ONLY
