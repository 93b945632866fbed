"""Keys and certificates in memory: what `pki` keeps in files.

One authority signs a server certificate and certificates of clients. Keys are P-256, which every TLS
library knows and which takes a tenth of the time RSA would. Certificates do not expire: they identify
one installation that holds its own authority, and a lapse would only cut users off from their
sandboxes; replacing the set is the way to revoke. Pure apart from the system's random source.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    EllipticCurvePublicKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from openshell.gateway.auth.principal import USER_ROLE

__all__ = [
    "DEFAULT_SERVER_SANS",
    "Authority",
    "GeneralName",
    "KeyPair",
    "NamesInvalid",
    "make_jwt_files",
    "make_tls_files",
    "parse_sans",
    "sans_of",
]

GeneralName: TypeAlias = x509.DNSName | x509.IPAddress

DEFAULT_SERVER_SANS: Final = (
    "openshell",
    "openshell.openshell.svc",
    "openshell.openshell.svc.cluster.local",
    "localhost",
    "openshell.localhost",
    "*.openshell.localhost",
    "host.docker.internal",
    "host.containers.internal",
    "127.0.0.1",
    "::1",
)

_ORGANIZATION: Final = "openshell"

# RFC 5280 4.1.2.5: this instant means "no well-defined expiration date".
_NOT_BEFORE: Final = datetime(2020, 1, 1, tzinfo=UTC)
_NOT_AFTER: Final = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)

# Enough to name a key among the few that one gateway ever has.
_KID_BYTES: Final = 16

_DNS_NAME: Final = re.compile(
    r"(?=.{1,253}\Z)(?:\*\.)?[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
    r"(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*",
    re.IGNORECASE,
)


class NamesInvalid(ValueError):
    """A name cannot stand in a certificate."""


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate and its key, both as PEM."""

    certificate: bytes
    key: bytes = field(repr=False)


def parse_sans(names: Iterable[str]) -> tuple[GeneralName, ...]:
    """Addresses by their form, everything else as host names; equal ones once."""
    return tuple(dict.fromkeys(_parse_san(name) for name in names))


def _parse_san(name: str) -> GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        pass
    if not _DNS_NAME.fullmatch(name):
        raise NamesInvalid(f"'{name}' is neither an IP address nor a host name")
    return x509.DNSName(name.lower())


def sans_of(certificate: x509.Certificate) -> set[GeneralName]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return set()
    return {name for name in names if isinstance(name, x509.DNSName | x509.IPAddress)}


class Authority:
    """A certificate authority of our own."""

    def __init__(self) -> None:
        self._key = generate_private_key(SECP256R1())
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, _ORGANIZATION),
                x509.NameAttribute(NameOID.COMMON_NAME, "openshell-ca"),
            ]
        )
        public = self._key.public_key()
        self._certificate = (
            _builder(name, name, public)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .sign(self._key, hashes.SHA256())
        )

    @property
    def pair(self) -> KeyPair:
        return _pair(self._certificate, self._key)

    def issue_server(self, names: Sequence[GeneralName]) -> KeyPair:
        return self._issue("openshell-server", None, ExtendedKeyUsageOID.SERVER_AUTH, names)

    def issue_client(self, common_name: str, unit: str) -> KeyPair:
        """The unit is the role that the gateway reads from the certificate."""
        return self._issue(common_name, unit, ExtendedKeyUsageOID.CLIENT_AUTH, ())

    def _issue(
        self,
        common_name: str,
        unit: str | None,
        purpose: x509.ObjectIdentifier,
        names: Sequence[GeneralName],
    ) -> KeyPair:
        key = generate_private_key(SECP256R1())
        public = key.public_key()
        attributes = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if unit is not None:
            attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
        authority_id = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = (
            _builder(x509.Name(attributes), self._certificate.subject, public)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
            .add_extension(authority_id, critical=False)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _pair(builder.sign(self._key, hashes.SHA256()), key)


def make_tls_files(names: Sequence[GeneralName]) -> Mapping[str, bytes]:
    """A new authority, server and user, by their paths in the set."""
    authority = Authority()
    server = authority.issue_server(names)
    client = authority.issue_client("openshell-client", USER_ROLE)
    return {
        "ca.crt": authority.pair.certificate,
        "ca.key": authority.pair.key,
        "server/tls.crt": server.certificate,
        "server/tls.key": server.key,
        "client/tls.crt": client.certificate,
        "client/tls.key": client.key,
    }


def make_jwt_files() -> Mapping[str, bytes]:
    """A new key pair for sandbox tokens, by their paths in the set."""
    key = Ed25519PrivateKey.generate()
    public = key.public_key()
    spki = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    kid = hashlib.sha256(spki).digest()[:_KID_BYTES].hex()
    return {
        "jwt/signing.pem": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        "jwt/public.pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "jwt/kid": f"{kid}\n".encode(),
    }


def _builder(
    subject: x509.Name, issuer: x509.Name, public: EllipticCurvePublicKey
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pair(certificate: x509.Certificate, key: EllipticCurvePrivateKey) -> KeyPair:
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return KeyPair(certificate.public_bytes(Encoding.PEM), pem)
