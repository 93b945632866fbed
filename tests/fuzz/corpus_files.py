"""The corpus: inputs of each target, one on a line, written as Python writes bytes, without the quotes.

`corpus/TARGET/seeds.txt` holds what people wrote, `grown.txt` what fuzzing added because it reached new
code, `found.txt` what once broke a target and must never do so again. Lines that begin with `# ` are remarks.
"""

from __future__ import annotations

import ast
from pathlib import Path

__all__ = ["CORPUS", "FILES", "escaped", "read_corpus", "read_lines", "write_lines"]

CORPUS = Path(__file__).parent / "corpus"
# No input is written like this.
_EMPTY = "\\"
FILES = ("seeds.txt", "grown.txt", "found.txt")


def read_corpus(target: str) -> list[bytes]:
    return [data for name in FILES for data in read_lines(CORPUS / target / name)]


def read_lines(path: Path) -> list[bytes]:
    if not path.exists():
        return []
    lines = path.read_text(encoding="ascii").split("\n")
    return [_unescaped(line) for line in lines if line and not line.startswith("# ")]


def write_lines(path: Path, inputs: list[bytes]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(escaped(data) + "\n" for data in inputs), encoding="ascii")


def escaped(data: bytes) -> str:
    """One line: nothing of it is lost by editors, or taken for a remark."""
    text = "".join(map(_character, data))
    if text.startswith("# "):
        text = "\\x23" + text[1:]
    return text[:-1] + "\\x20" if text.endswith(" ") else text or _EMPTY


def _character(byte: int) -> str:
    known = {0x0A: "\\n", 0x0D: "\\r", 0x09: "\\t", 0x5C: "\\\\"}.get(byte)
    return known or (chr(byte) if 0x20 <= byte < 0x7F else f"\\x{byte:02x}")


def _unescaped(line: str) -> bytes:
    if line == _EMPTY:
        return b""
    quoted = line.replace('"', '\\"')
    found = ast.literal_eval(f'b"{quoted}"')
    assert isinstance(found, bytes)
    return found
