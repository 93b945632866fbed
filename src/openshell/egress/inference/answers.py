"""What a client of `inference.local` is told when its request is not answered by a model. Pure.

In the words of its own library: OpenAI's, Anthropic's or AWS's shape of an error, so that clients
show the sentence instead of failing to read it. Requests that were not understood far enough to know
the dialect get plain text. Nothing here ever sees a key.
"""

from typing import Final

import msgspec

from openshell.egress.denials import Denial
from openshell.egress.inference.metering import OverBudget
from openshell.egress.inference.patterns import Dialect

__all__ = ["Problem", "not_served", "over_budget", "plain", "problem", "stream_error"]

_CLOSE: Final = (b"Connection", b"close")


class Problem(msgspec.Struct, frozen=True):
    """Why a request was not answered: status, the sentence, what each library calls it."""

    status: int
    message: str
    openai: str
    anthropic: str
    hint: str = ""


NOT_CONFIGURED: Final = Problem(
    503,
    "cluster inference is not configured",
    "service_unavailable",
    "api_error",
    "run: openshell inference set --help",
)
NO_ROUTE: Final = Problem(
    400,
    "no compatible inference route available",
    "invalid_request_error",
    "invalid_request_error",
)
UNREADABLE: Final = Problem(
    400,
    "the request body must be a JSON object",
    "invalid_request_error",
    "invalid_request_error",
)
UNAVAILABLE: Final = Problem(
    503, "inference service unavailable", "service_unavailable", "overloaded_error"
)
BROKEN: Final = Problem(502, "inference service error", "server_error", "api_error")


def over_budget(over: OverBudget, dialect: Dialect) -> Denial:
    """Wait so long: the status and the field by which libraries know it."""
    what = Problem(
        over.status,
        over.message,
        "insufficient_quota" if over.status == 429 else "service_unavailable",
        "rate_limit_error" if over.status == 429 else "api_error",
        "run: openshell inference budget list",
    )
    denial = problem(what, dialect)
    retry = (b"Retry-After", b"%d" % over.retry_after_seconds)
    return Denial(denial.status, (retry, *denial.headers), denial.body)


def problem(what: Problem, dialect: Dialect) -> Denial:
    """An error as the client's library reads it."""
    document: dict[str, object]
    match dialect:
        case Dialect.OPENAI:
            document = {
                "error": {
                    "message": what.message,
                    "type": what.openai,
                    "param": None,
                    "code": None,
                }
            }
        case Dialect.ANTHROPIC:
            error = {"type": what.anthropic, "message": what.message}
            document = {"type": "error", "error": error}
        case Dialect.BEDROCK:
            document = {"message": what.message}
    if what.hint:
        document["hint"] = what.hint
    return _json(what.status, document)


def not_served() -> Denial:
    """A request that no pattern names."""
    return _json(403, {"error": "connection not allowed by policy"})


def plain(status: int, text: str) -> Denial:
    """For requests that broke HTTP or a bound."""
    return _answer(status, b"text/plain; charset=utf-8", text.encode())


def stream_error(reason: str, dialect: Dialect) -> bytes:
    """The event that ends a stream which was cut; it begins on a line of its own."""
    error = {"message": f"response truncated: {reason}", "type": "proxy_stream_error"}
    if dialect is Dialect.ANTHROPIC:
        data = msgspec.json.encode({"type": "error", "error": error})
        return b"\n\nevent: error\ndata: " + data + b"\n\n"
    return b"\n\ndata: " + msgspec.json.encode({"error": error}) + b"\n\n"


def _json(status: int, document: dict[str, object]) -> Denial:
    return _answer(status, b"application/json", msgspec.json.encode(document))


def _answer(status: int, kind: bytes, body: bytes) -> Denial:
    length = b"%d" % len(body)
    headers = ((b"Content-Type", kind), (b"Content-Length", length), _CLOSE)
    return Denial(status, headers, body)
