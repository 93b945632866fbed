"""What the tests of providers share: commands, documents, and processes inside that live on.

A process that is spoken to shows what happens to one that was there before a change: `Talker` runs one
and exchanges lines with it.
"""

from __future__ import annotations

import contextlib
import json
import queue
import threading
from collections.abc import Iterator
from typing import Any

from openshell._proto import openshell_pb2 as api
from openshell.codec.profile import profile_to_proto
from openshell.providers.profile.document import read_profile
from openshell.sdk.client import SandboxClient
from support.private_gateway import PREFIX, PYTHON, PrivateGateway
from support.upstream import ALIAS, Upstream

OTHER_NAME = "host.docker.internal"
"""A second name of the same machine: to the proxy another host."""

ENVIRON = {"PYTHONHOME": PREFIX, "LD_LIBRARY_PATH": f"{PREFIX}/lib"}

# Asks what it is told to, always with the words that its environment held when it began.
ASKER = """
import base64, http.client, json, os, sys
for line in sys.stdin:
    wanted = json.loads(line)
    if wanted["op"] == "environ":
        print(json.dumps(dict(os.environ)), flush=True)
        continue
    headers = {k: os.path.expandvars(v) for k, v in wanted.get("headers", {}).items()}
    if "basic" in wanted:
        plain = os.path.expandvars(wanted["basic"]).encode()
        headers["Authorization"] = "Basic " + base64.b64encode(plain).decode()
    body = os.path.expandvars(wanted["body"]).encode() if "body" in wanted else None
    c = http.client.HTTPConnection("10.200.0.1", 3128, timeout=20)
    c.request(wanted["method"], os.path.expandvars(wanted["url"]), body=body, headers=headers)
    r = c.getresponse()
    print(json.dumps([r.status, r.read().decode()]), flush=True)
    c.close()
"""


def run(gateway: PrivateGateway, *arguments: object, code: int = 0, **environ: str) -> str:
    """`openshell ...`; what it printed where its exit code says that one looks."""
    done = gateway.cli(*map(str, arguments), environ=environ)
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr if code else done.stdout


def switch_on(gateway: PrivateGateway) -> None:
    key = ("--key", "providers_v2_enabled", "--value", "true")
    run(gateway, "settings", "set", "--global", *key, "--yes")


def document(
    id_: str,
    *endpoints: str,
    variable: str = "WORK_KEY",
    credentials: str = "",
    more: str = "",
) -> str:
    """A profile with one credential; `endpoints` in YAML's flow style."""
    held = credentials or (
        f"{{name: key, env_vars: [{variable}], required: true, auth_style: bearer, "
        "header_name: authorization}"
    )
    lines = "".join(f"\n  - {endpoint}" for endpoint in endpoints)
    return (
        f"id: {id_}\ndisplay_name: {id_}\ncategory: data\ncredentials:\n  - {held}\n"
        f"endpoints:{lines or ' []'}\nbinaries: [{PYTHON}]\n{more}"
    )


def endpoint(
    upstream: Upstream, *paths: str, host: str = ALIAS, method: str = "GET", more: str = ""
) -> str:
    """Those paths of a place, or all of it."""
    rules = ", ".join(f"{{allow: {{method: {method}, path: {path}}}}}" for path in paths)
    allowed = f"rules: [{rules}]" if rules else "access: full"
    return (
        f"{{host: {host}, port: {upstream.port}, protocol: rest, enforcement: enforce, "
        f"{allowed}{more}}}"
    )


def item(text: str) -> api.ProviderProfileImportItem:
    """A document as the client library sends it."""
    profile = profile_to_proto(read_profile(text, source="test", format="yaml"))
    return api.ProviderProfileImportItem(profile=profile, source="test")


class Talker:
    """A process inside; lines go in and come out until the block ends."""

    def __init__(self, client: SandboxClient, sandbox_id: str, *argv: str) -> None:
        self._client, self._sandbox_id, self._argv = client, sandbox_id, argv
        self._input: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._output: queue.SimpleQueue[str | BaseException] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Talker:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._input.put(None)
        self._thread.join(30)

    def say(self, line: str) -> None:
        self._input.put(f"{line}\n".encode())

    def hear(self, seconds: float = 30) -> str:
        got = self._output.get(timeout=seconds)
        if isinstance(got, BaseException):
            self._output.put(got)  # it stays ended
            raise got
        return got

    def ask(self, url: str, *, method: str = "GET", **more: Any) -> tuple[int, str]:
        """Of an ASKER: one request; status and body of the answer."""
        self.say(json.dumps({"op": "ask", "method": method, "url": url, **more}))
        status, body = json.loads(self.hear())
        return status, body

    def environ(self) -> dict[str, str]:
        self.say(json.dumps({"op": "environ"}))
        found: dict[str, str] = json.loads(self.hear())
        return found

    def _requests(self) -> Iterator[api.ExecSandboxInput]:
        start = api.ExecSandboxRequest(
            sandbox_id=self._sandbox_id, command=self._argv, environment=ENVIRON
        )
        yield api.ExecSandboxInput(start=start)
        while (data := self._input.get()) is not None:
            yield api.ExecSandboxInput(stdin=data)

    def _run(self) -> None:
        rest, wrong = b"", b""
        try:
            for event in self._client.exec_interactive(self._requests()):
                match event.WhichOneof("payload"):
                    case "stdout":
                        *lines, rest = (rest + event.stdout.data).split(b"\n")
                        for line in lines:
                            self._output.put(line.decode())
                    case "stderr":
                        wrong += event.stderr.data
        except BaseException as error:  # handed to whoever listens
            self._output.put(error)
        self._output.put(AssertionError(f"it ended: {wrong.decode(errors='replace')}"))


@contextlib.contextmanager
def asker(client: SandboxClient, sandbox_id: str) -> Iterator[Talker]:
    with Talker(client, sandbox_id, PYTHON, "-S", "-c", ASKER) as talker:
        yield talker
