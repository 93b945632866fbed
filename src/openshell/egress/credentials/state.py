"""What the supervisor knows of credentials at one moment, and which value a placeholder stands for.

A CredentialSet is immutable. A new snapshot of the gateway makes the next set from the present one, which
carries over what running agents still need: the values of earlier revisions, which revisions belong to the
same account, and which keys were ever bound to endpoints. Fetching and scheduling belong to the supervisor;
putting values into requests to `credentials.rewrite`. The rules are those of `providers.md` 14 and
`proxy.md` 12.2 and 12.3.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final, Self

from openshell.egress.client_identity import ClientIdentity
from openshell.egress.credentials.binding import BoundEndpoint, EndpointScope
from openshell.egress.credentials.grants import NO_GRANTS, GrantSet
from openshell.egress.credentials.placeholder import (
    Placeholder,
    is_reserved_key,
    is_valid_key,
    render_placeholder,
)

__all__ = ["Binding", "BoundIdentity", "CredentialSet", "SnapshotRejected", "Unresolved"]

# Generations whose own values stay usable after a rotation, counting the current one.
RETAINED_GENERATIONS: Final = 8
# Revisions remembered as belonging to an identity; an agent older than that many changes must be restarted.
REMEMBERED_REVISIONS: Final = 1024


class Unresolved(Enum):
    """Why a placeholder has no value here; the member's value is the error code of the answer."""

    MISMATCH = "credential_endpoint_mismatch"
    UNAVAILABLE = "credential_unavailable"


class SnapshotRejected(Exception):
    """A snapshot contradicts itself: install `previous.revoked()` instead. Names the key, never a value."""

    def __init__(self, code: str, key: str) -> None:
        super().__init__(f"credential snapshot rejected: {code} ({key})")
        self.code = code
        self.key = key


@dataclass(frozen=True, slots=True)
class Binding:
    """Where a key may be sent, whose it is, and its stable handle when the gateway refreshes it."""

    endpoints: tuple[BoundEndpoint, ...]
    identity: str
    handle: str = ""


@dataclass(frozen=True, slots=True)
class BoundIdentity:
    """A client certificate and the endpoints that it is shown to; their paths are not looked at."""

    endpoints: tuple[BoundEndpoint, ...]
    identity: ClientIdentity


@dataclass(frozen=True, slots=True)
class _Value:
    text: str = field(repr=False)
    expires_at_ms: int = 0

    def usable(self, now_ms: int) -> str | Unresolved:
        # Not printable covers CR, LF and NUL (`proxy.md` 12.2) and every other control character.
        if not self.text or not self.text.isprintable() or 0 < self.expires_at_ms <= now_ms:
            return Unresolved.UNAVAILABLE
        return self.text


_Values = Mapping[str, _Value]
_NO_EXPIRY: Final[Mapping[str, int]] = MappingProxyType({})


@dataclass(frozen=True, slots=True, repr=False, eq=False)
class CredentialSet:
    """One immutable state. `epoch` differs between any two sets of a chain; nothing else needs comparing."""

    epoch: int = 0
    revision: int = 0
    # Keys left out because their names cannot be told from a revision or handle; for a warning.
    skipped: tuple[str, ...] = ()
    # Credentials that are fetched for a request; no process in the sandbox knows of them.
    grants: GrantSet = field(default=NO_GRANTS)
    # Shown to upstreams in the TLS handshake; no process in the sandbox knows of them either.
    identities: tuple[BoundIdentity, ...] = ()
    # Configuration that programs read themselves and nobody puts into a request for them.
    _shown: frozenset[str] = frozenset()
    _values: _Values = field(default_factory=lambda: MappingProxyType({}))
    _bindings: Mapping[str, Binding] = field(default_factory=lambda: MappingProxyType({}))
    _ever_bound: frozenset[str] = frozenset()
    # Earlier generations, oldest first.
    _retained: tuple[tuple[int, _Values], ...] = ()
    # When a revision was last installed, by epoch; and since which epoch a key has had its identity.
    _installed: Mapping[int, int] = field(default_factory=lambda: MappingProxyType({}))
    _since: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))

    def __repr__(self) -> str:
        return (
            f"CredentialSet(epoch={self.epoch}, revision={self.revision}, keys={len(self._values)})"
        )

    @classmethod
    def build(
        cls,
        revision: int,
        environment: Mapping[str, str],
        bindings: Mapping[str, Binding],
        *,
        non_secret_keys: tuple[str, ...] = (),
        shown_keys: frozenset[str] = frozenset(),
        grants: GrantSet = NO_GRANTS,
        identities: tuple[BoundIdentity, ...] = (),
        expires_at_ms: Mapping[str, int] = _NO_EXPIRY,
        previous: CredentialSet | None = None,
    ) -> Self:
        """The set after a snapshot. Raises SnapshotRejected when the snapshot contradicts itself.

        Of the keys that are no secret, those in `shown_keys` stand in the environment as they are.
        """
        _check(environment, bindings, non_secret_keys)
        before = previous if previous is not None else CredentialSet()
        epoch = before.epoch + 1
        skipped = tuple(sorted(k for k in environment if is_reserved_key(k) or not is_valid_key(k)))
        values = {
            key: _Value(text, expires_at_ms.get(key, 0))
            for key, text in environment.items()
            if key not in skipped
        }
        kept = {key: binding for key, binding in bindings.items() if key in values}
        retained = before._retain(kept, revision)
        # A successful empty snapshot forgets the running placeholders: nothing is installed by it.
        installed = _install(before._installed, revision, epoch) if values else {}
        since = {
            key: before._since[key]
            if key in before._bindings and before._bindings[key].identity == binding.identity
            else epoch
            for key, binding in kept.items()
        }
        return cls(
            epoch=epoch,
            revision=revision,
            skipped=skipped,
            grants=grants,
            identities=identities,
            _shown=shown_keys.intersection(non_secret_keys),
            _values=MappingProxyType(values),
            _bindings=MappingProxyType(kept),
            _ever_bound=before._ever_bound | bindings.keys(),
            _retained=retained,
            _installed=MappingProxyType(installed),
            _since=MappingProxyType(since),
        )

    def _retain(
        self, bindings: Mapping[str, Binding], revision: int
    ) -> tuple[tuple[int, _Values], ...]:
        """The earlier generations of the set that follows, unless a key has another identity in it."""
        if not self._values or _identities(bindings) != _identities(self._bindings):
            return ()
        generations = (*self._retained, (self.revision, self._values))
        kept = tuple(old for old in generations if old[0] != revision)
        return kept[-(RETAINED_GENERATIONS - 1) :]

    def revoked(self, grants: GrantSet | None = None) -> CredentialSet:
        """Without any value, old or new, after a failed fetch or a rejected snapshot.

        Grants stay, or are those that came with what was rejected. Bindings and identities stay: a wrong endpoint is still a mismatch, and a later snapshot of the same
        identity revives the placeholders that agents hold.
        """
        return CredentialSet(
            epoch=self.epoch + 1,
            revision=self.revision,
            grants=self.grants if grants is None else grants,
            _bindings=self._bindings,
            _ever_bound=self._ever_bound,
            _installed=self._installed,
            _since=self._since,
        )

    @property
    def is_empty(self) -> bool:
        """Whether no value is held, so that bodies need no scan for the sake of stray placeholders."""
        return not self._values

    def holds(self, key: str) -> bool:
        """Whether there is a value of this name, usable or not."""
        return key in self._values

    def client_identity(self, host: str, port: int) -> ClientIdentity | None:
        """What an upstream is shown; nothing where two providers disagree about it."""
        scope = EndpointScope(host, port, "/")
        found = {
            bound.identity
            for bound in self.identities
            if any(endpoint.covers(scope) for endpoint in bound.endpoints)
        }
        return found.pop() if len(found) == 1 else None

    def child_environment(self) -> Mapping[str, str]:
        """What a process in the sandbox gets: placeholders, never the value of a secret."""
        return {
            key: value.text
            if key in self._shown
            else render_placeholder(
                key,
                revision=self.revision,
                handle=self._bindings[key].handle if key in self._bindings else "",
            )
            for key, value in self._values.items()
        }

    def resolve(
        self, wanted: Placeholder, scope: EndpointScope, *, now_ms: int
    ) -> str | Unresolved:
        """The value for a request to this endpoint, or why there is none."""
        key = wanted.key
        if key not in self._ever_bound:
            value = self._values.get(key)
            if wanted.handle is not None or value is None:
                return Unresolved.UNAVAILABLE
            retained = self._own_value(key, wanted.revision)
            return (retained or value).usable(now_ms)
        binding = self._bindings.get(key)
        # A key once bound and now withdrawn has no endpoint left: it stays denied everywhere.
        if binding is None or not any(endpoint.covers(scope) for endpoint in binding.endpoints):
            return Unresolved.MISMATCH
        found: _Value | None = None
        if wanted.handle is not None:
            if binding.handle and wanted.handle == binding.handle:
                found = self._values.get(key)
        elif wanted.revision is not None:
            found = self._own_value(key, wanted.revision)
            if found is None and self._installed.get(wanted.revision, -1) >= self._since[key]:
                found = self._values.get(key)
        # The bare and the alias form name no generation and never stand for a bound key.
        return Unresolved.UNAVAILABLE if found is None else found.usable(now_ms)

    def _own_value(self, key: str, revision: int | None) -> _Value | None:
        """The value a retained generation had itself, which after a rotation is the older one."""
        if revision is None:
            return None
        if revision == self.revision:
            return self._values.get(key)
        for number, values in self._retained:
            if number == revision:
                return values.get(key)
        return None


def _identities(bindings: Mapping[str, Binding]) -> dict[str, str]:
    return {key: binding.identity for key, binding in bindings.items()}


def _install(before: Mapping[int, int], revision: int, epoch: int) -> dict[int, int]:
    installed = {r: e for r, e in before.items() if r != revision} | {revision: epoch}
    for old in list(installed)[:-REMEMBERED_REVISIONS]:
        del installed[old]
    return installed


def _check(
    environment: Mapping[str, str], bindings: Mapping[str, Binding], non_secret: tuple[str, ...]
) -> None:
    listed = set(non_secret)
    if len(listed) != len(non_secret):
        raise SnapshotRejected("non_secret_key_repeated", "")
    for key in environment:
        if key not in bindings and key not in listed:
            raise SnapshotRejected("key_not_classified", key)
    for key in listed:
        if key in bindings:
            raise SnapshotRejected("key_bound_and_non_secret", key)
        if key not in environment:
            raise SnapshotRejected("non_secret_key_missing", key)
    for key, binding in bindings.items():
        if key not in environment:
            raise SnapshotRejected("bound_key_missing", key)
        if not binding.identity.strip():
            raise SnapshotRejected("identity_blank", key)
        if not binding.endpoints:
            raise SnapshotRejected("binding_without_endpoints", key)
        handle = binding.handle
        if handle and (len(handle) != 64 or handle.strip("0123456789abcdef")):
            raise SnapshotRejected("malformed_handle", key)
