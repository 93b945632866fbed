"""Pausing, snapshots, restoring and forks of real sandboxes."""

from __future__ import annotations

import itertools
import time

import grpc
import pytest

from openshell.sdk.client import SandboxClient
from openshell.sdk.snapshots import SnapshotClient
from support.private_gateway import PrivateGateway, ready_sandbox

W = "default"


def run(client: SandboxClient, sandbox_id: str, script: str) -> str:
    return client.exec(sandbox_id, ["sh", "-c", script]).stdout.strip()


def test_a_snapshot_is_put_back_and_forked(client: SandboxClient) -> None:
    snapshots = SnapshotClient(client)
    with ready_sandbox(client) as source:
        run(client, source.id, "echo first > /sandbox/note")
        made = snapshots.create(source.name, workspace=W, name="one")
        assert made.complete
        run(client, source.id, "echo second > /sandbox/note")
        forks = [
            snapshots.fork(source.name, workspace=W, snapshot="one"),
            snapshots.fork(source.name, workspace=W),
        ]
        try:
            for fork, expected in zip(forks, ("first", "second"), strict=True):
                assert fork.metadata.id != source.id
                client.wait_ready(fork.metadata.name, workspace=W)
                found = run(client, fork.metadata.id, "echo x >> /sandbox/note; cat /sandbox/note")
                assert found.split() == [expected, "x"]
            assert run(client, source.id, "cat /sandbox/note") == "second"
        finally:
            for fork in forks:
                client.delete(fork.metadata.name, workspace=W)
        with pytest.raises(grpc.RpcError, match="stop it first"):
            snapshots.restore(source.name, "one", workspace=W)
        client.stop(source.name, workspace=W)
        snapshots.restore(source.name, "one", workspace=W)
        client.start(source.name, workspace=W)
        client.wait_ready(source.name, workspace=W)
        assert run(client, source.id, "cat /sandbox/note") == "first"
        assert [item.metadata.name for item in snapshots.list(source.name, workspace=W)] == ["one"]
        assert snapshots.delete(source.name, "one", workspace=W)
        assert not snapshots.list(source.name, workspace=W)


def test_a_paused_sandbox_says_so_until_it_is_resumed(
    client: SandboxClient, gateway: PrivateGateway
) -> None:
    snapshots = SnapshotClient(client)
    with ready_sandbox(client) as ref:
        beat = "while :; do date +%s%N >> /tmp/beats; sleep 0.02; done"
        run(client, ref.id, f"({beat}) >/dev/null 2>&1 & sleep 0.2")
        try:
            snapshots.pause(ref.name, workspace=W)
        except grpc.RpcError as error:
            # Where there is no group to hold a sandbox by, it is refused by name and nothing is held.
            assert "cannot pause" in str(error)
            assert run(client, ref.id, "echo on") == "on"
            return
        with pytest.raises(grpc.RpcError, match="resume"):
            run(client, ref.id, "true")
        assert "Paused" in gateway.cli("sandbox", "list").stdout
        assert "resume" in gateway.cli("sandbox", "connect", ref.name).stderr
        time.sleep(0.3)
        snapshots.resume(ref.name, workspace=W)
        beats = [int(line) for line in run(client, ref.id, "cat /tmp/beats").split()]
        # It was held, and goes on where it was.
        assert max(b - a for a, b in itertools.pairwise(beats)) > 250_000_000
        snapshots.pause(ref.name, workspace=W)
        # What is held is ended all the same, here and by the deletion that ends the block.
        client.stop(ref.name, workspace=W)
        client.start(ref.name, workspace=W)
        client.wait_ready(ref.name, workspace=W)
        assert run(client, ref.id, "echo anew") == "anew"
        snapshots.pause(ref.name, workspace=W)
