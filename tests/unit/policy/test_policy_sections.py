"""Default policy, enrichment and what may change while a sandbox lives."""

from dataclasses import replace

from openshell.policy import validate_policy
from openshell.policy.defaults import enrich, restrictive_default, without_provider_rules
from openshell.policy.model import (
    FilesystemPolicy,
    LandlockPolicy,
    NetworkRule,
    ProcessPolicy,
    SandboxPolicy,
)
from openshell.policy.static import check_static_change, inherit_static

RULES = {"r": NetworkRule("r"), "_provider_x": NetworkRule("_provider_x")}


def everywhere(_path):
    return True


def test_the_default_allows_files_and_no_network():
    default = restrictive_default()
    assert validate_policy(default) == ()
    assert not default.network_policies and default.process is None
    assert default.filesystem.include_workdir
    assert enrich(default, everywhere) is default


def test_enrichment_adds_only_what_exists_and_is_missing():
    bare = SandboxPolicy(network_policies=RULES)
    added = enrich(bare, lambda path: path in ("/usr", "/tmp"))
    assert added.filesystem == FilesystemPolicy(True, ("/usr",), ("/tmp",))
    own = replace(bare, filesystem=FilesystemPolicy(False, ("/tmp//", "/usr"), ("/data",)))
    more = enrich(own, lambda path: path in ("/usr", "/tmp", "/etc"))
    assert more.filesystem == FilesystemPolicy(False, ("/tmp//", "/usr", "/etc"), ("/data",))
    assert enrich(more, lambda path: path in ("/usr", "/tmp", "/etc")) is more


def test_provider_rules_are_dropped_for_storage():
    assert list(without_provider_rules(SandboxPolicy(network_policies=RULES)).network_policies) == [
        "r"
    ]


BASE = SandboxPolicy(
    filesystem=FilesystemPolicy(True, ("/usr",), ("/tmp",)),
    landlock=LandlockPolicy("best_effort"),
    process=ProcessPolicy("sandbox"),
)


def messages(candidate, baseline=BASE):
    return [finding.message for finding in check_static_change(baseline, candidate)]


def test_network_changes_and_added_paths_are_free():
    wider = FilesystemPolicy(True, ("/usr", "/opt"), ("/tmp",))
    assert messages(replace(BASE, network_policies=RULES, filesystem=wider)) == []
    assert messages(SandboxPolicy(filesystem=wider), SandboxPolicy()) == []


def test_what_is_fixed_is_named():
    (removed,) = messages(replace(BASE, filesystem=FilesystemPolicy(True, (), ("/tmp",))))
    assert removed == "filesystem read_only path '/usr' cannot be removed on a live sandbox"
    (flipped,) = messages(replace(BASE, filesystem=FilesystemPolicy(False, ("/usr",), ("/tmp",))))
    assert "include_workdir cannot be changed" in flipped
    (dropped,) = messages(replace(BASE, filesystem=None))
    assert dropped == "filesystem policy cannot be removed on a live sandbox"
    (landlock,) = messages(replace(BASE, landlock=LandlockPolicy("")))
    assert landlock.startswith("landlock policy cannot be changed on a live sandbox")
    (process,) = messages(replace(BASE, process=None))
    assert process.startswith("process policy cannot be changed on a live sandbox")


def test_omitted_static_sections_are_inherited():
    update = SandboxPolicy(network_policies=RULES)
    inherited = inherit_static(BASE, update)
    assert messages(inherited) == []
    assert inherited.network_policies == RULES
    own = replace(update, landlock=LandlockPolicy("hard_requirement"))
    assert len(messages(inherit_static(BASE, own))) == 1
