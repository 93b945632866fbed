"""Refs, certificates and endpoints of the client library; its public surface."""

import copy
import pickle
from dataclasses import asdict
from pathlib import Path

import pytest

import openshell
import openshell.sandbox
from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.sdk.channel import TlsConfig, split_endpoint
from openshell.sdk.errors import SandboxError
from openshell.sdk.refs import SandboxRef, sandbox_ref


def a_ref(**labels: str) -> SandboxRef:
    return sandbox_ref(
        openshell_pb2.Sandbox(
            metadata=datamodel_pb2.ObjectMeta(
                id="1", name="box", workspace="default", labels=labels
            ),
            status=openshell_pb2.SandboxStatus(phase=2, current_policy_version=3, exit_code=0),
        )
    )


def test_public_names_are_importable_from_both_paths() -> None:
    assert set(openshell.sandbox.__all__) == set(openshell.__all__) - {"__version__"}
    for name in openshell.sandbox.__all__:
        assert getattr(openshell, name) is getattr(openshell.sandbox, name)
    assert openshell.__version__[0].isdigit()
    with pytest.raises(AttributeError):
        openshell.no_such_name  # noqa: B018  # the access is the test


def test_ref_is_frozen_all_through_and_survives_copying() -> None:
    ref = a_ref(team="x")
    assert (ref.phase, ref.current_policy_version, ref.status.exit_code) == (2, 3, 0)
    for change in (
        lambda: ref.labels.update(a="b"),
        lambda: ref.labels.__setitem__("a", "b"),
        lambda: ref.labels.clear(),
    ):
        with pytest.raises(TypeError):
            change()
    assert copy.deepcopy(ref) == pickle.loads(pickle.dumps(ref)) == ref
    assert asdict(ref)["labels"] == {"team": "x"}
    assert hash(ref) == hash(a_ref(other="y")), "labels are no part of the identity"


def test_exit_code_is_absent_while_the_process_runs() -> None:
    assert sandbox_ref(openshell_pb2.Sandbox()).status.exit_code is None


def test_certificate_and_key_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="belong together"):
        TlsConfig(cert_path=tmp_path)
    with pytest.raises(SandboxError, match=r"ca\.crt is missing"):
        TlsConfig.from_directory(tmp_path)


@pytest.mark.parametrize(
    ("endpoint", "wanted"),
    [
        ("https://gw", (True, "gw", 443)),
        ("http://gw", (False, "gw", 80)),
        ("https://[::1]:17670", (True, "::1", 17670)),
    ],
)
def test_endpoints(endpoint: str, wanted: tuple[bool, str, int]) -> None:
    assert split_endpoint(endpoint) == wanted


@pytest.mark.parametrize("endpoint", ["gw:1", "ftp://gw", "https://", "https://gw:99999", ""])
def test_what_is_no_endpoint(endpoint: str) -> None:
    with pytest.raises(SandboxError, match="is not a gateway endpoint"):
        split_endpoint(endpoint)
