"""Connections from outside to a port inside a sandbox, by the API alone."""

import queue
import uuid

import grpc
import pytest

from openshell._proto import openshell_pb2 as pb
from openshell.sdk.client import SandboxClient

SERVER = """
import socket, sys, threading
def serve(connection):
    with connection:
        word = b""
        while not word.endswith(b"\\n"):
            word += connection.recv(1)
        if word == b"count\\n":
            total = 0
            while data := connection.recv(1 << 16):
                total += len(data)
            connection.sendall(b"%d" % total)
        elif word == b"first\\n":
            connection.sendall(b"bye")
            connection.shutdown(socket.SHUT_WR)
            rest = b""
            while data := connection.recv(1 << 16):
                rest += data
            open("/sandbox/rest", "wb").write(rest)
        elif word == b"flood\\n":
            for _ in range(320):
                connection.sendall(bytes(1 << 16))
        elif word == b"reset\\n":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\\1\\0\\0\\0\\0\\0\\0\\0")
for family, address, port in ((socket.AF_INET, "127.0.0.1", 8000), (socket.AF_INET6, "::1", 8006)):
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((address, port))
    listener.listen()
    def accept(listener=listener):
        while True:
            threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
    threading.Thread(target=accept, daemon=True).start()
print("listening", flush=True)
threading.Event().wait()
"""


class Forward:
    """One ForwardTcp stream, as an old client (`half_close=False`) or ours."""

    def __init__(self, client, sandbox_id, token, port=8000, host="localhost", **more):
        self._frames = queue.Queue()
        init = pb.TcpForwardInit(
            sandbox_id=sandbox_id,
            service_id="test",
            authorization_token=token,
            **({"tcp": pb.TcpRelayTarget(host=host, port=port)} | more),
        )
        self._frames.put(pb.TcpForwardFrame(init=init))
        self.call = client._stub.ForwardTcp(iter(self._frames.get, None), timeout=30)

    def send(self, data):
        self._frames.put(pb.TcpForwardFrame(data=data))

    def end(self):
        self._frames.put(None)

    def read(self):
        return [frame.data or frame.end for frame in self.call]

    def text(self):
        return b"".join(frame.data for frame in self.call)

    def code(self):
        self.end()
        with pytest.raises(grpc.RpcError) as error:
            self.read()
        return error.value.code(), error.value.details()


@pytest.fixture(scope="module")
def box(client: SandboxClient):
    name = f"ports-{uuid.uuid4().hex[:6]}"
    spec = pb.SandboxSpec(command=["python3", "-c", SERVER])
    ref = client.create(workspace="default", name=name, spec=spec)
    client.wait_ready(name, workspace="default", timeout_seconds=30)
    for _ in range(100):
        ran = client.exec(ref.id, ["sh", "-c", "grep -c 0100007F:1F40 /proc/net/tcp"])
        if ran.exit_code == 0:
            break
    yield ref
    client.delete(name, workspace="default")


def session(client, sandbox_id):
    return client._stub.CreateSshSession(pb.CreateSshSessionRequest(sandbox_id=sandbox_id))


@pytest.fixture
def token(client, box):
    made = session(client, box.id)
    yield made.token
    client._stub.RevokeSshSession(pb.RevokeSshSessionRequest(token=made.token))


@pytest.mark.parametrize(
    ("host", "port"),
    [("localhost", 8000), ("LocalHost", 8006), ("127.0.0.1", 8000), ("::1", 8006), ("[::1]", 8006)],
)
def test_bytes_both_ways_and_the_ends_apart(client, box, token, host, port):
    forward = Forward(client, box.id, token, port, host, half_close=True)
    forward.send(b"count\n")
    for _ in range(64):
        forward.send(bytes(65_537))
    forward.end()
    assert forward.read() == [b"%d" % (64 * 65_537), True]


def test_the_inside_may_end_first(client, box, token):
    forward = Forward(client, box.id, token, half_close=True)
    forward.send(b"first\n")
    answers = iter(forward.call)
    assert next(answers).data == b"bye"
    assert next(answers).end
    forward.send(b"still read")
    forward.end()
    assert list(answers) == []
    assert client.exec(box.id, ["cat", "/sandbox/rest"]).stdout == "still read"


def test_a_client_that_knows_no_half_ends_gets_everything(client, box, token):
    forward = Forward(client, box.id, token)
    forward.send(b"flood\n")
    assert len(forward.text()) == 320 << 16


def test_a_reset_is_no_end(client, box, token):
    forward = Forward(client, box.id, token)
    forward.send(b"reset\n")
    assert forward.code()[0] is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize(
    ("more", "code", "says"),
    [
        ({"port": 8999}, grpc.StatusCode.UNAVAILABLE, "refused"),
        ({"port": 0}, grpc.StatusCode.INVALID_ARGUMENT, "port"),
        ({"port": 65_536}, grpc.StatusCode.INVALID_ARGUMENT, "port"),
        ({"host": "10.200.0.1"}, grpc.StatusCode.INVALID_ARGUMENT, "loopback"),
        ({"host": "localhost.example.com"}, grpc.StatusCode.INVALID_ARGUMENT, "loopback"),
        ({"host": ""}, grpc.StatusCode.INVALID_ARGUMENT, "loopback"),
        ({"tcp": None}, grpc.StatusCode.INVALID_ARGUMENT, "target"),
        ({"authorization_token": ""}, grpc.StatusCode.UNAUTHENTICATED, "authorization_token"),
        ({"authorization_token": "x" * 36}, grpc.StatusCode.UNAUTHENTICATED, "unknown"),
        ({"sandbox_id": "nobody"}, grpc.StatusCode.NOT_FOUND, "not found"),
    ],
)
def test_what_is_refused(client, box, token, more, code, says):
    arguments = {"port": 8000, "host": "localhost"} | more
    asked = {
        "sandbox_id": arguments.pop("sandbox_id", box.id),
        "token": arguments.pop("authorization_token", token),
    }
    refused, details = Forward(client, **asked, **arguments).code()
    assert refused is code
    assert says in details


def test_a_token_is_for_one_sandbox_and_until_it_is_revoked(client, box, token):
    other = client.create(workspace="default", spec=pb.SandboxSpec(command=["sleep", "100"]))
    client.wait_ready(other.name, workspace="default", timeout_seconds=30)
    theirs = session(client, other.id).token
    unauthenticated = grpc.StatusCode.UNAUTHENTICATED
    assert Forward(client, box.id, theirs).code()[0] is unauthenticated
    # A stop ends what was made before it.
    client.stop(other.name, workspace="default")
    client.wait_stopped(other.name, workspace="default")
    with pytest.raises(grpc.RpcError) as error:
        session(client, other.id)
    assert error.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    client.start(other.name, workspace="default")
    client.wait_ready(other.name, workspace="default", timeout_seconds=30)
    assert Forward(client, other.id, theirs).code()[0] is unauthenticated
    client.delete(other.name, workspace="default")

    revoke = pb.RevokeSshSessionRequest(token=token)
    assert client._stub.RevokeSshSession(revoke).revoked
    assert not client._stub.RevokeSshSession(revoke).revoked
    assert Forward(client, box.id, token).code()[0] is unauthenticated


def test_so_many_at_a_time(client, box, token):
    held = [Forward(client, box.id, token, half_close=True) for _ in range(3)]
    for forward in held:
        forward.send(b"first\n")
        assert next(iter(forward.call)).data == b"bye"
    refused, details = Forward(client, box.id, token).code()
    assert refused is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "3 connections" in details
    for forward in held:
        forward.end()
        forward.read()
    again = Forward(client, box.id, token)
    again.send(b"flood\n")
    assert len(again.text()) == 320 << 16
