"""Upstreams that want a client certificate: who is shown it, when, and what failing looks like."""

import contextlib
import socket
import ssl
import threading

import pytest

from integration.egress.h2_peers import H2Client, H2Server
from integration.egress.harness import (
    CURL,
    NOW,
    A,
    B,
    Proxy,
    Upstream,
    authority,
    problem,
    rest,
    rest_policy,
)
from openshell.egress.client_identity import ClientIdentity
from openshell.egress.credentials import BoundEndpoint, BoundIdentity, CredentialSet
from support.authorities import Authority

CLIENTS = Authority("clients")


def identity(name="agent", by=CLIENTS):
    issued = by.issue(name)
    return ClientIdentity("work", issued.certificate, issued.key)


def shown_to(*places, identity):
    return (BoundIdentity(tuple(BoundEndpoint(*place) for place in places), identity),)


class Guarded(Upstream):
    """Serves TLS to clients with a certificate of ours only, and knows who came."""

    def __init__(self, name=A):
        super().__init__(script=self._note)
        self._context = demanding(name)
        self.came = []

    async def _note(self, reader, writer):
        self.came.append(common_name(writer))
        await self._answer_all(reader, writer)


def demanding(name):
    # One of its own: others share the context that the authority keeps.
    context = authority("upstream")._make_context(
        authority("upstream")._sign_leaf(name, NOW), ["http/1.1"]
    )
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=CLIENTS.certificate)
    return context


def common_name(writer):
    subject = (writer.get_extra_info("ssl_object").getpeercert() or {}).get("subject", ())
    return dict(part[0] for part in subject).get("commonName", "")


def with_identities(proxy, identities):
    proxy._credentials = CredentialSet.build(
        2, {}, {}, identities=identities, previous=proxy._credentials
    )
    return proxy


def only_ok(port):
    return {
        "host": A,
        "port": port,
        "protocol": "rest",
        "enforcement": "enforce",
        "rules": [{"allow": {"method": "GET", "path": "/ok"}}],
    }


async def get(proxy, host, port, path="/ok"):
    client = await proxy.tls(host, port)
    try:
        return await client.say(
            f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode()
        )
    finally:
        client.close()


@contextlib.contextmanager
def refusing_aloud(name):
    """A server for one connection that says which certificate it wants before it closes.

    Servers of asyncio drop that alert, and whoever closes with unread bytes has it lost to a reset.
    """
    context = demanding(name)
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve():
            plain, _ = listener.accept()
            with plain, plain.dup() as rest_of_it:
                try:
                    context.wrap_socket(plain, server_side=True)
                except ssl.SSLError:
                    while rest_of_it.recv(4096):
                        pass

        thread = threading.Thread(target=serve)
        thread.start()
        yield listener.getsockname()[1]
        thread.join()


async def test_the_bound_endpoint_is_shown_the_certificate_and_no_other_host():
    async with Guarded(A) as up:
        with refusing_aloud(B) as other:
            policy = rest_policy(rest(A, up.port), rest(B, other), rest(B, up.port))
            proxy = Proxy(policy)
            async with with_identities(proxy, shown_to((A, up.port), identity=identity())):
                assert (await get(proxy, A, up.port)).startswith(b"HTTP/1.1 200 ")
                assert up.came == ["agent"]
                status, said = problem(await get(proxy, B, other))
                assert (status, said["reason_code"]) == (502, "client_certificate_refused")
                assert "client_certificate" in said["reason"]
                codes = [(e.unmapped or {}).get("reason_code") for e in proxy.events]
                assert codes.count("client_certificate_refused") == 1
                # The same server by a name that is not bound: its certificate is not for that.
                status, said = problem(await get(proxy, B, up.port))
                assert (status, said["reason_code"]) == (502, "certificate_other_host")
        assert up.came == ["agent"]


async def test_nothing_is_shown_before_policy_has_allowed_a_request():
    async with Guarded() as up:
        proxy = Proxy(rest_policy(only_ok(up.port)))
        async with with_identities(proxy, shown_to((A, up.port), identity=identity())):
            status, _ = problem(await get(proxy, A, up.port, "/other"))
            assert (status, up.connections) == (403, 0)
            assert (await get(proxy, A, up.port)).startswith(b"HTTP/1.1 200 ")
            assert up.came == ["agent"]


@pytest.mark.parametrize(
    ("protocols", "chosen"), [(("h2", "http/1.1"), "http/1.1"), (("h2",), "h2")], ids=["both", "h2"]
)
async def test_http2_is_for_clients_that_speak_nothing_else(protocols, chosen):
    server = H2Server(A)
    server._context = demanding(A)
    server._context.set_alpn_protocols(["h2"])
    async with server as up:
        proxy = Proxy(rest_policy(only_ok(up.port)))
        async with with_identities(proxy, shown_to((A, up.port), identity=identity())):
            if chosen == "h2":
                client = await H2Client.open(proxy, A, up.port, protocols=protocols)
                refused = await client.answer(await client.open_stream(client.fields("/no")))
                assert (refused.status, up.connections) == (403, 0)
                allowed = await client.answer(await client.open_stream(client.fields("/ok")))
                assert allowed.status == 200
                assert [common_name(writer) for writer in up.writers] == ["agent"]
                client.close()
                return
            context = proxy.client_tls()
            context.set_alpn_protocols(list(protocols))
            client = await proxy.tunnel(A, up.port)
            await client.start_tls(context, A)
            tls = client.writer.get_extra_info("ssl_object")
            assert (tls.selected_alpn_protocol(), up.connections) == (chosen, 0)
            client.close()


async def test_another_certificate_takes_another_connection():
    first, second = identity("first"), identity("second")
    async with Guarded() as up:
        proxy = Proxy(rest_policy(rest(A, up.port)))
        async with with_identities(proxy, shown_to((A, up.port), identity=first)):
            client = await proxy.tls(A, up.port)
            ask = f"GET /ok HTTP/1.1\r\nHost: {A}:{up.port}\r\n\r\n".encode()
            assert await client.request(ask) == (200, b"ok")
            with_identities(proxy, shown_to((A, up.port), identity=second))
            proxy.reload(rest_policy(rest(A, up.port)))
            assert await client.request(ask) == (200, b"ok")
            assert up.came == ["first", "second"]
            # Withdrawn: nothing old is used in its place.
            with_identities(proxy, ())
            proxy.reload(rest_policy(rest(A, up.port)))
            status, _ = problem(await client.say(ask))
            assert (status, up.came) == (502, ["first", "second"])
            client.close()


async def test_a_pair_that_cannot_be_used_says_what_to_do():
    bad = ClientIdentity("work", identity("a").certificate, identity("b").private_key)
    async with Guarded() as up:
        proxy = Proxy(rest_policy(rest(A, up.port)))
        async with with_identities(proxy, shown_to((A, up.port), identity=bad)):
            answer = await get(proxy, A, up.port)
            status, said = problem(answer)
            assert (status, said["reason_code"]) == (502, "client_certificate_unusable")
            assert "openshell provider update work" in said["reason"]
            lines = "\n".join(proxy.lines).encode() + repr(proxy.holder.current).encode()
            for text in (answer, lines):
                for secret in (bad.private_key, bad.certificate):
                    assert secret.splitlines()[1].encode() not in text


async def test_another_program_reaches_nothing():
    async with Guarded() as up:
        proxy = Proxy(rest_policy(rest(A, up.port), binary="/usr/bin/wget"))
        async with with_identities(proxy, shown_to((A, up.port), identity=identity())):
            with pytest.raises(AssertionError, match="403"):
                await get(proxy, A, up.port)
            proxy.reload(rest_policy(rest(A, up.port), binary=CURL))
            assert (await get(proxy, A, up.port)).startswith(b"HTTP/1.1 200 ")
        assert up.came == ["agent"]


async def test_two_providers_that_disagree_are_both_left_out():
    async with Guarded() as up:
        proxy = Proxy(rest_policy(rest(A, up.port)))
        place = (A, up.port)
        both = (
            *shown_to(place, identity=identity("one")),
            *shown_to(place, identity=identity("two")),
        )
        async with with_identities(proxy, both):
            status, _ = problem(await get(proxy, A, up.port))
            assert (status, up.came) == (502, [])
