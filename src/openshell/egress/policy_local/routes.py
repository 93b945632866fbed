"""Which of the routes of `policy.local` a request means. Pure; method and path must match exactly."""

from dataclasses import dataclass
from typing import Final, TypeAlias
from urllib.parse import parse_qs

__all__ = ["CurrentPolicy", "Find", "Propose", "RecentDenials", "Route", "Wait", "route"]

# The contract's numbers (proxy.md 14): what is meant without one, and the bounds.
DENIALS_DEFAULT: Final = 10
DENIALS_MAX: Final = 100
WAIT_DEFAULT: Final = 60
WAIT_MAX: Final = 300
# Nobody writes more; the rest of a query means nothing here.
_MAX_PARAMETERS: Final = 16
_MAX_DIGITS: Final = 9

_DRAFTS: Final = "/v1/proposals/"


@dataclass(frozen=True, slots=True)
class CurrentPolicy:
    """The policy in force."""


@dataclass(frozen=True, slots=True)
class RecentDenials:
    last: int


@dataclass(frozen=True, slots=True)
class Propose:
    """A proposal, in the body."""


@dataclass(frozen=True, slots=True)
class Find:
    draft_id: str


@dataclass(frozen=True, slots=True)
class Wait:
    draft_id: str
    seconds: int


Route: TypeAlias = CurrentPolicy | RecentDenials | Propose | Find | Wait


def route(method: str, target: str) -> Route | None:
    """The route of a request in origin form; None when there is none."""
    path, _, query = target.partition("?")
    match method, path:
        case "GET", "/v1/policy/current":
            return CurrentPolicy()
        case "GET", "/v1/denials":
            return RecentDenials(_number(query, "last", DENIALS_DEFAULT, DENIALS_MAX))
        case "POST", "/v1/proposals":
            return Propose()
        case "GET", _ if path.startswith(_DRAFTS):
            draft_id, slash, rest = path.removeprefix(_DRAFTS).partition("/")
            if draft_id and not slash:
                return Find(draft_id)
            if draft_id and rest == "wait":
                return Wait(draft_id, _number(query, "timeout", WAIT_DEFAULT, WAIT_MAX))
    return None


def _number(query: str, name: str, default: int, most: int) -> int:
    """A number of the query within 1 and `most`; the default where none can be read."""
    try:
        values = parse_qs(query, max_num_fields=_MAX_PARAMETERS).get(name, [""])
    except ValueError:
        return default
    text = values[0]
    if not (text.isascii() and text.isdecimal()) or len(text) > _MAX_DIGITS:
        return default
    return min(max(int(text), 1), most)
