"""Loads the case tables of this directory as pytest parameters with their ids."""

from pathlib import Path

import pytest
import yaml

CASES = Path(__file__).parent / "cases"


def load(name):
    rows = yaml.safe_load((CASES / f"{name}.yaml").read_text())
    ids = [row["id"] for row in rows]
    assert len(set(ids)) == len(ids), "two cases share an id"
    return [pytest.param(row, id=row["id"]) for row in rows]
