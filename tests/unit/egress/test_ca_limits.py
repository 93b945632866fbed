"""The leaf cache under attack, and what a leaf says: names, addresses, times."""

from __future__ import annotations

import asyncio
import datetime as dt
import ipaddress
import ssl
from typing import Final

import pytest
from cryptography import x509

from openshell.egress.ca import SandboxCA, client_context

NOW: Final = dt.datetime.now(dt.UTC)
# The contract's size of the cache.
KEPT: Final = 256


class Counting(SandboxCA):
    """Notes which names were minted."""

    def __init__(self) -> None:
        super().__init__(NOW)
        self.minted: list[str] = []

    def _sign_leaf(self, host: str, now: dt.datetime) -> bytes:
        self.minted.append(host)
        return super()._sign_leaf(host, now)


def leaf(ca: SandboxCA, host: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(ca._sign_leaf(host, NOW))


def test_a_flood_of_names_keeps_what_is_in_use_and_no_more_than_the_bound() -> None:
    ca = Counting()
    used = ca.server_context("used.example", NOW)
    for number in range(2 * KEPT):
        ca.server_context(f"h{number}.example", NOW)
        if number % 100 == 0:
            assert ca.server_context("used.example", NOW) is used
    assert len(ca._contexts) == KEPT
    # One signature for each name, none for what was asked again.
    assert len(ca.minted) == 2 * KEPT + 1
    assert ca.minted.count("used.example") == 1


async def test_handshakes_that_come_together_mint_once() -> None:
    ca = Counting()

    async def one() -> ssl.SSLContext:
        await asyncio.sleep(0)
        return ca.server_context("a.example", NOW)

    found = await asyncio.gather(*(one() for _ in range(50)))
    assert len(set(map(id, found))) == 1
    assert ca.minted == ["a.example"]


def test_sandboxes_do_not_trust_each_others_leaves() -> None:
    one, other = Counting(), Counting()
    assert one.certificate_pem != other.certificate_pem
    assert one.server_context("a.example", NOW) is not other.server_context("a.example", NOW)
    assert other.minted == ["a.example"]
    assert len(client_context(one.certificate_pem).get_ca_certs()) == 1


NAMES = {
    "name": ("a.example", x509.DNSName("a.example")),
    "below a wildcard rule": ("x.y.example", x509.DNSName("x.y.example")),
    "IPv4": ("10.1.2.3", x509.IPAddress(ipaddress.ip_address("10.1.2.3"))),
    "IPv6": ("2001:db8::1", x509.IPAddress(ipaddress.ip_address("2001:db8::1"))),
}


@pytest.mark.parametrize(("host", "name"), NAMES.values(), ids=NAMES.keys())
def test_a_leaf_is_for_one_host_and_never_a_wildcard(host: str, name: x509.GeneralName) -> None:
    found = leaf(Counting(), host)
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert list(names) == [name]
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_leaf_allows_for_clocks_that_are_a_day_slow_and_is_short_enough_for_all_clients() -> None:
    found = leaf(Counting(), "a.example")
    assert found.not_valid_before_utc <= NOW - dt.timedelta(hours=23)
    # Clients refuse leaves of more than 398 days; ours is renewed a week before its end.
    assert found.not_valid_after_utc - found.not_valid_before_utc < dt.timedelta(days=398)
    ca = Counting()
    first = ca.server_context("a.example", NOW)
    assert ca.server_context("a.example", NOW + dt.timedelta(days=82)) is first
    assert ca.server_context("a.example", NOW + dt.timedelta(days=84)) is not first
