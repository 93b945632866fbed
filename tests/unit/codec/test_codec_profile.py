"""Profiles through messages and back, and what a message may not carry."""

import subprocess
import sys

import pytest
from google.protobuf.descriptor import FieldDescriptor
from hypothesis import given, settings

from openshell._proto import openshell_pb2 as pb
from openshell.codec.profile import binding_set, profile_from_proto, profile_to_proto
from openshell.providers.profile.document import dump_profile, read_profile
from openshell.providers.profile.model import Category, ProviderProfile, Strategy
from unit.profile.profile_samples import EVERY_KEY, PROFILES


@settings(max_examples=150, deadline=None)
@given(PROFILES)
def test_yaml_to_message_to_yaml_loses_nothing(profile):
    wire = profile_to_proto(profile).SerializeToString()
    back = profile_from_proto(pb.ProviderProfile.FromString(wire))
    assert back == profile
    for form in ("yaml", "json"):
        assert read_profile(dump_profile(back, form), source="t", format=form) == profile


def test_every_field_of_the_message_is_carried():
    message = profile_to_proto(read_profile(EVERY_KEY, source="t", format="yaml"))
    unset = set(_unset(message, ""))
    # Marks of the gateway, bindings of sandbox policies, and keys that the sample cannot combine.
    assert unset == {
        "endpoints.advisor_proposed",
        "endpoints.provider_credentialed",
        "endpoints.credential_binding",
    }


def _unset(message, path):
    """Fields that no element of the message sets, at any depth."""
    for field in message.DESCRIPTOR.fields:
        name = f"{path}{field.name}"
        value = getattr(message, field.name)
        if field.is_repeated:
            if (
                field.type == FieldDescriptor.TYPE_MESSAGE
                and field.message_type.GetOptions().map_entry
            ):
                inner = field.message_type.fields_by_name["value"]
                items = list(value.values()) if inner.type == FieldDescriptor.TYPE_MESSAGE else []
            else:
                items = list(value) if field.type == FieldDescriptor.TYPE_MESSAGE else []
            if not value:
                yield name
            if items:
                yield from set.intersection(*(set(_unset(item, f"{name}.")) for item in items))
        elif field.has_presence and not message.HasField(field.name):
            yield name
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            yield from _unset(value, f"{name}.")
        elif not field.has_presence and not value:
            yield name


@pytest.mark.parametrize("number", [0, 99, -1])
def test_a_number_that_nobody_knows_means_nothing(number):
    message = pb.ProviderProfile(category=number)
    message.credentials.add().refresh.strategy = number
    profile = profile_from_proto(message)
    assert profile.category is Category.OTHER
    assert profile.credentials[0].refresh.strategy is Strategy.UNSPECIFIED


def test_what_only_policy_and_gateway_may_set_is_dropped_and_bindings_are_named():
    message = pb.ProviderProfile()
    message.endpoints.add(host="a", ports=[1])
    bound = message.endpoints.add(
        host="b", ports=[1], provider_credentialed=True, advisor_proposed=True
    )
    assert binding_set(message) == ()
    bound.credential_binding.provider = "p"
    message.endpoints.add().credential_binding.SetInParent()
    assert binding_set(message) == (1, 2)
    endpoint = profile_from_proto(message).endpoints[1]
    assert endpoint.host == "b"
    assert endpoint.credential_binding is None
    assert not endpoint.provider_credentialed
    assert not endpoint.advisor_proposed


def test_absent_and_empty_parts_differ():
    message = pb.ProviderProfile()
    message.credentials.add()
    full = pb.ProviderProfile()
    full.discovery.SetInParent()
    credential = full.credentials.add()
    credential.refresh.SetInParent()
    credential.token_grant.SetInParent()
    one, two = profile_from_proto(message), profile_from_proto(full)
    assert one.discovery is None
    assert one.credentials[0].refresh is one.credentials[0].token_grant is None
    assert two.discovery is not None
    assert profile_to_proto(two) == profile_to_proto(profile_from_proto(profile_to_proto(two)))
    assert profile_from_proto(profile_to_proto(two)) == two


def test_model_and_codec_load_without_pydantic():
    code = (
        "import sys, openshell.providers.profile.model, openshell.codec.profile, "
        "openshell.providers.profile.lint, openshell.providers.profile.ids\n"
        "assert 'google.protobuf' in sys.modules\n"
        "sys.exit('pydantic' in sys.modules or 'httpx' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_empty_message_is_the_default_profile():
    assert profile_from_proto(pb.ProviderProfile()) == ProviderProfile()
