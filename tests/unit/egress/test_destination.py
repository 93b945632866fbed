"""The SSRF table: every row, every class, and that no spelling of a local address gets through."""

from ipaddress import IPv4Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.egress.destination import (
    AddressClass,
    DestinationRequest,
    HostFacts,
    Plan,
    Refused,
    alias_of,
    classify,
    literal,
    plan,
)

CLASSES = {
    "127.0.0.1": "BLOCKED",
    "127.255.255.254": "BLOCKED",
    "169.254.169.254": "BLOCKED",
    "0.0.0.0": "BLOCKED",
    "0.1.2.3": "BLOCKED",
    "224.0.0.1": "BLOCKED",
    "255.255.255.255": "BLOCKED",
    "::1": "BLOCKED",
    "::": "BLOCKED",
    "fe80::1": "BLOCKED",
    "ff02::1": "BLOCKED",
    "::ffff:127.0.0.1": "BLOCKED",
    "::ffff:169.254.169.254": "BLOCKED",
    "::127.0.0.1": "BLOCKED",
    "64:ff9b::7f00:1": "BLOCKED",
    "2002:7f00:1::": "BLOCKED",
    "10.1.2.3": "INTERNAL",
    "172.16.0.1": "INTERNAL",
    "172.32.0.1": "PUBLIC",
    "192.168.1.1": "INTERNAL",
    "100.64.0.1": "INTERNAL",
    "192.0.0.9": "INTERNAL",
    "192.0.2.1": "INTERNAL",
    "198.18.0.1": "INTERNAL",
    "198.51.100.1": "INTERNAL",
    "203.0.113.1": "INTERNAL",
    "240.0.0.1": "INTERNAL",
    "fc00::1": "INTERNAL",
    "fd12::1": "INTERNAL",
    "::ffff:10.0.0.1": "INTERNAL",
    "64:ff9b::a00:1": "INTERNAL",
    "93.184.216.34": "PUBLIC",
    "2606:2800:220:1::1": "PUBLIC",
    "::ffff:8.8.8.8": "PUBLIC",
}


@pytest.mark.parametrize(("text", "expected"), CLASSES.items(), ids=CLASSES.keys())
def test_class(text, expected):
    assert classify(ip_address(text)) is AddressClass[expected]


LOOPBACK = (ip_address("127.0.0.1"), ip_address("::1"))
FACTS = HostFacts(alias_addresses=LOOPBACK, closed_ports=frozenset({17670}))
PUBLIC, PRIVATE = "93.184.216.34", "10.0.0.5"

# (host, port, allowed_ips, exact, answers) -> refusing row, or None when the plan is made
PLANS = {
    "default, public": ("a.example", 443, (), False, [PUBLIC], None),
    "default, private": ("a.example", 443, (), False, [PRIVATE], "default"),
    "default, one of two is private": ("a.example", 443, (), False, [PUBLIC, PRIVATE], "default"),
    "default, control-plane port is not looked at": ("a.example", 6443, (), False, [PUBLIC], None),
    "declared, private": ("a.example", 443, (), True, [PRIVATE], None),
    "declared, loopback": ("a.example", 443, (), True, ["127.0.0.1"], "declared"),
    "declared, link-local": ("a.example", 80, (), True, ["169.254.169.254"], "declared"),
    "declared, control-plane port": ("a.example", 6443, (), True, [PUBLIC], "declared"),
    "literal, public": (PUBLIC, 443, (), False, [PUBLIC], None),
    "literal, private by wildcard": (PRIVATE, 443, (), False, [PRIVATE], "literal"),
    "literal, private declared": (PRIVATE, 443, (), True, [PRIVATE], None),
    "literal, loopback declared": ("127.0.0.1", 80, (), True, ["127.0.0.1"], "literal"),
    "literal, mapped loopback": ("::ffff:127.0.0.1", 80, (), True, ["::ffff:127.0.0.1"], "literal"),
    "literal, control-plane port": (PUBLIC, 10250, (), True, [PUBLIC], "literal"),
    "allowed_ips cover it": ("a.example", 443, ("10.0.0.0/8",), False, [PRIVATE], None),
    "allowed_ips, bare address": ("a.example", 443, (PRIVATE,), False, [PRIVATE], None),
    "allowed_ips miss one": ("a.example", 443, (PRIVATE,), True, [PRIVATE, PUBLIC], "allowed_ips"),
    "allowed_ips over loopback": ("a", 443, ("127.0.0.0/8",), True, ["127.0.0.1"], "allowed_ips"),
    "allowed_ips over everything": ("a.b", 443, ("0.0.0.0/0",), True, [PUBLIC], "allowed_ips"),
    "allowed_ips malformed": ("a.example", 443, ("10.0.0.0/99",), True, [PRIVATE], "allowed_ips"),
    "allowed_ips, control plane": ("a.b", 2379, (PRIVATE,), True, [PRIVATE], "allowed_ips"),
    "no answer": ("a.example", 443, (), True, [], "resolution"),
    "alias": ("host.openshell.internal", 8080, (), True, ["127.0.0.1", "::1"], None),
    "alias, not named": ("host.docker.internal", 80, (), False, ["127.0.0.1"], "alias"),
    "alias, gateway port": ("host.openshell.internal", 17670, (), True, ["127.0.0.1"], "alias"),
    "alias, etcd": ("host.openshell.internal", 2379, (), True, ["127.0.0.1"], "alias"),
    "alias, other address": ("host.openshell.internal", 80, (), True, [PUBLIC], "alias"),
}


@pytest.mark.parametrize("case", PLANS.values(), ids=PLANS.keys())
def test_plan(case):
    host, port, allowed, exact, answers, row = case
    request = DestinationRequest(host, port, allowed, exact)
    outcome = plan(request, tuple(map(ip_address, answers)), FACTS)
    if row is None:
        assert isinstance(outcome, Plan)
        assert [str(address) for address in outcome.addresses] == answers
    else:
        assert isinstance(outcome, Refused)
        assert outcome.row == row


def test_an_address_of_an_interface_counts_as_loopback():
    own = ip_address("192.168.7.9")
    request = DestinationRequest("a.example", 443, (), exact_declared_host=True)
    assert isinstance(plan(request, (own,), FACTS), Plan)
    assert isinstance(plan(request, (own,), FACTS, frozenset({own})), Refused)


def test_without_an_alias_here_the_name_is_an_ordinary_host():
    facts = HostFacts()
    assert alias_of("host.openshell.internal", facts) == ()
    request = DestinationRequest("host.openshell.internal", 80, (), exact_declared_host=True)
    assert isinstance(plan(request, LOOPBACK, facts), Refused)


@given(st.integers(0x7F000000, 0x7FFFFFFF), st.sampled_from(["::ffff:{}", "64:ff9b::{}", "::{}"]))
def test_no_embedding_hides_loopback(number, form):
    address = ip_address(form.format(IPv4Address(number)))
    assert classify(address) is AddressClass.BLOCKED


@pytest.mark.parametrize(
    "text", ["fe80::1%lo", "1.2.3", "0x7f.1", "", "a.example", "127.1", "[::1]"]
)
def test_not_a_literal(text):
    assert literal(text) is None
