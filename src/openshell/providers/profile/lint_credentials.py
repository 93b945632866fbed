"""Checks of a profile's credentials: variables, how they are sent, how they are renewed.

Token grants are in `lint_grants`. Called by `lint` only. Names were checked before; the contract has
every name of the profile ahead of everything else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from openshell.policy.overlap import Budget
from openshell.providers.env_names import is_env_key, is_reserved_env_key
from openshell.providers.profile.findings import ProfileFinding
from openshell.providers.profile.lint_grants import check_grant
from openshell.providers.profile.model import (
    CREDENTIAL_TEMPLATE,
    ProfileCredential,
    ProviderProfile,
    Refresh,
    RefreshOutput,
    Strategy,
)
from openshell.providers.refresh import STS_OUTPUTS, STS_PRIMARY_KEY

__all__ = ["check_credentials"]

# Steps of comparing overrides, for all grants of a profile together: a fraction of a second.
_COMPARING: Final = 50_000
_STYLES: Final = ("", "basic", "bearer", "header", "query", "path")
_REFRESH: Final = "credentials.refresh"
_OUTPUTS: Final = "credentials.refresh.additional_outputs"


def check_credentials(profile: ProviderProfile) -> Iterator[ProfileFinding]:
    siblings: dict[str, ProfileCredential] = {}
    for credential in profile.credentials:
        siblings.setdefault(credential.name.strip(), credential)
    variables: set[str] = set()
    budget = Budget(_COMPARING)
    for credential in profile.credentials:
        yield from _check_variables(credential, variables)
        yield from _check_style(credential)
        if credential.refresh is not None:
            yield from _check_refresh(credential, credential.refresh, siblings)
        if credential.token_grant is not None:
            yield from check_grant(credential, credential.token_grant, profile, budget)


def _about(credential: ProfileCredential) -> str:
    return f"credential '{credential.name.strip()}'"


def _check_variables(credential: ProfileCredential, seen: set[str]) -> Iterator[ProfileFinding]:
    field, about = "credentials.env_vars", _about(credential)
    for name in credential.env_vars:
        if not name.strip():
            yield ProfileFinding(field, f"{about}: an environment variable must not be empty")
        elif is_reserved_env_key(name):
            yield ProfileFinding(
                field,
                f"{about}: environment variable '{name}' is in the reserved placeholder namespace",
            )
        elif not is_env_key(name):
            yield ProfileFinding(
                field,
                f"{about}: '{name}' is no environment variable name (letters, digits and _, not "
                "starting with a digit)",
            )
        elif name in seen:
            yield ProfileFinding(field, f"{about}: duplicate environment variable '{name}'")
        seen.add(name)


def _check_style(credential: ProfileCredential) -> Iterator[ProfileFinding]:
    style, about = credential.auth_style.strip().lower(), _about(credential)
    if style in ("bearer", "header"):
        if not credential.header_name.strip():
            yield ProfileFinding(
                "credentials.header_name", f"{about}: header_name is required for {style} auth"
            )
    elif style == "path":
        yield from _check_template(credential.path_template, about)
    elif style == "query":
        if not credential.query_param.strip():
            yield ProfileFinding(
                "credentials.query_param", f"{about}: query_param is required for query auth"
            )
    elif style not in _STYLES:
        yield ProfileFinding(
            "credentials.auth_style",
            f"{about}: unsupported auth_style '{credential.auth_style}'; expected one of "
            + ", ".join(_STYLES[1:]),
        )


def _check_template(template: str, about: str) -> Iterator[ProfileFinding]:
    field = "credentials.path_template"
    if not template.strip():
        yield ProfileFinding(field, f"{about}: path_template is required for path auth")
        return
    count = template.count(CREDENTIAL_TEMPLATE)
    if count != 1:
        yield ProfileFinding(
            field,
            f"{about}: path_template must contain {CREDENTIAL_TEMPLATE} exactly once, found {count}",
        )


def _check_refresh(
    credential: ProfileCredential, refresh: Refresh, siblings: Mapping[str, ProfileCredential]
) -> Iterator[ProfileFinding]:
    about = _about(credential)
    if refresh.strategy is Strategy.UNSPECIFIED:
        yield ProfileFinding(f"{_REFRESH}.strategy", f"{about}: a refresh strategy is required")
    for name in ("refresh_before_seconds", "max_lifetime_seconds"):
        if getattr(refresh, name) < 0:
            yield ProfileFinding(f"{_REFRESH}.{name}", f"{about}: {name} must be >= 0")
    yield from _check_material(refresh, about)
    yield from _check_outputs(refresh, about, siblings)
    if refresh.strategy is Strategy.AWS_STS_ASSUME_ROLE and credential.env_vars != (
        STS_PRIMARY_KEY,
    ):
        yield ProfileFinding(
            "credentials.env_vars",
            f"{about}: with strategy {refresh.strategy.name.lower()} its only environment variable "
            f"must be {STS_PRIMARY_KEY}",
        )


def _check_material(refresh: Refresh, about: str) -> Iterator[ProfileFinding]:
    field = f"{_REFRESH}.material.name"
    seen: set[str] = set()
    for material in refresh.material:
        name = material.name.strip()
        if not name:
            yield ProfileFinding(field, f"{about}: a name of refresh material is required")
        elif name in seen:
            yield ProfileFinding(field, f"{about}: duplicate refresh material '{name}'")
        seen.add(name)


def _check_outputs(
    refresh: Refresh, about: str, siblings: Mapping[str, ProfileCredential]
) -> Iterator[ProfileFinding]:
    if refresh.strategy is not Strategy.AWS_STS_ASSUME_ROLE:
        if refresh.additional_outputs:
            yield ProfileFinding(
                _OUTPUTS, f"{about}: additional outputs are unsupported with this strategy"
            )
        return
    mapped = {item.output.strip() for item in refresh.additional_outputs}
    for output in STS_OUTPUTS:
        if output not in mapped:
            yield ProfileFinding(
                _OUTPUTS, f"{about}: required output '{output}' is mapped to no credential"
            )
    seen: set[str] = set()
    for item in refresh.additional_outputs:
        output = item.output.strip()
        field = f"{_OUTPUTS}.output"
        if not output:
            yield ProfileFinding(field, f"{about}: an output must not be empty")
        elif output in seen:
            yield ProfileFinding(field, f"{about}: duplicate output '{output}'")
        elif output not in STS_OUTPUTS:
            yield ProfileFinding(field, f"{about}: the strategy has no output '{output}'")
        seen.add(output)
        yield from _check_receiver(item, STS_OUTPUTS.get(output), about, siblings)


def _check_receiver(
    item: RefreshOutput,
    variable: str | None,
    about: str,
    siblings: Mapping[str, ProfileCredential],
) -> Iterator[ProfileFinding]:
    field, name = f"{_OUTPUTS}.credential", item.credential.strip()
    receiver = siblings.get(name) if name else None
    if receiver is None:
        yield ProfileFinding(
            field,
            f"{about}: output '{item.output}' goes to unknown credential '{item.credential}'",
        )
        return
    if receiver.refresh is not None:
        yield ProfileFinding(
            field, f"{about}: credential '{name}' has a refresh of its own and takes no output"
        )
    if len(receiver.env_vars) != 1:
        yield ProfileFinding(
            field, f"{about}: credential '{name}' must have exactly one environment variable"
        )
    elif variable is not None and receiver.env_vars[0] != variable:
        yield ProfileFinding(
            field,
            f"{about}: credential '{name}' receives output '{item.output}', so its environment "
            f"variable must be {variable}",
        )
