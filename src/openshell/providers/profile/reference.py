"""Tables for people: every key of a profile document, and the profiles that are built in.

Markdown made of the code's own tables; `deploy/generate_docs.py` puts it into `docs/providers.md`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from openshell.policy.document import MAX_DOCUMENT_BYTES
from openshell.providers.profile.builtin import builtin_profiles
from openshell.providers.profile.fields import SECTIONS, Field, Section
from openshell.providers.profile.limits import (
    COUNTS,
    DEFAULT_COUNT,
    DEFAULT_TEXT_BYTES,
    MAX_PROFILE_BYTES,
    TEXT_BYTES,
)
from openshell.providers.profile.model import ProviderProfile

__all__ = ["reference"]

_INTRO: Final = f"""\
A document is YAML or JSON, one profile a file, of at most {MAX_DOCUMENT_BYTES} bytes. A key that is unknown is
ignored, and the commands that read the file warn of it; a value of another type is refused. YAML has neither
anchors nor tags here, and a key appears once. The text of a profile comes to at most {MAX_PROFILE_BYTES} bytes, a
single value to {DEFAULT_TEXT_BYTES} and a list or map to {DEFAULT_COUNT} entries unless the table says otherwise.
Only `description` and `annotations` may have several lines.
"""


def reference() -> str:
    """The whole section, without its heading."""
    parts = [_INTRO]
    for section in SECTIONS:
        parts += [*_table(section), ""]
    parts += ["### Built-in profiles\n", *_builtin(), ""]
    return "\n".join(parts)


def _table(section: Section) -> Iterator[str]:
    yield f"### {section.title}\n"
    yield "| key | type | default | limit | meaning |"
    yield "|---|---|---|---|---|"
    for field in section.fields:
        kind = f"{field.type}, required" if field.required else field.type
        yield _row(f"`{field.name}`", kind, field.default, _limit(field), field.meaning)


def _limit(field: Field) -> str:
    parts = []
    if field.name in COUNTS:
        parts.append(f"{COUNTS[field.name]} entries")
    if field.name in TEXT_BYTES:
        parts.append(f"{TEXT_BYTES[field.name]} bytes")
    return "; ".join([*parts, *([field.limit] if field.limit else [])])


def _builtin() -> Iterator[str]:
    yield "| id | name | category | credentials | endpoints |"
    yield "|---|---|---|---|---|"
    for profile in builtin_profiles().values():
        category = profile.category.name.lower()
        yield _row(
            f"`{profile.id}`", profile.display_name, category, _variables(profile), _hosts(profile)
        )


def _variables(profile: ProviderProfile) -> str:
    """As `VAR` or `VAR` (required), one for each credential."""
    parts = []
    for credential in profile.credentials:
        names = " or ".join(f"`{name}`" for name in credential.env_vars)
        parts.append(f"{names} (required)" if credential.required else names)
    return ", ".join(parts)


def _hosts(profile: ProviderProfile) -> str:
    return ", ".join(f"`{host}`" for host in dict.fromkeys(e.host for e in profile.endpoints))


def _row(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"
