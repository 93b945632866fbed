"""Sealing a value, and the ways a sealed value must not open."""

import base64
import dataclasses
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.gateway.credentials.envelope import KeyEncryptionKey, open_envelope, seal_value
from openshell.gateway.credentials.model import CredentialCode, CredentialError, CredentialRef

KEK = KeyEncryptionKey(bytes(range(32)))
REF = CredentialRef("v1:" + "a" * 64, "provider-1", "API_KEY")
SECRET = "s3cr3t"


def sealed(**changes):
    fields = json.loads(seal_value(KEK, REF, SECRET, os.urandom))
    fields.update(changes)
    return json.dumps(fields).encode()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=200))
def test_what_was_sealed_opens(value):
    envelope = seal_value(KEK, REF, value, os.urandom)
    assert open_envelope(KEK, REF, envelope) == value


def test_the_value_is_nowhere_in_the_envelope_and_no_two_are_alike():
    first, second = (seal_value(KEK, REF, SECRET, os.urandom) for _ in range(2))
    assert SECRET.encode() not in first
    assert base64.b64encode(SECRET.encode()) not in first
    assert json.loads(first)["value"] != json.loads(second)["value"]
    assert json.loads(first)["wrapped_dek"] != json.loads(second)["wrapped_dek"]


@pytest.mark.parametrize(
    "field", [pytest.param(name, id=name) for name in ("handle", "provider_id", "key")]
)
def test_it_opens_for_its_owner_only(field):
    assert open_envelope(KEK, REF, sealed()) == SECRET
    with pytest.raises(CredentialError) as refused:
        open_envelope(KEK, dataclasses.replace(REF, **{field: "other"}), sealed())
    assert refused.value.code is CredentialCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("id", "v1:" + "b" * 64),
        ("provider_id", "provider-2"),
        ("credential_key", "OTHER"),
    ],
)
def test_a_relabelled_envelope_does_not_open_for_the_label(field, value):
    """The labels are readable; what protects them is the associated data of the ciphertext."""
    names = {"id": "handle", "provider_id": "provider_id", "credential_key": "key"}
    claimed = dataclasses.replace(REF, **{names[field]: value})
    with pytest.raises(CredentialError) as refused:
        open_envelope(KEK, claimed, sealed(**{field: value}))
    assert refused.value.code is CredentialCode.DATA_LOSS


def test_another_key_is_told_from_damage():
    with pytest.raises(CredentialError) as refused:
        open_envelope(KeyEncryptionKey(bytes(32)), REF, sealed())
    assert refused.value.code is CredentialCode.FAILED_PRECONDITION
    assert "key-encryption-key" in refused.value.message


def _flip(text):
    raw = bytearray(base64.b64decode(text))
    raw[-1] ^= 1
    return base64.b64encode(bytes(raw)).decode()


@pytest.mark.parametrize(
    "envelope",
    [
        pytest.param(lambda: sealed(value=_flip(json.loads(sealed())["value"])), id="other value"),
        pytest.param(lambda: sealed(value="AAAA"), id="short value"),
        pytest.param(lambda: sealed(value="§"), id="no base64"),
        pytest.param(lambda: sealed(wrapped_dek="AAAA"), id="short key"),
        pytest.param(lambda: sealed(version=2), id="other format"),
        pytest.param(lambda: sealed(algorithm="none"), id="other algorithm"),
        pytest.param(lambda: sealed(extra="x"), id="unknown field"),
        pytest.param(lambda: sealed(value=7), id="wrong type"),
        pytest.param(lambda: b"[]", id="no object"),
        pytest.param(lambda: b"{", id="no JSON"),
        pytest.param(lambda: b"[" * 5000, id="deep nesting"),
        pytest.param(lambda: b" " * 70_000, id="huge"),
    ],
)
def test_a_damaged_envelope_is_data_loss(envelope):
    with pytest.raises(CredentialError) as refused:
        open_envelope(KEK, REF, envelope())
    assert refused.value.code is CredentialCode.DATA_LOSS
    assert SECRET not in refused.value.message


def test_the_key_is_in_no_repr():
    assert "\\x01" not in repr(KEK)
    assert "01" not in repr(KEK)
