"""The compiled policy against the slow reference evaluator, on random policies and requests."""

import os

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openshell.policy import (
    ConnectionAllowed,
    ConnectionRequest,
    L7Request,
    RequestAllowed,
    RequestAudited,
    compile_policy,
)
from unit.policy import policy_reference as reference
from unit.policy.policy_samples import HOSTS, PATHS, PROGRAMS, rest_policies

EXAMPLES = int(os.environ.get("OPENSHELL_POLICY_EXAMPLES", "600"))

CONNECTIONS = st.builds(
    ConnectionRequest,
    host=st.sampled_from(HOSTS),
    port=st.sampled_from([443, 80]),
    binary=st.sampled_from([*PROGRAMS, None]),
    ancestors=st.lists(st.sampled_from(PROGRAMS), max_size=1).map(tuple),
    relaxed=st.sampled_from([False, False, True]),
)
QUERIES = st.dictionaries(
    st.sampled_from(["p", "q"]),
    st.lists(st.sampled_from(["foo-a", "1", "evil"]), min_size=1, max_size=2).map(tuple),
    max_size=2,
)
REQUESTS = st.builds(
    L7Request,
    method=st.sampled_from(["GET", "HEAD", "POST", "DELETE", "get"]),
    path=st.sampled_from(PATHS),
    query=QUERIES,
)


def outcome(decision):
    if isinstance(decision, RequestAllowed):
        return "allow" if decision.config else "plain"
    if isinstance(decision, RequestAudited):
        return "audit"
    return "hard" if decision.hard else "deny"


@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    rest_policies(),
    st.lists(CONNECTIONS, min_size=2, max_size=3),
    st.lists(REQUESTS, min_size=3, max_size=4),
)
def test_same_decisions(policy, connections, requests):
    compiled = compile_policy(policy, generation=3)
    for connection in connections:
        code, key, matched = reference.connect(policy, connection)
        decision = compiled.connect(connection)
        assert decision.generation == 3
        if not isinstance(decision, ConnectionAllowed):
            assert decision.reason_code == code
            assert decision.suggestion
            continue
        assert (code, decision.matched_policy) == ("allowed", key)
        assert [(c.policy_key, c.index) for c in decision.endpoints] == matched
        for request in requests:
            assert outcome(compiled.authorize(decision, request)) == reference.authorize(
                policy, matched, request
            )
