"""Names and local addresses, asked of the real host."""

import itertools
import socket
from ipaddress import ip_address

import pytest

from openshell.egress.resolve import HostResolver, RouteTable

OWN = ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1", "255.255.255.255", "224.0.0.1"]


@pytest.fixture
def routes():
    table = RouteTable()
    yield table
    table.close()


@pytest.mark.parametrize("text", OWN)
def test_addresses_that_lead_back(routes, text):
    assert routes.is_own(ip_address(text))


@pytest.mark.parametrize("text", ["93.184.216.34", "2606:2800:220:1::1"])
def test_addresses_that_lead_away_or_nowhere(routes, text):
    assert not routes.is_own(ip_address(text))


def test_every_address_of_every_interface_leads_back(routes):
    found = set()
    with open("/proc/net/fib_trie") as trie:
        lines = trie.read().splitlines()
    for before, line in itertools.pairwise(lines):
        if "host LOCAL" in line:
            found.add(before.split()[-1])
    assert "127.0.0.1" in found
    assert all(routes.is_own(ip_address(text)) for text in found)


async def test_names_resolve_to_addresses_and_literals_to_themselves():
    resolver = HostResolver()
    try:
        assert ip_address("127.0.0.1") in await resolver.resolve("localhost")
        assert await resolver.resolve("2001:db8::1") == (ip_address("2001:db8::1"),)
        assert resolver.local((ip_address("127.0.0.1"), ip_address("93.184.216.34"))) == {
            ip_address("127.0.0.1")
        }
    finally:
        resolver.close()


@pytest.mark.parametrize("error", [socket.gaierror(-2, "no"), UnicodeError("label too long")])
async def test_a_name_that_does_not_resolve_has_no_addresses(monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    resolver = HostResolver()
    try:
        assert await resolver.resolve("no.such.example") == ()
    finally:
        resolver.close()


async def test_a_zone_is_cut_off_an_answer(monkeypatch):
    monkeypatch.setattr(
        socket, "getaddrinfo", lambda *_, **__: [(10, 1, 6, "", ("fe80::1%eth0", 0, 0, 2))]
    )
    resolver = HostResolver()
    try:
        assert await resolver.resolve("router.example") == (ip_address("fe80::1"),)
    finally:
        resolver.close()
