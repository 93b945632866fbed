"""Google's application default credentials: the file that `gcloud auth application-default login` writes.

Pure over the environment and a way of reading files. Only a user's credentials can be handed over; what
else the file may hold is refused with the way to go. No refusal shows a value.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from openshell.cli.failures import CliError
from openshell.cli.provider_discovery import read_text
from openshell.providers.profile.model import Strategy

if TYPE_CHECKING:
    from openshell.providers.profile.model import ProviderProfile

__all__ = ["FIELDS", "UserCredentials", "adc_path", "credential_key_for", "read_adc"]

FIELDS: Final = ("client_id", "client_secret", "refresh_token")
"""What the file must hold, and what the profile's refresh must ask for."""

_LOGIN: Final = "Make one with: gcloud auth application-default login"


@dataclass(frozen=True, slots=True)
class UserCredentials:
    """The refresh grant of a person."""

    client_id: str
    client_secret: str = field(repr=False)
    refresh_token: str = field(repr=False)

    @property
    def material(self) -> dict[str, str]:
        return {name: getattr(self, name) for name in FIELDS}


def credential_key_for(profile: ProviderProfile) -> str:
    """The environment key that such a grant renews: of the first credential that asks for its parts.

    Raises:
        CliError: the profile has no such credential.
    """
    for credential in profile.credentials:
        refresh = credential.refresh
        if refresh is None or refresh.strategy is not Strategy.OAUTH2_REFRESH_TOKEN:
            continue
        if set(FIELDS) <= {material.name for material in refresh.material} and credential.env_vars:
            return credential.env_vars[0]
    raise CliError(
        f"profile '{profile.id}' has no credential for a person's Google login: it needs one with "
        "strategy oauth2_refresh_token and material client_id, client_secret, refresh_token\n"
        "google-cloud and google-vertex-ai have one"
    )


def adc_path(environ: Mapping[str, str]) -> str:
    """Where the file is."""
    if environ.get("GOOGLE_APPLICATION_CREDENTIALS"):
        return environ["GOOGLE_APPLICATION_CREDENTIALS"]
    base = environ.get("CLOUDSDK_CONFIG") or os.path.join(
        environ.get("HOME", ""), ".config", "gcloud"
    )
    return os.path.join(base, "application_default_credentials.json")


def read_adc(
    environ: Mapping[str, str], read: Callable[[str], str | None] = read_text
) -> UserCredentials:
    """Reads the file.

    Raises:
        CliError: it is not there, is no such file, or holds another kind of credentials.
    """
    path = adc_path(environ)
    text = read(path)
    if text is None:
        raise CliError(f"no application default credentials: cannot read {path}\n{_LOGIN}")
    try:
        document = json.loads(text)
    except ValueError:
        # Without its cause: a parser's error carries the text, and that is secret.
        raise CliError(f"{path} is not JSON\n{_LOGIN}") from None
    kind = document.get("type") if isinstance(document, dict) else None
    if kind == "service_account":
        raise CliError(
            f"{path} holds a service account's key, not a person's login\n"
            "Use it with: openshell provider refresh configure NAME "
            "--strategy google-service-account-jwt"
        )
    if kind != "authorized_user":
        raise CliError(f"{path} is not of type 'authorized_user'\n{_LOGIN}")
    missing = [name for name in FIELDS if not _text(document.get(name))]
    if missing:
        raise CliError(f"{path} lacks {', '.join(missing)}\n{_LOGIN}")
    return UserCredentials(*(document[name] for name in FIELDS))


def _text(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip())
