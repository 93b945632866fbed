"""Credentials of a sandbox: what the agent holds instead of them, and where they may be put.

Without I/O and without a clock. The supervisor builds sets from what the gateway sends, the egress pipeline
rewrites heads and scans bodies.
"""

from __future__ import annotations

from openshell.egress.credentials.binding import BadPattern, BoundEndpoint, EndpointScope
from openshell.egress.credentials.body import (
    BODY_LIMIT,
    MARKER_PLACE,
    RewrittenBody,
    refuse_marker,
    rewrite_body,
)
from openshell.egress.credentials.grants import (
    GrantRejected,
    GrantSet,
    TokenGrant,
    Tokens,
    TokenUnavailable,
    inject,
)
from openshell.egress.credentials.placeholder import (
    MarkerScanner,
    Placeholder,
    find_marker,
    first_placeholder,
    parse_placeholder,
    redact_placeholders,
)
from openshell.egress.credentials.rewrite import (
    NEEDS_TLS,
    CredentialRefused,
    Rewritten,
    is_echoed,
    rewrite_head,
)
from openshell.egress.credentials.state import (
    Binding,
    BoundIdentity,
    CredentialSet,
    SnapshotRejected,
    Unresolved,
)

__all__ = [
    "BODY_LIMIT",
    "MARKER_PLACE",
    "NEEDS_TLS",
    "BadPattern",
    "Binding",
    "BoundEndpoint",
    "BoundIdentity",
    "CredentialRefused",
    "CredentialSet",
    "EndpointScope",
    "GrantRejected",
    "GrantSet",
    "MarkerScanner",
    "Placeholder",
    "Rewritten",
    "RewrittenBody",
    "SnapshotRejected",
    "TokenGrant",
    "TokenUnavailable",
    "Tokens",
    "Unresolved",
    "find_marker",
    "first_placeholder",
    "inject",
    "is_echoed",
    "parse_placeholder",
    "redact_placeholders",
    "refuse_marker",
    "rewrite_body",
    "rewrite_head",
]
