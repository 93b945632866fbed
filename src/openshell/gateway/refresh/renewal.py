"""Renews one credential: claim its state, mint outside of any transaction, store what was minted.

The claim is a write that only one of several gateways can make, so a refresh token is never sent
twice at once. Storing is one transaction: new values in the provider, the new refresh token, the
state's outcome, and the sandboxes looked at again. A state that was deleted or configured anew
meanwhile has another version: nothing of the mint is kept then. A failure is kept in the state; so is
a refresh token that the issuer replaced before the failure.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from openshell.gateway.credentials.model import (
    CredentialRef,
    CredentialStore,
    Loaded,
    Prepared,
)
from openshell.gateway.errors import ApiError, Code, aborted, failed_precondition
from openshell.gateway.events import Bus
from openshell.gateway.records import Kind, load
from openshell.gateway.refresh.minting import Minter
from openshell.gateway.refresh.provider_values import write_values
from openshell.gateway.refresh.refusals import as_api_error
from openshell.gateway.refresh.states import (
    State,
    is_claimed,
    material_refs,
    material_slot,
    put_state,
    set_handles,
    strategy_of,
)
from openshell.gateway.refresh.users import Users
from openshell.gateway.services.catalogues import v2_enabled
from openshell.gateway.store.model import Row, Store, Tx
from openshell.providers.profile.model import Strategy
from openshell.providers.refresh import BACKOFF_MS, RefreshReason, RefreshRefused, next_due
from openshell.providers.refresh_answers import Minted
from openshell.providers.refresh_requests import MintInputs

__all__ = ["CLAIM_MS", "Renewals"]

CLAIM_MS: Final = 120_000
"""How long a claim holds when its gateway dies: well above the half minute that an issuer has."""
GRACE_SECONDS: Final = 5.0
"""What a gateway that ends waits for an issuer that may be replacing a refresh token."""
MAX_ERROR_LENGTH: Final = 1024
"""Characters of a stored error; ours are shorter."""

_REFRESH_TOKEN: Final = "refresh_token"  # noqa: S105  a name

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Claim:
    """One state that this gateway alone renews, as it was written when it was claimed."""

    row: Row
    state: State = field(repr=False)
    material: Loaded
    v2: bool
    now_ms: int

    @property
    def key(self) -> str:
        return self.state.credential_key


@dataclass(frozen=True, slots=True)
class _Stored:
    state: State = field(repr=False)
    dropped: list[CredentialRef]
    sandbox_ids: list[str]


class Renewals:
    """Renews credentials, for the API and for the worker."""

    def __init__(
        self, store: Store, credentials: CredentialStore, bus: Bus, minter: Minter
    ) -> None:
        self._store = store
        self._credentials = credentials
        self._bus = bus
        self._minter = minter

    async def renew(self, find: Callable[[Tx], Row | None]) -> State | None:
        """Renews the state that `find` gives; None when it gives none. Raises `ApiError`.

        Not to be cancelled by who asked for it: a value that was minted has to be stored.
        """
        claim = await self._store.write(lambda tx: self._claim(tx, find(tx)))
        if claim is None:
            return None
        # No task of the gateway's: those are cancelled when it ends, this one is waited for below.
        work = asyncio.create_task(self._renew(claim), name=f"renew {claim.key}")
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            if strategy_of(claim.state.strategy) is Strategy.OAUTH2_REFRESH_TOKEN:
                await asyncio.wait({work}, timeout=GRACE_SECONDS)
            work.cancel()
            await asyncio.wait({work})
            if not work.cancelled():
                work.exception()
            raise

    def _claim(self, tx: Tx, row: Row | None) -> _Claim | None:
        if row is None:
            return None
        state = load(row, State)
        key = state.credential_key
        if is_claimed(row, state, tx.now_ms):
            raise aborted(f"'{key}' is being refreshed right now; look at its status, then retry")
        refs = material_refs(state, state.secret_material_keys)
        lost = sorted(set(state.secret_material_keys) - refs.keys())
        if lost:
            raise failed_precondition(
                f"the secret material {', '.join(lost)} of '{key}' is lost; "
                "configure the refresh again"
            )
        state.next_refresh_at_ms = tx.now_ms + CLAIM_MS
        claimed = put_state(tx, state, row, minting=True)
        return _Claim(
            claimed,
            load(claimed, State),
            self._credentials.load(tx, list(refs.values())),
            v2_enabled(tx),
            tx.now_ms,
        )

    async def _renew(self, claim: _Claim) -> State:
        try:
            inputs = await self._inputs(claim)
            minted = await self._minter.mint(claim.key, inputs, claim.now_ms)
        except Exception as error:
            raise await self._fail(claim, error, "") from None
        return await self._store_minted(claim, minted)

    async def _inputs(self, claim: _Claim) -> MintInputs:
        state = claim.state
        strategy = strategy_of(state.strategy) or Strategy.UNSPECIFIED
        # Asked at every mint: turning the setting off ends what depends on it.
        if strategy is Strategy.AWS_STS_ASSUME_ROLE and not claim.v2:
            raise RefreshRefused(
                RefreshReason.PRECONDITION,
                "aws_sts_assume_role needs the setting providers_v2_enabled",
            )
        opened = await self._credentials.open(claim.material)
        secret = {name: opened[ref] for name, ref in material_refs(state).items()}
        return MintInputs(
            strategy=strategy,
            material={**state.material, **secret},
            token_url=state.token_url,
            scopes=tuple(state.scopes),
            max_lifetime_seconds=state.max_lifetime_seconds,
        )

    async def _store_minted(self, claim: _Claim, minted: Minted) -> State:
        provider_id = claim.state.provider_id
        prepared: list[Prepared] = []
        try:
            values = await self._credentials.prepare(provider_id, minted.values)
            prepared.append(values)
            rotated = await self._rotated(claim, minted.refresh_token)
            prepared.append(rotated)
            stored = await self._store.write(
                lambda tx: self._write(tx, claim, values, rotated, minted.expires_at_ms)
            )
        except Exception as error:
            for unused in prepared:
                await self._credentials.discard(unused)
            raise await self._fail(claim, error, minted.refresh_token) from None
        self._bus.config_changed(stored.sandbox_ids, "providers")
        await self._credentials.retired(stored.dropped)
        return stored.state

    async def _rotated(self, claim: _Claim, refresh_token: str) -> Prepared:
        slot = material_slot(claim.key, _REFRESH_TOKEN)
        values = {slot: refresh_token} if refresh_token else {}
        return await self._credentials.prepare(claim.state.provider_id, values)

    def _write(
        self, tx: Tx, claim: _Claim, values: Prepared, rotated: Prepared, expires_at_ms: int
    ) -> _Stored:
        state = self._claimed(tx, claim)
        provider = tx.get_by_id(Kind.PROVIDER, state.provider_id)
        if provider is None:
            raise _superseded(claim.key)
        users = Users(tx, provider)
        dropped = write_values(
            tx, provider, self._credentials.driver, values.handles, expires_at_ms
        )
        dropped += self._keep_rotated(state, rotated)
        for prepared in (values, rotated):
            self._credentials.commit(tx, prepared)
        self._credentials.retire(tx, dropped)
        state.status = "refreshed"
        state.last_error = ""
        state.last_refresh_at_ms = tx.now_ms
        state.expires_at_ms = expires_at_ms
        state.next_refresh_at_ms = next_due(expires_at_ms, state.refresh_before_seconds)
        row = put_state(tx, state, claim.row)
        users.refuse_new_faults()
        return _Stored(load(row, State), dropped, users.ids)

    def _keep_rotated(self, state: State, rotated: Prepared) -> list[CredentialRef]:
        """Points the state at the new refresh token; what it pointed at before."""
        if not rotated.handles:
            return []
        dropped = list(material_refs(state, (_REFRESH_TOKEN,)).values())
        (handle,) = rotated.handles.values()
        set_handles(state, self._credentials.driver, {_REFRESH_TOKEN: handle})
        return dropped

    def _claimed(self, tx: Tx, claim: _Claim) -> State:
        row = tx.get_by_id(Kind.REFRESH_STATE, claim.row.id)
        if row is None or row.resource_version != claim.row.resource_version:
            raise _superseded(claim.key)
        return load(row, State)

    async def _fail(self, claim: _Claim, error: Exception, refresh_token: str) -> ApiError:
        """Keeps why, and when to try again; what to tell the caller."""
        told = as_api_error(error, claim.key)
        rotated = Prepared({})
        try:
            rotated = await self._rotated(claim, refresh_token)
            dropped = await self._store.write(
                lambda tx: self._write_failure(tx, claim, told.message, rotated)
            )
        except Exception as lost:
            await self._credentials.discard(rotated)
            again = as_api_error(lost, claim.key)
            if again.code is Code.ABORTED:
                return again
            return _lost(claim.key, again) if refresh_token else told
        await self._credentials.retired(dropped)
        return told

    def _write_failure(
        self, tx: Tx, claim: _Claim, message: str, rotated: Prepared
    ) -> list[CredentialRef]:
        state = self._claimed(tx, claim)
        dropped = self._keep_rotated(state, rotated)
        self._credentials.commit(tx, rotated)
        self._credentials.retire(tx, dropped)
        state.status = "error"
        state.last_error = message[:MAX_ERROR_LENGTH]
        state.next_refresh_at_ms = tx.now_ms + BACKOFF_MS
        put_state(tx, state, claim.row)
        return dropped


def _superseded(key: str) -> ApiError:
    return aborted(
        f"the refresh of '{key}' was configured anew or deleted meanwhile; nothing was written"
    )


def _lost(key: str, why: ApiError) -> ApiError:
    message = (
        f"the issuer replaced the refresh token of '{key}' and the new one could not be stored "
        f"({why.message}): authorise the account again and configure its refresh anew"
    )
    _log.error("%s", message)
    return failed_precondition(message)
