"""What a connection and a route remember never changes how a request is judged or what is sent."""

import base64
import itertools
import json
from ipaddress import ip_address

import pytest

from openshell.egress.admission import Admission, Admitted
from openshell.egress.credentials import Binding, BoundEndpoint, CredentialSet
from openshell.egress.destination import HostFacts
from openshell.egress.generation import Generation, GenerationHolder
from openshell.egress.http1 import FieldMemory, HeadRejected, RequestHeadReader
from openshell.egress.identity import Identity
from openshell.egress.judging import Judged, Refused, judge
from openshell.egress.route import Pending, Route
from openshell.policy.compile import compile_policy
from openshell.policy.parse import parse_policy

HOST, PORT = "api.example", 8080
OLD, NEW, FREE = "old-secret-value", "new-secret-value", "free-value"
MARK = b"openshell:resolve:env:v1_TOKEN"
BASIC = b"Basic " + base64.b64encode(b"me:" + MARK)
EXPIRES = 1_000_000


class Names:
    async def resolve(self, host):
        return (ip_address("93.184.216.34"),)

    def local(self, addresses):
        return frozenset()


def credentials(revision, value, previous=None):
    endpoint = BoundEndpoint(HOST, PORT, "/v1/**")
    return CredentialSet.build(
        revision,
        {"TOKEN": value, "FREE": FREE},
        {"TOKEN": Binding((endpoint,), "account")},
        non_secret_keys=("FREE",),
        expires_at_ms={"TOKEN": EXPIRES},
        previous=previous,
    )


def generation(number, held, access="full"):
    endpoint = {"host": HOST, "port": PORT, "protocol": "rest", "enforcement": "enforce"}
    rule = {
        "name": "r",
        "endpoints": [{**endpoint, "access": access}],
        "binaries": [{"path": "/bin/x"}],
    }
    policy = parse_policy(json.dumps({"version": 1, "network_policies": {"r": rule}}), source="t")
    return Generation(number, compile_policy(policy, generation=number), held)


FIRST = generation(1, credentials(1, OLD))


def write(*fields, method=b"GET", path=b"/v1/a", version=b"HTTP/1.1", host=b"api.example:8080"):
    lines = [b"%b %b %b" % (method, path, version), *([b"Host: " + host] if host else []), *fields]
    return b"\r\n".join([*lines, b"", b""])


REQUESTS = {
    "plain": write(b"Accept: */*"),
    "plain, other path": write(b"Accept: */*", path=b"/v2/b?c=1"),
    "plain, other method": write(b"Accept: */*", method=b"DELETE"),
    "plain, 1.0": write(b"Accept: */*", version=b"HTTP/1.0"),
    "marker in the path": write(b"Accept: */*", path=b"/v1/" + MARK),
    "marker in the query": write(b"Accept: */*", path=b"/v1/a?k=" + MARK.replace(b":", b"%3A")),
    "marker in the method": write(b"Accept: */*", method=b"X-OPENSHELL-RESOLVE-ENV-TOKEN"),
    "dots in the path": write(b"Accept: */*", path=b"/v1/../../x"),
    "marker": write(b"X-Key: " + MARK),
    "marker, other path": write(b"X-Key: " + MARK, path=b"/v2/b"),
    "marker, echoed": write(b"X-Key: " + MARK, method=b"TRACE"),
    "marker in Basic": write(b"Authorization: " + BASIC),
    "own Basic": write(b"Authorization: Basic " + base64.b64encode(b"me:mine")),
    "unbound marker": write(b"X-Key: openshell:resolve:env:v1_FREE"),
    "no fields": write(version=b"HTTP/1.0", host=b""),
    "no host, marker": write(b"X-Key: " + MARK, version=b"HTTP/1.0", host=b""),
    "other host": write(b"Accept: */*", host=b"b.example:8080"),
    "host without its port": write(b"Accept: */*", host=b"api.example"),
    "host in capitals": write(b"Accept: */*", host=b"API.example:8080"),
    "absolute, other host": write(b"Accept: */*", path=b"http://b.example:8080/v1/a"),
    "drops a field": write(b"Connection: X-Key", b"X-Key: 1"),
    "drops no field": write(b"X-Key: 1"),
    "drops a marker": write(b"Connection: X-Key", b"X-Key: " + MARK),
    "WebSocket": write(b"Connection: Upgrade", b"Upgrade: websocket"),
    "WebSocket handshake": write(
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Sec-WebSocket-Version: 13",
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ),
    "h2c": write(b"Connection: Upgrade", b"Upgrade: h2c"),
    "upgrade without Connection": write(b"Upgrade: websocket"),
    "length": write(b"Content-Length: 3", method=b"POST"),
    "other length": write(b"Content-Length: 4", method=b"POST"),
    "chunked": write(b"Transfer-Encoding: chunked", method=b"POST"),
    "chunked, 1.0": write(b"Transfer-Encoding: chunked", method=b"POST", version=b"HTTP/1.0"),
}


async def admission_of(first):
    holder = GenerationHolder(first)
    facts = HostFacts((ip_address("127.0.0.1"),), frozenset())
    admission = Admission(holder, None, Names(), facts)
    admitted = await admission.admit(Identity("/bin/x", 1), HOST, PORT)
    assert isinstance(admitted, Admitted)
    return admission, admitted


class Connection:
    """One client connection on one route, with its memories."""

    def __init__(self, admission, admitted, *, absolute):
        self._admission = admission
        self._memory = FieldMemory()
        self._route = Route(admitted, "http", absolute)

    def ask(self, data, current=FIRST, now_ms=0):
        """Say everything that a request led to."""
        need = not self._route.absolute
        reader = RequestHeadReader(limit=8192, require_host=need, memory=self._memory)
        try:
            head = reader.feed(data)
        except HeadRejected as rejected:
            return rejected.reason
        outcome = judge(self._admission, current, self._route, Pending(head), now_ms=now_ms)
        self._route = outcome.route
        if isinstance(outcome, Refused):
            return outcome.why, outcome.where, outcome.detail
        assert isinstance(outcome, Judged)
        return outcome.wire, outcome.where, outcome.scan_body, head.framing


def sent(outcome):
    return outcome[0] if isinstance(outcome, tuple) and isinstance(outcome[0], bytes) else b""


@pytest.mark.parametrize("absolute", [False, True], ids=["tunnel", "plain"])
async def test_what_came_before_changes_nothing(absolute):
    admission, admitted = await admission_of(FIRST)
    alone = {
        name: Connection(admission, admitted, absolute=absolute).ask(data)
        for name, data in REQUESTS.items()
    }
    # The probes work: values are put in where they belong, and nowhere else.
    assert OLD.encode() in sent(alone["marker"])
    assert OLD.encode() not in sent(alone["marker, other path"])
    assert sent(alone["plain"])
    assert len({sent(outcome) for outcome in alone.values()}) > 10
    for names in itertools.product(REQUESTS, repeat=2):
        connection = Connection(admission, admitted, absolute=absolute)
        for name in (*names, *names):
            assert connection.ask(REQUESTS[name]) == alone[name], names


async def test_a_rotated_revoked_or_expired_credential_is_seen_by_the_next_request():
    admission, admitted = await admission_of(FIRST)
    connection = Connection(admission, admitted, absolute=False)
    marker, own = REQUESTS["marker"], REQUESTS["drops no field"]
    second = write(b"X-Key: openshell:resolve:env:v2_TOKEN")
    rotated = credentials(2, NEW, FIRST.credentials)
    revoked = rotated.revoked()
    back = credentials(3, NEW, revoked)
    two, three = generation(2, rotated), generation(3, revoked)
    steps = [
        # A request of a running agent keeps its own revision's value; the new one has the new value.
        (two, marker, 0, OLD),
        (two, second, 0, NEW),
        (two, second, EXPIRES, None),
        (two, second, 0, NEW),
        (three, second, 0, None),
        (three, marker, 0, None),
        (generation(4, back), second, 0, NEW),
        (generation(5, CredentialSet()), second, 0, None),
        (generation(6, back, access="read-only"), second, 0, NEW),
    ]
    assert OLD.encode() in sent(connection.ask(marker))
    for current, data, now_ms, value in steps:
        # Fields without a placeholder are remembered in between, under each generation.
        for _ in range(2):
            assert b"X-Key: 1" in sent(connection.ask(own, current, now_ms))
        got = sent(connection.ask(data, current, now_ms))
        assert got == (b"" if value is None else got)
        if value is not None:
            assert value.encode() in got


async def test_nothing_of_a_credential_is_remembered():
    admission, admitted = await admission_of(FIRST)
    connection = Connection(admission, admitted, absolute=False)
    for name in ("marker", "marker in Basic", "unbound marker", "drops no field", "marker"):
        connection.ask(REQUESTS[name])
        kept = connection._route.kept
        everything = b"%b%r" % (kept.wire, repr(kept.headers).encode())
        assert not any(
            secret.encode() in everything
            or base64.b64encode(b"me:" + secret.encode()) in everything
            for secret in (OLD, FREE)
        )


async def test_a_policy_that_changed_is_seen_by_a_request_that_repeats_its_fields():
    admission, admitted = await admission_of(FIRST)
    connection = Connection(admission, admitted, absolute=False)
    delete = REQUESTS["plain, other method"]
    assert sent(connection.ask(delete))
    assert sent(connection.ask(delete))
    assert not sent(connection.ask(delete, generation(2, FIRST.credentials, access="read-only")))
    assert sent(connection.ask(delete, generation(3, FIRST.credentials)))
