"""The sandbox CA: what a strict client accepts, what it refuses, and that keys stay in memory."""

import contextlib
import datetime as dt
import ssl

import pytest
from cryptography import x509

from openshell.egress.ca import SandboxCA, client_context, system_roots
from openshell.egress.tls_faults import explain_tls_error

NOW = dt.datetime.now(dt.UTC)


@pytest.fixture(scope="module")
def ca():
    return SandboxCA(NOW)


def shake(server_context, client, server_name):
    """Run one handshake in memory; returns the client's object or raises its error."""
    c_in, c_out, s_in, s_out = (ssl.MemoryBIO() for _ in range(4))
    client_side = client.wrap_bio(c_in, c_out, server_hostname=server_name)
    server_side = server_context.wrap_bio(s_in, s_out, server_side=True)
    for _ in range(8):
        for side, out, into in ((client_side, c_out, s_in), (server_side, s_out, c_in)):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
            into.write(out.read())
    return client_side


@pytest.mark.parametrize(
    "host",
    ["api.example.com", "10.1.2.3", "2001:db8::1", "a" * 60 + "." + "b" * 60 + ".example"],
    ids=["name", "IPv4", "IPv6", "longer than a common name may be"],
)
def test_a_strict_client_verifies_the_leaf(ca, host):
    client = client_context(ca.certificate_pem)
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    side = shake(ca.server_context(host, NOW), client, host)
    assert side.selected_alpn_protocol() == "http/1.1"
    leaf = x509.load_der_x509_certificate(side.getpeercert(binary_form=True))
    assert "OpenShell Sandbox CA" in leaf.issuer.rfc4514_string()


REFUSALS = {
    "another name": ("b.example", True, "is not for b.example"),
    "not our root": ("a.example", False, "not signed by a root that is trusted here"),
}


@pytest.mark.parametrize(("name", "trusted", "words"), REFUSALS.values(), ids=REFUSALS.keys())
def test_reasons_are_told_apart(ca, name, trusted, words):
    context = ca.server_context("a.example", NOW)
    shake(context, client_context(ca.certificate_pem), "a.example")
    roots = ca.certificate_pem if trusted else SandboxCA(NOW).certificate_pem
    with pytest.raises(ssl.SSLError) as caught:
        shake(context, client_context(roots), name)
    assert words in explain_tls_error(caught.value, name).reason


def test_an_expired_leaf_is_named(ca):
    long_ago = NOW - dt.timedelta(days=400)
    old = SandboxCA(long_ago)
    with pytest.raises(ssl.SSLError) as caught:
        shake(
            old.server_context("a.example", long_ago),
            client_context(old.certificate_pem),
            "a.example",
        )
    assert "is not valid now" in explain_tls_error(caught.value, "a.example").reason


def test_contexts_are_kept_bounded_and_renewed():
    ca = SandboxCA(NOW)
    first = ca.server_context("h0.example", NOW)
    assert ca.server_context("h0.example", NOW) is first
    for number in range(1, 257):
        ca.server_context(f"h{number}.example", NOW)
    assert len(ca._contexts) == 256
    assert ca.server_context("h0.example", NOW) is not first
    kept = ca.server_context("h0.example", NOW)
    assert ca.server_context("h0.example", NOW + dt.timedelta(days=84)) is not kept


def test_the_bundle_ends_with_the_ca(ca):
    assert ca.bundle(b"ROOTS") == b"ROOTS\n" + ca.certificate_pem
    assert b"PRIVATE" not in ca.certificate_pem


def test_system_roots_takes_the_first_bundle_that_says_something(tmp_path):
    assert system_roots(str(tmp_path)) == b""
    (tmp_path / "etc/ssl/certs").mkdir(parents=True)
    (tmp_path / "etc/ssl/certs/ca-certificates.crt").write_bytes(b"")
    (tmp_path / "etc/ssl/cert.pem").write_bytes(b"PEM")
    assert system_roots(str(tmp_path)) == b"PEM"
