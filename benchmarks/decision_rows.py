"""What one policy decision costs, and what a reload costs."""

from __future__ import annotations

import re
import timeit
from collections.abc import Iterator

from table import Row

from openshell.policy.compile import compile_policy
from openshell.policy.decide import ConnectionAllowed, ConnectionRequest, L7Request
from openshell.policy.model import SandboxPolicy
from openshell.policy.parse import parse_policy
from openshell.policy.validate import validate_policy

_ROUNDS = 15
_CALLS = 2000
_RELOADS = 7
# Half of what setting a policy may take until it is enforced.
_RELOAD_BUDGET_MS = 25.0


def rows() -> Iterator[Row]:
    for count, budget in ((1, 20.0), (100, 20.0), (2000, 40.0)):
        policy = compile_policy(parse_policy(_policy(count), source="bench"), generation=1)
        request = ConnectionRequest(
            host=f"api{count - 1}.example.com",
            port=443,
            binary="/usr/bin/curl",
            ancestors=("/bin/sh",),
        )
        samples = timeit.repeat(lambda: policy.connect(request), number=_CALLS, repeat=_ROUNDS)  # noqa: B023  # used within the turn
        yield Row(
            f"policy decision, {count} rule{'s' if count > 1 else ''}",
            budget,
            "us",
            [seconds / _CALLS * 1e6 for seconds in samples],
        )

    for count, budget in ((100, 20.0), (2000, 40.0)):
        yield _request_row(count, budget)
    for count in (100, 2000):
        model = parse_policy(_policy(count, rest=True), source="bench")
        samples = [
            seconds * 1e3
            for seconds in timeit.repeat(lambda: _reload(model), number=1, repeat=_RELOADS)  # noqa: B023  # used within the turn
        ]
        note = "checked and compiled, as a supervisor does"
        yield Row(f"policy reload, {count} rules", _RELOAD_BUDGET_MS, "ms", samples, note=note)


def _reload(model: SandboxPolicy) -> None:
    """Of patterns, only what this very policy holds may be kept between two loads."""
    re.purge()
    validate_policy(model)
    compile_policy(model, generation=2)


def _request_row(count: int, budget: float) -> Row:
    """A request with its connection, as after a reload; on a kept connection it is cheaper."""
    policy = compile_policy(parse_policy(_policy(count, rest=True), source="bench"), generation=1)
    asked = ConnectionRequest(f"api{count - 1}.example.com", 443, "/usr/bin/curl", ("/bin/sh",))
    request = L7Request("GET", "/v1/items/7")

    def judge() -> None:
        connection = policy.connect(asked)
        assert isinstance(connection, ConnectionAllowed)
        policy.authorize(connection, request)

    samples = timeit.repeat(judge, number=_CALLS, repeat=_ROUNDS)
    return Row(
        f"connection and REST request, {count} rules",
        budget,
        "us",
        [seconds / _CALLS * 1e6 for seconds in samples],
    )


def _policy(count: int, *, rest: bool = False) -> str:
    inspected = (
        ", protocol: rest, enforcement: enforce, rules: [{allow: {method: GET, path: '/v1/*/%d'}}, "
        "{allow: {method: GET, path: /v1/items/**}}]"
    )
    lines = ["version: 1", "network_policies:"]
    for number in range(count):
        lines += [
            f"  rule{number}:",
            f"    endpoints: [{{host: api{number}.example.com, port: 443"
            + (inspected % number if rest else "")
            + "}]",
            "    binaries: [{path: /usr/bin/curl}]",
        ]
    return "\n".join(lines) + "\n"
