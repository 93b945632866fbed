"""Invariant: whatever a head looks like, what goes upstream holds no marker, and a value only where the
endpoint is bound; a stream's marker is found wherever the stream is cut."""

from __future__ import annotations

from openshell.egress.credentials import (
    Binding,
    BoundEndpoint,
    CredentialSet,
    EndpointScope,
    MarkerScanner,
    Rewritten,
    find_marker,
    rewrite_head,
)
from openshell.egress.http1 import HeadRejected, RequestHeadReader, render_request_head

SECRET = "s3cr3t-value-of-key"
SET = CredentialSet.build(
    7, {"KEY": SECRET}, {"KEY": Binding((BoundEndpoint("api.example", 443),), "provider:KEY")}
)


def fuzz_rewrite(data: bytes) -> None:
    try:
        head = RequestHeadReader(limit=4096, require_host=False).feed(data)
    except HeadRejected:
        return
    if head is None:
        return
    for host in ("api.example", "evil.example"):
        outcome = rewrite_head(SET, head, EndpointScope(host, 443, "/"), now_ms=0)
        if isinstance(outcome, Rewritten):
            sent = render_request_head(outcome.head)
            assert not find_marker(sent)
            if host != "api.example" and SECRET.encode() not in data:
                assert SECRET.encode() not in sent


def fuzz_scanner(data: bytes) -> None:
    whole, parts = MarkerScanner(), MarkerScanner()
    whole.feed(data)
    for index in range(len(data)):
        parts.feed(data[index : index + 1])
    assert whole.found == parts.found
