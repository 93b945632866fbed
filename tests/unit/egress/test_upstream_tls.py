"""TLS with real servers: each failure has its own code, sessions stay with whom they belong to."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from ipaddress import ip_address

import pytest

from openshell.egress.ca import client_context
from openshell.egress.client_identity import BadIdentity, ClientIdentity, identity_context
from openshell.egress.stream import TlsStream
from openshell.egress.tls_faults import TlsCause, explain_tls_error, late_failure
from openshell.egress.tls_sessions import MAX_SESSIONS, SESSION_SECONDS, SessionCache
from openshell.egress.upstream import MAX_IDENTITIES, UpstreamFailed, UpstreamKey, Upstreams
from support.authorities import Authority, Issued, loaded

HOST = "a.example"
OURS, THEIRS = Authority("ours"), Authority("theirs")
GOOD = OURS.issue(HOST)


class Server:
    """Upper-cases what it reads; knows which handshakes were resumed and who came."""

    def __init__(self) -> None:
        self.resumed: list[bool] = []
        self.came: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tls = writer.get_extra_info("ssl_object")
        self.resumed.append(tls.session_reused)
        peer = tls.getpeercert() or {}
        self.came.append(dict(part[0] for part in peer.get("subject", ())).get("commonName", ""))
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(100):
                writer.write(data.upper())
                await writer.drain()
        writer.close()


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[tuple[int, Server]]:
    server = Server()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0, ssl=context)
    try:
        yield listening.sockets[0].getsockname()[1], server
    finally:
        listening.close()


def pool(roots: str = OURS.certificate, clock: Callable[[], float] = lambda: 1.0) -> Upstreams:
    context = client_context(roots.encode())
    return Upstreams(context, clock=clock, dial_seconds=2, handshake_seconds=2)


def key(port: int, **changes: object) -> UpstreamKey:
    made = UpstreamKey(HOST, port, (ip_address("127.0.0.1"),), tls=True, credential_epoch=1)
    return replace(made, **changes)  # type: ignore[arg-type]


async def talk(upstreams: Upstreams, wanted: UpstreamKey) -> bool:
    """One exchange on a new connection; says whether its session was resumed."""
    lease = await upstreams.open(wanted, fresh=True)
    try:
        lease.stream.write(b"ping")
        assert await lease.stream.read() == b"PING"
        assert isinstance(lease.stream, TlsStream)
        return lease.stream.is_resumed
    finally:
        lease.stream.abort()


def only(version: ssl.TLSVersion, issued: Issued = GOOD) -> ssl.SSLContext:
    context = loaded(issued)
    context.minimum_version = context.maximum_version = version
    return context


@contextlib.asynccontextmanager
async def one_blocking(context: ssl.SSLContext) -> AsyncIterator[int]:
    """A server for one connection that sends its alerts; asyncio's drops them."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            plain, _ = listener.accept()
            with plain, contextlib.suppress(OSError), context.wrap_socket(plain, True) as secure:
                secure.sendall(secure.recv(100).upper())

        serving_it = asyncio.get_running_loop().run_in_executor(None, serve)
        yield listener.getsockname()[1]
        await serving_it


C = TlsCause
CERTIFICATES = {
    "expired": (lambda: loaded(OURS.issue(HOST, begins=-3, ends=-1)), C.EXPIRED, "expired"),
    "future": (lambda: loaded(OURS.issue(HOST, begins=1, ends=3)), C.NOT_YET_VALID, "clock"),
    "foreign": (lambda: loaded(THEIRS.issue(HOST)), C.UNKNOWN_ISSUER, "upstream_ca_bundle"),
    "other_host": (lambda: loaded(OURS.issue("b.example")), C.OTHER_HOST, "the name"),
}


@pytest.mark.parametrize(("make", "cause", "word"), CERTIFICATES.values(), ids=CERTIFICATES.keys())
async def test_a_server_that_is_not_trusted(
    make: Callable[[], ssl.SSLContext], cause: TlsCause, word: str
) -> None:
    async with serving(loaded(GOOD)) as (port, _):
        assert not await talk(pool(), key(port))
    async with serving(make()) as (port, _):
        with pytest.raises(UpstreamFailed) as caught:
            await talk(pool(), key(port))
    assert (caught.value.stage, caught.value.code) == ("tls", cause.value)
    assert word in caught.value.reason


async def test_a_self_signed_server_is_told_from_an_unknown_issuer() -> None:
    alone = Authority(HOST)
    own = Issued.__new__(Issued)
    own.certificate, own.key = alone.certificate, alone.key_pem
    async with serving(loaded(own)) as (port, _):
        with pytest.raises(UpstreamFailed) as caught:
            await talk(pool(), key(port))
    assert caught.value.code == C.SELF_SIGNED.value


def answers(data: bytes) -> Callable[[socket.socket], None]:
    def answer(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(data)

    return answer


def resets(connection: socket.socket) -> None:
    connection.recv(1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


BROKEN = {
    "http": (answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"), C.NOT_TLS),
    "version_alert": (answers(b"\x15\x03\x03\x00\x02\x02\x46"), C.VERSION),
    "alert": (answers(b"\x15\x03\x03\x00\x02\x02\x28"), C.ALERT),
    "name_alert": (answers(b"\x15\x03\x03\x00\x02\x02\x70"), C.ALERT),
    "closed": (lambda connection: connection.recv(4096), C.CLOSED),
    "reset": (resets, C.RESET),
}


@pytest.mark.parametrize(("behave", "cause"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_server_that_breaks_the_handshake(
    behave: Callable[[socket.socket], object], cause: TlsCause
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                behave(connection)

        serving_it = asyncio.get_running_loop().run_in_executor(None, serve)
        with pytest.raises(UpstreamFailed) as caught:
            await talk(pool(), key(listener.getsockname()[1]))
        await serving_it
    assert caught.value.code == cause.value


async def test_a_server_with_no_cipher_in_common_says_so() -> None:
    context = only(ssl.TLSVersion.TLSv1_2)
    context.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")
    async with one_blocking(context) as port:
        with pytest.raises(UpstreamFailed) as caught:
            await talk(pool(), key(port))
    assert caught.value.code == C.ALERT.value
    assert "refused the TLS handshake" in caught.value.reason


async def test_silence_is_a_timeout() -> None:
    upstreams = Upstreams(
        client_context(b""), clock=lambda: 1.0, dial_seconds=2, handshake_seconds=0.05
    )
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(UpstreamFailed) as caught:
        await upstreams.open(key(silent.getsockname()[1]))
    assert caught.value.code == C.TIMEOUT.value


def test_causes_that_no_server_here_can_show() -> None:
    revoked = ssl.SSLCertVerificationError()
    revoked.verify_code, revoked.verify_message = 23, "certificate revoked"
    assert explain_tls_error(revoked, HOST).cause is C.REVOKED
    revoked.verify_code, revoked.verify_message = 26, "unsuitable certificate purpose"
    found = explain_tls_error(revoked, HOST)
    assert found.cause is C.REJECTED
    assert "unsuitable certificate purpose" in found.reason


# Sessions.

VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS.keys())
async def test_a_session_is_resumed_for_the_same_target_only(version: ssl.TLSVersion) -> None:
    async with serving(only(version)) as (port, server):
        upstreams, another_sandbox = pool(), pool()
        wanted = key(port)
        assert [await talk(upstreams, wanted) for _ in range(3)] == [False, True, True]
        assert server.resumed == [False, True, True]
        assert not await talk(upstreams, replace(wanted, credential_epoch=2))
        assert not await talk(another_sandbox, wanted)
        # Whoever has the session is not spared the name: another one begins anew and is refused.
        with pytest.raises(UpstreamFailed) as caught:
            await talk(upstreams, replace(wanted, host="b.example"))
        assert caught.value.code == C.OTHER_HOST.value
        assert await talk(upstreams, wanted)
        upstreams.drop_older(2)
        assert not await talk(upstreams, wanted)


async def test_a_session_ends_however_often_it_was_renewed() -> None:
    now = 1.0
    async with serving(loaded(GOOD)) as (port, _):
        upstreams = pool(clock=lambda: now)
        assert not await talk(upstreams, key(port))
        now += SESSION_SECONDS - 1
        assert await talk(upstreams, key(port))
        now += 2
        assert not await talk(upstreams, key(port))


async def test_sessions_are_bounded() -> None:
    async with serving(loaded(GOOD)) as (port, _):
        upstreams = pool()
        await talk(upstreams, key(port))
        cache, target = SessionCache(), key(port).target
        context = upstreams._context
        kept = upstreams._sessions.get(target, context, 1.0)
        assert kept is not None
        for number in range(MAX_SESSIONS + 5):
            cache.put(replace(target, port=number), kept)
        assert len(cache) == MAX_SESSIONS
        assert cache.get(replace(target, port=0), context, 1.0) is None


# Client certificates.


def asking(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    context = only(version)
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(cadata=OURS.certificate)
    return context


def identity(name: str, authority: Authority = OURS) -> ClientIdentity:
    issued = authority.issue(name)
    return ClientIdentity("work", issued.certificate, issued.key)


@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS.keys())
async def test_a_client_certificate_is_shown_and_sessions_stay_with_it(
    version: ssl.TLSVersion,
) -> None:
    first, second = identity("first"), identity("second")
    async with serving(asking(version)) as (port, server):
        upstreams = pool()
        one, other = key(port, identity=first), key(port, identity=second)
        assert [await talk(upstreams, k) for k in (one, one, other, other)] == [
            False, True, False, True,
        ]  # fmt: skip
        assert server.came == ["first", "first", "second", "second"]


async def test_contexts_with_keys_are_bounded_and_a_session_does_not_outlive_its_own() -> None:
    many = [identity(f"agent{number}") for number in range(MAX_IDENTITIES + 1)]
    async with serving(asking()) as (port, server):
        upstreams = pool()
        assert [await talk(upstreams, key(port, identity=i)) for i in (many[0], *many)] == [
            False, True, *(False for _ in many[1:]),
        ]  # fmt: skip
        assert len(upstreams._contexts) == MAX_IDENTITIES
        # Its context was the oldest and is made anew: the session belonged to the one that is gone.
        assert not await talk(upstreams, key(port, identity=many[0]))
        assert server.came[-1] == "agent0"


REFUSED_CLIENTS = {"none": None, "foreign": identity("foreign", THEIRS)}


@pytest.mark.parametrize("shown", REFUSED_CLIENTS.values(), ids=REFUSED_CLIENTS.keys())
@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS.keys())
async def test_a_server_that_wants_another_certificate(
    version: ssl.TLSVersion, shown: ClientIdentity | None
) -> None:
    async with one_blocking(asking(version)) as port:
        assert not await talk(pool(), key(port, identity=identity("good")))
    async with one_blocking(asking(version)) as port:
        try:
            lease = await pool().open(key(port, identity=shown))
        except UpstreamFailed as failed:
            code = failed.code
        else:
            with contextlib.suppress(ConnectionError):
                await lease.stream.read()
            failure = late_failure(lease.stream, HOST)
            assert failure is not None
            code = failure.cause.value
    # What TLS 1.2 says to a client without a certificate is said of much else, too.
    vague = version is ssl.TLSVersion.TLSv1_2 and shown is None
    assert code == (C.ALERT if vague else C.CLIENT_CERTIFICATE).value


def test_a_pair_that_does_not_fit_says_what_to_do_and_quotes_nothing() -> None:
    one, other = identity("one"), identity("other")
    base = client_context(OURS.certificate.encode())
    identity_context(base, one)
    for bad in (
        replace(one, private_key=other.private_key),
        replace(one, certificate="no certificate"),
        replace(one, private_key=""),
    ):
        with pytest.raises(BadIdentity, match="openshell provider update work") as caught:
            identity_context(base, bad)
        assert "BEGIN" not in str(caught.value) + repr(bad)
        assert caught.value.__cause__ is None


async def test_an_unusable_certificate_is_a_failure_with_a_code_of_its_own() -> None:
    bad = replace(identity("one"), private_key=identity("other").private_key)
    async with serving(asking()) as (port, server):
        with pytest.raises(UpstreamFailed) as caught:
            await talk(pool(), key(port, identity=bad))
    assert caught.value.code == "client_certificate_unusable"
    assert server.came == []
