"""Refresh over the real store and a real issuer: one gateway at a time."""

import asyncio
import logging
import sqlite3

import pytest

from integration.refresh.conftest import CLIENT_SECRET, graph
from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.records import Kind, load
from openshell.gateway.refresh.states import State, put_state
from openshell.gateway.refresh.worker import RefreshWorker
from openshell.gateway.store.model import MatchResourceVersion, NewRow, StoreUnavailable
from openshell.providers.profile.model import Strategy

HOUR_MS = 3_600_000


async def refused(call):
    with pytest.raises(ApiError) as caught:
        await call
    assert CLIENT_SECRET not in caught.value.message
    return caught.value


def update(**fields):
    message = datamodel_pb2.Provider(metadata=datamodel_pb2.ObjectMeta(name="work"))
    return openshell_pb2.UpdateProviderRequest(provider=message, **fields)


async def provider(gateway, **fields):
    return await gateway.provider(credentials={}, kind="graph", **fields)


async def test_configured_then_rotated_then_delivered(gateway, issuer, clock):
    await provider(gateway)
    box = await gateway.sandbox(providers=["work"])
    configured = await gateway.configure()
    assert (configured.status, configured.next_refresh_at_ms) == ("configured", 0)
    assert await gateway.value() is None
    before = clock()
    rotated = await gateway.rotate()
    assert rotated.status == "refreshed"
    assert before + HOUR_MS <= rotated.expires_at_ms <= clock() + HOUR_MS
    assert rotated.next_refresh_at_ms == rotated.expires_at_ms - 300_000
    assert before <= rotated.last_refresh_at_ms <= clock()
    environment = await gateway.environment(box)
    assert issuer.accepts(environment.environment["TOKEN"])
    assert environment.credential_expires_at_ms["TOKEN"] == rotated.expires_at_ms
    assert gateway.changes == [(box.metadata.id, "providers")] * 2
    assert await gateway.statuses() == [rotated]


async def test_a_rotation_replaces_value_and_revision_but_not_the_handle(gateway):
    await provider(gateway)
    box = await gateway.sandbox(providers=["work"])
    await gateway.configure()
    seen = set()
    handles = set()
    for _ in range(3):
        await gateway.rotate()
        environment = await gateway.environment(box)
        seen.add((environment.environment["TOKEN"], environment.provider_env_revision))
        handles.add(environment.static_credential_bindings["TOKEN"].workload_credential_handle)
    assert len(seen) == 3
    assert len(handles) == 1
    assert "" not in handles
    assert await gateway.sealed() == 2, "the client's secret and the newest token"
    await gateway.configure()
    environment = await gateway.environment(box)
    assert environment.static_credential_bindings["TOKEN"].workload_credential_handle not in handles


async def test_statuses(gateway):
    await provider(gateway)
    assert await gateway.statuses() == []
    assert await gateway.statuses("TOKEN") == []
    await gateway.configure("TOKEN")
    await gateway.configure("SECOND")
    listed = await gateway.statuses()
    assert [status.credential_key for status in listed] == ["SECOND", "TOKEN"]
    assert [s.credential_key for s in await gateway.statuses("TOKEN")] == ["TOKEN"]
    assert listed[0].provider_name == "work"
    assert listed[0].strategy == Strategy.OAUTH2_CLIENT_CREDENTIALS
    assert (await refused(gateway.statuses(provider="absent"))).code is Code.NOT_FOUND
    assert (await refused(gateway.statuses(provider=" "))).code is Code.INVALID_ARGUMENT


async def test_a_reconfiguration_keeps_the_object_and_drops_the_old_secrets(gateway, issuer):
    await provider(gateway)
    await gateway.configure()
    rotated = await gateway.rotate()
    before = await gateway.state()
    again = await gateway.configure()
    after = await gateway.state()
    assert after.metadata.id == before.metadata.id
    assert after.authorization_epoch != before.authorization_epoch
    assert again.status == "configured"
    assert again.last_refresh_at_ms == rotated.last_refresh_at_ms
    assert again.expires_at_ms == rotated.expires_at_ms
    assert await gateway.sealed() == 2
    assert issuer.accepts(await gateway.value())


async def test_an_expiry_that_the_client_knows(gateway, clock):
    await provider(gateway)
    ends = clock() + HOUR_MS
    status = await gateway.configure(expires_at_ms=ends)
    assert (status.expires_at_ms, status.next_refresh_at_ms) == (ends, ends - 300_000)
    assert (await gateway.record()).credential_expires_at_ms == {"TOKEN": ends}
    status = await gateway.configure()
    assert status.expires_at_ms == ends, "absent keeps it"
    status = await gateway.configure(expires_at_ms=0)
    assert (status.expires_at_ms, status.next_refresh_at_ms) == (0, 0)
    assert not (await gateway.record()).credential_expires_at_ms


async def test_the_state_holds_no_secret_and_pins_the_endpoint(gateway, issuer):
    await provider(gateway)
    await gateway.configure(
        material={"client_id": "agent", "client_secret": CLIENT_SECRET, "hint": "unknown"}
    )
    state = await gateway.state()
    assert dict(state.material) == {"client_id": "agent"}
    assert set(state.secret_material_handles) == {"client_secret", "hint"}
    await gateway.profile(graph("https://elsewhere.example/token"))
    await gateway.rotate()
    assert issuer.paths == ["/token"]


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        pytest.param({"provider": "absent"}, Code.NOT_FOUND, id="no provider"),
        pytest.param({"workspace": "absent"}, Code.NOT_FOUND, id="no workspace"),
        pytest.param({"material": {"client_secret": "x"}}, Code.INVALID_ARGUMENT, id="required"),
        pytest.param({"key": "not a key"}, Code.INVALID_ARGUMENT, id="key"),
        pytest.param({"expires_at_ms": -1}, Code.INVALID_ARGUMENT, id="expiry"),
        pytest.param({"strategy": 99}, Code.INVALID_ARGUMENT, id="unknown strategy"),
        pytest.param(
            {"strategy": Strategy.AWS_STS_ASSUME_ROLE, "key": "AWS_ACCESS_KEY_ID"},
            Code.FAILED_PRECONDITION,
            id="role without the setting",
        ),
    ],
)
async def test_a_refused_configuration_leaves_nothing(gateway, fields, code):
    await provider(gateway)
    assert (await refused(gateway.configure(**fields))).code is code
    assert await gateway.sealed() == 0
    assert await gateway.statuses() == []
    assert await gateway.configure()


async def test_a_key_that_another_attached_provider_has(gateway):
    await provider(gateway)
    await gateway.provider("other", credentials={"TAKEN": "x"})
    await gateway.sandbox(providers=["work", "other"])
    error = await refused(gateway.configure("TAKEN", material={"refresh_before_seconds": "x"}))
    assert error.code is Code.FAILED_PRECONDITION, "told before what else is wrong"
    assert "box" in error.message
    assert "TAKEN" in error.message
    assert await gateway.sealed() == 1
    assert await gateway.statuses() == []
    assert await gateway.configure("FREE")


async def test_what_was_wrong_before_keeps_nothing_from_being_renewed(gateway):
    await provider(gateway)
    await gateway.provider("gone")
    box = await gateway.sandbox(providers=["work", "gone"])

    def lose(tx):
        row = tx.get(Kind.PROVIDER, "default", "gone")
        tx.delete(Kind.PROVIDER, row.id)

    await gateway.store.write(lose)
    error = await refused(gateway.environment(box))
    assert "gone" in error.message, "the sandbox has a fault"
    await gateway.configure()
    assert (await gateway.rotate()).status == "refreshed"


async def test_an_owned_key_is_written_by_refresh_alone(gateway):
    await provider(gateway)
    await gateway.configure()
    await gateway.rotate()
    request = update()
    request.provider.credentials["TOKEN"] = "by hand"
    assert (await refused(gateway.UpdateProvider(request))).code is Code.FAILED_PRECONDITION
    assert await gateway.forget()
    await gateway.UpdateProvider(request)
    assert await gateway.value() == "by hand"


async def test_deleting_clears_its_own_expiry(gateway):
    await provider(gateway)
    await gateway.configure()
    await gateway.rotate()
    assert (await gateway.record()).credential_expires_at_ms
    assert await gateway.forget()
    assert not (await gateway.record()).credential_expires_at_ms
    assert await gateway.statuses() == []
    assert await gateway.sealed() == 1, "the token stays, the client's secret does not"
    assert not await gateway.forget()
    assert (await refused(gateway.rotate())).code is Code.NOT_FOUND


async def test_deleting_preserves_an_expiry_that_somebody_set_since(gateway, clock):
    await provider(gateway)
    await gateway.configure()
    await gateway.rotate()
    ends = clock() + 60_000
    await gateway.UpdateProvider(update(credential_expires_at_ms={"TOKEN": ends}))
    assert await gateway.forget()
    assert (await gateway.record()).credential_expires_at_ms == {"TOKEN": ends}


async def test_a_deleted_provider_takes_its_refresh_along(gateway):
    await provider(gateway)
    await gateway.configure()
    await gateway.rotate()
    request = openshell_pb2.DeleteProviderRequest(name="work")
    assert (await gateway.DeleteProvider(request)).deleted
    assert await gateway.sealed() == 0
    assert not await gateway.store.read(lambda tx: tx.all(Kind.REFRESH_STATE))


async def test_a_rotated_refresh_token_is_stored(gateway, issuer):
    await provider(gateway)
    await gateway.configure_grant(issuer.authorise("agent"))
    for _ in range(3):
        assert (await gateway.rotate()).status == "refreshed"
        assert issuer.accepts(await gateway.value())
    sent = [request["refresh_token"] for request in issuer.requests]
    assert len(set(sent)) == 3
    assert await gateway.sealed() == 3


@pytest.mark.parametrize(
    ("path", "material", "code", "words"),
    [
        pytest.param(
            "/token", {"client_secret": "wrong"}, Code.FAILED_PRECONDITION, "HTTP 400", id="secret"
        ),
        pytest.param(
            "/redirect", {}, Code.FAILED_PRECONDITION, "redirects are not followed", id="redirect"
        ),
        pytest.param(
            "/token", {"client_secret": ""}, Code.INVALID_ARGUMENT, "client_secret", id="missing"
        ),
    ],
)
async def test_a_failure_is_told_and_kept(gateway, issuer, clock, path, material, code, words):
    await gateway.profile(graph(issuer.at(path)))
    await provider(gateway)
    await gateway.configure(
        material={"client_id": "agent", "client_secret": CLIENT_SECRET, **material}
    )
    error = await refused(gateway.rotate())
    assert error.code is code
    assert words in error.message
    (status,) = await gateway.statuses()
    assert (status.status, status.last_error) == ("error", error.message)
    assert clock() + 59_000 < status.next_refresh_at_ms <= clock() + 60_000
    assert await gateway.value() is None


async def test_lost_secret_material_is_told(gateway):
    await provider(gateway)
    await gateway.configure()

    def lose(tx):
        for row in tx.all(Kind.CREDENTIAL):
            tx.delete(Kind.CREDENTIAL, row.id)

    await gateway.store.write(lose)
    error = await refused(gateway.rotate())
    assert error.code is Code.FAILED_PRECONDITION
    assert "configure the refresh again" in error.message
    assert await gateway.configure()
    assert (await gateway.rotate()).status == "refreshed"


async def test_a_full_provider_keeps_the_new_refresh_token(gateway, issuer):
    """The mint cannot be stored, but the grant must not be lost with it."""
    full = {f"K{n}": "x" for n in range(32)}
    await gateway.provider(credentials=full, kind="graph")
    await gateway.configure_grant(issuer.authorise("agent"))
    error = await refused(gateway.rotate())
    assert error.code is Code.FAILED_PRECONDITION
    assert "32" in error.message
    assert await gateway.value() is None
    request = update()
    request.provider.credentials["K0"] = ""
    await gateway.UpdateProvider(request)
    assert (await gateway.rotate()).status == "refreshed"
    assert issuer.accepts(await gateway.value())


async def test_no_secret_rests_or_is_logged(gateway, issuer, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    await provider(gateway)
    refresh_token = issuer.authorise("agent")
    await gateway.configure_grant(refresh_token)
    await gateway.rotate()
    await gateway.worker.sweep()
    secrets = {CLIENT_SECRET, refresh_token, await gateway.value()}
    secrets |= {token.refresh_token for token in issuer.tokens}
    with sqlite3.connect(tmp_path / "openshell.db") as database:
        everything = "\n".join(database.iterdump()).encode()
    raw = (tmp_path / "openshell.db").read_bytes() + (tmp_path / "openshell.db-wal").read_bytes()
    assert b"graph".hex().encode() in everything.lower(), "the probe sees payloads"
    assert b"graph" in raw
    # authlib's own lines are those of the issuer, which is in this process.
    logged = str([r.getMessage() for r in caplog.records if not r.name.startswith("authlib")])
    assert "watched" in logged
    for secret in secrets:
        assert secret
        assert secret.encode().hex().encode() not in everything.lower()
        assert secret.encode() not in everything
        assert secret.encode() not in raw
        assert secret not in logged


async def test_the_worker_renews_what_is_due(gateway, issuer, clock):
    await provider(gateway)
    await gateway.configure()
    await gateway.worker.sweep()
    first = await gateway.value()
    assert issuer.accepts(first)
    await gateway.worker.sweep()
    assert await gateway.value() == first
    clock.advance(3600 - 301)
    await gateway.worker.sweep()
    assert await gateway.value() == first
    clock.advance(2)
    await gateway.worker.sweep()
    assert await gateway.value() != first


async def test_the_worker_tries_again_after_a_minute_and_no_sooner(gateway, issuer, clock):
    await provider(gateway)
    await gateway.provider("good", credentials={}, kind="graph")
    await gateway.configure(material={"client_id": "agent", "client_secret": "wrong"})
    await gateway.configure(provider="good")
    await gateway.worker.sweep()
    (status,) = await gateway.statuses()
    assert status.status == "error"
    assert (await gateway.statuses(provider="good"))[0].status == "refreshed"
    asked = len(issuer.requests)
    clock.advance(55)
    await gateway.worker.sweep()
    assert len(issuer.requests) == asked
    issuer.clients["agent"].secret = "wrong"
    clock.advance(6)
    await gateway.worker.sweep()
    assert len(issuer.requests) == asked + 1
    (status,) = await gateway.statuses()
    assert (status.status, status.last_error) == ("refreshed", "")


async def test_the_worker_sweeps_at_once_and_then_every_minute(gateway, issuer):
    class Enough(Exception):
        pass

    slept = []

    async def sleep(seconds):
        slept.append((seconds, len(issuer.tokens)))
        if len(slept) == 3:
            raise Enough

    await provider(gateway)
    await gateway.configure()
    with pytest.raises(Enough):
        await RefreshWorker(gateway.store, gateway.renewals, sleep=sleep).run()
    assert slept == [(60.0, 1)] * 3


async def test_a_requested_rotation_is_honoured(gateway, issuer):
    await provider(gateway)
    await gateway.configure()
    await gateway.rotate()

    def request(tx):
        (row,) = tx.all(Kind.REFRESH_STATE)
        state = load(row, State)
        state.status = "rotation_requested"
        return put_state(tx, state, row)

    before = await gateway.value()
    await gateway.store.write(request)
    await gateway.worker.sweep()
    assert await gateway.value() != before
    assert (await gateway.statuses())[0].status == "refreshed"


async def test_a_damaged_state_stops_no_other(gateway, issuer, caplog):
    await provider(gateway)
    await gateway.configure()
    await gateway.provider("good", credentials={}, kind="graph")
    await gateway.configure(provider="good")

    def damage(tx):
        row = next(r for r in tx.all(Kind.REFRESH_STATE) if load(r, State).provider_name == "work")
        tx.put(
            NewRow(row.id, row.kind, b"\xff\xff", row.workspace, row.name, row.scope),
            MatchResourceVersion(row.resource_version),
        )

    await gateway.store.write(damage)
    await gateway.worker.sweep()
    assert "damaged" in caplog.text
    assert issuer.accepts(await gateway.value(provider="good"))
    # It is shown, and can be replaced or removed.
    (shown,) = await gateway.statuses()
    assert (shown.status, shown.credential_key) == ("damaged", "TOKEN")
    assert (await gateway.configure()).status == "configured"
    assert (await gateway.rotate()).status == "refreshed"
    await gateway.store.write(damage)
    assert await gateway.forget()
    assert await gateway.statuses() == []
    await gateway.configure()
    await gateway.store.write(damage)
    request = openshell_pb2.DeleteProviderRequest(name="work")
    assert (await gateway.DeleteProvider(request)).deleted
    assert len(await gateway.store.read(lambda tx: tx.all(Kind.REFRESH_STATE))) == 1


async def test_the_worker_outlives_a_store_that_cannot_be_read(gateway, issuer, monkeypatch):
    slept = asyncio.Event()

    async def sleep(_seconds):
        slept.set()
        await asyncio.sleep(0)

    async def unreadable(_fn):
        raise StoreUnavailable("the database is locked")

    await provider(gateway)
    await gateway.configure()
    with monkeypatch.context() as broken:
        broken.setattr(gateway.store, "read", unreadable)
        running = asyncio.create_task(
            RefreshWorker(gateway.store, gateway.renewals, sleep=sleep).run()
        )
        await slept.wait()
        assert not running.done()
    async with asyncio.timeout(10):
        while not issuer.tokens:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
