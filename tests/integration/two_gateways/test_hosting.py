"""Whose a sandbox is: rows of older databases, and the id of a host."""

import pytest

from integration.gateway.harness import running
from openshell._proto import openshell_pb2 as pb
from openshell.gateway.config import ConfigError
from openshell.gateway.hosting import load_host_id
from openshell.gateway.records import Kind, load, to_row
from openshell.gateway.store import Unconditional


async def forget_hosts(gw):
    """Makes every row one of a time before there were hosts."""

    def write(tx):
        for row in tx.all(Kind.SANDBOX):
            tx.put(to_row(Kind.SANDBOX, load(row, pb.Sandbox)), Unconditional())

    await gw.gateway._store.write(write)


async def scopes(gw):
    rows = await gw.gateway._store.read(lambda tx: tx.all(Kind.SANDBOX))
    return {row.name: row.scope for row in rows}


async def test_an_older_row_belongs_to_the_gateway_whose_driver_has_its_compute(tmp_path):
    state = {}
    async with running(tmp_path, state=state) as gw:
        await gw.ready("mine")
        elsewhere = await gw.create("elsewhere")
        host = (await scopes(gw))["mine"]
        assert len(host) == 32
        await forget_hosts(gw)
    del state[elsewhere.metadata.id]
    async with running(tmp_path, state=state) as gw:
        assert await scopes(gw) == {"mine": host, "elsewhere": None}
        await gw.gateway._lifecycle._compute.reconcile()
        await gw.gateway.stop_sandboxes()
        assert (await gw.get("mine")).status.phase == pb.SANDBOX_PHASE_STOPPED
        # Perhaps another gateway's: left as it is, for anybody to delete who knows better.
        assert (await gw.get("elsewhere")).status.phase == pb.SANDBOX_PHASE_PROVISIONING
        await gw.api.DeleteSandbox(pb.DeleteSandboxRequest(name="elsewhere"))
        assert set(await scopes(gw)) == {"mine"}


async def test_every_change_of_a_record_keeps_its_host(tmp_path):
    async with running(tmp_path) as gw:
        sandbox, _supervisor = await gw.ready("box")
        host = (await scopes(gw))["box"]
        await gw.api.StopSandbox(pb.StopSandboxRequest(name="box"))
        assert (await scopes(gw))["box"] == host
        await gw.api.StartSandbox(pb.StartSandboxRequest(name="box"))
        assert (await scopes(gw))["box"] == host
        gw.driver.report(sandbox.metadata.id)
        await gw.gateway._lifecycle._compute.reconcile()
        assert (await scopes(gw))["box"] == host


def test_a_host_keeps_its_id(tmp_path):
    made = load_host_id(tmp_path)
    assert load_host_id(tmp_path) == made
    assert (tmp_path / "host-id").stat().st_mode & 0o777 == 0o600
    (tmp_path / "host-id").write_text("anything else\n")
    with pytest.raises(ConfigError, match="holds no host id"):
        load_host_id(tmp_path)
