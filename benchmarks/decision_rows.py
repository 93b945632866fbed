"""What one policy decision costs."""

from __future__ import annotations

import timeit
from collections.abc import Iterator

from table import Row

from openshell.policy.compile import compile_policy
from openshell.policy.decide import ConnectionRequest
from openshell.policy.parse import parse_policy

_ROUNDS = 15
_CALLS = 2000


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


def _policy(count: int) -> str:
    lines = ["version: 1", "network_policies:"]
    for number in range(count):
        lines += [
            f"  rule{number}:",
            f"    endpoints: [{{host: api{number}.example.com, port: 443}}]",
            "    binaries: [{path: /usr/bin/curl}]",
        ]
    return "\n".join(lines) + "\n"
