"""Ways to put a second request into what looks like one, and servers of other people that note what they get."""

import asyncio
import contextlib
import logging
import os
import socket

import uvicorn

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


class Noting:
    """Requests as a server understood them, and how often it understood none."""

    def __init__(self):
        self.lines = []
        self.refused = 0


class NginxNotes(Noting):
    """nginx, which writes down each request line and its status."""

    def __init__(self, folder):
        super().__init__()
        self._folder = folder

    async def __aenter__(self):
        folder = self._folder
        self.port = _free_port()
        places = "".join(
            f"{kind}_temp_path {folder}/{kind};"
            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        )
        user = "user root;" if os.geteuid() == 0 else ""
        (folder / "nginx.conf").write_text(
            f"daemon off; pid {folder}/pid; error_log {folder}/error.log; {user}"
            f"worker_processes 1; events {{}} http {{ log_format notes '$status $request_method $uri';"
            f"access_log {folder}/notes notes; {places} server {{ listen 127.0.0.1:{self.port};"
            'location / { return 200 "$request_method $uri"; } } }'
        )
        self._process = await asyncio.create_subprocess_exec(
            "nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")
        )
        await _wait_for(self.port)
        return self

    async def __aexit__(self, *_):
        # Asked to quit, it answers and writes down what it has begun.
        self._process.send_signal(3)
        await self._process.wait()
        for line in (self._folder / "notes").read_text().splitlines():
            status, _, request = line.partition(" ")
            if status == "200":
                self.lines.append(request)
            elif request.strip():
                # 499 and the like: the client went before all had come.
                self.refused += status == "400"


class UvicornNotes(Noting, logging.Handler):
    """uvicorn with one of its two readers of HTTP."""

    def __init__(self, http):
        Noting.__init__(self)
        logging.Handler.__init__(self)
        self._http = http

    def emit(self, record):
        self.refused += "Invalid HTTP request" in record.getMessage()

    async def __aenter__(self):
        self.port = _free_port()
        config = uvicorn.Config(
            self._app,
            port=self.port,
            http=self._http,
            log_config=None,
            lifespan="off",
            ws="none",
            interface="asgi3",
            proxy_headers=False,
        )
        self._server = uvicorn.Server(config)
        self._server.capture_signals = contextlib.nullcontext
        logging.getLogger("uvicorn.error").addHandler(self)
        self._task = asyncio.create_task(self._server.serve())
        await _wait_for(self.port)
        return self

    async def __aexit__(self, *_):
        self._server.should_exit = True
        await self._task
        logging.getLogger("uvicorn.error").removeHandler(self)

    async def _app(self, scope, receive, send):
        note = f"{scope['method']} {scope['path']}"
        self.lines.append(note)
        more = True
        while more:
            message = await receive()
            more = message.get("more_body", False)
        body = note.encode()
        fields = [(b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": fields})
        await send({"type": "http.response.body", "body": body})


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


async def _wait_for(port):
    async with asyncio.timeout(10):
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", port)
                writer.close()
                return
            await asyncio.sleep(0.02)
