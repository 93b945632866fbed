"""Reasons why bytes of a peer are not HTTP/1 as we accept it.

The names are the contract: events, answers and tests use them, so a rule gets one member and a member
one rule. Nothing here carries a byte the peer sent, because a header may hold a credential.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["BodyRejectReason", "BodyRejected", "HeadRejected", "RejectReason"]


class RejectReason(StrEnum):
    """One member per rule of a head; the value is the code that events carry."""

    TOO_LARGE = "head_too_large"
    TOO_MANY_FIELDS = "too_many_fields"
    BARE_LF = "bare_lf"
    NOT_UTF8 = "head_not_utf8"
    CONTROL_BYTE = "control_byte"
    REQUEST_LINE = "malformed_request_line"
    METHOD = "malformed_method"
    TARGET = "malformed_request_target"
    VERSION = "unsupported_version"
    STATUS_LINE = "malformed_status_line"
    FOLDED_LINE = "folded_line"
    NO_COLON = "field_without_colon"
    FIELD_NAME = "malformed_field_name"
    CONNECTION_OPTION = "malformed_connection_option"
    CONNECTION_FORBIDDEN = "connection_names_framing_field"
    LENGTH_INVALID = "invalid_content_length"
    LENGTH_CONFLICT = "conflicting_content_length"
    TRANSFER_CODING = "unsupported_transfer_coding"
    LENGTH_AND_CODING = "length_and_transfer_coding"
    CODING_IN_HTTP10 = "transfer_coding_in_http10"
    CONNECT_BODY = "connect_with_body"
    HOST_MISSING = "host_missing"
    HOST_REPEATED = "host_repeated"
    HOST_INVALID = "host_invalid"
    TRUNCATED = "truncated_head"


class BodyRejectReason(StrEnum):
    """One member per rule of a body."""

    BARE_LF = "bare_lf"
    CHUNK_SIZE = "malformed_chunk_size"
    CHUNK_EXTENSION = "malformed_chunk_extension"
    CHUNK_LINE_TOO_LONG = "chunk_line_too_long"
    CHUNK_OVERHEAD = "chunk_extensions_too_large"
    CHUNK_END = "malformed_chunk_end"
    TRAILER = "malformed_trailer"
    TRAILER_FORBIDDEN = "forbidden_trailer"
    TRAILERS_TOO_LARGE = "trailers_too_large"
    TRUNCATED = "truncated_body"


_LARGE = frozenset({RejectReason.TOO_LARGE, RejectReason.TOO_MANY_FIELDS})


class HeadRejected(Exception):
    """The peer broke a rule of the head; nothing more can be read from this connection.

    `status` is what a client is answered; for a response head it has no meaning (the answer is 502).
    `offset` counts bytes from the start of the head.
    """

    def __init__(self, reason: RejectReason, offset: int = 0) -> None:
        super().__init__(f"HTTP/1 head rejected: {reason.value}")
        self.reason = reason
        self.status = 431 if reason in _LARGE else 400
        self.offset = offset


class BodyRejected(Exception):
    """The peer broke the framing of a body; the connection cannot go on."""

    def __init__(self, reason: BodyRejectReason) -> None:
        super().__init__(f"HTTP/1 body rejected: {reason.value}")
        self.reason = reason
