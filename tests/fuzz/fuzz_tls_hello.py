"""Invariant: any bytes give a hello, a wait or HelloRejected, the same however they are cut."""

from __future__ import annotations

from openshell.egress.tls_hello import (
    ClientHello,
    ClientHelloReader,
    HelloRejected,
    HelloRejectReason,
)


def read(parts: list[bytes]) -> ClientHello | HelloRejectReason | None:
    reader = ClientHelloReader()
    for part in parts:
        try:
            hello = reader.feed(part)
        except HelloRejected as rejected:
            return rejected.reason
        if hello is not None:
            return hello
    return None


def fuzz_tls_hello(data: bytes) -> None:
    whole = read([data])
    assert whole == read([data[i : i + 1] for i in range(len(data))])
    if isinstance(whole, ClientHello) and whole.sni is not None:
        assert whole.sni.isascii()
        assert whole.sni == whole.sni.lower()
