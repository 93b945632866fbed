"""A request gets a token that the agent never sees, from a real authorization server, or goes nowhere."""

import asyncio
from dataclasses import replace

import pytest

from integration.egress.harness import (
    NOW,
    PLACEHOLDER,
    SECRET,
    A,
    B,
    Proxy,
    Upstream,
    authority,
    bound,
    parse,
    plain,
    problem,
    read_request,
    rest,
    rest_policy,
)
from openshell._proto import openshell_pb2
from openshell.egress.ca import client_context
from openshell.egress.credentials import CredentialSet
from openshell.egress.token_grants import TokenCache
from openshell.ocsf import to_json
from openshell.supervisor.dynamic import read_grants
from openshell.supervisor.svid import FileSource, WorkloadApi, workload_target
from openshell.supervisor.token_issuer import TokenIssuer
from support.token_grants import Agent, Authorization


def request(port, *fields, method="GET", path="/", host=A, body=b""):
    extra = "".join(f"{field}\r\n" for field in fields)
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}:{port}\r\n{extra}\r\n"
    return head.encode() + body


def grant(url, **fields):
    credential = openshell_pb2.ProviderProfileCredential(
        name="c",
        auth_style=fields.pop("auth_style", ""),
        header_name=fields.pop("header_name", ""),
    )
    credential.token_grant.token_endpoint = url
    for name, value in fields.items():
        if name == "scopes":
            credential.token_grant.scopes.extend(value)
        else:
            setattr(credential.token_grant, name, value)
    return credential


class Granted(Proxy):
    """A proxy whose credential set holds grants, with the supervisor's own way to tokens."""

    def __init__(self, policy, sent, source, **extra):
        super().__init__(policy, **extra)
        self._sent = sent
        context = client_context(authority("upstream").certificate_pem)
        issuer = TokenIssuer(source, lambda: context)
        self.tokens = TokenCache(issuer.issue, asyncio.get_running_loop().time)

    async def __aenter__(self):
        self._credentials = replace(self._credentials, grants=self.grants(self._sent))
        return await super().__aenter__()

    async def __aexit__(self, *error):
        await self.tokens.close()
        await super().__aexit__(*error)

    def grants(self, sent):
        grants, fault = read_grants(sent, self.tokens)
        assert not fault
        return grants

    def regrant(self, sent):
        """As the supervisor does at a change of a profile."""
        current = self.holder.current
        changed = replace(
            current.credentials, epoch=current.credentials.epoch + 1, grants=self.grants(sent)
        )
        self.holder.swap(replace(current, number=current.number + 1, credentials=changed))
        self.tokens.keep(changed.grants.grants)


class World:
    def __init__(self, tmp_path):
        self.agent = Agent()
        self.server = Authorization(self.agent)
        self.endpoint = Upstream(self.server.answer, tls_name="localhost")
        self.socket = str(tmp_path / "agent.sock")
        self.up = Upstream()
        self.other = Upstream()

    async def __aenter__(self):
        await self.agent.serve(f"unix:{self.socket}")
        for server in (self.endpoint, self.up, self.other):
            await server.__aenter__()
        self.url = f"https://localhost:{self.endpoint.port}/token"
        self.server.audiences = [self.url]
        return self

    async def __aexit__(self, *_):
        for server in (self.endpoint, self.up, self.other):
            await server.__aexit__()
        await self.agent.close()

    def source(self):
        return WorkloadApi(workload_target(self.socket))

    def proxy(self, *, path="", endpoint=rest, owner="idp:c", url=None, source=None, **fields):
        extra = {name: fields.pop(name) for name in ("environment", "bindings") if name in fields}
        sent = {f"{A}\t{self.up.port}\t{path}\t{owner}": grant(url or self.url, **fields)}
        policy = rest_policy(endpoint(A, self.up.port), rest(B, self.other.port))
        return Granted(policy, sent, source or self.source(), **extra)

    @property
    def tokens(self):
        return [token for token, _ in self.server.issued]

    def seen(self, name=b"authorization"):
        return [each.header(name) for each in self.up.requests]


@pytest.fixture
async def world(tmp_path):
    async with World(tmp_path) as made:
        yield made


def nothing_leaked(proxy, world):
    everything = b"".join(to_json(event) for event in proxy.events)
    everything += "".join(proxy.lines).encode()
    for secret in (*world.tokens, *(form["client_assertion"] for form in world.server.forms)):
        assert secret.encode() not in everything


@pytest.mark.parametrize("endpoint", [rest, plain], ids=["inspected", "uninspected"])
async def test_a_request_gets_a_token_and_later_ones_the_same(world, endpoint):
    async with world.proxy(endpoint=endpoint, audience="api", scopes=["read", "write"]) as proxy:
        client = await proxy.tunnel(A, world.up.port)
        for _ in range(3):
            assert await client.request(request(world.up.port)) == (200, b"ok")
    (token,) = world.tokens
    assert world.seen() == [f"Bearer {token}".encode()] * 3
    assert world.agent.asked == [world.url]
    form = dict(*world.server.forms)
    assert form.pop("client_assertion").count(".") == 2
    assert form == {
        "grant_type": "client_credentials",
        "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
        "audience": "api",
        "scope": "read write",
    }
    assert world.server.issued == [(token, "read write")]
    nothing_leaked(proxy, world)


async def test_plain_proxy_requests_get_one_too(world):
    async with world.proxy() as proxy:
        client = await proxy.connect()
        sent = request(world.up.port, path=f"http://{A}:{world.up.port}/x")
        assert await client.request(sent) == (200, b"ok")
    assert world.seen() == [f"Bearer {world.tokens[0]}".encode()]


async def test_the_token_replaces_whatever_the_agent_sent(world):
    async with world.proxy(environment={"TOKEN": SECRET}, bindings=bound(B, 1)) as proxy:
        client = await proxy.tunnel(A, world.up.port)
        # This placeholder belongs elsewhere: it goes before anybody asks what it stands for.
        fields = ("authorization: Bearer mine", f"AUTHORIZATION: Bearer {PLACEHOLDER}")
        assert (await client.request(request(world.up.port, *fields)))[0] == 200
        refused = await client.say(request(world.up.port, f"X-Key: {PLACEHOLDER}"))
    assert world.up.requests[0].head.lower().count(b"authorization") == 1
    assert world.seen() == [f"Bearer {world.tokens[0]}".encode()]
    assert problem(refused)[1]["error"] == "credential_endpoint_mismatch"


async def test_a_raw_token_in_a_field_of_its_own(world):
    async with world.proxy(auth_style="header", header_name="X-Api-Token") as proxy:
        client = await proxy.tunnel(A, world.up.port)
        sent = request(world.up.port, "Authorization: Bearer mine", "x-api-token: mine")
        assert (await client.request(sent))[0] == 200
    assert world.seen(b"x-api-token") == [world.tokens[0].encode()]
    assert world.seen() == [b"Bearer mine"]


async def test_requests_that_no_grant_covers_go_without(world):
    async with world.proxy(path="/v1/**") as proxy:
        client = await proxy.tunnel(A, world.up.port)
        for path in ("/", "/v1/../v2", "/v1/x"):
            assert (await client.request(request(world.up.port, path=path)))[0] == 200
        other = await proxy.tunnel(B, world.other.port)
        assert (await other.request(request(world.other.port, host=B)))[0] == 200
    assert world.seen() == [None, None, f"Bearer {world.tokens[0]}".encode()]
    assert world.other.requests[0].header(b"authorization") is None


async def test_what_the_policy_refuses_costs_no_token(world):
    policy = rest_policy(rest(A, world.up.port, access="read-only"))
    async with world.proxy() as proxy:
        proxy.reload(policy)
        proxy.regrant(proxy._sent)
        client = await proxy.tunnel(A, world.up.port)
        assert problem(await client.say(request(world.up.port, method="DELETE")))[0] == 403
        assert world.server.forms == []
        client = await proxy.tunnel(A, world.up.port)
        assert (await client.request(request(world.up.port)))[0] == 200
    assert len(world.tokens) == 1


async def test_the_audience_of_the_statement_of_identity(world):
    realm = world.url.replace("/token", "/realms/r")
    world.server.audiences = [realm]
    async with world.proxy(jwt_svid_audience=realm) as proxy:
        client = await proxy.tunnel(A, world.up.port)
        assert (await client.request(request(world.up.port)))[0] == 200
    assert world.agent.asked == [realm]


async def test_a_file_is_read_again_when_it_changed(world, tmp_path):
    file = tmp_path / "svid.jwt"
    file.write_text(world.agent.svid(world.url, lives=-5))
    async with world.proxy(source=FileSource(str(file))) as proxy:
        client = await proxy.tunnel(A, world.up.port)
        assert (await client.say(request(world.up.port))).startswith(b"HTTP/1.1 502 ")
        file.write_text(world.agent.svid(world.url) + "\n")
        client = await proxy.tunnel(A, world.up.port)
        assert (await client.request(request(world.up.port)))[0] == 200
    assert world.seen() == [f"Bearer {world.tokens[0]}".encode()]
    assert len(world.server.forms) == 2


def respond(status, body=b"", *fields):
    head = b"".join(b"%b\r\n" % field for field in fields)
    return b"HTTP/1.1 %b X\r\nContent-Length: %d\r\n%b\r\n%b" % (status, len(body), head, body)


BROKEN = {
    "refused": respond(b"400", b'{"error": "bad\\r\\nthing", "error_description": "because"}'),
    "redirect": respond(b"307", b"", b"Location: /token"),
    "redirect with a token": respond(b"302", b'{"access_token": "abc"}', b"Location: /token"),
    "no json": respond(b"200", b"access_token=abc"),
    "a list": respond(b"200", b'["abc"]'),
    "no token": respond(b"200", b'{"token_type": "Bearer"}'),
    "empty token": respond(b"200", b'{"access_token": ""}'),
    "injecting token": respond(b"200", b'{"access_token": "a\\r\\nX-Evil: 1"}'),
    "token with blanks": respond(b"200", b'{"access_token": "a b"}'),
    "token that is a placeholder": respond(
        b"200", b'{"access_token": "sk-OPENSHELL-RESOLVE-ENV-KEY"}'
    ),
    "huge": respond(b"200", b'{"access_token": "' + b"x" * 70_000 + b'"}'),
    "cut": b'HTTP/1.1 200 X\r\nContent-Length: 90\r\n\r\n{"access_token": "abc"}',
    "no http": b"SSH-2.0-x\r\n\r\n",
    "deep": respond(b"200", b"[" * 60_000),
}


@pytest.mark.parametrize("answer", BROKEN.values(), ids=BROKEN.keys())
async def test_without_a_token_nothing_is_forwarded(world, answer):
    async with world.proxy() as proxy:
        client = await proxy.tunnel(A, world.up.port)
        assert (await client.request(request(world.up.port)))[0] == 200
        proxy.tokens.keep([])

        async def script(reader, writer):
            await reader.readuntil(b"\r\n\r\n")
            await reader.read(1 << 16)
            writer.write(answer)
            writer.close()

        world.endpoint._script = script
        status, headers, body = parse(await client.say(request(world.up.port)))
        placeholder = b"RESOLVE" in answer
        if not placeholder:
            assert (status, body, headers["content-length"]) == (502, b"", "0")
        assert status >= 500
        assert headers["connection"] == "close"
        plain_request = request(world.up.port, path=f"http://{A}:{world.up.port}/x")
        status, told = problem(await (await proxy.connect()).say(plain_request))
    if not placeholder:
        assert (status, told["error"]) == (502, "token_grant_failed")
        assert proxy.denials[0].refusal.code == "token_grant_failed"
        assert proxy.denials[0].severity.name == "HIGH"
        assert "\r" not in proxy.denials[0].detail
    assert len(world.up.requests) == 1
    nothing_leaked(proxy, world)


async def test_a_refusal_names_what_the_server_said_to_the_operator_only(world):
    world.server.audiences = ["another"]
    async with world.proxy() as proxy:
        sent = request(world.up.port, path=f"http://{A}:{world.up.port}/x")
        answer = await (await proxy.connect()).say(sent)
    assert b"invalid_client" not in answer
    assert "invalid_client" in proxy.denials[0].detail
    assert "idp:c" in proxy.denials[0].detail
    assert world.up.requests == []


SOURCES = {
    "agent refuses": lambda world: setattr(world.agent, "knows_us", False),
    "agent is gone": lambda world: setattr(world, "socket", world.socket + "2"),
}


@pytest.mark.parametrize("spoil", SOURCES.values(), ids=SOURCES.keys())
async def test_without_an_identity_nothing_is_forwarded(world, spoil):
    spoil(world)
    async with world.proxy() as proxy:
        client = await proxy.tunnel(A, world.up.port)
        assert (await client.say(request(world.up.port))).startswith(b"HTTP/1.1 502 ")
    assert world.up.requests == []
    assert world.server.forms == []
    assert "Workload API" in proxy.denials[0].detail


async def test_the_token_endpoint_must_prove_who_it_is(world):
    context = authority("another").server_context("localhost", NOW)
    async with world.proxy() as proxy:
        world.endpoint._server.close()
        server = await asyncio.start_server(
            world.endpoint._serve, "127.0.0.1", world.endpoint.port, ssl=context
        )
        try:
            client = await proxy.tunnel(A, world.up.port)
            assert (await client.say(request(world.up.port))).startswith(b"HTTP/1.1 502 ")
        finally:
            server.close()
    assert world.server.forms == []
    assert "certificate" in proxy.denials[0].detail


async def test_many_requests_at_once_cause_one_fetch(world):
    async with world.proxy() as proxy:
        clients = [await proxy.tunnel(A, world.up.port) for _ in range(8)]
        answers = await asyncio.gather(
            *(client.request(request(world.up.port)) for client in clients)
        )
    assert answers == [(200, b"ok")] * 8
    assert len(world.tokens) == 1


async def test_a_short_lived_token_still_serves_the_request_it_was_fetched_for(world):
    world.server.expires_in = 1
    async with world.proxy() as proxy:
        proxy.tokens._clock = iter(range(0, 10_000, 100)).__next__
        client = await proxy.tunnel(A, world.up.port)
        for _ in range(2):
            assert (await client.request(request(world.up.port)))[0] == 200
    assert world.seen() == [f"Bearer {token}".encode() for token in world.tokens]
    assert len(world.tokens) == 2


async def test_a_changed_grant_takes_effect_at_the_next_request(world):
    async with world.proxy(scopes=["read"]) as proxy:
        client = await proxy.tunnel(A, world.up.port)
        assert (await client.request(request(world.up.port)))[0] == 200
        key = next(iter(proxy._sent))
        proxy.regrant({key: grant(world.url, scopes=["write"])})
        assert (await client.request(request(world.up.port)))[0] == 200
        proxy.regrant({})
        assert (await client.request(request(world.up.port, "Authorization: mine")))[0] == 200
    assert [scope for _, scope in world.server.issued] == ["read", "write"]
    assert world.seen() == [*(f"Bearer {token}".encode() for token in world.tokens), b"mine"]


async def test_a_grant_that_changes_while_its_token_is_fetched(world):
    arrived, go = asyncio.Event(), asyncio.Event()
    answer = world.server.answer

    async def script(reader, writer):
        got = await read_request(reader)
        arrived.set()
        await go.wait()
        writer.write(answer(got))
        await writer.drain()

    world.endpoint._script = script
    async with world.proxy(scopes=["read"]) as proxy:
        client = await proxy.tunnel(A, world.up.port)
        await client.send(request(world.up.port))
        await asyncio.wait_for(arrived.wait(), 5)
        key = next(iter(proxy._sent))
        go.set()
        proxy.regrant({key: grant(world.url, scopes=["write"])})
        assert await client.response() == (200, b"ok")
    # What was fetched for the old grant goes nowhere.
    assert world.server.issued[-1] == (world.tokens[-1], "write")
    assert world.seen() == [f"Bearer {world.tokens[-1]}".encode()]


async def test_no_token_goes_out_in_clear_text_where_tls_was_expected(world):
    def https(host, port):
        return rest(host, port, tls="terminate")

    async with world.proxy(endpoint=https) as proxy:
        client = await proxy.tunnel(A, world.up.port)
        status, told = problem(await client.say(request(world.up.port)))
    assert (status, told["error"]) == (403, "credential_needs_tls")
    assert world.server.forms == []
    assert world.up.requests == []


async def test_no_token_goes_where_the_answer_repeats_the_request(world):
    async with world.proxy() as proxy:
        client = await proxy.tunnel(A, world.up.port)
        assert problem(await client.say(request(world.up.port, method="TRACE")))[0] == 500
    assert world.server.forms == []
    assert world.up.requests == []


async def test_nothing_of_a_grant_is_in_an_environment(world):
    async with world.proxy(environment={"TOKEN": SECRET}, bindings=bound(B, 1)) as proxy:
        credentials = proxy.holder.current.credentials
        assert set(credentials.child_environment()) == {"TOKEN"}
        revoked = credentials.revoked()
        assert revoked.grants is credentials.grants
        assert isinstance(revoked, CredentialSet)
