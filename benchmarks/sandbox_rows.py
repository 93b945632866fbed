"""The life of a sandbox under the local driver, through the client library."""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from table import Peer, Row, median_ms, repeat, timed

from openshell._proto import openshell_pb2
from openshell.codec.policy import policy_to_proto
from openshell.policy.parse import parse_policy
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import PolicyClient
from support.private_gateway import (
    FILESYSTEM,
    OPENSHELL,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
)

_RUNS = 30
_BWRAP = (
    "bwrap", "--unshare-all", "--die-with-parent", "--ro-bind", "/", "/", "--dev", "/dev",
    "--proc", "/proc", "--tmpfs", "/tmp", "--", "true",
)  # fmt: skip


def rows() -> Iterator[Row]:
    bwrap = _bwrap_peer()
    with PrivateGateway() as gateway, gateway.client() as client:
        yield from _life(client, bwrap)
        yield from _policy_change(client)
        yield from _exec(client, bwrap, gateway)
        yield from _memory(gateway, client)
        yield from _unary(client)


def _bwrap_peer() -> list[Peer]:
    if shutil.which("bwrap") is None:
        return []
    run = lambda: subprocess.run(_BWRAP, check=True, capture_output=True)  # noqa: E731
    return [Peer("bubblewrap true", median_ms(20, run))]


def _life(client: SandboxClient, peers: list[Peer]) -> Iterator[Row]:
    created, deleted = [], []
    for _ in range(_RUNS):
        started = time.perf_counter()
        ref = client.create(workspace="default", spec=sandbox_spec())
        client.wait_ready(ref.name, workspace="default")
        created.append((time.perf_counter() - started) * 1000)
        deleted.append(
            timed(
                lambda: (
                    client.delete(ref.name, workspace="default"),  # noqa: B023  # used within the turn
                    client.wait_deleted(ref.name, workspace="default"),  # noqa: B023
                )
            )
        )
    yield Row("create -> Ready, local driver, SDK", 30, "ms", created, peers)
    yield Row("delete, until nothing is left", 30, "ms", deleted)


def _exec(client: SandboxClient, peers: list[Peer], gateway: PrivateGateway) -> Iterator[Row]:
    with ready_sandbox(client) as ref:
        client.exec(ref.id, ["true"])
        yield Row(
            "exec true in a running sandbox, SDK",
            4,
            "ms",
            repeat(100, lambda: client.exec(ref.id, ["true"])),
            peers,
        )
        through_cli = repeat(
            20,
            lambda: subprocess.run(
                [OPENSHELL, "sandbox", "exec", "-n", ref.name, "--", "true"],
                env=gateway.environ,
                check=True,
                stdin=subprocess.DEVNULL,
                capture_output=True,
            ),
        )
        yield Row("openshell sandbox exec true, whole command", 150, "ms", through_cli)


def _policy_change(client: SandboxClient) -> Iterator[Row]:
    """Until the supervisor has acknowledged that it enforces the new revision."""
    policies = PolicyClient(client)
    samples = []
    with ready_sandbox(client) as ref:
        for number in range(_RUNS):
            network = (
                f"network_policies:\n  r:\n    endpoints: [{{host: h{number}.example.com, port: 443}}]\n"
                "    binaries: [{path: /**}]\n"
            )
            message = policy_to_proto(parse_policy(FILESYSTEM + network, source="bench"))
            started = time.perf_counter()
            version = policies.replace(ref.name, message, workspace="default").version
            while True:
                status = policies.revision(ref.name, version, workspace="default").revision.status
                if status == openshell_pb2.POLICY_STATUS_LOADED:
                    break
                assert status == openshell_pb2.POLICY_STATUS_PENDING, status
            samples.append((time.perf_counter() - started) * 1000)
    yield Row("policy set -> enforced", 50, "ms", samples)


def _memory(gateway: PrivateGateway, client: SandboxClient) -> Iterator[Row]:
    count = 10
    sandboxes = []
    try:
        for _ in range(count):
            ref = client.create(workspace="default", spec=sandbox_spec())
            sandboxes.append(client.wait_ready(ref.name, workspace="default"))
        time.sleep(1)
        pairs = [_pss_mb(gateway, ref.id) for ref in sandboxes]
    finally:
        for ref in sandboxes:
            client.delete(ref.name, workspace="default")
    supervisor, init = (statistics.median(side) for side in zip(*pairs, strict=True))
    yield Row(
        "memory per idle sandbox (PSS, supervisor and init)",
        9,
        "MB",
        [sum(pair) for pair in pairs],
        note=f"supervisor {supervisor:.1f}, init {init:.1f}",
    )


def _pss_mb(gateway: PrivateGateway, sandbox_id: str) -> tuple[float, float]:
    """Of the supervisor and of process 1."""
    import json

    record = json.loads((gateway.state / "local/sandboxes" / sandbox_id / "pid.json").read_text())
    supervisor = str(record["pid"])
    children = Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()
    return _pss(supervisor), _pss(children[0])


def _pss(pid: str) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise ValueError(f"no Pss of {pid}")


def _unary(client: SandboxClient) -> Iterator[Row]:
    from concurrent.futures import ThreadPoolExecutor

    seconds, workers = 3.0, 8

    def call_until(deadline: float) -> int:
        calls = 0
        while time.perf_counter() < deadline:
            client.list(workspace="default")
            calls += 1
        return calls

    with ThreadPoolExecutor(workers) as pool:
        deadline = time.perf_counter() + seconds
        calls = sum(pool.map(call_until, [deadline] * workers))
    yield Row(
        "gateway unary RPC per second (ListSandboxes)",
        2000,
        "/s",
        [calls / seconds],
        more_is_better=True,
        note=f"{workers} threads of one client process on the same {os.cpu_count()} cores",
    )
