"""Which destinations go through the corporate proxy and which do not."""

from ipaddress import ip_address, ip_network

import pytest

from openshell.egress.corporate import Bypass, CorporateProxy
from openshell.egress.destination import Plan

OUT = "203.0.113.9"


def bypassed(host: str, port: int, addresses: tuple[str, ...], *rules: Bypass) -> tuple[str, ...]:
    proxy = CorporateProxy("proxy.example", 3128, rules)
    found = proxy.bypassed(Plan(host, port, tuple(map(ip_address, addresses))))
    return tuple(map(str, found))


NET = Bypass(ip_network("10.0.0.0/8"))
NET_443 = Bypass(ip_network("10.0.0.0/8"), port=443)
NAME = Bypass(domain="corp.example")


@pytest.mark.parametrize(
    ("host", "port", "addresses", "rules", "direct"),
    [
        ("a.example", 443, (OUT,), (), ()),
        ("a.example", 443, (OUT,), (Bypass(),), (OUT,)),
        ("a.example", 443, (OUT,), (Bypass(port=80),), ()),
        ("a.example", 80, (OUT,), (Bypass(port=80),), (OUT,)),
        ("corp.example", 443, (OUT,), (NAME,), (OUT,)),
        ("A.Corp.Example.", 443, (OUT,), (NAME,), (OUT,)),
        ("notcorp.example", 443, (OUT,), (NAME,), ()),
        ("corp.example.evil.example", 443, (OUT,), (NAME,), ()),
        ("10.1.2.3", 443, ("10.1.2.3",), (NET,), ("10.1.2.3",)),
        ("a.example", 443, (OUT, "10.1.2.3"), (NET,), ("10.1.2.3",)),
        ("a.example", 80, ("10.1.2.3",), (NET_443,), ()),
        ("a.example", 443, ("10.1.2.3",), (NET_443,), ("10.1.2.3",)),
        ("a.example", 443, ("::ffff:a01:203",), (NET,), ("::ffff:a01:203",)),
        ("a.example", 443, ("fd00::1",), (NET,), ()),
        ("a.example", 443, ("127.0.0.1",), (), ("127.0.0.1",)),
        ("a.example", 443, ("::1",), (), ("::1",)),
        ("host.openshell.internal", 443, ("192.168.1.1",), (), ("192.168.1.1",)),
    ],
)
def test_ways(
    host: str,
    port: int,
    addresses: tuple[str, ...],
    rules: tuple[Bypass, ...],
    direct: tuple[str, ...],
) -> None:
    assert bypassed(host, port, addresses, *rules) == direct


def test_the_credential_is_in_no_repr() -> None:
    assert "hunter2" not in repr(CorporateProxy("p", 1, credential="u:hunter2"))
