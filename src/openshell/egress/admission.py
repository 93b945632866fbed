"""Who wants to go where, and may it: identity, connection policy and destination, in this order.

This is the part of the pipeline that CONNECT, absolute-form and captured connections share word for
word. A refusal is a value that carries its decision; what the client is told is made from it
elsewhere. An admission pins addresses and names its generation; `readmit` judges it again under a
newer one, with the same identity and the same addresses, without asking the network anything.
"""

from dataclasses import dataclass
from typing import TypeAlias

from openshell.egress.destination import (
    Address,
    DestinationRequest,
    HostFacts,
    Plan,
    Refused,
    alias_of,
    plan,
)
from openshell.egress.generation import Generation, GenerationHolder
from openshell.egress.identity import Identity, IdentityUnknown, PeerIdentifier, Peers
from openshell.egress.resolve import NameResolver
from openshell.policy.decide import ConnectionAllowed, ConnectionDenied, ConnectionRequest

__all__ = ["Admission", "Admitted", "DestinationRefused", "NotAdmitted", "is_guarded"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """A connection that may be opened to exactly these addresses."""

    request: ConnectionRequest
    decision: ConnectionAllowed
    plan: Plan
    generation: int


@dataclass(frozen=True, slots=True)
class DestinationRefused:
    """The policy allows the connection, the destination rules do not."""

    request: ConnectionRequest
    decision: ConnectionAllowed
    refused: Refused
    generation: int


NotAdmitted: TypeAlias = ConnectionDenied | DestinationRefused


class Admission:
    """Answers for connections of one sandbox."""

    def __init__(
        self,
        holder: GenerationHolder,
        identifier: PeerIdentifier,
        resolver: NameResolver,
        facts: HostFacts,
        *,
        relaxed: bool = False,
    ) -> None:
        self._holder = holder
        self._identifier = identifier
        self._resolver = resolver
        self._facts = facts
        self._relaxed = relaxed

    async def identify(self, peers: Peers) -> Identity | IdentityUnknown | None:
        """Name the program behind a connection; None when identity is switched off."""
        return None if self._relaxed else await self._identifier.resolve(peers)

    async def admit(
        self, identity: Identity | IdentityUnknown | None, host: str, port: int
    ) -> Admitted | NotAdmitted:
        """Judge one connection under the generation that is in force when the answer is given."""
        if isinstance(identity, IdentityUnknown):
            return self._nobody(identity, host, port)
        request = ConnectionRequest(
            host=host,
            port=port,
            binary=identity.binary if identity else None,
            ancestors=identity.ancestors if identity else (),
            cmdline=identity.cmdline if identity else (),
            relaxed=identity is None,
        )
        decision = self._holder.current.policy.connect(request)
        if isinstance(decision, ConnectionDenied):
            return decision
        addresses = alias_of(decision.host, self._facts)
        if not addresses:
            addresses = await self._resolver.resolve(decision.host)
        # The lookup took time: the newest generation has the last word.
        return self._judge(request, self._holder.current, addresses)

    async def reach(self, host: str, port: int) -> Plan | Refused:
        """Judge a destination that the operator named, for a request of which it is no part."""
        addresses = alias_of(host, self._facts) or await self._resolver.resolve(host)
        wanted = DestinationRequest(host, port, exact_declared_host=True)
        return plan(wanted, addresses, self._facts, self._local(addresses))

    def could_resolve(self, host: str) -> bool:
        """Say whether any program may want the host: others need not learn its addresses."""
        return self._holder.current.policy.could_resolve(host, relaxed=self._relaxed)

    def readmit(self, admitted: Admitted, generation: Generation) -> Admitted | NotAdmitted:
        """Judge an open connection again."""
        return self._judge(admitted.request, generation, admitted.plan.addresses)

    def _judge(
        self,
        request: ConnectionRequest,
        generation: Generation,
        addresses: tuple[Address, ...],
    ) -> Admitted | NotAdmitted:
        decision = generation.policy.connect(request)
        if isinstance(decision, ConnectionDenied):
            return decision
        wanted = DestinationRequest(
            decision.host, decision.port, decision.allowed_ips, decision.exact_declared_host
        )
        outcome = plan(wanted, addresses, self._facts, self._local(addresses))
        if isinstance(outcome, Refused):
            return DestinationRefused(request, decision, outcome, generation.number)
        return Admitted(request, decision, outcome, generation.number)

    def _local(self, addresses: tuple[Address, ...]) -> frozenset[Address]:
        if not addresses or addresses == self._facts.alias_addresses:
            return frozenset()
        try:
            return self._resolver.local(addresses)
        except OSError:
            # Without an answer of the kernel every address may be our own.
            return frozenset(addresses)

    def _nobody(self, unknown: IdentityUnknown, host: str, port: int) -> ConnectionDenied:
        return ConnectionDenied(
            host=host.lower(),
            port=port,
            binary=None,
            reason_code="identity_unknown",
            reason=unknown.reason,
            nearest_rule=None,
            suggestion="",
            generation=self._holder.current.number,
        )


def is_guarded(decision: ConnectionAllowed) -> bool:
    """Say whether credentials forbid a connection that nobody would inspect (the credential guard).

    True when a matched endpoint carries a provider's credentials without the author's consent to
    uninspected traffic, and the connection could not be inspected. Nobody can consent to requests
    that should be signed and are not.
    """
    credentialed = [
        config
        for config in decision.endpoints
        if config.provider_credentialed or config.endpoint.credential_signing
    ]
    if all(
        config.endpoint.allow_uninspected_credentials and not config.endpoint.credential_signing
        for config in credentialed
    ):
        return False
    return decision.tls_mode == "skip" or not all(
        config.is_inspected and not config.tls_skip for config in credentialed
    )
