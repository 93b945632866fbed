"""The SFTP server on a directory of its own: every request, refusals, and bytes that are none."""

import os
import stat
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.supervisor.sftp.files import HANDLES_MAX, FileServer
from openshell.supervisor.sftp.packets import Attributes, Fields, Malformed, Request, Status, string
from openshell.supervisor.sftp.serve import serve

READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32
NONE = Attributes().encode()


class Client:
    def __init__(self, home=b"/"):
        self.server = FileServer(home)
        self.hello = self.server.answer(bytes([1]) + struct.pack(">I", 3))

    def ask(self, kind, *parts):
        body = b"".join(
            part if isinstance(part, bytes) else struct.pack(">I", part) for part in parts
        )
        answer = Fields(self.server.answer(struct.pack(">BI", kind, 7) + body))
        kind = answer.byte()
        assert answer.uint32() == 7
        return kind, answer

    def extended(self, name, *parts):
        return self.ask(Request.EXTENDED, string(name), *parts)

    def status(self, kind, *parts):
        kind, answer = self.ask(kind, *parts)
        assert kind == 101
        return Status(answer.uint32())

    def open(self, path, flags):
        kind, answer = self.ask(Request.OPEN, name(path), flags, NONE)
        assert kind == 102, Status(answer.uint32())
        return string(answer.string())


def name(path):
    return string(os.fsencode(path))


@pytest.fixture
def client():
    made = Client()
    yield made
    made.server.close()


def test_it_says_what_it_is(client):
    hello = Fields(client.hello)
    assert (hello.byte(), hello.uint32()) == (2, 3)
    assert b"posix-rename@openssh.com" in client.hello


def test_write_read_and_attributes(client, tmp_path):
    path = tmp_path / "file"
    handle = client.open(path, READ | WRITE | CREATE | EXCLUSIVE)
    offset = struct.pack(">Q", 5)
    assert client.status(Request.WRITE, handle, offset, string(b"hello")) is Status.OK
    kind, answer = client.ask(Request.READ, handle, struct.pack(">Q", 3), 100)
    assert (kind, answer.string()) == (103, b"\0\0hello")
    assert client.status(Request.READ, handle, struct.pack(">Q", 10), 1) is Status.EOF
    attributes = Attributes(size=7, mode=0o604, times=(11, 12)).encode()
    assert client.status(Request.FSETSTAT, handle, attributes) is Status.OK
    assert client.extended(b"fsync@openssh.com", handle)[1].uint32() == Status.OK
    assert client.status(Request.CLOSE, handle) is Status.OK
    assert client.status(Request.CLOSE, handle) is Status.FAILURE
    found = path.stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode), found.st_mtime) == (7, 0o604, 12)
    assert (
        client.status(Request.OPEN, name(path), WRITE | CREATE | EXCLUSIVE, NONE) is Status.FAILURE
    )


def test_names(client, tmp_path):
    kinds = Request
    assert client.status(kinds.MKDIR, name(tmp_path / "d"), NONE) is Status.OK
    assert client.status(kinds.SYMLINK, name("../d"), name(tmp_path / "d/link")) is Status.OK
    _, answer = client.ask(kinds.READLINK, name(tmp_path / "d/link"))
    assert (answer.uint32(), answer.string()) == (1, b"../d")
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "b").write_bytes(b"b")
    rename = name(tmp_path / "a"), name(tmp_path / "b")
    assert client.status(kinds.RENAME, *rename) is Status.FAILURE
    assert client.extended(b"posix-rename@openssh.com", *rename)[1].uint32() == Status.OK
    assert (tmp_path / "b").read_bytes() == b"a"
    assert client.status(kinds.RMDIR, name(tmp_path / "d")) is Status.FAILURE
    assert client.status(kinds.REMOVE, name(tmp_path / "d/link")) is Status.OK
    assert client.status(kinds.RMDIR, name(tmp_path / "d")) is Status.OK
    assert client.status(kinds.STAT, name(tmp_path / "d")) is Status.NO_SUCH_FILE
    _, answer = client.ask(kinds.REALPATH, name(tmp_path / "x/../b"))
    assert (answer.uint32(), answer.string()) == (1, os.fsencode(tmp_path / "b"))


def test_a_large_directory_comes_in_pieces(client, tmp_path):
    wanted = {f"{number:0>250}".encode() for number in range(1_000)}
    for each in wanted:
        (tmp_path / each.decode()).touch()
    _, answer = client.ask(Request.OPENDIR, name(tmp_path))
    handle = string(answer.string())
    seen = set()
    while True:
        kind, answer = client.ask(Request.READDIR, handle)
        if kind == 101:
            assert answer.uint32() == Status.EOF
            break
        for _ in range(answer.uint32()):
            seen.add(answer.string())
            assert answer.string().startswith(b"-rw")
            assert answer.uint32() == 0xF
            answer._take(28)
    assert seen == wanted


def test_where_a_sparse_file_has_data(client, tmp_path):
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(bytes(range(256)))
    handle = client.open(tmp_path / "sparse", READ)
    window = struct.pack(">QQ", 0, 64 << 20)
    kind, answer = client.extended(b"ranges@asyncssh.com", handle, window)
    assert (kind, answer.uint32()) == (201, 1)
    start, length = answer.uint64(), answer.uint64()
    assert start <= 32 << 20 < start + length < 33 << 20
    assert answer.byte() == 1


def test_a_pipe_without_a_writer_does_not_stop_the_server(client, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    handle = client.open(tmp_path / "pipe", READ)
    assert client.status(Request.READ, handle, bytes(8), 10) is Status.FAILURE
    # Nobody reads it any more than it is read by the one handle above.
    assert client.ask(Request.OPEN, name(tmp_path / "pipe"), WRITE, NONE)[0] == 102


def test_handles_are_bounded_and_given_back(client, tmp_path):
    (tmp_path / "f").touch()
    handles = [client.open(tmp_path / "f", READ) for _ in range(HANDLES_MAX)]
    assert client.status(Request.OPEN, name(tmp_path / "f"), READ, NONE) is Status.FAILURE
    assert client.status(Request.CLOSE, handles[0]) is Status.OK
    client.open(tmp_path / "f", READ)


@pytest.mark.parametrize(
    ("kind", "parts", "status"),
    [
        (99, (), Status.OP_UNSUPPORTED),
        (Request.EXTENDED, (string(b"no@such"),), Status.OP_UNSUPPORTED),
        (Request.READ, (string(b"9"), bytes(8), 1), Status.FAILURE),
        (Request.OPEN, (string(b"/nowhere/x"), READ, NONE), Status.NO_SUCH_FILE),
        (Request.SETSTAT, (string(b"/nowhere"), Attributes(size=1).encode()), Status.NO_SUCH_FILE),
        (Request.SYMLINK, (string(b""), string(b"/nowhere/x")), Status.FAILURE),
    ],
)
def test_what_cannot_be_done(client, kind, parts, status):
    assert client.status(kind, *parts) is status


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"\x03",
        bytes([3, 0, 0, 0, 1]),
        bytes([17, 0, 0, 0, 1]) + string(b"a\0b"),
        b"\x11\0\0\0\1\xff\xff\xff\xff",
    ],
)
def test_what_is_no_request(client, packet):
    with pytest.raises(Malformed):
        client.server.answer(packet)


NO_PATHS = (
    Request.CLOSE,
    Request.READ,
    Request.WRITE,
    Request.FSTAT,
    Request.FSETSTAT,
    Request.READDIR,
    99,
)


@given(kind=st.sampled_from(NO_PATHS), body=st.binary(max_size=64))
def test_any_bytes_get_one_answer_or_end_it(kind, body):
    client = Client()
    try:
        answer = client.server.answer(struct.pack(">BI", kind, 5) + body)
    except Malformed:
        return
    assert answer[1:5] == struct.pack(">I", 5)


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", 0),
        (b"\0\0\0\5\1\0\0\0\3", 0),
        (b"\0\0\0\5\1\0\0", 1),
        (b"\0\0\0\0", 1),
        (b"\xff\xff\xff\xff", 1),
        (b"SSH-2.0-x\r\n", 1),
        (b"\0\0\0\5\3\0\0\0\1", 1),
    ],
)
def test_the_end_of_a_conversation(sent, code):
    reading, theirs = os.pipe()
    os.write(theirs, sent)
    os.close(theirs)
    sink, writing = os.pipe()
    assert serve(reading, writing, "/") == code
    for descriptor in (reading, sink, writing):
        os.close(descriptor)
