"""Tools as people have them work under the policies of docs/tools.md, and fail closed one rule short.

Nothing is set up inside: proxy and certificates are found by what the sandbox's environment says.
"""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import websockets

from openshell.sdk.refs import ExecResult
from support.private_gateway import PYTHON
from support.tool_box import ToolBox
from support.tool_page import read_tools
from support.upstream import ALIAS

TOOLS = read_tools()
SHORT = ("the program", "the host", "a rule")
LIBRARY = Path(websockets.__file__).parent

FETCH = """
fetch(process.argv[1]).then(async (answer) => {
  const text = await answer.text();
  if (!answer.ok) throw new Error(answer.status + " " + text);
  console.log(text);
}).catch((error) => { console.error(String(error), String(error.cause || "")); process.exit(1); });
"""
NODE_SOCKET = """
const socket = new WebSocket(process.argv[1]);
socket.onopen = () => socket.send("hello");
socket.onmessage = (event) => { console.log(event.data); socket.close(); };
socket.onerror = (event) => { console.error("network error", event.message); process.exit(1); };
"""
PYTHON_SOCKET = """
import importlib.util, sys
# Only the library itself is shown inside, not the directory that it is in.
spec = importlib.util.spec_from_file_location("websockets", sys.argv[1] + "/__init__.py")
sys.modules["websockets"] = library = importlib.util.module_from_spec(spec)
spec.loader.exec_module(library)
from websockets.sync.client import connect
with connect(sys.argv[2], open_timeout=20) as socket:
    socket.send("hello")
    print(socket.recv(timeout=20))
"""


@dataclass(frozen=True)
class Tool:
    """How a tool is run, what it prints when it works, and what nginx has then been asked last."""

    run: Callable[[ToolBox, str], ExecResult]
    prints: str
    asked: str
    # The command that it needs on this machine, and the package that has it.
    needs: tuple[str, str]
    # It looks names up itself and knows no proxy.
    captured: bool = False


def secure(box: ToolBox, path: str, scheme: str = "https") -> str:
    return f"{scheme}://{ALIAS}:{box.nginx.tls_port}{path}"


def clone(box: ToolBox, _: str) -> ExecResult:
    place = "/tmp/cloned"
    script = f"rm -rf {place} && git clone -q $1 {place} && cat {place}/README"
    # The shell is in no policy: git is.
    return box.run("sh", "-c", script, "sh", secure(box, "/project.git"))


def pip(box: ToolBox, digest: str) -> ExecResult:
    script = (
        "echo 'greeting==1.0 --hash=sha256:'$2 > /tmp/requirements.txt; rm -rf /tmp/installed\n"
        '"$0" -m pip --isolated install --disable-pip-version-check --no-cache-dir --retries 1 '
        "--index-url $1 --target /tmp/installed --require-hashes -r /tmp/requirements.txt &&\n"
        "PYTHONPATH=/tmp/installed \"$0\" -c 'import greeting; print(greeting.WORD)'"
    )
    return box.run("sh", "-c", script, PYTHON, secure(box, "/simple/"), digest)


def npm(box: ToolBox, _: str) -> ExecResult:
    script = (
        "rm -rf /tmp/project && mkdir /tmp/project && cd /tmp/project && "
        "npm install --no-audit --no-fund --no-update-notifier --fetch-retries=0 "
        "--cache /tmp/project/cache --registry $1 shout && node -p 'require(\"shout\")'"
    )
    return box.run("sh", "-c", script, "sh", secure(box, "/"))


def websocket(box: ToolBox, _: str) -> ExecResult:
    return box.run(PYTHON, "-c", PYTHON_SOCKET, str(LIBRARY), secure(box, "/chat", "wss"))


def node_socket(box: ToolBox, _: str) -> ExecResult:
    probe = box.run("node", "-p", "typeof WebSocket").stdout.strip()
    flags = () if probe == "function" else ("--experimental-websocket",)
    return box.run("node", *flags, "-e", NODE_SOCKET, secure(box, "/chat", "wss"))


ITEMS = "GET /v1/items HTTP"
NODE = ("node", "nodejs")
KNOWN = {
    "curl": Tool(
        lambda box, _: box.run("curl", "-sSf", secure(box, "/v1/items")),
        "one", f"{ITEMS}/2.0 200", ("curl", "curl"),
    ),
    "curl without TLS": Tool(
        lambda box, _: box.run("curl", "-sSf", f"http://{ALIAS}:{box.nginx.port}/v1/items"),
        "one", f"{ITEMS}/1.1 200", ("curl", "curl"),
    ),
    "git": Tool(clone, "hello from git", "POST /project.git/git-upload-pack HTTP/2.0 200", ("git", "git")),
    "pip": Tool(pip, "hello from pip", "GET /packages/greeting-1.0-py3-none-any.whl HTTP/1.1 200", ("sh", "dash")),
    "npm": Tool(npm, "hello from npm", "GET /shout/-/shout-1.0.0.tgz HTTP/1.1 200", ("npm", "npm")),
    "fetch in Node": Tool(
        # As a Node that knows no proxy: newer ones would take the variable.
        lambda box, _: box.run("node", "-e", FETCH, secure(box, "/v1/items"), NODE_USE_ENV_PROXY="0"),
        "one", f"{ITEMS}/1.1 200", NODE, captured=True,
    ),
    "A program in Go": Tool(
        lambda box, path: box.run(path, secure(box, "/v1/items")), "one", f"{ITEMS}/2.0 200", ("sh", "dash"), captured=True,
    ),
    "A WebSocket in Python": Tool(websocket, "hello", "GET /chat HTTP/1.1 101", ("sh", "dash")),
    "A WebSocket in Node": Tool(node_socket, "hello", "GET /chat HTTP/1.1 101", NODE, captured=True),
}  # fmt: skip


def prepare(name: str, request: pytest.FixtureRequest) -> str:
    """What a tool's command is given: something that is made once."""
    tool = KNOWN[name]
    command, package = tool.needs
    if shutil.which(command) is None:
        pytest.skip(f"no {command}: package {package} (make system)")
    fixture = {"pip": "wheel", "A program in Go": "probe"}.get(name)
    return request.getfixturevalue(fixture) if fixture else ""


def test_every_tool_of_the_page_is_tried() -> None:
    assert KNOWN.keys() == TOOLS.keys()
    for name, tool in TOOLS.items():
        assert tuple(tool.messages) == SHORT, name


@pytest.mark.parametrize("name", KNOWN)
def test_it_works_with_what_it_needs(
    box: ToolBox, name: str, request: pytest.FixtureRequest
) -> None:
    given = prepare(name, request)
    box.follow(TOOLS[name].whole(box.ports))
    ran = KNOWN[name].run(box, given)
    assert ran.exit_code == 0, (ran.stderr, box.log())
    assert KNOWN[name].prints in ran.stdout
    assert KNOWN[name].asked in box.nginx.requests()[-1]


@pytest.mark.parametrize("short", SHORT)
@pytest.mark.parametrize("name", KNOWN)
def test_it_fails_closed_one_rule_short(
    box: ToolBox, name: str, short: str, request: pytest.FixtureRequest
) -> None:
    given, tool = prepare(name, request), KNOWN[name]
    box.follow(TOOLS[name].short_of(short, box.ports))
    box.log()
    before = len(box.nginx.requests())
    ran = tool.run(box, given)
    assert ran.exit_code != 0
    assert TOOLS[name].messages[short] in ran.stderr + ran.stdout
    assert tool.prints not in ran.stdout
    assert not [line for line in box.nginx.requests()[before:] if tool.asked in line]
    # That the resolver refuses a name is told once in a while.
    told_before = tool.captured and short == "the host"
    refused = box.wait_refused(ALIAS, "/dns" if told_before else "", from_start=told_before)
    assert "[reason:" in refused.message
    event = json.loads(refused.fields["ocsf"])
    if event["firewall_rule"]["type"] != "dns":
        assert event["unmapped"]["suggestion"], "what would allow it"


PUSH = """
cd $(mktemp -d) && git clone -q $1 . && echo more >> README &&
git -c user.name=a -c user.email=a@example.com commit -q -a -m More && echo committed && git push -q origin main
"""
RECEIVE = """
          - allow: {method: GET, path: /project.git/info/refs, query: {service: git-receive-pack}}
          - allow: {method: POST, path: /project.git/git-receive-pack}
"""


def test_git_fetches_and_does_not_push(box: ToolBox) -> None:
    policy = TOOLS["git"].whole(box.ports)
    box.follow(policy)
    box.log()
    url = secure(box, "/project.git")
    ran = box.run("sh", "-c", PUSH, "sh", url)
    assert ran.stdout == "committed\n"
    assert "The requested URL returned error: 403" in ran.stderr
    refused = box.wait_refused("/project.git/info/refs")
    assert "git-receive-pack" not in box.nginx.requests()[-1]
    assert json.loads(refused.fields["ocsf"])["unmapped"]["suggestion"]
    # The control: with what the page says it needs it pushes.
    lines = policy.splitlines(keepends=True)
    first = next(at for at, line in enumerate(lines) if line.strip() == "rules:")
    more = textwrap.indent(textwrap.dedent(RECEIVE).strip() + "\n", lines[first].partition("r")[0])
    box.follow("".join([*lines[: first + 1], more, *lines[first + 1 :]]))
    ran = box.run("sh", "-c", PUSH, "sh", url)
    assert ran.exit_code == 0, ran.stderr
    assert "git-receive-pack HTTP/2.0 200" in box.nginx.requests()[-1]


@pytest.mark.skipif(not os.path.exists("/usr/bin/wget"), reason="no wget: package wget")
def test_gnutls_is_told_by_an_option(box: ToolBox) -> None:
    box.follow(TOOLS["curl"].whole(box.ports).replace("/usr/bin/curl", "/usr/bin/wget"))
    script = 'wget -q -O - --ca-certificate="$SSL_CERT_FILE" $1'
    ran = box.run("sh", "-c", script, "sh", secure(box, "/v1/items"))
    assert (ran.exit_code, ran.stdout) == (0, '["one", "two"]'), ran.stderr
