"""Compile /proto into src/openshell/_proto (or into the directory given as the only argument).

Called by `make protos` and by the test that keeps the committed output honest. Needs the
development extra (grpcio-tools, mypy-protobuf); the output is a function of their versions and of
the .proto files, of nothing else. protoc writes imports of top-level modules; they are rewritten to
the package they really live in.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from grpc_tools import protoc  # type: ignore[import-untyped]

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
TARGET = ROOT / "src" / "openshell" / "_proto"
PACKAGE = "openshell._proto"

# Only these are written and removed in the target; __init__.py is kept by hand.
_GENERATED = ("*_pb2.py", "*_pb2.pyi", "*_pb2_grpc.py", "*_pb2_grpc.pyi")

_IMPORT_AS = re.compile(r"^import (\w+_pb2) as (\w+)$", re.MULTILINE)
_IMPORT = re.compile(r"^import (\w+_pb2)$", re.MULTILINE)
_IMPORT_STUB = re.compile(r"^from (\w+_pb2) import ", re.MULTILINE)


def generate(target: Path) -> None:
    """Write every generated module into target, replacing those of an earlier run."""
    names = sorted(path.name for path in PROTO.glob("*.proto"))
    # protoc finds the plugins of mypy-protobuf beside the interpreter, wherever that is.
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    well_known = resources.files("grpc_tools") / "_proto"
    with tempfile.TemporaryDirectory() as scratch:
        status = protoc.main(
            [
                "protoc",
                f"-I{PROTO}",
                f"-I{well_known}",
                f"--python_out={scratch}",
                f"--grpc_python_out={scratch}",
                f"--mypy_out=quiet:{scratch}",
                f"--mypy_grpc_out=quiet:{scratch}",
                *names,
            ]
        )
        if status != 0:
            raise SystemExit(f"protoc failed with status {status}")
        for pattern in _GENERATED:
            for old in target.glob(pattern):
                old.unlink()
        for pattern in _GENERATED:
            for made in sorted(Path(scratch).glob(pattern)):
                made.write_text(_rehome(made.read_text()))
                if _is_empty_service(made):
                    continue
                shutil.copyfile(made, target / made.name)


def _rehome(text: str) -> str:
    text = _IMPORT_AS.sub(rf"from {PACKAGE} import \1 as \2", text)
    text = _IMPORT.sub(rf"from {PACKAGE} import \1", text)
    return _IMPORT_STUB.sub(rf"from {PACKAGE}.\1 import ", text)


def _is_empty_service(made: Path) -> bool:
    """Files without a service get a _grpc module that holds nothing but a version check."""
    if "_pb2_grpc" not in made.name:
        return False
    source = PROTO / made.name.replace("_pb2_grpc.pyi", ".proto").replace("_pb2_grpc.py", ".proto")
    return not re.search(r"^service ", source.read_text(), re.MULTILINE)


def main(arguments: Sequence[str]) -> None:
    target = Path(arguments[0]) if arguments else TARGET
    target.mkdir(parents=True, exist_ok=True)
    generate(target)


if __name__ == "__main__":
    main(sys.argv[1:])
