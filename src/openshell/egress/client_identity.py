"""A client certificate with its key, as a provider's credentials bring them, and the TLS context that shows it.

The key is in memory only: OpenSSL reads it through an anonymous memory file, which no path in any file
system leads to and which is gone when the function returns. Who may be shown a certificate is decided by
`credentials`; `upstream` makes connections with it.
"""

from __future__ import annotations

import os
import ssl
from dataclasses import dataclass, field

__all__ = ["BadIdentity", "ClientIdentity", "identity_context"]


class BadIdentity(ValueError):
    """Certificate and key cannot be used together. The text says what to do and quotes neither."""


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """Both are PEM; the certificate may be followed by its chain."""

    provider: str
    certificate: str = field(repr=False)
    private_key: str = field(repr=False)


def identity_context(base: ssl.SSLContext, identity: ClientIdentity) -> ssl.SSLContext:
    """Make a context that trusts what `base` trusts and shows the identity. Raises BadIdentity."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = base.minimum_version
    context.verify_flags = base.verify_flags
    roots = b"".join(base.get_ca_certs(binary_form=True))
    if roots:
        context.load_verify_locations(cadata=roots)
    descriptor = os.memfd_create("client-identity", os.MFD_CLOEXEC)
    try:
        with open(descriptor, "wb", closefd=False) as file:
            file.write(f"{identity.private_key}\n{identity.certificate}\n".encode())
        # Without a password callback OpenSSL would ask for one on the terminal.
        context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=str)
    except (ssl.SSLError, ValueError, OSError) as error:
        word = getattr(error, "reason", "") or ""
        problem = (
            "the private key does not belong to the certificate"
            if "MISMATCH" in word
            else "certificate or private key is no PEM that can be read without a password"
        )
        raise BadIdentity(
            f"the client certificate of provider '{identity.provider}' cannot be used: {problem};"
            f" give both anew with `openshell provider update {identity.provider}`"
        ) from None
    finally:
        os.close(descriptor)
    return context
