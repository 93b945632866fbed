"""Merge operations through protobuf and back."""

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from openshell._proto import openshell_pb2 as pb
from openshell.codec.merge import operation_from_proto, operation_to_proto, operations_from_proto
from openshell.policy import merge as mg
from openshell.policy import model as m
from unit.policy.policy_samples import L7_RULES, WORDS, endpoints, tuples

PORTS = st.integers(0, 2**32 - 1)
RULES = st.builds(
    m.NetworkRule,
    key=st.just("r"),
    name=WORDS.filter(lambda word: word != ""),
    endpoints=tuples(endpoints()),
    binaries=tuples(st.builds(m.Binary, WORDS, st.booleans())),
)
OPERATIONS = st.one_of(
    st.builds(mg.AddRule, st.just("r"), RULES),
    st.builds(mg.RemoveEndpoint, WORDS, PORTS, WORDS),
    st.builds(mg.RemoveRule, WORDS),
    st.builds(mg.AddAllowRules, WORDS, PORTS, tuples(L7_RULES)),
    st.builds(mg.AddDenyRules, WORDS, PORTS, tuples(L7_RULES)),
    st.builds(mg.RemoveBinary, WORDS, WORDS),
)


@settings(max_examples=150, deadline=None)
@given(OPERATIONS)
def test_an_operation_travels_without_loss(operation):
    wire = operation_to_proto(operation).SerializeToString()
    assert operation_from_proto(pb.PolicyMergeOperation.FromString(wire)) == operation


def test_every_operation_of_the_contract_is_known():
    names = {f.name for f in pb.PolicyMergeOperation.DESCRIPTOR.oneofs_by_name["operation"].fields}
    for name in names:
        message = pb.PolicyMergeOperation()
        getattr(message, name).SetInParent()
        operation = operation_from_proto(message)
        assert not isinstance(operation, mg.MergeRefused)
        assert operation_to_proto(operation).WhichOneof("operation") == name
    assert len(names) == 6


def test_an_operation_that_names_nothing_is_refused_with_its_place():
    good = operation_to_proto(mg.RemoveRule("r"))
    assert operations_from_proto([good]) == (mg.RemoveRule("r"),)
    refused = operations_from_proto([good, pb.PolicyMergeOperation()])
    assert isinstance(refused, mg.MergeRefused)
    assert (refused.code, refused.index, refused.location) == (
        "no_operation",
        1,
        "merge_operations[1]",
    )


def test_an_entry_without_allow_arrives_as_one_that_the_merge_refuses():
    message = pb.PolicyMergeOperation()
    message.add_allow_rules.host = "a"
    message.add_allow_rules.port = 443
    message.add_allow_rules.rules.add()
    refused = mg.merge_policy(m.SandboxPolicy(), [operation_from_proto(message)])
    assert isinstance(refused, mg.MergeRefused)
    assert refused.code == "rule_without_allow"


def test_the_name_of_the_operation_is_the_key_of_its_rule():
    rule = m.NetworkRule("other", "shown", (m.Endpoint("a", (443,)),))
    back = operation_from_proto(operation_to_proto(mg.AddRule(" r ", rule)))
    assert back == mg.AddRule(" r ", replace(rule, key="r"))
