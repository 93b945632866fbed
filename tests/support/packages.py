"""Files of two package indexes that any web server can serve: one for pip, one for npm."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import tarfile
import zipfile
from pathlib import Path

__all__ = ["write_npm_registry", "write_python_index"]


def write_python_index(files: Path) -> str:
    """Package `greeting` 1.0 for pip below `simple` and `packages`; the wheel's SHA-256."""
    info = "greeting-1.0.dist-info"
    contents = {
        "greeting.py": "WORD = 'hello from pip'\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: greeting\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    contents[f"{info}/RECORD"] = "".join(f"{name},,\n" for name in contents)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
    digest = hashlib.sha256(packed.getvalue()).hexdigest()
    wheel = "greeting-1.0-py3-none-any.whl"
    for path in ("simple/greeting", "packages"):
        (files / path).mkdir(parents=True)
    (files / "packages" / wheel).write_bytes(packed.getvalue())
    (files / "simple/greeting/index.html").write_text(
        f'<!DOCTYPE html><a href="/packages/{wheel}#sha256={digest}">{wheel}</a>'
    )
    return digest


def write_npm_registry(files: Path, address: str) -> None:
    """Package `shout` 1.0.0 for npm, to be served at `address`."""
    manifest = {"name": "shout", "version": "1.0.0", "main": "index.js"}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name, text in (
            ("package/package.json", json.dumps(manifest)),
            ("package/index.js", "module.exports = 'hello from npm'\n"),
        ):
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text.encode()))
    digest = base64.b64encode(hashlib.sha512(packed.getvalue()).digest()).decode()
    dist = {"tarball": f"{address}/shout/-/shout-1.0.0.tgz", "integrity": f"sha512-{digest}"}
    (files / "shout/-").mkdir(parents=True)
    (files / "shout/-/shout-1.0.0.tgz").write_bytes(packed.getvalue())
    (files / "shout.json").write_text(
        json.dumps(
            {
                "name": "shout",
                "dist-tags": {"latest": "1.0.0"},
                "versions": {"1.0.0": {**manifest, "dist": dist}},
            }
        )
    )
