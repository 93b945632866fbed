"""The committed generated code is what the .proto files compile to, and it is cheap to import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / "src" / "openshell" / "_proto"


def test_committed_code_is_what_the_protos_compile_to(tmp_path: Path) -> None:
    pytest.importorskip("grpc_tools", reason="needs grpcio-tools to compile the protos again")
    script = ROOT / "deploy" / "generate_protos.py"
    run = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    fresh = {path.name: path.read_text() for path in tmp_path.glob("*_pb2*")}
    committed = {path.name: path.read_text() for path in COMMITTED.glob("*_pb2*")}
    assert "openshell_pb2.py" in fresh
    assert sorted(fresh) == sorted(committed)
    stale = [name for name in fresh if fresh[name] != committed[name]]
    assert not stale, "run `make protos` with the versions of the development extra"


def test_messages_do_not_import_grpc() -> None:
    probe = "import sys; import {module}; sys.exit('grpc' in sys.modules)"
    for module, code in [
        ("openshell._proto.openshell_pb2", 0),
        ("openshell._proto.openshell_pb2_grpc", 1),
    ]:
        run = subprocess.run([sys.executable, "-c", probe.format(module=module)], check=False)
        assert run.returncode == code, module
