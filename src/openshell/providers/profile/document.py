"""Reads profile documents, YAML or JSON: bounded, strict about types, lenient about unknown keys.

`dialect` brings what people write into the model's shape and the schema here, made of the model's own
dataclasses, checks every type; so there is one definition of a profile. What the values mean is
`lint`'s; writing is `dump`'s. Importing this loads pydantic: gateway and profile commands only.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Final, Literal, NoReturn, TypeAlias

from pydantic import TypeAdapter, ValidationError

from openshell.policy.document import MAX_DOCUMENT_BYTES, Cursor, PolicyParseError, read_document
from openshell.policy.model import JsonValue
from openshell.providers.profile.dialect import DialectError, model_tree
from openshell.providers.profile.dump import dump_profile, profile_to_json
from openshell.providers.profile.findings import ProfileFinding
from openshell.providers.profile.model import ProviderProfile
from openshell.providers.profile.unknown_keys import unknown_keys

__all__ = [
    "Format",
    "ProfileDocumentError",
    "dump_profile",
    "local_findings",
    "profile_to_json",
    "read_profile",
]

Format: TypeAlias = Literal["yaml", "json"]
_Path: TypeAlias = tuple[str | int, ...]

# The largest number of any field is unsigned with 64 bits.
_LARGEST: Final = 2**64 - 1
_LEAST: Final = "'id' and 'display_name'"
# Deeper than any profile; the schema is six levels deep.
_MAX_DEPTH: Final = 32

_EXPECTED: Final[Mapping[str, str]] = MappingProxyType(
    {
        "string_type": "expected text",
        "bool_type": "expected true or false",
        "int_type": "expected a number",
        "tuple_type": "expected a list",
        "mapping_type": "expected a mapping",
        "dict_type": "expected a mapping",
        "dataclass_type": "expected a mapping",
    }
)
# Names of the model that documents spell differently.
_SPELLED: Final[Mapping[str, str]] = MappingProxyType(
    {"any_of": "any", "ports": "port", "advisor_proposed": "harness"}
)


class ProfileDocumentError(ValueError):
    """The text is not a profile. `line` counts from 1, 0 is unknown; `path` is the place in it."""

    def __init__(self, *, file: str, line: int, path: str, message: str) -> None:
        where = f"{file}:{line}" if line else file
        at = f" at {path}" if path else ""
        super().__init__(f"failed to parse provider profile: {where}:{at} {message}")
        self.file = file
        self.line = line
        self.path = path
        self.message = message


def read_profile(text: str, *, source: str, format: Format) -> ProviderProfile:  # noqa: A002 (the word of `-o`)
    """One profile. `source` names the file in errors. Raises `ProfileDocumentError`."""
    document = _tree(text, source, format)
    try:
        shaped = json.dumps(model_tree(document))
        profile = _schema().validate_json(shaped, strict=True)
    except DialectError as error:
        _fail(text, source, error.path, error.message)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        _fail(text, source, first["loc"], _EXPECTED.get(first["type"], first["msg"]))
    annotations = MappingProxyType(dict(sorted(profile.annotations.items())))
    return replace(profile, annotations=annotations)


def local_findings(text: str, *, source: str, format: Format) -> tuple[ProfileFinding, ...]:  # noqa: A002
    """What only the document can tell: empty lists of rules, a tool named twice, unknown keys.

    Messages carry none of it, so a client checks before it sends. Raises `ProfileDocumentError`.
    """
    document = _tree(text, source, format)
    ignored = unknown_keys(document, _places(text, source))
    endpoints = document.get("endpoints") if isinstance(document, Mapping) else None
    if not isinstance(endpoints, tuple):
        return ignored
    wrong = tuple(
        finding
        for index, endpoint in enumerate(endpoints)
        if isinstance(endpoint, Mapping)
        for finding in _endpoint_findings(endpoint, f"endpoints[{index}]")
    )
    return (*wrong, *ignored)


def _places(text: str, source: str) -> Cursor | None:
    """The document with the lines of its keys; None for JSON that is no YAML, as with tabs."""
    try:
        return read_document(text, source=source, least=_LEAST)
    except PolicyParseError:
        return None


def _endpoint_findings(endpoint: Mapping[str, JsonValue], where: str) -> Iterator[ProfileFinding]:
    rules, denials = endpoint.get("rules"), endpoint.get("deny_rules")
    if rules == ():
        yield ProfileFinding(where, "an empty rules list would deny all traffic; remove the key")
    if denials == ():
        yield ProfileFinding(where, "an empty deny_rules list has no effect; remove the key")
    entries = [
        (f"{where}.rules[{index}].allow", item.get("allow"))
        for index, item in enumerate(rules if isinstance(rules, tuple) else ())
        if isinstance(item, Mapping)
    ]
    entries += [
        (f"{where}.deny_rules[{index}]", item)
        for index, item in enumerate(denials if isinstance(denials, tuple) else ())
    ]
    for field, rule in entries:
        if not isinstance(rule, Mapping) or rule.get("tool") is None:
            continue
        params = rule.get("params")
        if isinstance(params, Mapping) and "name" in params:
            yield ProfileFinding(
                f"{field}.tool", "tool and params.name are the same; write one of them"
            )


@functools.cache
def _schema() -> TypeAdapter[ProviderProfile]:
    return TypeAdapter(ProviderProfile)


def _tree(text: str, source: str, format: Format) -> JsonValue:  # noqa: A002
    if format == "json":
        return _read_json(text, source)
    try:
        return read_document(text, source=source, least=_LEAST).json(_LARGEST)
    except PolicyParseError as error:
        raise ProfileDocumentError(
            file=source, line=error.line, path=error.path, message=error.message
        ) from None


def _read_json(text: str, source: str) -> JsonValue:
    def fail(message: str, line: int = 0) -> NoReturn:
        raise ProfileDocumentError(file=source, line=line, path="", message=message)

    def entries(pairs: list[tuple[str, JsonValue]]) -> JsonValue:
        out = dict(pairs)
        if len(out) < len(pairs):
            names = [name for name, _ in pairs]
            fail(f"duplicate key '{next(n for n in names if names.count(n) > 1)[:80]}'")
        return out

    if len(text) > MAX_DOCUMENT_BYTES or len(text.encode("utf-8", "replace")) > MAX_DOCUMENT_BYTES:
        fail(f"the document is larger than {MAX_DOCUMENT_BYTES} bytes")
    try:
        value = json.loads(text, object_pairs_hook=entries)
    except json.JSONDecodeError as error:
        fail(f"not valid JSON: {error.msg}", error.lineno)
    except RecursionError:
        fail(f"nested deeper than {_MAX_DEPTH} levels")
    except ValueError as error:
        if isinstance(error, ProfileDocumentError):
            raise
        # Python refuses to convert very long numbers.
        fail("contains a number that is too long")
    return _plain(value, source, 0)


def _plain(value: JsonValue, source: str, depth: int) -> JsonValue:
    """The same tree as YAML gives: tuples for lists, no NUL, bounded depth."""
    problem = ""
    if depth > _MAX_DEPTH:
        problem = f"nested deeper than {_MAX_DEPTH} levels"
    elif isinstance(value, str) and "\0" in value:
        problem = "text contains a NUL character"
    if problem:
        raise ProfileDocumentError(file=source, line=0, path="", message=problem)
    if isinstance(value, list):
        return tuple(_plain(item, source, depth + 1) for item in value)
    if isinstance(value, dict):
        return {key: _plain(item, source, depth + 1) for key, item in value.items()}
    return value


def _fail(text: str, source: str, path: _Path, message: str) -> NoReturn:
    """Looks the place up again; JSON is looked up as the YAML that it nearly always is."""
    try:
        at = read_document(text, source=source, least=_LEAST)
    except PolicyParseError:
        raise ProfileDocumentError(
            file=source, line=0, path=_written(path), message=message
        ) from None
    for step in path:
        at = _below(at, step)
    raise ProfileDocumentError(file=source, line=at.node.line, path=at.path, message=message)


def _below(at: Cursor, step: str | int) -> Cursor:
    """The place one step further, or the same where document and model differ."""
    if isinstance(step, int):
        items = at.items() if at.is_list else []
        # The model has the rule itself where the document has `allow: rule`.
        return _below(items[step], "allow") if step < len(items) else at
    entries = dict(at.entries()) if at.is_mapping else {}
    return entries.get(step) or entries.get(_SPELLED.get(step, step)) or at


def _written(path: _Path) -> str:
    parts = (f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return "".join(parts).lstrip(".")
