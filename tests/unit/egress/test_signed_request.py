"""Requests of signing endpoints as they are judged: what they lack, and what excludes a signature."""

from __future__ import annotations

import json
from ipaddress import ip_address

import pytest

from openshell.egress.admission import Admission, Admitted
from openshell.egress.credentials import (
    Binding,
    BoundEndpoint,
    CredentialSet,
    EndpointScope,
    GrantSet,
    TokenGrant,
)
from openshell.egress.denials import Denials
from openshell.egress.destination import HostFacts
from openshell.egress.generation import Generation, GenerationHolder
from openshell.egress.http1 import RequestHeadReader
from openshell.egress.identity import Identity
from openshell.egress.judging import Judged, NeedsBody, Refused, judge
from openshell.egress.route import Pending, Route
from openshell.egress.signed_request import write_signed
from openshell.egress.signing_plan import SIGNED_BODY_LIMIT, SigningFault
from openshell.egress.writing import Writing
from openshell.policy.compile import compile_policy
from openshell.policy.parse import parse_policy

HOST, PORT = "s3.eu-west-1.amazonaws.com", 443
KEYS = {"AWS_ACCESS_KEY_ID": "AKID", "AWS_SECRET_ACCESS_KEY": "secret"}


class Names:
    async def resolve(self, host):
        return (ip_address("93.184.216.34"),)

    def local(self, addresses):
        return frozenset()


class Ready:
    def ready(self, grant):
        return "token"


def held(grants=None):
    binding = Binding((BoundEndpoint("**.amazonaws.com", PORT),), "account")
    bindings = dict.fromkeys(KEYS, binding)
    if grants is None:
        return CredentialSet.build(1, KEYS, bindings)
    return CredentialSet.build(1, KEYS, bindings, grants=grants)


def generation(number=1, credentials=None, **fields):
    endpoint = {
        "host": HOST,
        "port": PORT,
        "protocol": "rest",
        "enforcement": "enforce",
        "access": "full",
        "credential_signing": "sigv4:body",
        "signing_service": "s3",
        **fields,
    }
    rule = {"name": "r", "endpoints": [endpoint], "binaries": [{"path": "/bin/x"}]}
    policy = parse_policy(json.dumps({"version": 1, "network_policies": {"r": rule}}), source="t")
    return Generation(number, compile_policy(policy, generation=number), credentials or held())


def pending(*fields, method="PUT"):
    lines = [f"{method} /key HTTP/1.1", f"Host: {HOST}", *fields, "", ""]
    head = RequestHeadReader(limit=8192, require_host=True).feed("\r\n".join(lines).encode())
    assert head is not None
    return Pending(head)


async def arrive(first):
    admission = Admission(GenerationHolder(first), None, Names(), HostFacts((), frozenset()))
    admitted = await admission.admit(Identity("/bin/x", 1), HOST, PORT)
    assert isinstance(admitted, Admitted), admitted
    return admission, Route(admitted, "https", False)


async def decide(request, now=None, first=None):
    """Judge under `now` on a route that was admitted under `first`."""
    now = now or generation()
    admission, route = await arrive(first or now)
    return judge(admission, now, route, request, now_ms=1_000)


async def test_the_body_is_asked_for_within_the_limit_of_signatures():
    request = pending("Content-Length: 4")
    outcome = await decide(request)
    assert isinstance(outcome, NeedsBody)
    assert outcome.limit == SIGNED_BODY_LIMIT
    request.body = b"body"
    outcome = await decide(request)
    assert isinstance(outcome, Judged)
    assert outcome.is_signed
    assert outcome.wire.endswith(b"\r\n\r\nbody")
    assert outcome.wire.count(b"Content-Length: 4\r\n") == 1
    assert "secret" not in repr(outcome)


@pytest.mark.parametrize("fields", [(), ("Content-Length: 0",)], ids=["none", "empty"])
async def test_a_request_without_a_body_lacks_nothing(fields):
    assert isinstance(await decide(pending(*fields)), Judged)


async def test_a_body_on_its_way_cannot_be_signed_for_any_more():
    request = pending("Content-Length: 4")
    before = generation(1, credential_signing="", signing_service="")
    outcome = await decide(request, before)
    assert isinstance(outcome, Judged)
    assert not outcome.is_signed
    request.is_streaming = True
    outcome = await decide(request, generation(2), first=before)
    assert isinstance(outcome, Refused)
    assert outcome.why is SigningFault.LATE


async def test_a_token_grant_excludes_a_signature():
    key = f"{HOST}\t{PORT}\t\tprovider:credential"
    grant = TokenGrant(key, TokenGrant.place(key)[0], "https://issuer.example/", "a", "t")
    credentials = held(GrantSet((grant,), Ready()))
    unsigned = generation(1, credentials, credential_signing="", signing_service="")
    assert isinstance(await decide(pending(method="GET"), unsigned), Judged)
    outcome = await decide(pending(method="GET"), generation(1, credentials))
    assert isinstance(outcome, Refused)
    assert outcome.why is SigningFault.SECOND_GRANT


async def test_a_handshake_is_not_signed():
    _, route = await arrive(generation())
    (config,) = route.configs
    writing = Writing(route, held(), EndpointScope(HOST, PORT, "/key"), 1_000, None)
    plain = pending(method="GET")
    assert isinstance(
        write_signed(writing, config.endpoint, plain, b"/key", scan_body=False), bytes
    )
    upgrade = pending("Connection: upgrade", "Upgrade: WebSocket", method="GET")
    outcome = write_signed(writing, config.endpoint, upgrade, b"/key", scan_body=False)
    assert outcome is SigningFault.UPGRADE


@pytest.mark.parametrize("fault", SigningFault)
def test_every_fault_has_an_answer(fault):
    denial = Denials("box").not_signed(fault)
    body = json.loads(denial.body)
    assert body["detail"] == fault.value
    assert body["reason_code"] == f"signing_{fault.name.lower()}"
    assert denial.status in (400, 411, 413, 500, 503)
    # A failure that a client could take for an answer of the upstream's would be retried or believed.
    assert denial.render().startswith(b"HTTP/1.1 %d " % denial.status)
