"""Refusals of HTTP/2 streams, in the words that HTTP/1 requests get.

Pure: a denial becomes a header list and a body; a gRPC client, which shows its caller no body, is told by
the status message of its own protocol. What applies was chosen before.
"""

import json
from typing import Final
from urllib.parse import quote

from hpack import HeaderTuple

from openshell.egress.denials import Denial
from openshell.egress.http1 import RequestHead
from openshell.egress.http2.fields import write_response

__all__ = ["write_denial"]

# How gRPC reads HTTP statuses (its document "HTTP to gRPC Status Code Mapping"); 2 is UNKNOWN.
_GRPC_STATUS: Final = {
    400: 13,
    401: 16,
    403: 7,
    404: 12,
    413: 8,
    429: 14,
    502: 14,
    503: 14,
    504: 14,
}
_UNKNOWN: Final = 2
# Clients bound the list that it stands in; the advice comes last and is what is cut.
_MESSAGE_LIMIT: Final = 1024
_SAID: Final = ("detail", "message", "reason", "suggestion", "command")
# What may stand in the message as it is: printable ASCII without the escape itself.
_PLAIN: Final = "".join(chr(code) for code in range(0x20, 0x7F) if code != ord("%"))


def write_denial(denial: Denial, head: RequestHead | None) -> tuple[list[HeaderTuple], bytes]:
    """Write an answer of ours: its header list and the body that follows."""
    if head is not None and _is_grpc(head):
        status = _GRPC_STATUS.get(denial.status, _UNKNOWN)
        extra = ((b"grpc-status", b"%d" % status), (b"grpc-message", _message(denial.body)))
        kept = [pair for pair in denial.headers if pair[0].lower() == b"x-openshell-policy"]
        fields = ((b"content-type", b"application/grpc"), *extra, *kept)
        return write_response(denial.status, fields), b""
    body = b"" if head is not None and head.method == b"HEAD" else denial.body
    return write_response(denial.status, denial.headers), body


def _is_grpc(head: RequestHead) -> bool:
    kinds = head.values(b"content-type")
    return len(kinds) == 1 and kinds[0].lower().startswith(b"application/grpc")


def _message(body: bytes) -> bytes:
    said: list[str] = []
    if body:
        facts = json.loads(body)
        said = [str(facts[key]) for key in _SAID if facts.get(key)]
    text = "; ".join(said) or "refused by the sandbox's proxy"
    return quote(text, safe=_PLAIN)[:_MESSAGE_LIMIT].encode("ascii")
