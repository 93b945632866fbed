"""Ways out through the network, tried from a real sandbox under a real policy.

Every upstream is a server of this test's on the host, so what got out is known. Each way is a table
row; `test_the_probe_reaches_the_upstream` is the control of all that send through the proxy: the same
client with the same policy gets through when it asks for what is allowed.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from openshell.codec.policy import policy_to_proto
from openshell.policy.parse import parse_policy
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import PolicyClient, ProviderClient
from openshell.sdk.refs import SandboxRef
from support import inside
from support.certificates import make_certificates
from support.private_gateway import (
    FILESYSTEM,
    PREFIX,
    PYTHON,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
    wait_until,
)
from support.upstream import ALIAS, Upstream, http_upstream

CLIENT = Path(inside.__file__).read_text()
SECRET = "system-test-secret-value"
BROKEN = "broken\r\nX-Injected: yes"
TOOL = "/sandbox/tool"


@dataclass
class World:
    """A sandbox, its upstreams and the client inside."""

    gateway: PrivateGateway
    client: SandboxClient
    plain: Upstream
    tls: Upstream
    other: Upstream
    sandbox: SandboxRef = field(init=False)

    def ask(
        self, *steps: dict[str, str], program: str = PYTHON, wrap: tuple[str, ...] = ()
    ) -> list[str]:
        """Runs the client inside; `<plain>` and the like become host and port."""
        prepared = [{key: self.fill(value) for key, value in step.items()} for step in steps]
        ran = self.client.exec(
            self.sandbox.id,
            [*wrap, program, "-S", "-c", CLIENT],
            env={"PYTHONHOME": PREFIX, "LD_LIBRARY_PATH": f"{PREFIX}/lib"},
            stdin=json.dumps(prepared).encode(),
            timeout_seconds=40,
        )
        assert ran.exit_code == 0, ran.stderr
        results: list[str] = json.loads(ran.stdout)
        return results

    def fill(self, text: str) -> str:
        running = self.gateway.embedded.record()
        assert running is not None
        for word, value in (
            ("<plain>", f"{ALIAS}:{self.plain.port}"),
            ("<tls>", f"{ALIAS}:{self.tls.port}"),
            ("<other>", f"{ALIAS}:{self.other.port}"),
            ("<port>", str(self.plain.port)),
            ("<tls port>", str(self.tls.port)),
            ("<other port>", str(self.other.port)),
            ("<own>", own_address()),
            ("<gateway port>", running.endpoint.rpartition(":")[2].strip("/")),
        ):
            text = text.replace(word, value)
        return text

    def outside(self) -> int:
        """What got out so far: connections and requests of all upstreams."""
        every = (self.plain, self.tls, self.other)
        return sum(up.connections + len(up.received) for up in every)

    def log(self) -> str:
        return self.gateway.cli("logs", self.sandbox.name, "-n", "2000").stdout

    def wait_logged(self, *words: str) -> None:
        def logged() -> bool:
            return any(all(word in line for word in words) for line in self.log().splitlines())

        wait_until(logged)

    def apply(self, text: str) -> None:
        policies = PolicyClient(self.client)
        message = policy_to_proto(parse_policy(FILESYSTEM + text, source="test"))
        version = policies.replace(self.sandbox.name, message, workspace="default").version

        def loaded() -> bool:
            answer = policies.revision(self.sandbox.name, version, workspace="default")
            return answer.active_version == version

        wait_until(loaded)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("certificates")
    paths = directory / "ca.pem", directory / "key.pem"
    make_certificates(*paths, ALIAS)
    return paths


@pytest.fixture(scope="module")
def gateway(certificate: tuple[Path, Path]) -> Iterator[PrivateGateway]:
    toml = f'[openshell.drivers.local]\nupstream_ca_bundle = "{certificate[0]}"\n'
    with PrivateGateway(toml=toml) as gateway:
        yield gateway


def own_address() -> str:
    """The address of an interface of this machine; loopback's where there is no other."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        try:
            sock.connect(("192.0.2.1", 9))
        except OSError:
            return "127.0.0.1"
        return str(sock.getsockname()[0])


@pytest.fixture(scope="module")
def world(
    gateway: PrivateGateway, client: SandboxClient, certificate: tuple[Path, Path]
) -> Iterator[World]:
    providers = ProviderClient(client)
    providers.create("work", "generic", {"TOKEN": SECRET}, workspace="default")
    providers.create("broken", "generic", {"BROKEN": BROKEN}, workspace="default")
    with (
        http_upstream() as plain,
        http_upstream(certificate[1]) as tls,
        http_upstream() as other,
    ):
        made = World(gateway, client, plain, tls, other)
        spec = sandbox_spec(network=made.fill(POLICY), providers=("work", "broken"))
        with ready_sandbox(client, spec) as made.sandbox:
            yield made


# Loopback and the host under every spelling that some resolver or parser reads as one of them. All
# are named by the policy: what refuses them is not that they are missing there.
SPELLINGS = [
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "0.0.0.0",
    "0",
    "127.0.0.1.",
    "localhost",
    "localhost.",
    "ip6-localhost",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[0:0:0:0:0:ffff:127.0.0.1]",
    "[::127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[2002:7f00:1::]",
    "<own>",
    "[::ffff:<own>]",
    "169.254.169.254",
    "224.0.0.1",
    "255.255.255.255",
]

POLICY = (
    "network_policies:\n"
    "  web:\n"
    "    endpoints:\n"
    + "".join(
        f"      - {{host: {ALIAS}, port: {port}, protocol: rest, enforcement: enforce,\n"
        f"         {bound} rules: [{{allow: {{method: GET, path: /ok}}}},"
        " {allow: {method: POST, path: /ok}}, {allow: {method: HEAD, path: /ok}}]}\n"
        for port, bound in (
            ("<port>", "credential_binding: {provider: broken},"),
            ("<tls port>", "credential_binding: {provider: work},"),
        )
    )
    + f"      - {{host: {ALIAS}, port: <gateway port>}}\n"
    f"    binaries: [{{path: {PYTHON}}}, {{path: {TOOL}}}]\n"
    "  spellings:\n"
    "    endpoints:\n"
    + "".join(
        f"      - {{host: '{host.strip('[]')}', port: <port>, protocol: rest,"
        " enforcement: enforce, access: full}\n"
        for host in SPELLINGS
    )
    + f"    binaries: [{{path: {PYTHON}}}]\n"
    "  other:\n"
    "    endpoints:\n"
    f"      - {{host: {ALIAS}, port: <other port>, protocol: rest, enforcement: enforce, access: full}}\n"
    f"    binaries: [{{path: {PYTHON}}}]\n"
)


def get(path: str, authority: str, extra: str = "", method: str = "GET") -> str:
    return f"{method} {path} HTTP/1.1\r\nHost: {authority}\r\n{extra}Connection: close\r\n\r\n"


# -- controls


def test_the_probe_reaches_the_upstream(world: World) -> None:
    before = len(world.plain.received), len(world.tls.received)
    body = "Content-Length: 5\r\n"
    chunked = "Transfer-Encoding: chunked\r\n"
    answers = world.ask(
        {"op": "raw", "send": get("http://<plain>/ok", "<plain>")},
        {"op": "tunnel", "target": "<plain>", "send": get("/ok", "<plain>")},
        {"op": "tunnel", "target": "<tls>", "sni": ALIAS, "send": get("/ok", "<tls>")},
        {"op": "raw", "send": get("http://<plain>/ok", "<plain>", body, "POST") + "12345"},
        {
            "op": "tunnel",
            "target": "<tls>",
            "sni": ALIAS,
            "send": get("/ok", "<tls>", chunked, "POST") + "5\r\n12345\r\n0\r\n\r\n",
        },
        {"op": "raw", "host": ALIAS, "port": "<port>", "send": get("/ok", "<plain>")},
        {
            "op": "direct_tls",
            "host": ALIAS,
            "port": "<tls port>",
            "sni": ALIAS,
            "send": get("/ok", "<tls>"),
        },
    )
    assert [answer[9:12] for answer in answers] == ["200"] * 7, answers
    assert (len(world.plain.received), len(world.tls.received)) == (before[0] + 4, before[1] + 3)
    assert all(item.path == "/ok" for item in world.plain.received + world.tls.received)


# -- smuggling

SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: <authority>\r\n\r\n"
# Fields of the first request and its body; the smuggled one stands where a lenient peer would look.
AMBIGUOUS = {
    "length and coding": ("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
    "coding and length": ("Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
    "two lengths": ("Content-Length: 0\r\nContent-Length: 50\r\n", ""),
    "list of lengths": ("Content-Length: 0, 50\r\n", ""),
    "signed length": ("Content-Length: +0\r\n", ""),
    "huge length": ("Content-Length: 18446744073709551616\r\n", ""),
    "hex length": ("Content-Length: 0x0\r\n", ""),
    "folded line": ("X-A: 1\r\n Content-Length: 50\r\n", ""),
    "folded coding": ("Transfer-Encoding:\r\n chunked\r\n", "0\r\n\r\n"),
    "bare line feed": ("X-A: 1\nContent-Length: 50\r\n", ""),
    "bare carriage return": ("X-A: 1\rContent-Length: 50\r\n", ""),
    "space before colon": ("Content-Length : 50\r\n", ""),
    "tab before colon": ("Transfer-Encoding\t: chunked\r\n", "0\r\n\r\n"),
    "zero byte": ("X-A: 1\0\r\n", ""),
    "unknown coding": ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
    "coding twice": ("Transfer-Encoding: chunked, chunked\r\n", "0\r\n\r\n"),
    "chunked not last": ("Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
    "coding hidden by a vertical tab": ("Transfer-Encoding: \x0bchunked\r\n", "0\r\n\r\n"),
    "connection names the length": ("Connection: content-length\r\nContent-Length: 0\r\n", ""),
    "second host": ("Host: other.example\r\n", ""),
    "no colon": ("Content-Length 50\r\n", ""),
}
DOORS = ("forward", "tunnel", "tls", "captured")


def through(door: str, target: str, text: str) -> dict[str, str]:
    """One step that sends `text` by one of the ways a request can take."""
    authority = "<tls>" if door == "tls" else "<plain>"
    text = text.replace("<authority>", authority)
    match door:
        case "forward":
            return {"op": "raw", "send": text.replace(target, f"http://<plain>{target}", 1)}
        case "tunnel":
            return {"op": "tunnel", "target": "<plain>", "send": text}
        case "tls":
            return {"op": "tunnel", "target": "<tls>", "sni": ALIAS, "send": text}
        case _:
            return {"op": "raw", "host": ALIAS, "port": "<port>", "send": text}


@pytest.mark.parametrize(("fields", "body"), AMBIGUOUS.values(), ids=AMBIGUOUS)
def test_an_ambiguous_request_gets_nowhere(world: World, fields: str, body: str) -> None:
    """By every door; first on its connection, and after a good request."""
    first = f"POST /ok HTTP/1.1\r\nHost: <authority>\r\n{fields}\r\n{body}{SMUGGLED}"
    good = "GET /ok HTTP/1.1\r\nHost: <authority>\r\n\r\n"
    before = len(world.plain.received) + len(world.tls.received)
    alone = world.ask(*(through(door, "/ok", first) for door in DOORS))
    assert [answer[9:12] for answer in alone] == ["400"] * len(DOORS), alone
    assert len(world.plain.received) + len(world.tls.received) == before, "not even the first"
    after = world.ask(*(through(door, "/ok", good + first) for door in DOORS[1:]))
    assert all(answer.startswith("HTTP/1.1 200 ") for answer in after), after
    assert all(answer.count("HTTP/1.1 400 ") == 1 for answer in after), after
    received = world.plain.received + world.tls.received
    assert len(received) == before + 3, "the good ones"
    assert {item.path for item in received} <= {"/ok"}


BODIES = {
    "bare line feed after a size": "5\n12345\r\n0\r\n\r\n",
    "size with a sign": "+5\r\n12345\r\n0\r\n\r\n",
    "size beyond 64 bits": "10000000000000005\r\n12345\r\n0\r\n\r\n",
    "extension with a line feed": "5;a=\nb\r\n12345\r\n0\r\n\r\n",
    "chunk longer than it says": "3\r\n12345\r\n0\r\n\r\n",
    "space in the size": "5 \r\n12345\r\n0\r\n\r\n",
    "a trailer that frames": "5\r\n12345\r\n0\r\nContent-Length: 50\r\n\r\n",
}


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_an_ambiguous_body_carries_no_second_request(world: World, body: str) -> None:
    head = "POST /ok HTTP/1.1\r\nHost: <authority>\r\nTransfer-Encoding: chunked\r\n\r\n"
    answers = world.ask(*(through(door, "/ok", head + body + SMUGGLED) for door in DOORS))
    assert all("200 OK" not in answer for answer in answers), answers
    received = world.plain.received + world.tls.received
    assert {item.path for item in received} <= {"/ok"}
    assert not any(b"smuggled" in item.body for item in received)


def test_bytes_after_a_request_are_judged_as_the_next_request(world: World) -> None:
    good = "GET /ok HTTP/1.1\r\nHost: <authority>\r\n\r\n"
    answers = world.ask(*(through(door, "/ok", good + SMUGGLED) for door in DOORS[1:]))
    for answer in answers:
        assert answer.startswith("HTTP/1.1 200 ")
        assert "policy_denied" in answer
    received = world.plain.received + world.tls.received
    assert {item.path for item in received} <= {"/ok"}


# -- paths

PATHS = [
    "/ok/../secret",
    "//ok/secret",
    "/ok/..%2fsecret",
    "/ok/%2e%2e/secret",
    "/ok/",
    "/OK",
    "/ok%00",
    "/%6fk/x",
    "/ok;/x",
    "/ok\\..\\secret",
    "/ok%0d%0aX-Injected:%20yes",
    "*",
]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_that_is_not_the_allowed_one_is_refused(world: World, path: str) -> None:
    answers = world.ask(
        *(through(door, "/nothing", get(path, "<authority>")) for door in DOORS[1:])
    )
    assert all(answer[9:12] in {"400", "403"} for answer in answers), answers
    received = world.plain.received + world.tls.received
    assert {item.path for item in received} <= {"/ok"}


# -- another host than the one that was allowed

MISMATCHES = {
    "other host": "other.example",
    "other port": f"{ALIAS}:1",
    "no port where it is not the default": ALIAS,
    "user information": f"<plain>@{ALIAS}",
    "empty": "",
    "two": "<plain>, other.example",
    "the host's own address": "127.0.0.1:<port>",
}


@pytest.mark.parametrize("host", MISMATCHES.values(), ids=MISMATCHES)
def test_a_host_field_that_is_not_the_tunnels_is_refused(world: World, host: str) -> None:
    before = len(world.plain.received) + len(world.tls.received)
    answers = world.ask(*(through(door, "/ok", get("/ok", host)) for door in DOORS[1:]))
    assert all(answer[9:12] in {"400", "403"} for answer in answers), answers
    assert len(world.plain.received) + len(world.tls.received) == before


def test_an_absolute_target_inside_a_tunnel_must_name_its_host(world: World) -> None:
    answers = world.ask(
        {"op": "tunnel", "target": "<plain>", "send": get("http://<plain>/ok", "<plain>")},
        {"op": "tunnel", "target": "<plain>", "send": get("http://other.example/ok", "<plain>")},
        {"op": "tunnel", "target": "<plain>", "send": get("http://<other>/ok", "<plain>")},
    )
    assert answers[0].startswith("HTTP/1.1 200 ")
    assert all("request_authority_mismatch" in answer for answer in answers[1:]), answers


def test_a_host_field_beside_an_absolute_target_is_replaced(world: World) -> None:
    (answer,) = world.ask({"op": "raw", "send": get("http://<plain>/ok", "other.example")})
    assert answer.startswith("HTTP/1.1 200 ")
    assert world.plain.received[-1].headers["Host"] == f"{ALIAS}:{world.plain.port}"


def test_a_server_name_that_is_not_the_tunnels_proves_nothing(world: World) -> None:
    """The certificate is the tunnel's host's, whatever name the client asks for."""
    step = {"op": "tunnel", "target": "<tls>", "send": get("/ok", "<tls>")}
    right, wrong, accepted = world.ask(
        {**step, "sni": ALIAS},
        {**step, "sni": "other.example"},
        {**step, "sni": "other.example", "trust": "anything", "send": get("/ok", "other.example")},
    )
    assert right.startswith("HTTP/1.1 200 ")
    assert "not valid for 'other.example'" in wrong
    assert "request_authority_mismatch" in accepted


def test_a_captured_connection_goes_where_it_was_opened_to(world: World) -> None:
    """Its server name is judged, and cannot send it to another host."""
    before = world.outside()
    answers = world.ask(
        *(
            {
                "op": "direct_tls",
                "host": host,
                "port": "<tls port>",
                "sni": name,
                "trust": "anything",
                "send": get("/ok", name),
            }
            for host, name in (
                (ALIAS, "other.example"),
                ("192.0.2.10", "other.example"),
                ("192.0.2.10", ALIAS),
            )
        )
    )
    assert all("200 OK" not in answer for answer in answers), answers
    assert world.outside() == before


# -- addresses


@pytest.mark.parametrize("host", SPELLINGS)
def test_the_host_cannot_be_reached_under_another_spelling(world: World, host: str) -> None:
    before = world.outside()
    authority = f"{host}:<port>"
    answers = world.ask(
        {"op": "raw", "send": get(f"http://{authority}/ok", authority)},
        {"op": "tunnel", "target": authority, "send": get("/ok", authority)},
    )
    assert all(answer[9:12] in {"400", "403"} for answer in answers), answers
    assert all("ssrf_denied" in answer or answer[9:12] == "400" for answer in answers), (
        "refused for what it is, since the policy names it"
    )
    assert world.outside() == before


ALIASES = {
    "a final dot": f"{ALIAS}.",
    "another alias": "host.docker.internal",
    "a zero byte": f"{ALIAS}%00.example",
    "a name below": f"x.{ALIAS}",
    "a full-width letter": "\uff48ost.openshell.internal".encode().decode("latin-1"),
    "punycode": "xn--ost-s73a.openshell.internal",
    "a space": f"{ALIAS} ",
    "user information": f"user@{ALIAS}",
    "a backslash": f"{ALIAS}\\@other.example",
    "a fragment": f"{ALIAS}#.example",
}


@pytest.mark.parametrize("host", ALIASES.values(), ids=ALIASES)
def test_only_the_very_name_is_allowed(world: World, host: str) -> None:
    before = len(world.plain.received)
    authority = f"{host}:<port>"
    upper = f"{ALIAS.upper()}:<port>"
    control, *answers = world.ask(
        {"op": "raw", "send": get(f"http://{upper}/ok", upper)},
        {"op": "raw", "send": get(f"http://{authority}/ok", authority)},
        {"op": "tunnel", "target": authority, "send": get("/ok", authority)},
    )
    assert control.startswith("HTTP/1.1 200 "), "case does not matter"
    assert all(answer[9:12] in {"400", "403"} for answer in answers), answers
    assert len(world.plain.received) == before + 1, "the control's"


def test_the_gateways_own_port_is_closed_though_the_policy_names_it(world: World) -> None:
    (answer,) = world.ask({"op": "tunnel", "target": f"{ALIAS}:<gateway port>", "send": "x"})
    assert "ssrf_denied" in answer
    assert "control-plane port" in answer


DIRECT = ["192.0.2.77", "2001:db8::77", "169.254.169.254", "10.200.0.2"]


@pytest.mark.parametrize("host", DIRECT)
def test_a_direct_connection_is_answered_by_us(world: World, host: str) -> None:
    before = world.outside()
    answer, closed = world.ask(
        {"op": "raw", "host": host, "port": "80", "send": get("/ok", host)},
        {"op": "raw", "host": host, "port": "7777", "send": "\x01binary and not HTTP"},
    )
    assert "policy_denied" in answer
    assert "not HTTP" not in closed
    assert world.outside() == before
    shown = f"[{host}]" if ":" in host else host
    world.wait_logged("DENIED", f"{shown}:7777")


def test_loopback_inside_is_not_the_hosts(world: World) -> None:
    before = world.outside()
    answers = world.ask(
        {"op": "raw", "host": "127.0.0.1", "port": "<port>", "send": get("/ok", "<plain>")},
        {"op": "raw", "host": "::1", "port": "<port>", "send": get("/ok", "<plain>")},
    )
    assert all(answer.startswith("ConnectionRefusedError") for answer in answers), answers
    assert world.outside() == before


@pytest.mark.parametrize("host", ["8.8.8.8", "2001:4860:4860::8888"])
def test_udp_is_refused_and_logged(world: World, host: str) -> None:
    local = "::1" if ":" in host else "127.0.0.1"
    sent, refused = world.ask(
        {"op": "udp", "host": local, "port": "9999"}, {"op": "udp", "host": host, "port": "9999"}
    )
    assert sent == "sent"
    assert refused == "PermissionError: [Errno 1] Operation not permitted"
    shown = f"[{host}]" if ":" in host else host
    world.wait_logged("DENIED", f"{shown}:9999/udp")


def test_icmp_is_refused(world: World) -> None:
    (answer,) = world.ask({"op": "ping", "host": "8.8.8.8"})
    assert answer.startswith("PermissionError")


# -- names

DATA = "c2VjcmV0LWRhdGEtaW4tYS1sYWJlbC1vZi1hLW5hbWU"
QUERIES = {
    "data in a label": (f"{DATA}.tunnel.example", "1"),
    "text record": (f"{DATA}.tunnel.example", "16"),
    "null record": (f"{DATA}.tunnel.example", "10"),
    "below an allowed name": (f"{DATA}.{ALIAS}", "1"),
    "text below an allowed name": (f"{DATA}.{ALIAS}", "16"),
    "service record": ("_x._tcp.tunnel.example", "33"),
}


@pytest.mark.parametrize(("name", "kind"), QUERIES.values(), ids=QUERIES)
@pytest.mark.parametrize("resolver", ["10.200.0.1", "8.8.8.8"])
def test_questions_carry_nothing_out(world: World, resolver: str, name: str, kind: str) -> None:
    """The stub answers by itself: a name that no rule could allow is never asked for outside."""
    known, refused = world.ask(
        {"op": "query", "name": ALIAS, "type": "1", "host": resolver},
        {"op": "query", "name": name, "type": kind, "host": resolver},
    )
    assert known == "NOERROR 1"
    assert refused == "NXDOMAIN 0"
    world.wait_logged("DENIED", f"{name.lower()}:53/dns")


def test_records_other_than_addresses_are_empty_even_for_allowed_names(world: World) -> None:
    for kind in ("16", "10", "33", "255"):
        (answer,) = world.ask({"op": "query", "name": ALIAS, "type": kind})
        assert answer.rpartition(" ")[2] == "0"


# -- credentials


def test_a_placeholder_is_resolved_where_it_is_bound(world: World) -> None:
    send = get("/ok", "<tls>", "Authorization: Bearer $TOKEN\r\n")
    (answer,) = world.ask({"op": "tunnel", "target": "<tls>", "sni": ALIAS, "send": send})
    assert answer.startswith("HTTP/1.1 200 ")
    assert world.tls.received[-1].headers["Authorization"] == f"Bearer {SECRET}"


MISUSES = {
    "another endpoint": ("<plain>", "/ok", "Authorization: Bearer $TOKEN\r\n"),
    "another endpoint's query": ("<plain>", "/ok?token=$TOKEN", ""),
    "the name in a query": ("<tls>", "/ok?$TOKEN=1", ""),
    "a second field after it": ("<tls>", "/ok", "X-A: $TOKEN$TOKEN\r\n"),
    "the middle of a value": ("<tls>", "/ok", "X-A: before $TOKEN after\r\n"),
    "the host": ("<tls>", "/ok", "X-Forwarded-Host: a$TOKEN\r\n"),
    "a cookie": ("<tls>", "/ok", "Cookie: a=$TOKEN; b=1\r\n"),
    "encoded": ("<tls>", "/ok", "X-A: Bearer%20${TOKEN}%0d%0aX-Injected:1\r\n"),
}


@pytest.mark.parametrize(("target", "path", "fields"), MISUSES.values(), ids=MISUSES)
def test_a_placeholder_elsewhere_refuses_the_request(
    world: World, target: str, path: str, fields: str
) -> None:
    before = len(world.plain.received) + len(world.tls.received)
    send = get(path, target, fields)
    step = {"op": "tunnel", "target": target, "send": send}
    (answer,) = world.ask({**step, "sni": ALIAS} if target == "<tls>" else step)
    assert answer[9:12] in {"400", "403", "500"}, answer
    assert "credential_" in answer
    assert len(world.plain.received) + len(world.tls.received) == before
    assert SECRET not in answer


def test_a_value_that_would_inject_a_field_is_not_sent(world: World) -> None:
    before = len(world.plain.received)
    send = get("http://<plain>/ok", "<plain>", "Authorization: Bearer $BROKEN\r\n")
    (answer,) = world.ask({"op": "raw", "send": send})
    assert answer.startswith("HTTP/1.1 500 "), answer
    assert "credential_injection_failed" in answer
    assert "X-Injected" not in answer
    assert len(world.plain.received) == before


FOLLOW = """
import os, sys, urllib.error, urllib.request
request = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + os.environ["TOKEN"]})
try:
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(answer.status, answer.url)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


def test_a_redirect_takes_no_credential_along(world: World) -> None:
    """The client follows and sends its placeholder again: to an endpoint without a binding."""
    world.tls.redirects["/ok"] = f"http://{ALIAS}:{world.other.port}/stolen"
    try:
        ran = world.client.exec(
            world.sandbox.id,
            [PYTHON, "-c", FOLLOW, f"https://{ALIAS}:{world.tls.port}/ok"],
            timeout_seconds=30,
        )
        without = world.ask({"op": "raw", "send": get("http://<other>/free", "<other>")})
    finally:
        world.tls.redirects.clear()
    assert without[0].startswith("HTTP/1.1 200 "), "the other endpoint is allowed"
    assert world.tls.received[-1].headers["Authorization"] == f"Bearer {SECRET}"
    assert ran.stdout.startswith("403 "), ran.stdout + ran.stderr
    assert "credential_endpoint_mismatch" in ran.stdout
    assert world.other.paths == ["/free"]


# -- programs


def test_a_program_is_known_by_its_file(world: World) -> None:
    """Links to an allowed file are that file; copies, scripts and names are not."""
    setup = (
        f"ln -sf {PYTHON} /sandbox/link; cp {PYTHON} /sandbox/copy;"
        f" mkdir -p /sandbox/bin; cp {PYTHON} /sandbox/bin/{Path(PYTHON).name};"
        f" printf '#!/sandbox/copy\\n' > {TOOL}.script; cat {TOOL}.script > /dev/null;"
        " printf '#!/bin/sh\\nexec /sandbox/copy \"$@\"\\n' > /sandbox/wrapper;"
        " chmod +x /sandbox/wrapper"
    )
    world.client.exec(world.sandbox.id, ["sh", "-c", setup])
    step = {"op": "raw", "send": get("http://<plain>/ok", "<plain>")}
    before = len(world.plain.received)
    for program in ("/sandbox/link", PYTHON):
        assert world.ask(step, program=program)[0].startswith("HTTP/1.1 200 ")
    assert len(world.plain.received) == before + 2
    for program in ("/sandbox/copy", f"/sandbox/bin/{Path(PYTHON).name}", "/sandbox/wrapper"):
        (answer,) = world.ask(step, program=program)
        assert "policy_denied" in answer, program
        assert "binary_not_allowed" in answer
    (answer,) = world.ask(
        step, program=PYTHON, wrap=("/bin/bash", "-c", 'exec -a "$0" /sandbox/copy "${@:1}"')
    )
    assert "binary_not_allowed" in answer, "the name it gives itself is not its file"
    assert len(world.plain.received) == before + 2


def test_a_file_that_changed_since_it_was_trusted_is_refused(world: World) -> None:
    """The policy allows a path in the workspace; the first file seen there is the only one."""
    step = {"op": "raw", "send": get("http://<plain>/ok", "<plain>")}

    def sh(script: str) -> None:
        assert world.client.exec(world.sandbox.id, ["sh", "-c", script]).exit_code == 0

    sh(f"cp {PYTHON} {TOOL}")
    assert world.ask(step, program=TOOL)[0].startswith("HTTP/1.1 200 ")
    before = len(world.plain.received)
    sh(f"cp {PYTHON} {TOOL}.new; printf x >> {TOOL}.new; mv {TOOL}.new {TOOL}")
    (answer,) = world.ask(step, program=TOOL)
    assert answer.startswith("HTTP/1.1 403 "), answer
    assert len(world.plain.received) == before
    sh(f"cp {PYTHON} {TOOL}.new; mv {TOOL}.new {TOOL}")
    assert world.ask(step, program=TOOL)[0].startswith("HTTP/1.1 200 "), "the trusted one again"


def test_a_deleted_file_is_not_the_one_at_its_path(world: World) -> None:
    """It runs on after its path is gone, or names another file."""
    step = world.fill(json.dumps({"op": "raw", "send": get("http://<plain>/ok", "<plain>")}))
    late = "import os, sys; sys.stdin.readline(); os.system('DEED')\n" + CLIENT
    for deed in ("rm /sandbox/gone", f"mv {TOOL}.good /sandbox/gone"):
        world.client.exec(
            world.sandbox.id,
            ["sh", "-c", f"cp {PYTHON} /sandbox/gone; cp {PYTHON} {TOOL}.good"],
        )
        before = len(world.plain.received)
        ran = world.client.exec(
            world.sandbox.id,
            ["/sandbox/gone", "-S", "-c", late.replace("DEED", deed)],
            env={"PYTHONHOME": PREFIX, "LD_LIBRARY_PATH": f"{PREFIX}/lib"},
            stdin=f"\n[{step}]".encode(),
        )
        (answer,) = json.loads(ran.stdout)
        assert answer.startswith("HTTP/1.1 403 "), answer
        assert len(world.plain.received) == before


# -- what the policy is called

NAMES = {
    "a line break and a field": "a\\r\\nX-Injected: yes",
    "a log line": "x] [reason:-]\\n[0.000] [sandbox] [INFO ] ALLOWED",
    "quotes": '\\" , \\"error\\": \\"none',
    "escape sequences": "\\x1b[2J\\x1b]0;owned\\x07",
    "not ASCII": "r\u00e8gle \u202e \u6f22",
    "long": "n" * 4000,
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_a_rules_name_cannot_break_answers_or_logs(world: World, name: str) -> None:
    text = world.fill(
        f'network_policies:\n  "k":\n    name: "{name}"\n    endpoints:\n'
        f"      - {{host: {ALIAS}, port: <port>, protocol: rest, enforcement: enforce,\n"
        "         rules: [{allow: {method: GET, path: /ok}}]}\n"
        f"    binaries: [{{path: {PYTHON}}}]\n"
    )
    world.apply(text)
    try:
        allowed, denied = world.ask(
            {"op": "raw", "send": get("http://<plain>/ok", "<plain>")},
            {"op": "raw", "send": get("http://<plain>/no", "<plain>")},
        )
        assert allowed.startswith("HTTP/1.1 200 ")
        head, _, body = denied.partition("\r\n\r\n")
        assert head.startswith("HTTP/1.1 403 ")
        assert "X-Injected" not in [line.partition(":")[0] for line in head.split("\r\n")]
        assert head.isascii()
        assert json.loads(body)["error"] == "policy_denied"
        world.wait_logged("DENIED", "/no")
        shown = world.log()
        assert all(line.startswith("[1") for line in shown.splitlines())
        assert "\x1b" not in shown
        assert "\u202e" not in shown
    finally:
        world.apply(world.fill(POLICY))
