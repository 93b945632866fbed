"""Invariant: any bytes, however cut, give a head, a wait or HeadRejected, and the same one each time.

A head that is accepted is written back, read again and found equal.
"""

from __future__ import annotations

from openshell.egress.http1 import (
    FieldMemory,
    HeadRejected,
    RejectReason,
    RequestHead,
    RequestHeadReader,
    ResponseHead,
    ResponseHeadReader,
    render_request_head,
    render_response_head,
)

Outcome = RequestHead | ResponseHead | RejectReason | None
LIMIT = 512


def read(
    reader: RequestHeadReader | ResponseHeadReader, parts: list[bytes]
) -> tuple[Outcome, bytes]:
    rest = list(parts)
    while rest:
        try:
            head = reader.feed(rest.pop(0))
        except HeadRejected as rejected:
            return rejected.reason, b""
        if head is not None:
            return head, reader.leftover + b"".join(rest)
    return None, b""


def fuzz_request_head(data: bytes) -> None:
    results = [
        read(RequestHeadReader(limit=LIMIT, require_host=True), parts)
        for parts in ([data], [data[i : i + 1] for i in range(len(data))], [data[:7], data[7:]])
    ]
    assert results[0] == results[1] == results[2]
    head = results[0][0]
    if isinstance(head, RequestHead):
        again = RequestHeadReader(limit=2 * LIMIT, require_host=True).feed(
            render_request_head(head)
        )
        assert again == head


def fuzz_response_head(data: bytes) -> None:
    results = [
        read(ResponseHeadReader(limit=LIMIT, request_method=b"GET"), parts)
        for parts in ([data], [data[i : i + 1] for i in range(len(data))], [data[:7], data[7:]])
    ]
    assert results[0] == results[1] == results[2]
    head = results[0][0]
    if isinstance(head, ResponseHead):
        reader = ResponseHeadReader(limit=2 * LIMIT, request_method=b"GET")
        assert reader.feed(render_response_head(head)) == head


def fuzz_field_memory(data: bytes) -> None:
    """Heads one behind the other are read with a memory of the last as they are without."""
    memory, rest = FieldMemory(), data
    while rest:
        plain = RequestHeadReader(limit=LIMIT, require_host=True)
        remembering = RequestHeadReader(limit=LIMIT, require_host=True, memory=memory)
        one, two = read(plain, [rest]), read(remembering, [rest])
        assert one == two
        if not isinstance(one[0], RequestHead):
            return
        rest = one[1]
