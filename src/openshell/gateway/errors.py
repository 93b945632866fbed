"""Errors of the gateway's own API: a code, one sentence that says what to do, details.

Services raise `ApiError`, made by the small functions below, and never touch a gRPC context. The
single translation to a status is `error_to_status`, used by `grpc_errors.py`. A refusal by policy
is not an error and is not made here. Messages never hold a credential or a token.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

from openshell.gateway.store.model import (
    StoreConflict,
    StoreError,
    UniqueViolation,
)

__all__ = [
    "ApiError",
    "Code",
    "aborted",
    "already_exists",
    "cancelled",
    "deadline_exceeded",
    "error_to_status",
    "failed_precondition",
    "internal",
    "invalid_argument",
    "not_found",
    "permission_denied",
    "resource_exhausted",
    "unauthenticated",
    "unavailable",
    "unimplemented",
]

_NO_DETAILS: Mapping[str, str] = MappingProxyType({})


class Code(enum.Enum):
    """Status codes by their gRPC names and numbers; kept apart from grpc so that planners stay pure."""

    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


class ApiError(Exception):
    """What a caller of the API is told."""

    def __init__(self, code: Code, message: str, details: Mapping[str, str] = _NO_DETAILS) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def __repr__(self) -> str:
        return f"ApiError({self.code.name}, {self.message!r})"


def invalid_argument(message: str, **details: str) -> ApiError:
    return ApiError(Code.INVALID_ARGUMENT, message, details)


def not_found(message: str, **details: str) -> ApiError:
    return ApiError(Code.NOT_FOUND, message, details)


def already_exists(message: str, **details: str) -> ApiError:
    return ApiError(Code.ALREADY_EXISTS, message, details)


def failed_precondition(message: str, **details: str) -> ApiError:
    return ApiError(Code.FAILED_PRECONDITION, message, details)


def unauthenticated(message: str, **details: str) -> ApiError:
    return ApiError(Code.UNAUTHENTICATED, message, details)


def permission_denied(message: str, **details: str) -> ApiError:
    return ApiError(Code.PERMISSION_DENIED, message, details)


def unavailable(message: str, **details: str) -> ApiError:
    return ApiError(Code.UNAVAILABLE, message, details)


def resource_exhausted(message: str, **details: str) -> ApiError:
    return ApiError(Code.RESOURCE_EXHAUSTED, message, details)


def aborted(message: str, **details: str) -> ApiError:
    return ApiError(Code.ABORTED, message, details)


def deadline_exceeded(message: str, **details: str) -> ApiError:
    return ApiError(Code.DEADLINE_EXCEEDED, message, details)


def cancelled(message: str, **details: str) -> ApiError:
    return ApiError(Code.CANCELLED, message, details)


def internal(message: str, **details: str) -> ApiError:
    return ApiError(Code.INTERNAL, message, details)


def unimplemented(message: str, **details: str) -> ApiError:
    return ApiError(Code.UNIMPLEMENTED, message, details)


def error_to_status(error: BaseException) -> tuple[Code, str] | None:
    """The status a domain error is answered with; None for a bug, whose text stays in the log."""
    if isinstance(error, ApiError):
        return error.code, error.message
    if isinstance(error, StoreConflict):
        current = "unknown" if error.current is None else str(error.current)
        return (
            Code.ABORTED,
            f"concurrent modification (current resource_version: {current}); read it again and retry",
        )
    if isinstance(error, UniqueViolation):
        # Creates that owe the caller ALREADY_EXISTS translate this themselves.
        return Code.INTERNAL, f"the store refused the write: {error.constraint} is already taken"
    if isinstance(error, StoreError):
        return Code.INTERNAL, str(error)
    return None
