"""What a call costs, and who is asked whether it may go out. Pure but for the protocol.

The supervisor's meter asks the gateway; the proxy knows neither budgets nor windows.
"""

from dataclasses import dataclass
from typing import Final, Protocol

from openshell.egress.inference.usage import Usage

__all__ = ["Meter", "OverBudget", "Spent", "Unmetered", "spent_on"]

BYTES_PER_TOKEN: Final = 4
"""Of English text and code in the usual vocabularies, roughly; where a provider says nothing."""


@dataclass(frozen=True, slots=True)
class OverBudget:
    """A call that may not go out. `status` is 429, or 503 where nobody could be asked."""

    status: int
    message: str
    retry_after_seconds: int


@dataclass(frozen=True, slots=True)
class Spent:
    """One call of one target."""

    route: str
    model: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    estimated_tokens: int = 0
    failed: bool = False
    is_fallback: bool = False


class Meter(Protocol):
    """Counts calls."""

    async def admit(self, route: str) -> OverBudget | None:
        """None: the call may go out, and is counted."""

    def used(self, spent: Spent) -> None:
        """What a call came to; never waits."""


class Unmetered:
    """Where nobody counts."""

    async def admit(self, route: str) -> OverBudget | None:  # noqa: ARG002  the protocol's
        return None

    def used(self, spent: Spent) -> None:  # noqa: ARG002
        return


def spent_on(
    route: str,
    model: str,
    usage: Usage,
    *,
    sent_bytes: int,
    answer_bytes: int,
    events: int,
    failed: bool,
    is_fallback: bool,
) -> Spent:
    """Tokens as the provider says; what it does not say is estimated.

    A stream has an event for about every token of its answer; everything else goes by its length. A call that
    failed cost nothing unless the provider says so.
    """
    prompt, completion, estimated = usage.tokens_in, usage.tokens_out, 0
    if prompt is None:
        prompt = 0 if failed else sent_bytes // BYTES_PER_TOKEN
        estimated += prompt
    if completion is None:
        completion = 0 if failed and not events else events or answer_bytes // BYTES_PER_TOKEN
        estimated += completion
    return Spent(route, model, prompt, completion, estimated, failed, is_fallback)
