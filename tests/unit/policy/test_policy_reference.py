"""The compiled policy against the slow reference evaluator, on random policies and requests.

20,000 random policies in CI and under make, each with some connections and requests; a part of them
otherwise. `OPENSHELL_POLICY_EXAMPLES` sets another number.
"""

import os
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openshell.policy import (
    ConnectionAllowed,
    RequestAllowed,
    RequestAudited,
    compile_policy,
)
from unit.policy import policy_reference as reference
from unit.policy.policy_choices import PROTOCOLS, Maker
from unit.policy.policy_reference_requests import authorize

# make tells its children how deep they are.
_IS_FULL = os.environ.get("CI") == "true" or "MAKELEVEL" in os.environ
EXAMPLES = int(os.environ.get("OPENSHELL_POLICY_EXAMPLES", "20000" if _IS_FULL else "1000"))
# Separate tests, so that workers share them.
_SHARES = len(PROTOCOLS) * 2
_BYTES = 160


def outcome(decision):
    if isinstance(decision, RequestAllowed):
        return "allow" if decision.config else "plain"
    if isinstance(decision, RequestAudited):
        return "audit"
    return "hard" if decision.hard else "deny"


def compare(data, focus):
    """Yields the outcome of every request, after both evaluators agreed on it."""
    maker = Maker(data, focus)
    connections = [maker.connection() for _ in range(2)]
    requests = [maker.request() for _ in range(4)]
    policy = maker.policy()
    compiled = compile_policy(policy, generation=3)
    for connection in connections:
        code, key, matched = reference.connect(policy, connection)
        decision = compiled.connect(connection)
        assert decision.generation == 3
        if not isinstance(decision, ConnectionAllowed):
            assert decision.reason_code == code
            assert decision.suggestion
            yield code
            continue
        assert (code, decision.matched_policy) == ("allowed", key)
        assert [(c.policy_key, c.index) for c in decision.endpoints] == matched
        trusted = {(c.policy_key, c.index) for c in decision.trusted}
        for request in requests:
            wanted = authorize(policy, matched, request)
            assert outcome(compiled.authorize(decision, request)) == wanted
            private = compiled.authorize(decision, request, trusted_only=True)
            assert outcome(private) == authorize(policy, matched, request, trusted)
            yield wanted


@pytest.mark.parametrize("half", [1, 2])
@pytest.mark.parametrize("focus", PROTOCOLS)
def test_same_decisions(focus, half):
    @settings(
        max_examples=-(-EXAMPLES // _SHARES),
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.binary(min_size=_BYTES, max_size=_BYTES))
    def run(data):
        for _ in compare(data, focus):
            pass

    run()


@pytest.mark.parametrize("focus", PROTOCOLS)
def test_the_comparison_meets_every_outcome(focus):
    """Otherwise agreement would say little: plenty of each, on evenly spread bytes."""
    import random

    spread = random.Random(7)
    seen = Counter(
        result for _ in range(300) for result in compare(spread.randbytes(_BYTES), focus)
    )
    assert {"allow", "audit", "deny", "hard", "plain", "binary_not_allowed"} <= set(seen), seen
    assert seen["allow"] >= 20, seen
