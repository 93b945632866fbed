"""Each final decision has one event, whichever door and protocol it came through."""

import json

import pytest

from integration.egress.harness import (
    PLACEHOLDER,
    SECRET,
    A,
    B,
    Proxy,
    Upstream,
    bound,
    parse,
    plain,
    rest,
    rest_policy,
)
from integration.egress.test_capture import Captured
from openshell.ocsf import Action


def connect(host, port):
    return f"CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n".encode()


def absolute(host, port, path="/", method="GET", fields="", body=b"", scheme="http"):
    if body:
        fields += f"Content-Length: {len(body)}\r\nContent-Type: application/json\r\n"
    line = f"{method} {scheme}://{host}:{port}{path} HTTP/1.1\r\nHost: {host}:{port}\r\n"
    return f"{line}{fields}Connection: close\r\n\r\n".encode() + body


HANDSHAKE = (
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def endpoints(port):
    return (
        rest(A, port, access="read-only"),
        plain(B, port, protocol="graphql", path="/graphql", enforcement="enforce",
              access="read-only"),
        plain("inside.example", port),
    )  # fmt: skip


QUERY, MUTATION = b'{"query":"{ me }"}', b'{"query":"mutation { drop }"}'

# What is sent, the status of the answer, and the events: allowed and denied ones.
CASES = {
    "connect: no rule": (lambda p: connect("other.example", p), 403, "D"),
    "connect: forbidden address": (lambda p: connect("inside.example", p), 403, "D"),
    "connect: malformed": (lambda p: b"CONNECT [::1 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "D"),
    "absolute: no rule": (lambda p: absolute("other.example", p), 403, "D"),
    "absolute: forbidden address": (lambda p: absolute("inside.example", p), 403, "D"),
    "absolute: allowed": (lambda p: absolute(A, p), 200, "A"),
    "absolute: method": (lambda p: absolute(A, p, method="PUT"), 403, "D"),
    "absolute: path": (lambda p: absolute(A, p, "/a%00b"), 400, "D"),
    "absolute: malformed head": (lambda p: b"GET  / HTTP/1.1\r\n\r\n", 400, "D"),
    "absolute: https": (lambda p: absolute(A, p, scheme="https"), 400, "D"),
    "absolute: other scheme": (lambda p: absolute(A, p, scheme="ftp"), 400, "D"),
    "body: allowed": (
        lambda p: absolute(B, p, "/graphql", "POST", body=QUERY), 200, "A"),
    "body: operation": (
        lambda p: absolute(B, p, "/graphql", "POST", body=MUTATION), 403, "D"),
    "body: unreadable": (
        lambda p: absolute(B, p, "/graphql", "POST", body=b"{"), 403, "D"),
    "websocket: not allowed": (
        lambda p: absolute(B, p, "/ws", fields=HANDSHAKE), 403, "D"),
    "policy.local: not there": (lambda p: absolute("policy.local", 81), 501, "D"),
    "credential: elsewhere": (
        lambda p: absolute(A, p, fields=f"X-Key: {PLACEHOLDER}\r\n"), 403, "D"),
    "credential: in a body": (
        lambda p: absolute(B, p, "/graphql", "POST",
                           body=json.dumps({"query": "{ me }", "x": PLACEHOLDER}).encode()),
        (403, 500), "D"),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
async def test_a_decision_has_one_event(case):
    wanted, status, outcome = CASES[case]
    async with Upstream() as up:
        proxy = Proxy(
            rest_policy(*endpoints(up.port)),
            environment={"TOKEN": SECRET},
            bindings=bound("elsewhere.example", 443),
        )
        async with proxy:
            proxy.names.known["inside.example"] = ["169.254.169.254"]
            answer = await proxy.say(wanted(up.port))
            got = parse(answer)[0]
            assert got in (status if isinstance(status, tuple) else (status,)), answer
            assert outcomes(proxy) == outcome, proxy.lines


def outcomes(proxy):
    """Decisions in order; findings stand beside the decision that they are about."""
    letters = {Action.ALLOWED: "A", Action.DENIED: "D"}
    found = [e for e in proxy.events if type(e).__name__ in ("NetworkEvent", "HttpEvent")]
    return "".join(letters.get(event.action, "-") for event in found)


async def test_a_tunnel_is_one_and_each_request_in_it_another():
    async with Upstream(tls_name=A) as up, Proxy(rest_policy(*endpoints(up.port))) as proxy:
        client = await proxy.tls(A, up.port)
        for method, status in (("GET", 200), ("GET", 200), ("PUT", 403)):
            head = f"{method} / HTTP/1.1\r\nHost: {A}:{up.port}\r\n\r\n"
            assert (await client.request(head.encode()))[0] == status
        client.close()
        assert outcomes(proxy) == "AAAD", proxy.lines


@pytest.mark.parametrize(
    ("host", "sent", "outcome"),
    [
        (A, b"GET / HTTP/1.1\r\nHost: %b:%d\r\nConnection: close\r\n\r\n", "AA"),
        (A, b"PUT / HTTP/1.1\r\nHost: %b:%d\r\nConnection: close\r\n\r\n", "AD"),
        ("other.example", b"GET / HTTP/1.1\r\nHost: %b:%d\r\n\r\n", "D"),
        (A, b"SSH-2.0-x %b %d\r\n", "D"),
        (A, b"\x16\x03\x01\x00\x04xxxx", "D"),
    ],
    ids=["allowed", "method", "no rule", "no HTTP", "no hello"],
)
async def test_a_captured_connection_is_judged_like_any_other(host, sent, outcome):
    async with Upstream() as up:
        policy = rest_policy(*endpoints(up.port))
        names = {"198.18.0.1": host}
        async with Captured(policy, ("198.18.0.1", up.port), names) as proxy:
            client = await proxy.connect_directly()
            filled = sent % (host.encode(), up.port) if b"%" in sent else sent
            await client.say(filled)
            assert outcomes(proxy) == outcome, proxy.lines
