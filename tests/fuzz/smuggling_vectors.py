"""Ways to put a second request into what looks like one."""

SECRET = b"/secret"
INNER = b"GET /secret HTTP/1.1\r\nHost: h\r\n\r\n"


def _chunked(body, *fields):
    return b"\r\n".join((b"Transfer-Encoding: chunked", *fields, b"", body))


def _length(value, body=INNER, *, name=b"Content-Length: "):
    return name + value + b"\r\n\r\n" + body


_END = b"0\r\n\r\n"
_SIZE = b"%x\r\n" % len(INNER)
# What stands behind the Host field of a POST, to the end of what is sent.
VECTORS = {
    "length and chunks": _length(b"5\r\nTransfer-Encoding: chunked", _END + INNER),
    "chunks and length": _chunked(_END + INNER, b"Content-Length: 5"),
    "length too short": _length(b"0"),
    "two lengths, 0 first": _length(b"0\r\nContent-Length: %d" % len(INNER)),
    "two lengths, 0 last": _length(b"%d\r\nContent-Length: 0" % len(INNER)),
    "list of lengths": _length(b"0, %d" % len(INNER)),
    "length with a sign": _length(b"+%d" % len(INNER)),
    "negative length": _length(b"-1"),
    "length in hexadecimal": _length(b"0x0"),
    "length with an underscore": _length(b"0_0"),
    "length with zeros": _length(b"000"),
    "length with a blank inside": _length(b"0 0"),
    "length with a vertical tab": _length(b"\x0b0"),
    "length beyond 64 bits": _length(b"18446744073709551616"),
    "length with a superscript": _length("²".encode()),
    "length without a value": _length(b""),
    "length, blank before the colon": _length(b"0", name=b"Content-Length : "),
    "length, tab before the colon": _length(b"0", name=b"Content-Length\t: "),
    "length, underscore": _length(b"%d" % len(INNER), name=b"Content_Length: "),
    "length, folded": _length(b"\r\n %d" % len(INNER)),
    "length, NUL in the name": _length(b"0", name=b"Content-Length\0: "),
    "length by Connection": _length(b"%d\r\nConnection: Content-Length" % len(INNER)),
    "coding by Connection": _chunked(_END + INNER, b"Connection: Transfer-Encoding"),
    "coding, blank before the colon": b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n\r\n" + INNER,
    "coding, blank in front": b" Transfer-Encoding: chunked\r\nContent-Length: 0\r\n\r\n" + INNER,
    "coding, vertical tab": b"Transfer-Encoding: \x0bchunked\r\nContent-Length: 0\r\n\r\n" + INNER,
    "coding, form feed": b"Transfer-Encoding: chunked\x0c\r\nContent-Length: 0\r\n\r\n" + INNER,
    "coding, folded": b"Transfer-Encoding:\r\n chunked\r\nContent-Length: 0\r\n\r\n" + INNER,
    "coding, bare line feed": b"X: y\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + _END + INNER,
    "coding, bare carriage return": b"X: y\rTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + _END + INNER,
    "coding, quoted": b'Transfer-Encoding: "chunked"\r\nContent-Length: 0\r\n\r\n' + INNER,
    "coding, twice": b"Transfer-Encoding: chunked\r\n" + _chunked(_END + INNER),
    "coding, identity last": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + _END + INNER,
    "coding, unknown first": b"Transfer-Encoding: x\r\n" + _chunked(_END + INNER),
    "coding, list": b"Transfer-Encoding: gzip, chunked\r\n\r\n" + _END + INNER,
    "coding, chunked not last": b"Transfer-Encoding: chunked, gzip\r\n\r\n" + _END + INNER,
    "coding, parameters": b"Transfer-Encoding: chunked;a=b\r\n\r\n" + _END + INNER,
    "coding, empty": b"Transfer-Encoding:\r\nContent-Length: 0\r\n\r\n" + INNER,
    "coding, underscore": b"Transfer_Encoding: chunked\r\nContent-Length: 5\r\n\r\n" + _END + INNER,
    "coding, non-ASCII": b"Transfer-Encod\xefng: chunked\r\nContent-Length: 5\r\n\r\n" + _END + INNER,
    "chunk, size in 0x": _chunked(b"0x0\r\n\r\n" + INNER),
    "chunk, signed size": _chunked(b"+0\r\n\r\n" + INNER),
    "chunk, negative size": _chunked(b"-1\r\n" + INNER),
    "chunk, underscore": _chunked(b"0_0\r\n\r\n" + INNER),
    "chunk, overflow": _chunked(b"10000000000000000\r\n\r\n" + INNER),
    "chunk, blank before the size": _chunked(b" 0\r\n\r\n" + INNER),
    "chunk, blank behind the size": _chunked(b"0 \r\n\r\n" + INNER),
    "chunk, bare line feed": _chunked(b"0\n\r\n" + INNER),
    "chunk, only line feeds": _chunked(b"0\n\n" + INNER),
    "chunk, line feed in the extension": _chunked(b"2;\n" + _SIZE[:2] + b"\r\nxx\r\n0\r\n\r\n" + INNER),
    "chunk, carriage return in the extension": _chunked(b"0;\rx\r\n\r\n" + INNER),
    "chunk, quoted extension": _chunked(b'1;a="\r\nx\r\n0\r\n\r\n' + INNER + b'"\r\n'),
    "chunk, no line end behind": _chunked(b"1\r\nxXX0\r\n\r\n" + INNER),
    "chunk, too long": _chunked(b"1\r\nxx\r\n0\r\n\r\n" + INNER),
    "chunk, empty size": _chunked(b"\r\n\r\n" + INNER),
    "trailer is a length": _chunked(b"0\r\nContent-Length: 50\r\n\r\n" + INNER),
    "trailer is a coding": _chunked(b"0\r\nTransfer-Encoding: chunked\r\n\r\n" + INNER),
    "trailer without a colon": _chunked(b"0\r\nGET /secret HTTP/1.1\r\n\r\n" + INNER),
    "trailer, bare line feed": _chunked(b"0\r\nX: y\n\r\n" + INNER),
    "second Host": b"Host: other\r\nContent-Length: 0\r\n\r\n",
    "NUL in a value": b"X: a\0b\r\nContent-Length: 0\r\n\r\n" + INNER,
    "line feed ends the head": b"X: y\n\n" + INNER,
    "upgrade with a request behind": b"Connection: upgrade\r\nUpgrade: h2c\r\nContent-Length: 0\r\n\r\n" + INNER,
    "upgrade with a body": _length(b"%d\r\nConnection: upgrade\r\nUpgrade: websocket" % len(INNER)),
    "request behind": b"Content-Length: 0\r\n\r\n" + INNER,
    "request is the body": _length(b"%d" % len(INNER)),
    "request is a chunk": _chunked(_SIZE + INNER + b"\r\n" + _END),
    "expect, body at once": _length(b"%d\r\nExpect: 100-continue" % len(INNER)),
    "expect, odd": _length(b"0\r\nExpect: 100-continue, x"),
}  # fmt: skip
