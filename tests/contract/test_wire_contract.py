"""The contract's table against the compiled descriptors, in both directions.

`wire.tsv` is data of the contract shared with other implementations: every file, message, field,
enum, method and authorization rule. All of it must exist as it says, and whatever exists beyond it
must be recognisable as an extension: the package openshell.ext.v1, or a number from 1000.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor import Descriptor, FieldDescriptor, FileDescriptor

from openshell._proto import options_pb2

FIRST_EXTENSION = 1000
EXTENSION_PACKAGE = "openshell.ext.v1"
PROTO = Path(__file__).parents[2] / "proto"

_SCALARS = {
    FieldDescriptor.TYPE_DOUBLE: "double",
    FieldDescriptor.TYPE_FLOAT: "float",
    FieldDescriptor.TYPE_INT64: "int64",
    FieldDescriptor.TYPE_UINT64: "uint64",
    FieldDescriptor.TYPE_INT32: "int32",
    FieldDescriptor.TYPE_BOOL: "bool",
    FieldDescriptor.TYPE_STRING: "string",
    FieldDescriptor.TYPE_BYTES: "bytes",
    FieldDescriptor.TYPE_UINT32: "uint32",
}


class Row(NamedTuple):
    file: str
    kind: str
    owner: str
    number_or_auth: str
    name: str
    type_or_request: str
    note: str


def _table() -> set[Row]:
    with (Path(__file__).parent / "wire.tsv").open(newline="") as lines:
        rows = [Row(*(cell.strip() for cell in row)) for row in csv.reader(lines, delimiter="\t")]
    return set(rows[1:])


def _type_name(field: FieldDescriptor) -> str:
    if field.message_type is not None:
        return field.message_type.full_name
    if field.enum_type is not None:
        return field.enum_type.full_name
    return _SCALARS[field.type]


def _full_type(field: FieldDescriptor) -> str:
    message = field.message_type
    if message is not None and message.GetOptions().map_entry:
        key, value = (message.fields_by_name[name] for name in ("key", "value"))
        return f"map<{_type_name(key)},{_type_name(value)}>"
    if field.is_repeated:
        return f"repeated {_type_name(field)}"
    if field.containing_oneof is not None and field.containing_oneof.name == f"_{field.name}":
        return f"optional {_type_name(field)}"
    return _type_name(field)


def _note(field: FieldDescriptor) -> str:
    notes = []
    oneof = field.containing_oneof
    if oneof is not None and oneof.name != f"_{field.name}":
        notes.append(f"oneof {oneof.name}")
    if field.GetOptions().Extensions[options_pb2.secret]:
        notes.append("secret")
    return " ".join(notes)


def _messages(file: FileDescriptor) -> Iterator[Descriptor]:
    waiting = list(file.message_types_by_name.values())
    while waiting:
        message = waiting.pop()
        waiting += [m for m in message.nested_types if not m.GetOptions().map_entry]
        yield message


def _message_rows(message: Descriptor) -> Iterator[Row]:
    file = message.file.name
    owner = message.full_name
    contract = [field for field in message.fields if field.number < FIRST_EXTENSION]
    for field in message.fields:
        number = str(field.number)
        yield Row(file, "field", owner, number, field.name, _full_type(field), _note(field))
    if not contract:
        yield Row(file, "message", owner, "", "", "(no fields)", "")
    raw = descriptor_pb2.DescriptorProto()
    message.CopyToProto(raw)
    for span in raw.reserved_range:
        for taken in range(span.start, span.end):
            yield Row(file, "reserved", owner, str(taken), "", "", "")


def _service_rows(file: FileDescriptor) -> Iterator[Row]:
    for service in file.services_by_name.values():
        for method in service.methods:
            rule = method.GetOptions().Extensions[options_pb2.authorization]
            auth = [rule.auth_mode]
            auth += [f"{f.name}={v}" for f, v in rule.ListFields() if f.name != "auth_mode"]
            asked = ("stream " if method.client_streaming else "") + method.input_type.full_name
            told = ("stream " if method.server_streaming else "") + method.output_type.full_name
            owner = service.full_name
            yield Row(file.name, "rpc", owner, ";".join(auth), method.name, asked, told)


def _compiled() -> set[Row]:
    rows: set[Row] = set()
    for path in PROTO.glob("*.proto"):
        file: FileDescriptor = import_module(f"openshell._proto.{path.stem}_pb2").DESCRIPTOR
        for message in _messages(file):
            rows.update(_message_rows(message))
        rows.update(_service_rows(file))
        for enum in file.enum_types_by_name.values():
            for value in enum.values:
                number = str(value.number)
                rows.add(Row(file.name, "enum", enum.full_name, number, value.name, "", ""))
    return rows


TABLE = _table()
COMPILED = _compiled()


def test_table_is_whole() -> None:
    kinds = {kind: sum(row.kind == kind for row in TABLE) for kind in ("rpc", "field", "enum")}
    assert kinds == {"rpc": 95, "field": 1052, "enum": 77}


@pytest.mark.parametrize("kind", ["rpc", "field", "message", "enum", "reserved"])
def test_contract_is_compiled_as_written(kind: str) -> None:
    missing = {row for row in TABLE if row.kind == kind} - COMPILED
    assert not missing


def test_what_is_beyond_the_contract_is_an_extension() -> None:
    def is_extension(row: Row) -> bool:
        if row.owner.startswith(f"{EXTENSION_PACKAGE}."):
            return True
        return row.kind == "field" and int(row.number_or_auth) >= FIRST_EXTENSION

    beyond = COMPILED - TABLE
    assert beyond, "extensions exist, so an empty difference means a blind comparison"
    assert not {row for row in beyond if not is_extension(row)}


def test_no_extension_hides_in_the_table() -> None:
    numbers = [int(row.number_or_auth) for row in TABLE if row.kind == "field"]
    assert max(numbers) < FIRST_EXTENSION


@pytest.mark.parametrize(
    "change",
    [
        {"name": "renamed"},
        {"number_or_auth": "999"},
        {"type_or_request": "bytes"},
        {"note": "secret"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_comparison_sees_a_changed_field(change: dict[str, str]) -> None:
    name = next(r for r in TABLE if r.owner == "openshell.v1.GetSandboxRequest")
    assert name in COMPILED
    assert name._replace(**change) not in COMPILED
