"""The numbers of the proxy's contract (section 20), each held against the constant that enforces it."""

import pytest

from openshell.egress import ca, corporate, dns_server, identity, listener, token_grants
from openshell.egress.bodies import strict_json, tokens
from openshell.egress.credentials import BODY_LIMIT, state
from openshell.egress.http1 import FIRST_HEAD_LIMIT, RESPONSE_HEAD_LIMIT, TUNNEL_HEAD_LIMIT
from openshell.egress.inference import limits as inference
from openshell.egress.limits import Limits
from openshell.egress.policy_local import routes, service
from openshell.egress.signing_plan import SIGNED_BODY_LIMIT
from openshell.egress.websocket import frames
from openshell.policy.target import MAX_PATH_BYTES
from openshell.supervisor import recent_denials, summaries, tally, token_endpoint

KIB, MIB = 1024, 1024 * 1024
LIMITS = Limits()

SAME = {
    "first request head": (FIRST_HEAD_LIMIT, 8 * KIB),
    "inspected head": (TUNNEL_HEAD_LIMIT, 16 * KIB),
    "response head": (RESPONSE_HEAD_LIMIT, 16 * KIB),
    "path": (MAX_PATH_BYTES, 4096),
    "peek": (LIMITS.peek_seconds, 0.1),
    "leaf cache": (ca._CONTEXTS, 256),
    "body credential rewrite": (BODY_LIMIT, 256 * KIB),
    "SigV4 body": (SIGNED_BODY_LIMIT, 10 * MIB),
    "GraphQL recursion": (strict_json.MAX_DEPTH, 128),
    "GraphQL tokens": (tokens.MAX_TOKENS, 20_000),
    "WS text message": (frames.MAX_TEXT, 4 * MIB),
    "WS binary frame": (frames.MAX_BINARY_FRAME, 16 * MIB),
    "WS fragments": (frames.MAX_FRAGMENTS, 4096),
    "WS assembly idle": (LIMITS.websocket_silent_seconds, 30),
    "WS assembly total": (LIMITS.websocket_message_seconds, 120),
    "WS forward": (LIMITS.websocket_forward_seconds, 120),
    "inference request": (inference.REQUEST_BYTES, 10 * MIB),
    "inference chunks": (inference.CHUNKS, 4096),
    "inference response": (inference.ANSWER_BYTES, 32 * MIB),
    "inference total": (inference.DEFAULT_SECONDS, 60),
    "inference connect": (inference.CONNECT_SECONDS, 30),
    "inference idle": (inference.IDLE_SECONDS, 120),
    "credential generations": (state.RETAINED_GENERATIONS, 8),
    "identity ancestors": (identity._MAX_ANCESTORS, 64),
    "token grant HTTP": (token_endpoint._SECONDS, 30),
    "token TTL default": (token_grants._DEFAULT_SECONDS, 300),
    "token TTL cap": (token_grants._LONGEST_SECONDS, 3600),
    "token TTL margin": (token_grants._MARGIN_SECONDS, 30),
    "policy.local body": (service.BODY_LIMIT, 64 * KIB),
    "policy.local time": (service._BODY_SECONDS, 15),
    "wait default": (routes.WAIT_DEFAULT, 60),
    "wait most": (routes.WAIT_MAX, 300),
    "denials default": (routes.DENIALS_DEFAULT, 10),
    "denials most": (routes.DENIALS_MAX, 100),
    "denials line": (recent_denials._MAX_LINE, 4096),
    "summaries": (summaries._FLUSH_SECONDS, 10),
    "samples of a denial": (tally._MAX_SAMPLES, 20),
    "accept back-off": (listener._FIRST_PAUSE, 0.1),
    "accept back-off, most": (listener._LONGEST_PAUSE, 5),
    "corporate proxy head": (corporate._HEAD_LIMIT, 8 * KIB),
    "corporate proxy": (corporate._SECONDS, 30),
    "DNS maps": (dns_server.MAX_NAMES, 1024),
}
# Where ours are others, with what the contract has: longer only where nothing is lost by it.
OTHER = {
    # The contract takes a stalled response for whole; ours ends with a reset.
    "EOF-framed response idle": (LIMITS.close_framed_idle_seconds, 60, 5),
    # Names stand for addresses of ours and are never resolved for a client: no record to keep fresh.
    "DNS TTL": (dns_server.TTL_SECONDS, 30, 30),
}


@pytest.mark.parametrize("name", SAME)
def test_a_limit_is_the_contracts(name):
    ours, contract = SAME[name]
    assert ours == contract


@pytest.mark.parametrize("name", OTHER)
def test_a_limit_of_our_own_is_not_shorter(name):
    ours, meant, contract = OTHER[name]
    assert ours == meant >= contract
