"""Heads of one connection: what is remembered never changes how a head is read."""

import itertools

import pytest

from openshell.egress.http1 import FieldMemory, HeadRejected, RequestHeadReader

GET = b"GET /a HTTP/1.1\r\nHost: a.example\r\nAccept: */*\r\n\r\n"
HEADS = {
    "same fields": GET,
    "other target": GET.replace(b"/a", b"/other"),
    "other version": GET.replace(b"HTTP/1.1", b"HTTP/1.0"),
    "unknown version": GET.replace(b"HTTP/1.1", b"HTTP/1.2"),
    "control byte in the target": GET.replace(b"/a", b"/\x01"),
    "bytes outside ASCII in the target": GET.replace(b"/a", b"/\xff"),
    "a field more": GET.replace(b"\r\nHost", b"\r\nX: 1\r\nHost"),
    "a fold before the same fields": GET.replace(b"\r\nHost", b"\r\n folded\r\nHost"),
    "no host": b"GET /a HTTP/1.1\r\nAccept: */*\r\n\r\n",
    "no host in 1.0": b"GET /a HTTP/1.0\r\nAccept: */*\r\n\r\n",
    "no fields": b"GET /a HTTP/1.0\r\n\r\n",
    "body": GET.replace(b"Accept: */*", b"Content-Length: 3"),
    "CONNECT with a body": b"CONNECT a.example:1 HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\n",
    "POST with the same fields": b"POST / HTTP/1.1\r\nHost: a.example\r\nContent-Length: 3\r\n\r\n",
    "chunked": GET.replace(b"Accept: */*", b"Transfer-Encoding: chunked"),
    "chunked in 1.0": b"GET / HTTP/1.0\r\nHost: a.example\r\nTransfer-Encoding: chunked\r\n\r\n",
}


def read(data, memory, *, require_host):
    reader = RequestHeadReader(limit=8192, require_host=require_host, memory=memory)
    try:
        return reader.feed(data)
    except HeadRejected as rejected:
        return rejected.reason


@pytest.mark.parametrize("require_host", [True, False])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_is_read_like_the_first_one_whatever_came_before(name, require_host):
    alone = read(HEADS[name], None, require_host=require_host)
    for before, others in itertools.product(HEADS.values(), (True, False)):
        memory = FieldMemory()
        read(before, memory, require_host=others)
        assert read(HEADS[name], memory, require_host=require_host) == alone
        assert read(HEADS[name], memory, require_host=require_host) == alone


def test_repeated_fields_are_the_same_object():
    memory = FieldMemory()
    first = read(HEADS["same fields"], memory, require_host=True)
    assert read(HEADS["other target"], memory, require_host=True).headers is first.headers
