"""The small parts of the supervisor: output, waits, token, phases, packets, spec."""

import asyncio
import base64
import json
import struct
import tracemalloc
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openshell.drivers.launch import Exposure, LaunchPlan
from openshell.policy.model import (
    Binary,
    FilesystemPolicy,
    LandlockPolicy,
    NetworkRule,
    ProcessPolicy,
    SandboxPolicy,
)
from openshell.supervisor.backoff import Backoff
from openshell.supervisor.bearer import Token, TokenError, read_token, renewal_delay
from openshell.supervisor.isolation.model import LandlockMode, Layer, LayerStatus
from openshell.supervisor.output import _CHUNK_COST, STDERR, STDOUT, Exit, OutputLog
from openshell.supervisor.packets import Packet, read_packet
from openshell.supervisor.phases import Phases, phase_of
from openshell.supervisor.picture import picture_of
from openshell.supervisor.spec import SpecError, binary_links, hostname_of, static_policy, to_spec


def test_waits_double_to_the_ceiling_and_start_again():
    backoff = Backoff(1, 30)
    assert [backoff.next() for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]
    backoff.reset()
    assert backoff.next() == 1


async def read_all(reader):
    items = []
    while not isinstance(item := await reader.next(), Exit):
        items.append(item)
    return items, item


async def test_output_is_read_in_order_and_the_exit_comes_last():
    log = OutputLog(1000, drops=True)
    reader = log.reader()
    log.append(STDOUT, b"a")
    log.append(STDERR, b"b")
    log.finish(Exit(3))
    log.finish(Exit(4))
    assert await read_all(reader) == ([(STDOUT, b"a"), (STDERR, b"b")], Exit(3))


async def test_the_oldest_output_gives_way_and_is_counted():
    log = OutputLog(10 + 2 * _CHUNK_COST, drops=True)
    early = log.reader()
    for n in range(6):
        log.append(STDOUT, b"%d---" % n)
    log.finish(Exit(0))
    assert (await read_all(early))[0] == [(STDOUT, b"4---"), (STDOUT, b"5---")]
    assert log.dropped_bytes == 16


async def test_one_chunk_beyond_the_bound_is_kept():
    log = OutputLog(2, drops=True)
    log.append(STDOUT, b"large")
    log.finish(Exit(0))
    assert (await read_all(log.reader()))[0] == [(STDOUT, b"large")]


async def test_a_producer_waits_for_its_reader():
    log = OutputLog(4, drops=False)
    reader = log.reader()
    log.append(STDOUT, b"12345")
    waiting = asyncio.ensure_future(log.wait_for_room())
    await asyncio.sleep(0)
    assert not waiting.done()
    await reader.next()
    log.release(reader.position)
    await waiting
    assert log.dropped_bytes == 0


async def test_single_bytes_are_not_cheaper_than_they_are():
    log = OutputLog(1 << 20, drops=True)
    tracemalloc.start()
    try:
        for n in range(100_000):
            log.append(STDOUT if n % 2 else STDERR, b"%c" % (n % 256))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 2 << 20
    assert log.dropped_bytes > 90_000


@given(st.lists(st.binary(min_size=1, max_size=9)), st.integers(1, 2000))
def test_what_is_kept_is_a_tail_within_the_bound(chunks, limit):
    async def run():
        log = OutputLog(limit, drops=True)
        for chunk in chunks:
            log.append(STDOUT, chunk)
        log.finish(Exit(0))
        items, _ = await read_all(log.reader())
        kept = b"".join(data for _, data in items)
        assert b"".join(chunks).endswith(kept)
        assert len(kept) + log.dropped_bytes == sum(map(len, chunks))
        assert len(kept) + _CHUNK_COST * len(items) <= limit or len(items) == 1

    asyncio.run(run())


def jwt(claims):
    body = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"head.{body}.signature"


@pytest.mark.parametrize(
    ("text", "expires"),
    [
        (jwt({"exp": 1000}), 1000),
        (jwt({"exp": 0}), None),
        (jwt({}), None),
        (jwt([]), None),
        (jwt({"exp": "x"}), None),
        ("opaque", None),
        (jwt({"exp": float("inf")}), None),
        (jwt({"exp": float("nan")}), None),
        ("a.!!.c", None),
    ],
)
def test_when_a_token_ends(text, expires):
    assert Token(text, "/x").expires_at() == expires


@pytest.mark.parametrize(
    ("expires", "delay"),
    [(1000, 800), (0, 1), (-50, 1), (10**9, 12 * 3600), (None, 6 * 3600)],
    ids=["four-fifths", "ends-now", "has-ended", "far", "unknown"],
)
def test_when_a_token_is_renewed(expires, delay):
    assert renewal_delay(expires, 0, lambda: 0) == delay
    assert renewal_delay(expires, 0, lambda: 1) == pytest.approx(delay * 1.09)


def test_a_token_is_read_kept_and_never_shown(tmp_path):
    path = tmp_path / "token"
    path.write_text(" secret-value\n")
    token = read_token(str(path))
    assert token.metadata() == (("authorization", "Bearer secret-value"),)
    assert "secret" not in repr(token)
    token.replace("new")
    assert path.read_text() == "new"


@pytest.mark.parametrize("content", ["", "\n", "a\x00b", "x" * 20_000], ids=lambda c: repr(c)[:9])
def test_a_token_that_is_none(tmp_path, content):
    path = tmp_path / "token"
    path.write_text(content)
    with pytest.raises(TokenError) as caught:
        read_token(str(path))
    assert "xxx" not in str(caught.value)
    with pytest.raises(TokenError):
        read_token(str(tmp_path / "missing"))


@dataclass
class Step:
    name: str
    started_ns: int
    ended_ns: int


def test_small_steps_become_the_phases_that_people_see():
    phases = Phases()
    phases.add_steps(
        [
            Step("clone", 0, 2_000_000),
            Step("init.network", 2_000_000, 4_000_000),
            Step("init.rootfs", 4_000_000, 6_000_000),
            Step("init.seccomp", 6_000_000, 7_000_000),
            Step("init", 2_000_000, 9_000_000),
        ]
    )
    phases.begin("supervisor")
    phases.begin("ready")
    phases.fail("ready", "CODE", "why")
    current = phases.current()
    assert [phase.name for phase in current] == [
        "namespaces",
        "rootfs",
        "isolation",
        "supervisor",
        "ready",
    ]
    assert current[2].ended_at_ms - current[2].started_at_ms == 5
    assert (current[-1].error_code, current[-1].error_message) == ("CODE", "why")
    assert phase_of("landlock") == "isolation"


def test_the_picture_says_everything():
    picture = picture_of(
        (), (Layer("landlock", LayerStatus.PARTLY, "ABI 3"),), Exposure(("/a",), (), (), ("/a/py",))
    )
    assert picture.enforcement.layers[0].status == "partly"
    assert list(picture.enforcement.exposed_paths) == ["/a"]
    assert list(picture.enforcement.interpreters) == ["/a/py"]


def ipv4(protocol, address, port=0, options=0):
    header = bytes([0x45 + options, 0]) + bytes(7) + bytes([protocol]) + bytes(2) + bytes(4)
    return (
        header
        + bytes(map(int, address.split(".")))
        + bytes(4 * options)
        + struct.pack(">HHI", 1, port, 0)
    )


@pytest.mark.parametrize(
    ("data", "packet"),
    [
        pytest.param(ipv4(17, "8.8.8.8", 53), Packet("udp", "8.8.8.8", 53), id="udp"),
        pytest.param(ipv4(17, "8.8.8.8", 53, 2), Packet("udp", "8.8.8.8", 53), id="options"),
        pytest.param(ipv4(1, "1.2.3.4"), Packet("icmp", "1.2.3.4", 0), id="icmp"),
        pytest.param(ipv4(132, "1.2.3.4"), Packet("protocol 132", "1.2.3.4", 0), id="sctp"),
        pytest.param(
            b"\x60"
            + bytes(5)
            + b"\x11"
            + bytes(17)
            + bytes(15)
            + b"\x01"
            + struct.pack(">HH", 1, 99),
            Packet("udp", "::1", 99),
            id="ipv6",
        ),
        pytest.param(b"", None, id="empty"),
        pytest.param(b"\x60" + bytes(30), None, id="short-ipv6"),
        pytest.param(bytes(40), None, id="no-ip"),
    ],
)
def test_refused_packets_are_read(data, packet):
    assert read_packet(data) == packet


@given(st.binary(max_size=80))
def test_any_bytes_are_a_packet_or_none(data):
    packet = read_packet(data)
    assert packet is None or 0 <= packet.port < 65536


PLAN = LaunchPlan("id", "My Box_1", "w", "i", "unix:/x")


def test_the_spec_follows_plan_and_policy():
    policy = SandboxPolicy(
        version=1,
        filesystem=FilesystemPolicy(True, ("/usr",), ("/tmp",)),
        landlock=LandlockPolicy("hard_requirement"),
    )
    spec = to_spec(PLAN, policy, "/state/workspace", uid=1000, gid=1001)
    assert (spec.host_uid, spec.host_gid) == (1000, 1001)
    assert spec.landlock is LandlockMode.HARD_REQUIREMENT
    assert spec.hostname == "sandbox-My-Box-1"
    assert spec.read_only == ("/usr",)


def test_exposed_paths_are_readable_and_links_know_their_source(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    plan = LaunchPlan("id", "n", "w", "i", "unix:/x", exposure=Exposure((str(tmp_path / "link"),)))
    spec = to_spec(plan, static_policy(None, lambda _: False), "/w", uid=1, gid=1)
    assert spec.exposed[0].path == str(tmp_path / "link")
    assert spec.exposed[0].real == str(tmp_path / "real")
    assert str(tmp_path / "link") in spec.read_only


@pytest.mark.parametrize(
    ("user", "allowed"), [("", True), ("sandbox", True), ("1000", True), ("nobody", False)]
)
def test_one_identity_exists(user, allowed):
    policy = SandboxPolicy(version=1, process=ProcessPolicy(run_as_user=user))
    if allowed:
        to_spec(PLAN, policy, "/w", uid=77, gid=77)
    else:
        with pytest.raises(SpecError, match="nobody"):
            to_spec(PLAN, policy, "/w", uid=77, gid=77)


@pytest.mark.parametrize(
    ("name", "host"),
    [
        ("a", "sandbox-a"),
        ("a" * 100, "sandbox-" + "a" * 55),
        ("ä_.", "sandbox"),
        ("x.", "sandbox-x"),
    ],
)
def test_a_host_name_is_one_label(name, host):
    assert hostname_of(name) == host


def test_links_of_binaries_are_resolved_and_patterns_are_not(tmp_path):
    (tmp_path / "python3.11").write_text("")
    (tmp_path / "python3").symlink_to("python3.11")
    rule = NetworkRule(
        key="k",
        name="k",
        endpoints=(),
        binaries=tuple(
            Binary(str(tmp_path / name)) for name in ("python3", "python3.11", "py*", "missing")
        ),
    )
    policy = SandboxPolicy(version=1, network_policies={"k": rule})
    assert binary_links(policy) == {str(tmp_path / "python3"): str(tmp_path / "python3.11")}
