"""The network of a sandbox: everything TCP reaches us, everything else is refused and counted."""

from __future__ import annotations

import pytest

from e2e.isolation.sandboxes import Sandbox

CAPTURED = [
    ("capture_v4", "93.184.216.34|443"),
    ("capture_v4", "169.254.169.254|80"),
    ("capture_v4", "10.200.0.2|22"),
    ("capture_v4", "192.168.0.1|3128"),
    ("capture_v4", "::ffff:8.8.8.8|443"),
    ("capture_v6", "2606:2800:220:1::1|443"),
    ("capture_v6", "fd00::1|25"),
    ("dns_tcp_v4", "8.8.8.8|53"),
    ("dns_tcp_v6", "2001:4860:4860::8888|53"),
    ("proxy", "10.200.0.1|3128"),
]


@pytest.mark.parametrize(("listener", "address"), CAPTURED, ids=[a for _, a in CAPTURED])
def test_a_tcp_connection_comes_to_our_listener_with_its_destination(
    sandbox: Sandbox, listener: str, address: str
) -> None:
    answer = sandbox.ask({"op": "accept", "listener": listener, "argv": ["connect_tcp", address]})
    assert answer["accepted"], answer
    host, port = address.split("|")
    assert answer["destination"] == [host.removeprefix("::ffff:"), int(port)]
    # The source is the client's own: its owner can be found by it.
    if host.startswith("::ffff:"):
        answer["peer"][0] = f"::ffff:{answer['peer'][0]}"
    assert f'"local": {_json(answer["peer"])}' in answer["probe"]["stdout"]


def _json(pair: list[object]) -> str:
    return f'["{pair[0]}", {pair[1]}]'


@pytest.mark.parametrize("address", ["127.0.0.1|9", "10.200.0.1|9", "::1|9", "0.0.0.0|9"])
def test_a_closed_port_of_loopback_refuses_at_once(sandbox: Sandbox, address: str) -> None:
    assert sandbox.probe("connect_tcp", address)["outcome"] == "ECONNREFUSED"


@pytest.mark.parametrize("address", ["8.8.8.8|9999", "1.1.1.1|443", "2001:db8::1|443"])
def test_other_udp_is_refused_and_counted(sandbox: Sandbox, address: str) -> None:
    assert sandbox.probe("send_udp", "127.0.0.1|9999")["outcome"] == "ok"
    before = sandbox.ask({"op": "counters"})["refused_udp"]
    assert sandbox.probe("send_udp", address)["outcome"] == "EPERM"
    assert sandbox.ask({"op": "counters"})["refused_udp"] == before + 1


def test_icmp_is_refused_and_counted_even_with_capabilities(sandbox: Sandbox) -> None:
    assert sandbox.network("send_raw_icmp", "127.0.0.1")["outcome"] == "ok"
    before = sandbox.ask({"op": "counters"})["refused_icmp"]
    assert sandbox.network("send_raw_icmp", "8.8.8.8")["outcome"] == "EPERM"
    assert sandbox.ask({"op": "counters"})["refused_icmp"] == before + 1
    assert sandbox.probe("ping_socket")["outcome"] == "EACCES"


@pytest.mark.parametrize(
    "address", ["10.200.0.1|3128", "0.0.0.0|3128", "127.0.0.1|15001", "0.0.0.0|15001", "::|15001"]
)
def test_our_ports_cannot_be_taken(sandbox: Sandbox, address: str) -> None:
    assert sandbox.probe("bind", "0.0.0.0|3129")["outcome"] == "ok"
    assert sandbox.probe("bind", address)["outcome"] == "EADDRINUSE"


def test_the_resolvers_port_is_privileged(sandbox: Sandbox) -> None:
    for address in ("0.0.0.0|53", "127.0.0.1|53", "8.8.8.8|53"):
        assert sandbox.probe("bind", address, "udp")["outcome"] in {"EACCES", "EADDRINUSE"}


def test_only_loopback_is_there(sandbox: Sandbox) -> None:
    assert sandbox.probe("status")["interfaces"] == ["lo"]
    assert sandbox.layers["network"][0] == "enforced"


def test_a_port_inside_is_reached_through_a_socket_made_inside(sandbox: Sandbox) -> None:
    assert sandbox.ask({"op": "forward"})["data"] == "hello"
