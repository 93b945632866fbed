"""Our netlink bytes read by pyroute2, and what any bytes may do to our reader."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.supervisor.isolation import nftables
from openshell.supervisor.isolation.netlink import (
    Message,
    attribute,
    attributes_of,
    encode,
    messages_of,
    nested,
)
from openshell.supervisor.isolation.network import plan_network

pytest.importorskip("pyroute2")


def decoded(kind: type, message: Message) -> dict[str, object]:
    parsed = kind(encode([message]))  # type: ignore[call-arg]
    parsed.decode()
    assert parsed["header"]["length"] == len(encode([message]))
    assert parsed["header"]["type"] == message.kind
    return {**parsed, "attrs": dict(parsed["attrs"])}


def test_addresses_are_what_pyroute2_reads() -> None:
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg

    plan = plan_network()
    read = [decoded(ifaddrmsg, m) for m in (*plan.links[1:], *plan.links_v6)]
    assert [(r["family"], r["prefixlen"], r["index"]) for r in read] == [
        (2, 32, 1),
        (2, 32, 1),
        (10, 128, 1),
    ]
    locals_ = [r["attrs"]["IFA_LOCAL"] for r in read]  # type: ignore[index]
    assert locals_ == ["10.200.0.1", "10.200.0.2", "fd9b:6f70:656e::2"]
    assert read[2]["flags"] == 2


def test_routes_make_everything_local() -> None:
    from pyroute2.netlink.rtnl.rtmsg import rtmsg

    plan = plan_network()
    four, six = (decoded(rtmsg, m) for m in (*plan.routes, *plan.routes_v6))
    for read, source in ((four, "10.200.0.2"), (six, "fd9b:6f70:656e::2")):
        assert (read["dst_len"], read["table"], read["type"]) == (0, 255, 2)
        attributes = read["attrs"]
        assert isinstance(attributes, dict)
        assert attributes["RTA_PREFSRC"] == source
        assert attributes["RTA_OIF"] == 1
    assert four["scope"] == 254


def test_loopback_goes_up() -> None:
    from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

    read = decoded(ifinfmsg, plan_network().links[0])
    assert (read["index"], read["flags"], read["change"]) == (1, 1, 1)


def rules() -> list[Message]:
    return nftables.ruleset(proxy="10.200.0.1", own=("10.200.0.2/32",), capture_port=15001)


def test_chains_hook_where_they_must() -> None:
    from pyroute2.netlink.nfnetlink.nftsocket import nft_chain_msg

    chains = {}
    for message in rules():
        if message.label.startswith("chain"):
            attributes = decoded(nft_chain_msg, message)["attrs"]
            assert isinstance(attributes, dict)
            hook = dict(attributes["NFTA_CHAIN_HOOK"]["attrs"])
            chains[attributes["NFTA_CHAIN_NAME"]] = (
                hook["NFTA_HOOK_HOOKNUM"],
                hook["NFTA_HOOK_PRIORITY"],
                attributes["NFTA_CHAIN_POLICY"],
            )
    assert chains == {"capture": (0, -150, 1), "output": (3, 0, 0)}


def test_rules_are_read_by_pyroute2_in_order() -> None:
    from pyroute2.netlink.nfnetlink.nftsocket import nft_rule_msg

    names = []
    for message in rules():
        if not message.label.startswith("rule"):
            continue
        attributes = decoded(nft_rule_msg, message)["attrs"]
        assert isinstance(attributes, dict)
        assert attributes["NFTA_RULE_TABLE"] == "openshell"
        expressions = attributes["NFTA_RULE_EXPRESSIONS"]
        names.append([dict(e["attrs"])["NFTA_EXPR_NAME"] for e in expressions])
    assert ["objref", "reject"] in names
    assert names[-1] == ["objref", "reject"], "the last rule refuses whatever is left"
    assert sum("tproxy" in n for n in names) == 2
    assert ["limit", "log"] in names


def test_the_batch_is_enclosed() -> None:
    batch = rules()
    assert [batch[0].kind, batch[-1].kind] == [16, 17]
    assert all(m.flags & 4 for m in batch[1:-1]), "every message is acknowledged"
    assert not any(m.label == "rule tproxy v6" for m in nftables.ruleset(
        proxy="10.200.0.1", own=(), capture_port=1, ipv6=False
    ))  # fmt: skip


def test_counters_are_read() -> None:
    value = struct.pack(">Q", 7)
    body = struct.pack(">BBH", 1, 0, 0) + b"".join(
        (
            attribute(2, b"refused_udp\0"),
            nested(4, attribute(1, bytes(8)), attribute(2, value)),
        )
    )
    assert nftables.counters_of([body, b"", b"\0" * 9]) == {"refused_udp": 7}


@given(st.lists(st.tuples(st.integers(0, 0xFFF), st.binary(max_size=40)), max_size=8))
def test_attributes_come_back(pairs: list[tuple[int, bytes]]) -> None:
    data = b"".join(attribute(kind, value) for kind, value in pairs)
    assert attributes_of(data) == dict(pairs)


@given(st.binary(max_size=200))
def test_any_bytes_end_reading(data: bytes) -> None:
    list(messages_of(data))
    attributes_of(data)


@given(st.lists(st.binary(max_size=30), min_size=1, max_size=5))
def test_messages_come_back(bodies: list[bytes]) -> None:
    sent = [Message(str(n), 100 + n, 1, body) for n, body in enumerate(bodies)]
    read = list(messages_of(encode(sent)))
    assert read == [(m.kind, n, m.body) for n, m in enumerate(sent, 1)]
