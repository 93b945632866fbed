"""The configuration directory: layers, names, resolution, the last sandbox."""

import json
from pathlib import Path

import pytest

from openshell.sdk.errors import SandboxError
from openshell.sdk.registry import GatewayRecord, Registry


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "system" / "gateways").mkdir(parents=True)
    return Registry(tmp_path / "user", tmp_path / "system")


def add_system(registry: Registry, name: str, **document: object) -> None:
    directory = registry.system_directory / "gateways" / name
    directory.mkdir(parents=True)
    base = {"name": name, "gateway_endpoint": f"https://{name}", "is_remote": True}
    (directory / "metadata.json").write_text(json.dumps({**base, **document}))


def test_saved_gateway_comes_back_and_is_private(registry: Registry) -> None:
    record = GatewayRecord("one", "https://127.0.0.1:1", auth_mode="mtls")
    registry.save(record, activate=True)
    assert registry.get("one") == record
    assert registry.active() == "one"
    assert (registry.directory / "gateways/one").stat().st_mode & 0o777 == 0o700


def test_user_entry_shadows_the_system_even_when_broken(registry: Registry) -> None:
    add_system(registry, "one")
    assert registry.get("one") is not None
    directory = registry.gateway_directory("one")
    assert registry.get("one") is not None, "a directory without metadata does not shadow"
    (directory / "metadata.json").write_text("{")
    assert registry.get("one") is None
    assert registry.list() == []


@pytest.mark.parametrize(
    "document",
    [
        {"gateway_endpoint": 1},
        {"auth_mode": ["mtls"]},
        {"is_remote": "yes", "gateway_endpoint": None},
    ],
    ids=["endpoint number", "auth list", "endpoint null"],
)
def test_wrong_types_make_an_entry_unreadable(
    registry: Registry, document: dict[str, object]
) -> None:
    add_system(registry, "one", **document)
    assert registry.get("one") is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b"])
def test_a_name_is_one_path_component(registry: Registry, name: str) -> None:
    with pytest.raises(SandboxError, match="invalid gateway name"):
        registry.get(name)


def test_active_file_that_is_no_name_falls_back_to_the_system(registry: Registry) -> None:
    registry.directory.mkdir()
    (registry.directory / "active_gateway").write_text("../evil\n")
    assert registry.active() is None
    (registry.system_directory / "active_gateway").write_text(" sys \n")
    assert registry.active() == "sys"


def test_resolution_order(registry: Registry) -> None:
    assert registry.resolve(endpoint=None, gateway=None) is None
    for name in ("one", "two"):
        registry.save(GatewayRecord(name, f"https://{name}:1"), activate=name == "one")
    active = registry.resolve(endpoint=None, gateway=None)
    named = registry.resolve(endpoint=None, gateway="two")
    by_url = registry.resolve(endpoint="https://two:1/", gateway=None)
    stranger = registry.resolve(endpoint="https://three:1", gateway=None)
    assert [x.name for x in (active, named, by_url, stranger) if x] == [
        "one",
        "two",
        "two",
        "https://three:1",
    ]
    with pytest.raises(SandboxError, match="Unknown gateway 'nobody'"):
        registry.resolve(endpoint=None, gateway="nobody")


def test_removal_forgets_the_active_choice_but_never_the_system(registry: Registry) -> None:
    registry.save(GatewayRecord("one", "https://one:1"), activate=True)
    add_system(registry, "sys")
    registry.remove("one")
    assert registry.active() is None
    with pytest.raises(SandboxError, match="whole machine"):
        registry.remove("sys")


def test_last_sandbox_belongs_to_gateway_and_workspace(registry: Registry) -> None:
    registry.record_last_sandbox("one", "default", "box")
    assert registry.last_sandbox("one", "default") == "box"
    assert registry.last_sandbox("one", "other") is None
    assert registry.last_sandbox("two", "default") is None
    registry.clear_last_sandbox("one", "default", "another")
    assert registry.last_sandbox("one", "default") == "box"
    registry.clear_last_sandbox("one", "default", "box")
    assert registry.last_sandbox("one", "default") is None


def test_directories_come_from_the_environment(tmp_path: Path) -> None:
    assert Registry.from_environment({"HOME": "/h"}).directory == Path("/h/.config/openshell")
    found = Registry.from_environment(
        {"XDG_CONFIG_HOME": "/x", "OPENSHELL_SYSTEM_GATEWAY_DIR": str(tmp_path)}
    )
    assert (found.directory, found.system_directory) == (Path("/x/openshell"), tmp_path)
    relative = Registry.from_environment({"HOME": "/h", "OPENSHELL_SYSTEM_GATEWAY_DIR": "rel"})
    assert relative.system_directory == Path("/etc/openshell")
    with pytest.raises(SandboxError, match="HOME"):
        Registry.from_environment({})
