"""Credentials of a sandbox: what the agent holds instead of them, and where they may be put.

Without I/O and without a clock. The supervisor builds sets from what the gateway sends, the egress pipeline
rewrites heads and scans bodies.
"""

from __future__ import annotations

from openshell.egress.credentials.binding import BadPattern, BoundEndpoint, EndpointScope
from openshell.egress.credentials.placeholder import (
    MarkerScanner,
    Placeholder,
    find_marker,
    parse_placeholder,
    redact_placeholders,
)
from openshell.egress.credentials.rewrite import (
    NEEDS_TLS,
    CredentialRefused,
    Rewritten,
    rewrite_head,
)
from openshell.egress.credentials.state import (
    Binding,
    CredentialSet,
    SnapshotRejected,
    Unresolved,
)

__all__ = [
    "NEEDS_TLS",
    "BadPattern",
    "Binding",
    "BoundEndpoint",
    "CredentialRefused",
    "CredentialSet",
    "EndpointScope",
    "MarkerScanner",
    "Placeholder",
    "Rewritten",
    "SnapshotRejected",
    "Unresolved",
    "find_marker",
    "parse_placeholder",
    "redact_placeholders",
    "rewrite_head",
]
