"""CreateSshSession, RevokeSshSession: bearer tokens for connections to one sandbox.

A token lets its holder open `ForwardTcp` streams until it expires. The store keeps its digest only, as
the id of the row, so a copy of the database opens nothing. Rows go with the sandbox, with a stop, by
revocation, and, when another session of the sandbox is made, once they have expired.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.errors import unauthenticated
from openshell.gateway.limits import check_required
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.services.lookup import find_sandbox_by_id
from openshell.gateway.services.readiness import Readiness
from openshell.gateway.store import MustCreate, Store, Tx

__all__ = ["SessionEndpoint", "SshSessions"]

TOKEN_MAX = 4_096
"""Characters that clients may send; ours have 36."""


@dataclass(frozen=True, slots=True)
class SessionEndpoint:
    """Where clients are told to connect, and for how long a token of theirs lives."""

    host: str
    port: int
    scheme: str
    ttl_seconds: int
    """0: for ever."""


class SshSessions:
    """Two RPCs, and the check of a token for who opens a stream with it."""

    def __init__(
        self,
        store: Store,
        readiness: Readiness,
        endpoint: SessionEndpoint,
        *,
        new_id: Callable[[], str],
    ) -> None:
        self._store = store
        self._readiness = readiness
        self._endpoint = endpoint
        self._new_id = new_id

    async def CreateSshSession(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.CreateSshSessionRequest, _context: Any
    ) -> openshell_pb2.CreateSshSessionResponse:
        check_required("sandbox_id", request.sandbox_id)
        await self._readiness.require(request.sandbox_id)
        token = self._new_id()

        def write(tx: Tx) -> int:
            row, _ = find_sandbox_by_id(tx, request.sandbox_id)
            _drop_expired(tx, row.id)
            ttl_ms = self._endpoint.ttl_seconds * 1000
            expires_at_ms = tx.now_ms + ttl_ms if ttl_ms else 0
            session = openshell_pb2.SshSession(
                metadata=datamodel_pb2.ObjectMeta(
                    id=_digest(token), workspace=row.workspace, created_at_ms=tx.now_ms
                ),
                sandbox_id=row.id,
                expires_at_ms=expires_at_ms,
            )
            tx.put(to_row(Kind.SSH_SESSION, session, scope=row.id), MustCreate())
            return expires_at_ms

        expires_at_ms = await self._store.write(write)
        return openshell_pb2.CreateSshSessionResponse(
            sandbox_id=request.sandbox_id,
            token=token,
            gateway_host=self._endpoint.host,
            gateway_port=self._endpoint.port,
            gateway_scheme=self._endpoint.scheme,
            expires_at_ms=expires_at_ms,
        )

    async def RevokeSshSession(  # noqa: N802  named as the RPC
        self, request: openshell_pb2.RevokeSshSessionRequest, _context: Any
    ) -> openshell_pb2.RevokeSshSessionResponse:
        check_required("token", request.token)
        digest = _digest(request.token)
        revoked = await self._store.write(lambda tx: tx.delete(Kind.SSH_SESSION, digest))
        return openshell_pb2.RevokeSshSessionResponse(revoked=revoked)

    async def require(self, token: str, sandbox_id: str) -> str:
        """The digest of a token that is good for this sandbox; raises UNAUTHENTICATED."""
        if not token or len(token) > TOKEN_MAX:
            raise unauthenticated("authorization_token is required: create an SSH session first")
        digest = _digest(token)

        def read(tx: Tx) -> bool:
            row = tx.get_by_id(Kind.SSH_SESSION, digest)
            if row is None:
                return False
            session = load(row, openshell_pb2.SshSession)
            return session.sandbox_id == sandbox_id and not _has_expired(session, tx.now_ms)

        if not await self._store.look_up(read):
            # One sentence for all cases: whether a token exists elsewhere is not for its bearer.
            raise unauthenticated("the SSH session is unknown, revoked or expired; create another")
        return digest


def _digest(token: str) -> str:
    # 122 random bits: a plain hash cannot be searched.
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def _has_expired(session: openshell_pb2.SshSession, now_ms: int) -> bool:
    return 0 < session.expires_at_ms <= now_ms


def _drop_expired(tx: Tx, sandbox_id: str) -> None:
    for row in tx.all(Kind.SSH_SESSION, scope=sandbox_id):
        if _has_expired(load(row, openshell_pb2.SshSession), tx.now_ms):
            tx.delete(Kind.SSH_SESSION, row.id)
