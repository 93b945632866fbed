"""HTTP/1 without I/O: strict heads and bodies, bytes in and values out.

Leaves reading, writing and deciding to the egress pipeline. Standard library only.
"""

from __future__ import annotations

from openshell.egress.http1.body import BodyDecoder, BodyPart, Buffer
from openshell.egress.http1.fields import Headers, is_token, lowered, render_fields
from openshell.egress.http1.forwarding import end_to_end
from openshell.egress.http1.framing import (
    CHUNKED,
    NO_BODY,
    UNTIL_CLOSE,
    Chunked,
    Framing,
    Length,
    NoBody,
    UntilClose,
)
from openshell.egress.http1.head import (
    FIRST_HEAD_LIMIT,
    TUNNEL_HEAD_LIMIT,
    FieldMemory,
    RequestHead,
    RequestHeadReader,
    render_request_head,
)
from openshell.egress.http1.rejects import (
    BodyRejected,
    BodyRejectReason,
    HeadRejected,
    RejectReason,
)
from openshell.egress.http1.response import (
    RESPONSE_HEAD_LIMIT,
    ResponseHead,
    ResponseHeadReader,
    render_response_head,
)
from openshell.egress.http1.target import (
    AbsoluteTarget,
    Authority,
    parse_absolute_target,
    parse_connect_target,
    parse_host_field,
)

__all__ = [
    "CHUNKED",
    "FIRST_HEAD_LIMIT",
    "NO_BODY",
    "RESPONSE_HEAD_LIMIT",
    "TUNNEL_HEAD_LIMIT",
    "UNTIL_CLOSE",
    "AbsoluteTarget",
    "Authority",
    "BodyDecoder",
    "BodyPart",
    "BodyRejectReason",
    "BodyRejected",
    "Buffer",
    "Chunked",
    "FieldMemory",
    "Framing",
    "HeadRejected",
    "Headers",
    "Length",
    "NoBody",
    "RejectReason",
    "RequestHead",
    "RequestHeadReader",
    "ResponseHead",
    "ResponseHeadReader",
    "UntilClose",
    "end_to_end",
    "is_token",
    "lowered",
    "parse_absolute_target",
    "parse_connect_target",
    "parse_host_field",
    "render_fields",
    "render_request_head",
    "render_response_head",
]
