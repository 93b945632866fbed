"""The sandbox's certificate authority, and the two kinds of TLS contexts.

Facing the agent: a CA that lives in memory for as long as the supervisor, and one server context
per host name, made on first use. All leaves share one key, so a new host costs one signature. The
key reaches OpenSSL through an anonymous memory file and no disk. Facing upstreams: one client
context with the system's roots and the operator's bundle.

It decides nothing about which hosts may be intercepted. Called by the pipeline (contexts) and by
the supervisor (the bundle that the agent is given).
"""

import datetime as dt
import ipaddress
import os
import ssl
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

__all__ = ["SandboxCA", "client_context", "system_roots"]

# Server contexts kept; a sandbox talks to a few dozen hosts. The oldest is dropped first.
_CONTEXTS: Final = 256
_CA_DAYS: Final = 3650
_LEAF_DAYS: Final = 90
# A kept context is renewed this long before its leaf ends.
_RENEW_DAYS: Final = 7
# Clients with a slow clock must not see a certificate from the future.
_BACKDATE: Final = dt.timedelta(hours=24)
# The common name field is limited by the standard; the name that counts is in the SAN.
_MAX_COMMON_NAME: Final = 64
_ROOT_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
)
# What contexts speak; HTTP/2 is offered where the upstream has agreed to it.
_ALPN: Final = ["http/1.1"]
_ALPN_H2: Final = ["h2", "http/1.1"]


class SandboxCA:
    """Mints leaves and keeps their server contexts."""

    def __init__(self, now: dt.datetime) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_key = ec.generate_private_key(ec.SECP256R1())
        self._leaf_public = self._leaf_key.public_key()
        self._name = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, "OpenShell Sandbox CA"),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "OpenShell"),
            ]
        )
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._certificate = self._sign_ca(now)
        self.certificate_pem: bytes = self._certificate.public_bytes(serialization.Encoding.PEM)
        self._leaf_key_pem = self._leaf_key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        self._contexts: dict[tuple[str, bool], tuple[ssl.SSLContext, dt.datetime]] = {}

    def bundle(self, roots: bytes) -> bytes:
        """Return `roots` followed by this CA, as the agent's tools want it."""
        if roots and not roots.endswith(b"\n"):
            roots += b"\n"
        return roots + self.certificate_pem

    def server_context(self, host: str, now: dt.datetime, *, h2: bool = False) -> ssl.SSLContext:
        """Return the context that answers as `host` (a name or an address without brackets)."""
        kept = self._contexts.pop((host, h2), None)
        if kept is None or kept[1] < now:
            while len(self._contexts) >= _CONTEXTS:
                del self._contexts[next(iter(self._contexts))]
            until = now + dt.timedelta(days=_LEAF_DAYS - _RENEW_DAYS)
            protocols = _ALPN_H2 if h2 else _ALPN
            kept = (self._make_context(self._sign_leaf(host, now), protocols), until)
        # Put back at the end: the dictionary's order is the order of last use.
        self._contexts[host, h2] = kept
        return kept[0]

    def _sign_ca(self, now: dt.datetime) -> x509.Certificate:
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=self._name,
            public_key=self._key.public_key(),
            serial_number=x509.random_serial_number(),
            not_valid_before=now - _BACKDATE,
            not_valid_after=now + dt.timedelta(days=_CA_DAYS),
        )
        usage = x509.KeyUsage(
            digital_signature=False,
            content_commitment=False,
            key_encipherment=False,
            data_encipherment=False,
            key_agreement=False,
            key_cert_sign=True,
            crl_sign=True,
            encipher_only=False,
            decipher_only=False,
        )
        return (
            builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(self._identifier, critical=False)
            .sign(self._key, hashes.SHA256())
        )

    def _sign_leaf(self, host: str, now: dt.datetime) -> bytes:
        try:
            name: x509.GeneralName = x509.IPAddress(ipaddress.ip_address(host))
        except ValueError:
            name = x509.DNSName(host)
        subject = []
        if len(host) <= _MAX_COMMON_NAME:
            subject.append(x509.NameAttribute(NameOID.COMMON_NAME, host))
        builder = x509.CertificateBuilder(
            issuer_name=self._name,
            subject_name=x509.Name(subject),
            public_key=self._leaf_public,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - _BACKDATE,
            not_valid_after=now + dt.timedelta(days=_LEAF_DAYS),
        )
        issuer = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
        usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
        # An empty subject obliges the SAN to be critical (RFC 5280, 4.2.1.6).
        leaf = (
            builder.add_extension(x509.SubjectAlternativeName([name]), critical=not subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(usage, critical=False)
            .add_extension(issuer, critical=False)
            .sign(self._key, hashes.SHA256())
        )
        return leaf.public_bytes(serialization.Encoding.PEM)

    def _make_context(self, leaf_pem: bytes, protocols: list[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(protocols)
        # Tickets would let a client resume into a host's context after its leaf was replaced, and
        # cost two messages per handshake; connections are kept alive anyway.
        context.num_tickets = 0
        context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_RENEGOTIATION
        descriptor = os.memfd_create("leaf", os.MFD_CLOEXEC)
        try:
            _write_all(descriptor, self._leaf_key_pem + leaf_pem + self.certificate_pem)
            context.load_cert_chain(f"/proc/self/fd/{descriptor}")
        finally:
            os.close(descriptor)
        return context


def system_roots(root: str = "/") -> bytes:
    """Return the first non-empty bundle of trusted roots of a file system, or nothing."""
    for path in _ROOT_BUNDLES:
        try:
            with open(os.path.join(root, path.lstrip("/")), "rb") as file:
                content = file.read()
        except OSError:
            continue
        if content:
            return content
    return b""


def client_context(roots: bytes, operator_bundle: bytes = b"") -> ssl.SSLContext:
    """Make the context for connections to upstreams; a damaged bundle raises `ssl.SSLError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(_ALPN)
    for bundle in (roots, operator_bundle):
        if bundle.strip():
            context.load_verify_locations(cadata=bundle.decode("ascii", "replace"))
    return context


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
