"""What the first bytes of a tunnel are: TLS, HTTP/1, HTTP/2 without TLS, or something unknown.

Pure: the shell peeks, asks again while the answer is MORE, and treats MORE as UNKNOWN once its time is up
(`proxy.md` 3.2). An answer other than MORE never changes with more bytes.
"""

from __future__ import annotations

from enum import Enum

__all__ = ["FirstBytes", "classify"]


class FirstBytes(Enum):
    """Classes of first bytes."""

    TLS = "tls"
    HTTP1 = "http1"
    H2C = "h2c"
    UNKNOWN = "unknown"
    MORE = "more"


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_METHODS = (
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"PATCH ",
    b"OPTIONS ",
    b"CONNECT ",
    b"TRACE ",
)
# Shorter prefixes of the preface could still be a method somebody invented.
_PREFACE_ENOUGH = 8
_MAY_BECOME = (*_METHODS, _PREFACE[:_PREFACE_ENOUGH])


def classify(data: bytes) -> FirstBytes:
    """The class of a connection that began with `data`."""
    if data[:2] == b"\x16\x03":
        if len(data) < 3:
            return FirstBytes.MORE
        return FirstBytes.TLS if data[2] <= 4 else FirstBytes.UNKNOWN
    if data.startswith(_METHODS):
        return FirstBytes.HTTP1
    if len(data) >= _PREFACE_ENOUGH and _PREFACE.startswith(data[: len(_PREFACE)]):
        return FirstBytes.H2C
    if data in (b"", b"\x16") or any(start.startswith(data) for start in _MAY_BECOME):
        return FirstBytes.MORE
    return FirstBytes.UNKNOWN
