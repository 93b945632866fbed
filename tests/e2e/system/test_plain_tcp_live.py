"""Plain TCP endpoints in real sandboxes: tools that know no proxy, servers of other people's making.

PostgreSQL's client speaks first, an SSH client and its server both at once, of SMTP the server. None
of the programs is told of a proxy. One rule short, each of them gets nothing and its server neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import asyncssh
import pytest

from openshell.sdk.client import ExecResult, SandboxClient
from openshell.sdk.refs import SandboxRef
from support.postgres import MISSING, PASSWORD, PASSWORD_USER, PostgresServer, find_binaries
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, sandbox_spec, wait_until
from support.upstream import ALIAS

SSH = os.path.realpath(shutil.which("ssh") or "/usr/bin/ssh")
PSQL = (find_binaries() or Path("/nowhere")) / "psql"

MAIL = """
import smtplib, sys
with smtplib.SMTP(sys.argv[1], int(sys.argv[2]), timeout=20) as server:
    print(server.sendmail("a@example.com", ["b@example.com"], "Subject: x\\n\\nhello"))
"""
# Family, host and port come as arguments; prints what the server says, half-closes, prints the rest.
LISTEN = """
import socket, sys
family = getattr(socket, sys.argv[1])
found = socket.getaddrinfo(sys.argv[2], int(sys.argv[3]), family, socket.SOCK_STREAM)
with socket.socket(family, socket.SOCK_STREAM) as made:
    made.settimeout(20)
    made.connect(found[0][4])
    print(made.recv(99))
    made.sendall(b"QUIT\\r\\n")
    made.shutdown(socket.SHUT_WR)
    print(b"".join(iter(lambda: made.recv(99), b"")))
"""
TUNNEL = """
import socket, sys
made = socket.create_connection(("10.200.0.1", 3128), 20)
made.sendall(f"CONNECT {sys.argv[1]}:{sys.argv[2]} HTTP/1.1\\r\\n\\r\\n".encode())
text = b""
while b"220" not in text and b" 403 " not in text:
    text += made.recv(999)
print(text)
"""

# Asks a name server, by datagram or connection, for the address of a name; prints what it said.
ASK = """
import socket, struct, sys
way, server, name = sys.argv[1:]
labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
query = struct.pack("!6H", 7, 256, 1, 0, 0, 0) + labels + struct.pack("!BHH", 0, 1, 1)
family = socket.AF_INET6 if ":" in server else socket.AF_INET
kind = socket.SOCK_DGRAM if way == "udp" else socket.SOCK_STREAM
with socket.socket(family, kind) as made:
    made.settimeout(20)
    made.connect((server, 53))
    made.sendall(query if way == "udp" else struct.pack("!H", len(query)) + query)
    answer = made.recv(600)[0 if way == "udp" else 2:]
    print(answer[3] & 15, socket.inet_ntoa(answer[-4:]) if answer[7] else "-")
    if way == "tcp":
        made.sendall(b"\\xff" * 9)
        print(made.recv(600))
"""


@dataclass
class MailServer:
    """As much of SMTP as a client needs; says its greeting before it is asked anything."""

    port: int = 0
    connections: int = 0
    mails: list[bytes] = field(default_factory=list)

    def serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                self.connections += 1
                threading.Thread(target=self._talk, args=(client,), daemon=True).start()

    def _talk(self, client: socket.socket) -> None:
        with client, client.makefile("rb") as lines, contextlib.suppress(OSError):
            client.sendall(b"220 here ESMTP\r\n")
            for line in lines:
                verb = line[:4].upper()
                if verb == b"DATA":
                    client.sendall(b"354 go on\r\n")
                    self.mails.append(b"".join(iter(lines.readline, b".\r\n")))
                client.sendall(b"221 bye\r\n" if verb == b"QUIT" else b"250 fine\r\n")
                if verb == b"QUIT":
                    break


@pytest.fixture(scope="module")
def mail() -> Iterator[MailServer]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = MailServer(listener.getsockname()[1])
        thread = threading.Thread(target=server.serve, args=(listener,))
        thread.start()
        yield server
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


@dataclass
class SshServer:
    port: int = 0
    connections: int = 0


@pytest.fixture(scope="module")
def ssh() -> Iterator[SshServer]:
    """Lets everybody in and repeats the command."""
    server = SshServer()

    class Login(asyncssh.SSHServer):
        def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
            server.connections += 1

        def begin_auth(self, username: str) -> bool:
            return False

    def repeat(process: asyncssh.SSHServerProcess[str]) -> None:
        process.stdout.write(f"you said {process.command}")
        process.exit(0)

    loop = asyncio.new_event_loop()
    key = asyncssh.generate_private_key("ssh-ed25519")
    making = asyncssh.create_server(
        Login, "127.0.0.1", 0, server_host_keys=[key], process_factory=repeat
    )
    acceptor = loop.run_until_complete(making)
    server.port = acceptor.get_port()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    yield server
    loop.call_soon_threadsafe(acceptor.close)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


@pytest.fixture(scope="module")
def database() -> Iterator[int]:
    binaries = find_binaries()
    if binaries is None:
        pytest.skip(MISSING)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
    with PostgresServer(binaries, port=port):
        yield port


def network(*rules: tuple[str, str, int, str]) -> str:
    """Rules as (program, host, port, protocol)."""
    lines = ["network_policies:"]
    for number, (program, host, port, protocol) in enumerate(rules):
        words = f', protocol: "{protocol}"' if protocol else ""
        lines += [
            f"  r{number}:",
            f'    endpoints: [{{host: "{host}", port: {port}{words}}}]',
            f"    binaries: [{{path: {program}}}]",
        ]
    return "\n".join(lines) + "\n"


@dataclass
class Tool:
    """A program inside, its server, and how one sees that it worked."""

    program: str
    port: int
    argv: list[str]
    says: str
    environ: dict[str, str]
    # How many connections the server has seen; None where it does not say.
    seen: Callable[[], int] | None = None

    def run(self, client: SandboxClient, ref: SandboxRef) -> ExecResult:
        # Nothing of the proxy variables is used by any of them.
        return client.exec(ref.id, self.argv, env=self.environ, timeout_seconds=40)


@pytest.fixture(params=["psql", "ssh", "smtp"])
def tool(request: pytest.FixtureRequest) -> Tool:
    if request.param == "psql":
        port = request.getfixturevalue("database")
        argv = [str(PSQL), "-h", ALIAS, "-p", str(port), "-U", PASSWORD_USER, "-d", "postgres"]
        asked = ["-XAtc", "SELECT 6 * 7"]
        return Tool(str(PSQL), port, argv + asked, "42", {"PGPASSWORD": PASSWORD})
    if request.param == "ssh":
        if not os.path.exists(SSH):
            pytest.skip("no ssh client (Debian: apt-get install openssh-client)")
        server: SshServer = request.getfixturevalue("ssh")
        options = ["-F", "/dev/null", "-o", "StrictHostKeyChecking=no"]
        options += ["-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"]
        argv = [SSH, *options, "-p", str(server.port), f"me@{ALIAS}", "hello"]
        return Tool(SSH, server.port, argv, "you said hello", {}, lambda: server.connections)
    mail: MailServer = request.getfixturevalue("mail")
    argv = [PYTHON, "-S", "-c", MAIL, ALIAS, str(mail.port)]
    return Tool(PYTHON, mail.port, argv, "{}", {}, lambda: mail.connections)


def test_a_tool_that_knows_no_proxy_works(
    client: SandboxClient, gateway: PrivateGateway, tool: Tool
) -> None:
    spec = sandbox_spec(network=network((tool.program, ALIAS, tool.port, "tcp")))
    with ready_sandbox(client, spec) as ref:
        ran = tool.run(client, ref)
        assert (ran.exit_code, ran.stdout.strip()) == (0, tool.says), ran.stderr
        log = f"ALLOWED {tool.program}("
        wait_until(lambda: log in gateway.cli("logs", ref.name).stdout)
        assert f"{ALIAS}:{tool.port}" in gateway.cli("logs", ref.name).stdout


SHORT = ["program", "port", "protocol", "host"]


@pytest.mark.parametrize("missing", SHORT)
def test_one_rule_short_nothing_reaches_the_server(
    client: SandboxClient, gateway: PrivateGateway, tool: Tool, missing: str
) -> None:
    rule = {
        "program": ("/usr/bin/other", ALIAS, tool.port, "tcp"),
        "port": (tool.program, ALIAS, tool.port % 65000 + 1, "tcp"),
        "protocol": (tool.program, ALIAS, tool.port, ""),
        "host": (tool.program, "other.example", tool.port, "tcp"),
    }[missing]
    before = tool.seen() if tool.seen else 0
    with ready_sandbox(client, sandbox_spec(network=network(rule))) as ref:
        ran = tool.run(client, ref)
        assert ran.exit_code != 0
        assert tool.says not in ran.stdout
        # A name that no rule has is not even looked up.
        word = "REFUSE [MED]"
        wait_until(lambda: word in gateway.cli("logs", ref.name).stdout)
        assert "ALLOWED" not in gateway.cli("logs", ref.name).stdout
    assert (tool.seen() if tool.seen else 0) == before


NAMES = {
    "as it is": ("AF_INET", "{host}"),
    "IPv6": ("AF_INET6", "{host}"),
    "upper case": ("AF_INET", "{upper}"),
    "final dot": ("AF_INET", "{host}."),
    "IPv6, upper case, final dot": ("AF_INET6", "{upper}."),
}


@pytest.fixture(scope="module")
def mailer(client: SandboxClient, mail: MailServer) -> Iterator[SandboxRef]:
    spec = sandbox_spec(network=network((PYTHON, ALIAS, mail.port, "tcp")))
    with ready_sandbox(client, spec) as ref:
        yield ref


@pytest.mark.parametrize(("family", "name"), NAMES.values(), ids=NAMES.keys())
def test_names_as_clients_write_them(
    client: SandboxClient, mailer: SandboxRef, mail: MailServer, family: str, name: str
) -> None:
    host = name.format(host=ALIAS, upper=ALIAS.upper())
    argv = [PYTHON, "-S", "-c", LISTEN, family, host, str(mail.port)]
    ran = client.exec(mailer.id, argv, timeout_seconds=40)
    assert ran.stdout.splitlines() == [repr(b"220 here ESMTP\r\n"), repr(b"221 bye\r\n")], ran


def test_search_domains_find_nothing_else(
    client: SandboxClient, mailer: SandboxRef, mail: MailServer
) -> None:
    """A resolver that appends domains gets no for all of them and asks for the name itself."""
    argv = [PYTHON, "-S", "-c", LISTEN, "AF_INET", ALIAS, str(mail.port)]
    options = {"LOCALDOMAIN": "corp.example example", "RES_OPTIONS": "ndots:9"}
    ran = client.exec(mailer.id, argv, env=options, timeout_seconds=40)
    assert "220 here" in ran.stdout, ran


def test_a_tunnel_leads_there_too(
    client: SandboxClient, mailer: SandboxRef, mail: MailServer
) -> None:
    argv = [PYTHON, "-S", "-c", TUNNEL, ALIAS]
    ran = client.exec(mailer.id, [*argv, str(mail.port)], timeout_seconds=40)
    assert "220 here" in ran.stdout, ran
    refused = client.exec(mailer.id, [*argv, "1"], timeout_seconds=40)
    assert " 403 " in refused.stdout, refused


ADDRESSES = ["198.18.200.200", "127.0.0.1", "192.0.2.7", "fd6f:7065:6e73:6865::999"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_an_address_that_was_not_looked_up_leads_nowhere(
    client: SandboxClient, mailer: SandboxRef, mail: MailServer, address: str
) -> None:
    before = mail.connections
    family = "AF_INET6" if ":" in address else "AF_INET"
    argv = [PYTHON, "-S", "-c", LISTEN, family, address, str(mail.port)]
    ran = client.exec(mailer.id, argv, timeout_seconds=40)
    assert ran.exit_code != 0
    assert "220 here" not in ran.stdout
    assert mail.connections == before


def test_another_sandboxs_address_means_nothing_here(
    client: SandboxClient, mailer: SandboxRef, mail: MailServer
) -> None:
    """Both hand out the same addresses, each for names of its own."""
    look = "import socket, sys; print(socket.getaddrinfo(sys.argv[1], 1)[0][4][0])"
    with ready_sandbox(
        client, sandbox_spec(network=network((PYTHON, "a.example", mail.port, "tcp")))
    ) as other:
        here = client.exec(mailer.id, [PYTHON, "-S", "-c", look, ALIAS], timeout_seconds=40)
        address = here.stdout.strip()
        before = mail.connections
        argv = [PYTHON, "-S", "-c", LISTEN, "AF_INET" if "." in address else "AF_INET6", address]
        control = client.exec(mailer.id, [*argv, str(mail.port)], timeout_seconds=40)
        assert "220 here" in control.stdout, control
        ran = client.exec(other.id, [*argv, str(mail.port)], timeout_seconds=40)
        assert ran.exit_code != 0
        assert mail.connections == before + 1


@pytest.mark.parametrize("server", ["192.0.2.53", "2001:db8::53", "10.200.0.1"])
@pytest.mark.parametrize("way", ["udp", "tcp"])
def test_port_53_is_the_sandboxs_resolver_whoever_is_asked(
    client: SandboxClient, mailer: SandboxRef, way: str, server: str
) -> None:
    for name, wanted in ((ALIAS, "0 198.18.0."), ("secret.evil.example", "3 -")):
        ran = client.exec(
            mailer.id, [PYTHON, "-S", "-c", ASK, way, server, name], timeout_seconds=40
        )
        said, *rest = ran.stdout.splitlines()
        assert said.startswith(wanted), ran
        # What is no question is not passed on either.
        assert rest == (["b''"] if way == "tcp" else [])


def test_an_endpoint_at_port_53_is_not_reached_directly(
    client: SandboxClient, gateway: PrivateGateway
) -> None:
    spec = sandbox_spec(network=network((PYTHON, ALIAS, 53, "tcp")))
    with ready_sandbox(client, spec) as ref:
        argv = [PYTHON, "-S", "-c", ASK, "tcp", ALIAS, ALIAS]
        ran = client.exec(ref.id, argv, timeout_seconds=40)
        assert ran.stdout.startswith("0 198.18.0."), ran
        assert "CAPTURED" not in gateway.cli("logs", ref.name).stdout
