"""Tables, structured output and what terminals are spared."""

import json

import pytest
import yaml

from openshell._proto import openshell_pb2
from openshell.cli.documents import phase_name
from openshell.cli.logs import format_line
from openshell.cli.output import print_structured, print_table, printable, timestamp


def test_table_columns(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(["NAME", "PHASE"], [["a-long-name", "Ready"], ["b", "Error"]])
    assert capsys.readouterr().out == (
        "NAME         PHASE\na-long-name  Ready\nb            Error\n"
    )
    print_table(["NAME"], [])
    assert capsys.readouterr().out == "NAME\n"


def test_structured_output_is_sorted_and_the_same_in_both_forms(
    capsys: pytest.CaptureFixture[str],
) -> None:
    document = {"b": [1, {"z": None, "a": True}], "a": "é"}
    print_structured(document, "json")
    text = capsys.readouterr().out
    assert text.index('"a"') < text.index('"b"')
    print_structured(document, "yaml")
    assert yaml.safe_load(capsys.readouterr().out) == json.loads(text) == document


@pytest.mark.parametrize(
    ("epoch_ms", "text"),
    [
        (0, "-"),
        (-5, "-"),
        (1_700_000_000_000, "2023-11-14 22:13:20"),
        (2**63 - 1, "9999-12-31 23:59:59"),
    ],
)
def test_times(epoch_ms: int, text: str) -> None:
    assert timestamp(epoch_ms) == text


def test_json_cannot_drive_the_terminal_either(capsys: pytest.CaptureFixture[str]) -> None:
    document = {"a": "\x1b[31m\x7f\x9b31m\u202e\U000e0001 \u00e9"}
    print_structured(document, "json")
    text = capsys.readouterr().out
    assert text.replace("\n", "").isprintable()
    assert "\u00e9" in text
    assert json.loads(text) == document


def test_what_a_sandbox_writes_cannot_drive_the_terminal() -> None:
    assert printable("a\x1b]0;evil\x07b\u202e") == "a\\x1b]0;evil\\x07b\\x202e"
    line = openshell_pb2.SandboxLogLine(
        timestamp_ms=1234567,
        level="OCSF",
        target="ocsf",
        message="x\x1b[2J\ny",
        source="sandbox",
        fields={"b": "2", "a": "1"},
    )
    assert format_line(line) == ("[1234.567] [sandbox] [OCSF ] [ocsf] x\\x1b[2J\\x0ay a=1 b=2")


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (openshell_pb2.SandboxStatus(phase=2), "Ready"),
        (openshell_pb2.SandboxStatus(phase=3), "Error"),
        (openshell_pb2.SandboxStatus(phase=3, exit_code=0), "Exited (0)"),
        (openshell_pb2.SandboxStatus(phase=3, exit_code=7), "Exited (7)"),
    ],
)
def test_phase_names(status: openshell_pb2.SandboxStatus, text: str) -> None:
    assert phase_name(openshell_pb2.Sandbox(status=status)) == text
