"""Requests that are judged by what their bodies say: what is asked for, kept, and sent."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from openshell.egress import content
from openshell.egress.admission import Admission, Admitted
from openshell.egress.body_faults import BodyFault, BodyUse, RefusedBody
from openshell.egress.content import CONTENT_LIMIT
from openshell.egress.credentials import (
    Binding,
    BoundEndpoint,
    CredentialSet,
    GrantSet,
    TokenGrant,
)
from openshell.egress.destination import HostFacts
from openshell.egress.generation import Generation, GenerationHolder
from openshell.egress.http1 import RequestHeadReader
from openshell.egress.identity import Identity
from openshell.egress.judging import Judged, NeedsBody, NeedsToken, Refused, judge
from openshell.egress.route import Pending, Route
from openshell.policy.compile import compile_policy
from openshell.policy.decide import RequestDenied
from openshell.policy.parse import parse_policy

HOST, PORT = "x.appsync-api.eu-west-1.amazonaws.com", 443
KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}
READ, DROP = b'{"query":"{me}"}', b'{"query":"mutation{drop}"}'


class Names:
    async def resolve(self, host):
        return (ip_address("93.184.216.34"),)

    def local(self, addresses):
        return frozenset()


class Tokens:
    def __init__(self, ready=None):
        self._ready = ready

    def ready(self, grant):
        return self._ready


def granting(ready=None):
    key = f"{HOST}\t{PORT}\t\tidp:c"
    grant = TokenGrant(key, TokenGrant.place(key)[0], "https://issuer.example/", "a", "t")
    return CredentialSet.build(1, {}, {}, grants=GrantSet((grant,), Tokens(ready)))


def signing():
    binding = Binding((BoundEndpoint("**.amazonaws.com", PORT),), "account")
    return CredentialSet.build(1, KEYS, dict.fromkeys(KEYS, binding))


def generation(number=1, credentials=None, **fields):
    endpoint = {
        "host": HOST,
        "port": PORT,
        "protocol": "graphql",
        "enforcement": "enforce",
        "access": "read-only",
        **fields,
    }
    rule = {"name": "r", "endpoints": [endpoint], "binaries": [{"path": "/bin/x"}]}
    policy = parse_policy(json.dumps({"version": 1, "network_policies": {"r": rule}}), source="t")
    compiled = compile_policy(policy, generation=number)
    return Generation(number, compiled, credentials or CredentialSet())


def pending(body, *fields):
    lines = [
        "POST /graphql HTTP/1.1",
        f"Host: {HOST}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *fields,
        "",
        "",
    ]
    head = RequestHeadReader(limit=8192, require_host=True).feed("\r\n".join(lines).encode())
    assert head is not None
    return Pending(head)


class Judge:
    """Judges one request under one generation after another."""

    @classmethod
    async def on(cls, first):
        self = cls()
        self.admission = Admission(
            GenerationHolder(first), None, Names(), HostFacts((), frozenset())
        )
        admitted = await self.admission.admit(Identity("/bin/x", 1), HOST, PORT)
        assert isinstance(admitted, Admitted), admitted
        self.route = Route(admitted, "https", False)
        return self

    def __call__(self, request, now):
        outcome = judge(self.admission, now, self.route, request, now_ms=1_000_000_000_000)
        self.route = outcome.route
        return outcome


async def test_the_body_is_asked_for_and_sent_with_its_length():
    now = generation(graphql_max_body_bytes=500)
    ask, request = await Judge.on(now), pending(READ, "Expect: 100-continue")
    wanted = ask(request, now)
    assert isinstance(wanted, NeedsBody)
    assert (wanted.use, wanted.limit, wanted.wire_limit) == (BodyUse.JUDGING, 500, 1000)
    request.body = READ
    judged = ask(request, now)
    assert isinstance(judged, Judged)
    head, _, body = judged.wire.partition(b"\r\n\r\n")
    assert body == READ
    assert b"Content-Length: %d" % len(READ) in head
    assert b"Expect" not in head


async def test_no_policy_makes_us_hold_without_bound():
    now = generation(graphql_max_body_bytes=2**32 - 1)
    wanted = (await Judge.on(now))(pending(READ), now)
    assert isinstance(wanted, NeedsBody)
    assert wanted.limit == CONTENT_LIMIT


async def test_a_body_is_read_once_and_judged_under_every_generation(monkeypatch):
    reads = []
    read = content.read_graphql_body
    monkeypatch.setattr(content, "read_graphql_body", lambda body: reads.append(1) or read(body))
    now = generation(access="full")
    ask, request = await Judge.on(now), pending(DROP)
    request.body = DROP
    for _ in range(3):
        assert isinstance(ask(request, now), Judged)
    refused = ask(request, generation(2))
    assert isinstance(refused, Refused)
    assert isinstance(refused.why, RequestDenied)
    assert len(reads) == 1
    # Another protocol reads it anew; a smaller limit holds for what was held before.
    refused = ask(
        request, generation(3, protocol="mcp", access="", rules=[{"allow": {"method": "a"}}])
    )
    assert refused.why.reason_code == "rpc_rejected"
    refused = ask(request, generation(4, graphql_max_body_bytes=5))
    assert isinstance(refused.why, RefusedBody)
    assert refused.why.fault is BodyFault.SIZE
    assert len(reads) == 1


async def test_a_refused_operation_costs_no_token_and_an_allowed_one_carries_it():
    now = generation(credentials=granting())
    ask = await Judge.on(now)
    for body, expected in ((READ, NeedsToken), (DROP, Refused)):
        request = pending(body)
        assert isinstance(ask(request, now), NeedsBody)
        request.body = body
        assert isinstance(ask(request, now), expected)
    now = generation(2, credentials=granting("ready-token"))
    request = pending(READ, "Authorization: Bearer mine")
    request.body = READ
    judged = ask(request, now)
    assert isinstance(judged, Judged)
    assert b"Authorization: Bearer ready-token\r\n" in judged.wire
    assert b"mine" not in judged.wire
    assert judged.wire.endswith(b"\r\n\r\n" + READ)


@pytest.mark.parametrize("how", ["sigv4", "sigv4:body"])
async def test_what_is_judged_is_what_is_signed(how):
    now = generation(
        credentials=signing(), credential_signing=how, signing_service="appsync", signing_region="r"
    )
    ask, request = await Judge.on(now), pending(READ)
    wanted = ask(request, now)
    assert isinstance(wanted, NeedsBody)
    assert wanted.use is BodyUse.JUDGING
    request.body = READ
    judged = ask(request, now)
    assert isinstance(judged, Judged), judged
    assert b"AWS4-HMAC-SHA256 Credential=AKID/" in judged.wire
    assert judged.wire.endswith(b"\r\n\r\n" + READ)
    refused = pending(DROP)
    refused.body = DROP
    assert isinstance(ask(refused, now), Refused)
