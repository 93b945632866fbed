"""Rights per kernel and the effective path lists, without a kernel."""

from __future__ import annotations

import struct

import pytest

from openshell.supervisor.isolation.landlock import (
    Right,
    plan_landlock,
    rights_for,
    ruleset_attributes,
    scopes_for,
)
from openshell.supervisor.isolation.model import ExposedPath, LandlockMode, SandboxSpec

ABIS = [
    (1, 0x1FFF, 0, 1),
    (2, 0x3FFF, 0, 1),
    (3, 0x7FFF, 0, 1),
    (4, 0x7FFF, 0, 2),
    (5, 0xFFFF, 0, 2),
    (6, 0xFFFF, 3, 3),
    (7, 0xFFFF, 3, 3),
]


@pytest.mark.parametrize(("abi", "rights", "scopes", "words"), ABIS)
def test_attributes_are_what_the_kernel_knows(
    abi: int, rights: int, scopes: int, words: int
) -> None:
    assert rights_for(abi) == rights
    assert scopes_for(abi) == scopes
    encoded = ruleset_attributes(abi)
    assert struct.unpack(f"={words}Q", encoded) == (rights, 0, scopes)[:words]
    assert Right.WRITE_FILE in rights_for(abi)


def spec(**fields: object) -> SandboxSpec:
    base: dict[str, object] = {
        "id": "a",
        "name": "a",
        "hostname": "a",
        "workspace_dir": "/srv/w",
        "host_uid": 1,
        "host_gid": 1,
    }
    return SandboxSpec(**{**base, **fields})  # type: ignore[arg-type]


def test_the_workspace_is_writable_once() -> None:
    plan = plan_landlock(spec(read_write=("/sandbox", "/tmp", "/tmp/")))
    assert plan.read_write == ("/sandbox", "/tmp")
    plan = plan_landlock(spec(read_write=("/tmp",)))
    assert plan.read_write == ("/tmp", "/sandbox")


def test_no_lists_and_no_workspace_means_no_rules() -> None:
    assert not plan_landlock(spec(include_workdir=False)).wanted
    assert plan_landlock(spec()).wanted


def test_derived_paths_stand_apart_from_the_policys() -> None:
    plan = plan_landlock(
        spec(
            read_only=("/usr//", "/opt/tool"),
            exposed=(ExposedPath("/opt/tool"), ExposedPath("/opt/link", "/opt/real")),
            landlock=LandlockMode.HARD_REQUIREMENT,
        )
    )
    assert plan.read_only == ("/usr", "/opt/tool")
    assert plan.derived_read_only == ("/opt/link", "/etc/openshell-tls", "/etc/openshell")
    assert "/dev/null" in plan.derived_read_write
    assert plan.mode is LandlockMode.HARD_REQUIREMENT
