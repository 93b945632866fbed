"""The built-in stage `openshell/regex`: replaces API keys in text bodies. Pure.

A safety net for what an agent pastes into a prompt, not a guard against one that wants to leak: it knows one
form of key and reads plain text.
"""

from __future__ import annotations

import re
from typing import Final

from openshell.egress.middleware.values import Answer, Evaluation, Noticed, StageFailed, StageFault

__all__ = ["RegexRedaction"]

_KEY = re.compile(r"sk-[A-Za-z0-9_-]{16,}")
_REDACTED: Final = "[REDACTED]"
_IDENTITY: Final = frozenset({"", "identity"})


class RegexRedaction:
    """Replaces what looks like a key of OpenAI."""

    body_limit: Final = 256 * 1024
    seconds: Final = 0.5

    async def evaluate(self, evaluation: Evaluation) -> Answer:
        """Take out keys. Raises StageFailed where the body is no text."""
        if not evaluation.body:
            return Answer(allow=True)
        if not _is_plain(evaluation.headers):
            raise StageFailed(StageFault.CONTENT)
        try:
            text = evaluation.body.decode("utf-8")
        except UnicodeDecodeError:
            raise StageFailed(StageFault.CONTENT) from None
        redacted, count = _KEY.subn(_REDACTED, text)
        if not count:
            return Answer(allow=True)
        noticed = Noticed("regex.openai", "API key in a request body", count, "high", "medium")
        return Answer(allow=True, body=redacted.encode(), noticed=(noticed,))


def _is_plain(headers: tuple[tuple[str, str], ...]) -> bool:
    return all(
        coding.strip().lower() in _IDENTITY
        for name, value in headers
        if name.lower() == "content-encoding"
        for coding in value.split(",")
    )
