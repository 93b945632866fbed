"""git's own HTTP backend behind a small server on loopback: what it serves may be fetched and pushed."""

from __future__ import annotations

import contextlib
import http.server
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

__all__ = ["git", "git_server", "make_repository"]


def git(*arguments: str, cwd: Path | None = None) -> str:
    """Run git outside of every sandbox, with nobody's configuration."""
    environ = {
        "PATH": os.environ["PATH"],
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_SYSTEM": "/dev/null",
        **{f"GIT_{who}_{what}": "test@example.com" for who in ("AUTHOR", "COMMITTER")
           for what in ("NAME", "EMAIL")},
    }  # fmt: skip
    ran = subprocess.run(
        ["git", *arguments], cwd=cwd, env=environ, capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


def make_repository(root: Path, name: str) -> None:
    """A bare repository with one commit, below `root`."""
    bare, work = root / name, root / f"{name}.work"
    git("init", "-q", "--bare", "-b", "main", str(bare))
    git("init", "-q", "-b", "main", str(work))
    (work / "README").write_text("hello from git\n")
    git("add", "README", cwd=work)
    git("commit", "-q", "-m", "First", cwd=work)
    git("push", "-q", str(bare), "main", cwd=work)
    git("config", "http.receivepack", "true", cwd=bare)


@contextlib.contextmanager
def git_server(root: Path) -> Iterator[int]:
    """Serve all repositories below `root` until the block ends; the port."""
    backend = Path(git("--exec-path")) / "git-http-backend"

    class Handler(http.server.BaseHTTPRequestHandler):
        def _answer(self) -> None:
            path, _, query = self.path.partition("?")
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            environ = {
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": str(root),
                "GIT_HTTP_EXPORT_ALL": "1",
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": "safe.directory",
                "GIT_CONFIG_VALUE_0": "*",
                "REQUEST_METHOD": self.command,
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "CONTENT_LENGTH": str(len(body)),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
            }
            ran = subprocess.run(
                [backend], env=environ, input=body, capture_output=True, check=False
            )
            head, _, content = ran.stdout.partition(b"\r\n\r\n")
            fields = dict(line.split(": ", 1) for line in head.decode().splitlines())
            self.send_response(int(fields.pop("Status", "200").split()[0]))
            for field, value in fields.items():
                self.send_header(field, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
