"""Servers of other people that note which requests they understood: nginx, and uvicorn with either reader."""

import asyncio
import contextlib
import logging
import os
import socket

import uvicorn


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
