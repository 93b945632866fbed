"""All checks of one profile by itself, and of the profiles of one request beside each other.

Everything wrong is reported, in the contract's order, and nothing stops at the first. What depends on
the catalogue or on sandboxes is the gateway's; what only a document can tell is `document`'s. Called
by the gateway for every profile that it is sent and, because older versions stored what this one
refuses, for every profile that it reads back.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final, Literal

from openshell.providers.client_certificates import check_client_certificate
from openshell.providers.profile.findings import ProfileFinding
from openshell.providers.profile.ids import is_canonical_id
from openshell.providers.profile.limits import is_too_large, limit_findings
from openshell.providers.profile.lint_credentials import check_credentials
from openshell.providers.profile.lint_endpoints import check_endpoints
from openshell.providers.profile.model import ProviderProfile

__all__ = ["MAX_FINDINGS", "ProfileFinding", "batch_findings", "lint_profile"]

# For one profile. Nobody reads more.
MAX_FINDINGS: Final = 200
# For all profiles of a request, so that the answer fits into a message; each still gets a few.
_MAX_TOGETHER: Final = 1000
_LEAST: Final = 3
# Findings quote what they are about, which may be as long as a value may be.
_MAX_TEXT: Final = 400


def lint_profile(profile: ProviderProfile) -> tuple[ProfileFinding, ...]:
    """Everything wrong with the profile by itself; empty when it may be stored."""
    return _bounded(itertools.chain(_check_id(profile.id), _check_rest(profile)), MAX_FINDINGS)


def batch_findings(
    profiles: Sequence[ProviderProfile],
) -> tuple[tuple[ProfileFinding, ...], ...]:
    """For each profile what is wrong with it, its id among the others' included."""
    # As written: two spellings of one id are refused for themselves.
    counts = Counter(profile.id for profile in profiles)
    most = max(_LEAST, min(MAX_FINDINGS, _MAX_TOGETHER // max(1, len(profiles))))
    return tuple(
        _bounded(
            itertools.chain(
                _check_id(profile.id),
                _check_repeated(profile.id, counts[profile.id]),
                _check_rest(profile),
            ),
            most,
        )
        for profile in profiles
    )


def _check_id(profile_id: str) -> Iterator[ProfileFinding]:
    if not profile_id.strip():
        yield ProfileFinding("id", "an id is required")
    elif not is_canonical_id(profile_id):
        yield ProfileFinding(
            "id",
            "the id must be lowercase kebab-case: letters a-z and digits, in words joined by "
            "single '-'",
        )


def _check_repeated(profile_id: str, count: int) -> Iterator[ProfileFinding]:
    if count > 1 and profile_id.strip():
        yield ProfileFinding("id", f"duplicate id: {count} profiles of this request have it")


def _check_rest(profile: ProviderProfile) -> Iterator[ProfileFinding]:
    yield from limit_findings(profile)
    if is_too_large(profile):
        return
    yield from _check_names(profile)
    yield from _check_discovery(profile)
    yield from check_credentials(profile)
    yield from check_endpoints(profile)
    yield from check_client_certificate(profile)
    for index, binary in enumerate(profile.binaries):
        if not binary.path.strip():
            yield ProfileFinding(f"binaries[{index}]", "a binary must not be blank")
        elif not binary.path.startswith(("/", "*")):
            message = "the path is not absolute and matches no program"
            yield ProfileFinding(f"binaries[{index}]", message, "warning")


def _check_names(profile: ProviderProfile) -> Iterator[ProfileFinding]:
    seen: set[str] = set()
    for credential in profile.credentials:
        name = credential.name.strip()
        if not name:
            yield ProfileFinding("credentials.name", "a credential's name is required")
        elif name in seen:
            yield ProfileFinding("credentials.name", f"duplicate credential name '{name}'")
        seen.add(name)


def _check_discovery(profile: ProviderProfile) -> Iterator[ProfileFinding]:
    if profile.discovery is None:
        return
    declared = {credential.name.strip() for credential in profile.credentials}
    seen: set[str] = set()
    for index, written in enumerate(profile.discovery.credentials):
        name, field = written.strip(), f"discovery.credentials[{index}]"
        if not name:
            yield ProfileFinding(field, "an entry must not be empty")
        elif name in seen:
            yield ProfileFinding(field, f"duplicate entry '{name}'")
        elif name not in declared:
            yield ProfileFinding(field, f"unknown credential '{name}'; declare it in credentials")
        seen.add(name)


def _bounded(findings: Iterator[ProfileFinding], most: int) -> tuple[ProfileFinding, ...]:
    """The first ones. What is left out counts by its severity, so that no error gets lost."""
    shown = tuple(map(_shortened, itertools.islice(findings, most)))
    left = errors = 0
    for finding in findings:
        left += 1
        errors += finding.is_error
    if not left:
        return shown
    severity: Literal["error", "warning"] = "error" if errors else "warning"
    return (*shown, ProfileFinding("profile", f"{left} more findings are not shown", severity))


def _shortened(finding: ProfileFinding) -> ProfileFinding:
    if len(finding.field) + len(finding.message) <= _MAX_TEXT:
        return finding
    field, message = finding.field, finding.message
    return ProfileFinding(
        field if len(field) <= _MAX_TEXT else f"{field[:_MAX_TEXT]}…",
        message if len(message) <= _MAX_TEXT else f"{message[:_MAX_TEXT]}…",
        finding.severity,
    )
