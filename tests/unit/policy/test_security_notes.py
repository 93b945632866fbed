"""Which sentences a proposed rule earns, and that an ordinary one earns none."""

import pytest

from openshell.policy.model import Binary, Endpoint, NetworkRule
from openshell.policy.security_notes import security_notes

CURL = (Binary("/usr/bin/curl"),)


def notes(*, binaries=CURL, **fields):
    endpoint = Endpoint(**{"host": "api.example.com", "ports": (443,)} | fields)
    return security_notes(NetworkRule("r", endpoints=(endpoint,), binaries=binaries))


CASES = {
    "ordinary": ({"protocol": "rest", "enforcement": "enforce", "access": "read-only"}, ""),
    "raw": ({}, ""),
    "a name like an address": ({"host": "10.example.com"}, ""),
    "always blocked": ({"host": "169.254.169.254"}, ""),
    "loopback range": ({"allowed_ips": ("127.0.0.0/8",)}, ""),
    "public address": ({"host": "8.8.8.8"}, ""),
    "not an address": ({"allowed_ips": ("x",)}, ""),
    "uninspected": ({"allow_uninspected_credentials": True}, "not inspected"),
    "raw TLS": ({"tls": "skip"}, "TLS to 'api.example.com' is not inspected"),
    "only recorded": ({"protocol": "rest", "access": "read-only"}, "only recorded"),
    "full": ({"protocol": "rest", "enforcement": "enforce", "access": "full"}, "Every method"),
    "wildcard": ({"host": "*.example.com"}, "wildcard"),
    "private address": ({"host": "10.1.2.3"}, "internal address"),
    "shared range": ({"host": "100.64.0.1"}, "internal address"),
    "ULA": ({"host": "fd00::1"}, "internal address"),
    "mapped": ({"host": "::ffff:192.168.0.1"}, "internal address"),
    "private range": ({"allowed_ips": ("10.0.0.0/8",)}, "private range"),
    "wide range": ({"allowed_ips": ("192.0.0.0/8",)}, "private range"),
    "any name": ({"host": "", "allowed_ips": ("10.0.0.0/8",)}, "Every name"),
    "ephemeral": ({"ports": (49153,)}, "Port 49153 is an ephemeral port"),
    "not ephemeral": ({"ports": (49152,)}, ""),
    "database": ({"ports": (443, 5432)}, "Port 5432 is a database"),
    "no program": ({"binaries": ()}, "No program is named"),
    "any program": ({"binaries": (Binary("/usr/**"),)}, "more than one program"),
}


@pytest.mark.parametrize(("fields", "words"), CASES.values(), ids=CASES.keys())
def test_notes(fields, words):
    found = " ".join(notes(**fields))
    assert (words in found) if words else found == ""


def test_a_note_stands_once():
    rule = NetworkRule("r", endpoints=(Endpoint("*.a.com", (1,)),) * 3, binaries=CURL)
    assert len(security_notes(rule)) == 1
