"""How many tokens an answer says it cost. Pure; looks at what passes and keeps nothing but numbers.

Read from the `usage` object of a JSON answer or of the events of a stream, in OpenAI's and in
Anthropic's names. An answer that is compressed, too long or says nothing leaves the counts unknown.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import msgspec

__all__ = ["StreamUsage", "Usage", "usage_of"]

# An event with a usage has a few hundred bytes; a longer line is a model's text.
_MAX_LINE: Final = 64 * 1024
# Beyond what any answer can cost; a larger number is no count.
_MAX_TOKENS: Final = 1 << 40


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that went in and came out; None: not said."""

    tokens_in: int | None = None
    tokens_out: int | None = None


class _Counts(msgspec.Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None


class _Inner(msgspec.Struct):
    usage: _Counts | None = None


class _Answer(msgspec.Struct):
    usage: _Counts | None = None
    # Anthropic's first event, OpenAI's last event of a response.
    message: _Inner | None = None
    response: _Inner | None = None


_DECODER: Final = msgspec.json.Decoder(_Answer)


def usage_of(body: bytes) -> Usage:
    """What a whole JSON answer says."""
    return _merge(Usage(), body)


class StreamUsage:
    """Follows the events of a stream."""

    __slots__ = ("_line", "_too_long", "events", "usage")

    def __init__(self) -> None:
        self.usage = Usage()
        self.events = 0
        """How many there were: about one for each token of an answer."""
        self._line = b""
        self._too_long = False

    def feed(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Take what came next, cut anywhere."""
        for piece in pieces:
            *ended, rest = bytes(piece).split(b"\n")
            for part in ended:
                self._end_line(part)
            self._keep(rest)

    def _end_line(self, part: bytes) -> None:
        if not self._too_long and len(self._line) + len(part) <= _MAX_LINE:
            line = self._line + part
            if line.startswith(b"data:"):
                self.events += 1
                if b'"usage"' in line:
                    self.usage = _merge(self.usage, line[5:])
        self._line, self._too_long = b"", False

    def _keep(self, rest: bytes) -> None:
        if self._too_long or len(self._line) + len(rest) > _MAX_LINE:
            self._line, self._too_long = b"", True
        else:
            self._line += rest


def _merge(known: Usage, document: bytes) -> Usage:
    """Later numbers stand over earlier ones: streams count on."""
    try:
        answer = _DECODER.decode(document)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return known
    tokens_in, tokens_out = known.tokens_in, known.tokens_out
    for inner in (answer.message, answer.response):
        if inner is not None and inner.usage is not None:
            tokens_in, tokens_out = _counts(inner.usage, tokens_in, tokens_out)
    if answer.usage is not None:
        tokens_in, tokens_out = _counts(answer.usage, tokens_in, tokens_out)
    return Usage(tokens_in, tokens_out)


def _counts(
    said: _Counts, tokens_in: int | None, tokens_out: int | None
) -> tuple[int | None, int | None]:
    return (
        _first(said.prompt_tokens, said.input_tokens, tokens_in),
        _first(said.completion_tokens, said.output_tokens, tokens_out),
    )


def _first(*numbers: int | None) -> int | None:
    return next((n for n in numbers if n is not None and 0 <= n < _MAX_TOKENS), None)
