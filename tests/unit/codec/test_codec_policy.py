"""Policies through protobuf and back, and the hash that names them."""

from dataclasses import replace

from hypothesis import given, settings

from openshell._proto import sandbox_pb2 as pb
from openshell.codec.policy import policy_from_proto, policy_hash, policy_to_proto
from openshell.policy import dump_policy, parse_policy
from openshell.policy.model import (
    Binary,
    Endpoint,
    L7Rule,
    LandlockPolicy,
    Matcher,
    MiddlewareConfig,
    NetworkRule,
    SandboxPolicy,
)
from unit.policy.policy_samples import full_policies


@settings(max_examples=150, deadline=None)
@given(full_policies())
def test_yaml_to_message_to_yaml_loses_nothing(policy):
    wire = policy_to_proto(policy).SerializeToString()
    back = policy_from_proto(pb.SandboxPolicy.FromString(wire))
    assert back == policy
    assert parse_policy(dump_policy(back), source="t") == policy
    assert policy_hash(back) == policy_hash(policy)


def one(endpoint, **kw):
    return SandboxPolicy(network_policies={"r": NetworkRule("r", "r", (endpoint,), **kw)})


def test_the_order_of_maps_does_not_change_the_hash_and_that_of_lists_does():
    def build(names, ports):
        query = {name: Matcher("x") for name in names}
        config = {name: dict.fromkeys(names, 1) for name in names}
        rules = {
            n: NetworkRule(n, n, (Endpoint("h", ports, rules=(L7Rule("GET", "/", query=query),)),))
            for n in names
        }
        middlewares = {n: MiddlewareConfig(n, "m", n, config=config) for n in names}
        return SandboxPolicy(network_policies=rules, network_middlewares=middlewares)

    assert policy_hash(build("ab", (1, 2))) == policy_hash(build("ba", (1, 2)))
    assert policy_hash(build("ab", (1, 2))) != policy_hash(build("ab", (2, 1)))


def test_the_hash_is_pinned():
    """A change here gives every stored revision a new name: it must be meant."""
    policy = one(
        Endpoint("api.x.com", (443,), protocol="rest", access="full"), binaries=(Binary("/a"),)
    )
    assert policy_hash(policy) == "06431721e7ec7a0f4c197eaa3c911f7cc897e069425c0d0fb7b2c58f58abd379"


def test_gateway_marks_travel_and_count():
    plain = one(Endpoint("h", (1,)), binaries=(Binary("/a"),))
    marked = one(
        Endpoint("h", (1,), advisor_proposed=True, provider_credentialed=True),
        binaries=(Binary("/a", advisor_proposed=True),),
    )
    assert policy_from_proto(policy_to_proto(marked)) == marked
    assert policy_hash(plain) != policy_hash(marked)


def test_absent_and_empty_sections_differ():
    empty = SandboxPolicy(landlock=LandlockPolicy())
    assert policy_from_proto(policy_to_proto(empty)) == empty
    assert policy_hash(empty) != policy_hash(replace(empty, landlock=None))


def test_the_single_port_is_read_and_written():
    message = pb.NetworkEndpoint(host="h", port=443)
    policy = pb.SandboxPolicy(version=1)
    policy.network_policies["r"].endpoints.append(message)
    (endpoint,) = policy_from_proto(policy).network_policies["r"].endpoints
    assert endpoint.ports == (443,)
    written = policy_to_proto(one(endpoint)).network_policies["r"].endpoints[0]
    assert (written.port, list(written.ports)) == (443, [443])


def test_what_no_person_would_write_becomes_a_model_all_the_same():
    policy = pb.SandboxPolicy()
    rule = policy.network_policies["r"]
    rule.endpoints.add(protocol="REST", ports=[0, 70000]).rules.add()
    (endpoint,) = policy_from_proto(policy).network_policies["r"].endpoints
    assert (endpoint.protocol, endpoint.ports) == ("rest", (0, 70000))
    assert endpoint.rules[0].is_blank
