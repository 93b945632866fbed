"""What PostgreSQL's errors mean for a transaction, and the one sentence a person reads of them.

Texts of the server and of libpq are never passed on: they quote the URL and the values of rows.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

import psycopg

from openshell.gateway.store.model import StoreUnavailable

__all__ = ["Failure", "classify", "unavailable"]


class Failure(enum.Enum):
    """What can be done about it."""

    COLLIDED = "collided"
    LOST = "lost"
    REFUSED = "refused"


_COLLISIONS: Final = frozenset(
    {
        "40001",  # not serialisable
        "40P01",  # deadlock
        # A key that was free when the transaction looked: the next attempt sees who has it.
        "23505",
        "55P03",  # the gate was not to be had in time
    }
)
_SENTENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "28P01": "PostgreSQL refuses the password: check OPENSHELL_DB_URL, PGPASSWORD or the password file",
        "28000": "PostgreSQL refuses this user: check OPENSHELL_DB_URL and the server's pg_hba.conf",
        "3D000": "the PostgreSQL database does not exist: create it, or correct OPENSHELL_DB_URL",
        "42501": "the PostgreSQL user lacks rights: let it create tables in its schema and use them",
        "53100": "the disk of the PostgreSQL server is full: free some space",
        "53300": "the PostgreSQL server has no connection left: raise its max_connections",
        "57P03": "the PostgreSQL server is starting or stopping: try again",
        "57014": "PostgreSQL took too long and was interrupted: try again",
        "25006": "the PostgreSQL database is read-only: give the URL of the primary server",
    }
)
# Errors of connecting carry no code; these words are libpq's and the server's own.
_WORDS: Final = (
    ("password authentication failed", "28P01"),
    ("no password supplied", "28P01"),
    ("pg_hba.conf", "28000"),
    ("the database system is", "57P03"),
    ("too many clients", "53300"),
    ("remaining connection slots", "53300"),
)
_UNREACHABLE: Final = "the PostgreSQL server cannot be reached: check that it runs, and host and port in OPENSHELL_DB_URL"


def classify(error: psycopg.Error) -> Failure:
    """For an error inside a transaction or of its COMMIT."""
    code = error.sqlstate
    if code in _COLLISIONS:
        return Failure.COLLIDED
    if code is None or code.startswith(("08", "57P")) or code == "25P03":
        # Without a code: the connection broke, or the driver refused a value.
        lost = isinstance(error, (psycopg.OperationalError, psycopg.InterfaceError))
        return Failure.LOST if lost else Failure.REFUSED
    return Failure.REFUSED


def unavailable(error: psycopg.Error) -> StoreUnavailable:
    code = error.sqlstate
    if code is None:
        text = str(error)
        code = next((code for words, code in _WORDS if words in text), None)
        if code is None and text.count("does not exist") and "database" in text:
            code = "3D000"
    if code is None and classify(error) is Failure.LOST:
        return StoreUnavailable(_UNREACHABLE)
    sentence = _SENTENCES.get(code or "")
    if sentence is None:
        name = type(error).__name__
        sentence = f"PostgreSQL refused an operation ({name}, {code}): see the server's log"
    return StoreUnavailable(sentence)
