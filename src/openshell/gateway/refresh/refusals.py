"""What the API says when a refresh is refused: the pure part's reasons, the stores' errors."""

from __future__ import annotations

import contextlib
import logging
import traceback
from collections.abc import Iterator
from typing import Final

from openshell.gateway.credentials.model import CredentialError
from openshell.gateway.errors import ApiError, Code, error_to_status, failed_precondition, internal
from openshell.providers.refresh import RefreshReason, RefreshRefused

__all__ = ["as_api_error", "translated"]

_CODES: Final = {
    RefreshReason.ARGUMENT: Code.INVALID_ARGUMENT,
    RefreshReason.PRECONDITION: Code.FAILED_PRECONDITION,
    RefreshReason.UNREACHABLE: Code.UNAVAILABLE,
    RefreshReason.ISSUER: Code.INTERNAL,
}

_log = logging.getLogger(__name__)


def as_api_error(error: Exception, key: str) -> ApiError:
    """What becomes of one credential's refresh, in words that may be stored and shown."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RefreshRefused):
        return ApiError(_CODES[error.reason], error.message)
    if isinstance(error, CredentialError):
        # Its own text names a slot, which means nothing to anybody.
        return failed_precondition(
            f"the stored secret material of '{key}' cannot be opened ({error.code.value}); "
            "configure the refresh again"
        )
    status = error_to_status(error)
    if status is not None:
        return ApiError(*status)
    # The place without the text: what a library says of its input may quote it.
    place = "".join(traceback.format_tb(error.__traceback__))
    _log.error("refreshing '%s' failed by %s\n%s", key, type(error).__name__, place)
    return internal(f"refreshing '{key}' failed; the gateway's log says where")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Around checks that refuse by `RefreshRefused`."""
    try:
        yield
    except RefreshRefused as refused:
        raise ApiError(_CODES[refused.reason], refused.message) from None
