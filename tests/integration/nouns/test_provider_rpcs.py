"""Providers over the real store: records, secrets at rest, attachments, and two gateways racing."""

import asyncio
import sqlite3

import pytest

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.errors import ApiError, Code, error_to_status
from openshell.gateway.events import CONFIG
from openshell.gateway.records import Kind
from openshell.gateway.services.provider_records import REDACTED
from support.policies import BOUND, OPEN

SECRET = "s3cr3t-value-that-must-not-rest"


def code_of(error):
    status = error_to_status(error)
    assert status is not None, repr(error)
    return status[0]


async def refused(call):
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


def update(name="work", **fields):
    version = fields.pop("version", 0)
    overrides = fields.pop("overrides", {})
    message = datamodel_pb2.Provider(
        metadata=datamodel_pb2.ObjectMeta(name=name, resource_version=version), **fields
    )
    return openshell_pb2.UpdateProviderRequest(provider=message, credential_expires_at_ms=overrides)


def get(name="work"):
    return openshell_pb2.GetProviderRequest(name=name)


def delete(name="work"):
    return openshell_pb2.DeleteProviderRequest(name=name)


def handles(row):
    return dict(datamodel_pb2.Provider.FromString(row.payload).credential_handles)


async def credential_rows(gateway):
    return await gateway.store.read(lambda tx: tx.all(Kind.CREDENTIAL))


async def test_a_provider_comes_back_without_its_secret(gateway):
    created = await gateway.provider(credentials={"API_KEY": SECRET}, config={"region": "eu"})
    got = (await gateway.GetProvider(get())).provider
    listed = await gateway.ListProviders(openshell_pb2.ListProvidersRequest())
    for answer in (created, got, listed.providers[0]):
        assert dict(answer.credentials) == {"API_KEY": REDACTED}
        assert not answer.credential_handles
        assert dict(answer.config) == {"region": "eu"}
        assert answer.metadata.resource_version == 1
        assert answer.metadata.id
        assert answer.metadata.workspace == "default"


async def test_the_secret_is_nowhere_in_the_database(gateway, tmp_path):
    await gateway.provider(credentials={"API_KEY": SECRET}, config={"seen": "config-in-clear"})
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    assert (await gateway.environment(box)).environment["API_KEY"] == SECRET
    with sqlite3.connect(tmp_path / "openshell.db") as database:
        everything = "\n".join(database.iterdump()).encode()
    assert b"config-in-clear".hex().encode() in everything.lower(), "the probe sees payloads"
    assert SECRET.encode().hex().encode() not in everything.lower()
    assert SECRET.encode() not in everything


async def test_an_empty_name_is_generated(gateway):
    created = await gateway.provider(name="")
    assert len(created.metadata.name) == 6
    assert created.metadata.name.isalpha()


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        pytest.param(
            openshell_pb2.CreateProviderRequest(), Code.INVALID_ARGUMENT, id="no provider"
        ),
        pytest.param(
            openshell_pb2.CreateProviderRequest(
                workspace="absent",
                provider=datamodel_pb2.Provider(type="x", credentials={"A": "x"}),
            ),
            Code.NOT_FOUND,
            id="unknown workspace",
        ),
        pytest.param(
            openshell_pb2.CreateProviderRequest(
                provider=datamodel_pb2.Provider(
                    type="x",
                    credentials={"A": SECRET},
                    credential_handles={"A": datamodel_pb2.CredentialHandle(handle="v1:x")},
                )
            ),
            Code.INVALID_ARGUMENT,
            id="handles",
        ),
        pytest.param(
            openshell_pb2.CreateProviderRequest(
                provider=datamodel_pb2.Provider(
                    metadata=datamodel_pb2.ObjectMeta(labels={"bad key": "x"}),
                    type="x",
                    credentials={"A": SECRET},
                )
            ),
            Code.INVALID_ARGUMENT,
            id="label",
        ),
    ],
)
async def test_a_create_is_refused_and_leaves_nothing(gateway, request_, code):
    error = await refused(gateway.CreateProvider(request_))
    assert error.code is code
    assert SECRET not in error.message
    assert not await credential_rows(gateway)


async def test_a_name_is_taken_once(gateway):
    await gateway.provider()
    assert (await refused(gateway.provider())).code is Code.ALREADY_EXISTS
    assert len(await credential_rows(gateway)) == 1


async def test_an_update_merges_and_drops_old_secrets(gateway):
    await gateway.provider(credentials={"A": "a1", "B": "b1"}, expires={"A": 5})
    answer = await gateway.UpdateProvider(
        update(
            credentials={"A": "a2", "B": "", "C": "c1"},
            config={"x": "1"},
            overrides={"A": 0, "C": 9},
        )
    )
    assert sorted(answer.provider.credentials) == ["A", "C"]
    assert dict(answer.provider.credential_expires_at_ms) == {"C": 9}
    assert answer.provider.metadata.resource_version == 2
    assert len(await credential_rows(gateway)) == 2


async def test_a_stale_update_changes_no_secret(gateway, clock):
    await gateway.provider(credentials={"API_KEY": SECRET})
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    await gateway.UpdateProvider(update(config={"x": "1"}))
    error = await refused(
        gateway.UpdateProvider(update(credentials={"API_KEY": "other"}, version=1))
    )
    assert error.code is Code.ABORTED
    assert "2" in error.message
    assert (await gateway.environment(box)).environment["API_KEY"] == SECRET
    assert len(await credential_rows(gateway)) == 1


async def test_deleting(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"])
    error = await refused(gateway.DeleteProvider(delete()))
    assert error.code is Code.FAILED_PRECONDITION
    assert "box" in error.message
    await gateway.detach(box, "work")
    assert (await gateway.DeleteProvider(delete())).deleted
    assert not (await gateway.DeleteProvider(delete())).deleted
    assert not await credential_rows(gateway)
    assert (await refused(gateway.GetProvider(get()))).code is Code.NOT_FOUND


async def test_attach_and_detach_are_repeatable_and_told(gateway):
    await gateway.provider()
    box = await gateway.sandbox()
    first = await gateway.attach(box, "work")
    assert first.attached
    assert list(first.sandbox.spec.providers) == ["work"]
    again = await gateway.attach(box, "work")
    assert not again.attached
    assert again.sandbox.metadata.resource_version == first.sandbox.metadata.resource_version
    listed = await gateway.ListSandboxProviders(
        openshell_pb2.ListSandboxProvidersRequest(sandbox_name="box")
    )
    assert dict(listed.providers[0].credentials) == {"API_KEY": REDACTED}
    assert (await gateway.detach(box, "work")).detached
    assert not (await gateway.detach(box, "never-there")).detached
    assert gateway.changes == [(box.metadata.id, "providers")] * 2


@pytest.mark.parametrize(
    ("provider", "expected", "phase", "code"),
    [
        pytest.param("", 0, None, Code.INVALID_ARGUMENT, id="no name"),
        pytest.param("x" * 254, 0, None, Code.INVALID_ARGUMENT, id="long name"),
        pytest.param("absent", 0, None, Code.FAILED_PRECONDITION, id="absent"),
        pytest.param("work", 99, None, Code.ABORTED, id="stale"),
        pytest.param(
            "work", 0, openshell_pb2.SANDBOX_PHASE_DELETING, Code.FAILED_PRECONDITION, id="deleting"
        ),
    ],
)
async def test_an_attach_is_refused(gateway, provider, expected, phase, code):
    await gateway.provider()
    box = await gateway.sandbox(phase=phase)
    assert (await refused(gateway.attach(box, provider, expected))).code is code
    assert not (await gateway.reload(box)).spec.providers
    assert not gateway.changes


async def test_an_attach_looks_for_the_provider_before_the_sandbox(gateway):
    request = openshell_pb2.AttachSandboxProviderRequest(sandbox_name="no", provider_name="work")
    assert (await refused(gateway.AttachSandboxProvider(request))).code is Code.FAILED_PRECONDITION
    await gateway.provider()
    assert (await refused(gateway.AttachSandboxProvider(request))).code is Code.NOT_FOUND


async def test_one_key_has_one_owner_on_attach_create_and_update(gateway):
    await gateway.provider("a", {"K": "1"})
    await gateway.provider("b", {"K": "2"})
    await gateway.provider("c", {"OTHER": "3"})
    box = await gateway.sandbox(providers=["a", "c"])
    assert (await refused(gateway.attach(box, "b"))).code is Code.FAILED_PRECONDITION
    error = await refused(gateway.sandbox("two", providers=["a", "b"]))
    assert "'K'" in error.message
    error = await refused(gateway.UpdateProvider(update("c", credentials={"K": "4"})))
    assert error.code is Code.FAILED_PRECONDITION
    assert "sandbox 'box'" in error.message
    assert sorted((await gateway.GetProvider(get("c"))).provider.credentials) == ["OTHER"]
    assert len(await credential_rows(gateway)) == 3


async def test_an_update_tells_the_sandboxes_that_use_it(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"])
    await gateway.sandbox("other")
    await gateway.UpdateProvider(update(credentials={"API_KEY": "new"}))
    assert gateway.changes == [(box.metadata.id, "providers")]


async def test_at_most_32_providers(gateway):
    for number in range(33):
        await gateway.provider(f"p{number}", {f"K{number}": "x"})
    box = await gateway.sandbox(providers=[f"p{number}" for number in range(32)])
    assert (await refused(gateway.attach(box, "p32"))).code is Code.INVALID_ARGUMENT


async def test_a_bound_provider_cannot_be_detached(gateway):
    await gateway.provider()
    box = await gateway.sandbox(providers=["work"], policy=BOUND)
    error = await refused(gateway.detach(box, "work"))
    assert error.code is Code.FAILED_PRECONDITION
    assert "not attached" in error.message
    await gateway.set_policy(box, OPEN)
    assert (await gateway.detach(box, "work")).detached


ROUNDS = 12


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_racing_attach_and_delete_leave_no_dangling_name(gateways, race, round_):
    one, two = gateways
    await one.provider()
    box = await one.sandbox()
    calls = [one.attach(box, "work"), two.DeleteProvider(delete())]
    await race(*(calls if round_ % 2 else reversed(calls)))
    attached = list((await one.reload(box)).spec.providers)
    exists = await one.store.read(lambda tx: tx.get(Kind.PROVIDER, "default", "work"))
    assert (attached == ["work"]) == (exists is not None)
    assert len(await credential_rows(one)) == (1 if exists else 0)


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_racing_attaches_of_one_key_have_one_winner(gateways, race, round_):
    one, two = gateways
    await one.provider("a", {"K": "1"})
    await one.provider("b", {"K": "2"})
    box = await one.sandbox()
    results = await race(one.attach(box, "a"), two.attach(box, "b"))
    losers = [result for result in results if isinstance(result, Exception)]
    assert [code_of(loser) for loser in losers] == [Code.FAILED_PRECONDITION]
    assert len((await two.reload(box)).spec.providers) == 1


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_an_update_racing_an_attach_cannot_make_two_owners(gateways, race, round_):
    one, two = gateways
    await one.provider("a", {"K": "1"})
    await one.provider("b", {"OTHER": "2"})
    box = await one.sandbox(providers=["a"])
    calls = [two.UpdateProvider(update("b", credentials={"K": "3"})), one.attach(box, "b")]
    results = await race(*(calls if round_ % 2 else reversed(calls)))
    losers = [result for result in results if isinstance(result, Exception)]
    assert [code_of(loser) for loser in losers] == [Code.FAILED_PRECONDITION]


async def test_racing_creates_of_one_name_have_one_winner_and_no_orphan(gateways, race):
    results = await race(*(gateway.provider() for gateway in gateways * 4))
    losers = [result for result in results if isinstance(result, Exception)]
    assert [code_of(loser) for loser in losers] == [Code.ALREADY_EXISTS] * 7
    assert len(await credential_rows(gateways[0])) == 1


async def test_racing_updates_of_one_version_have_one_winner_and_no_orphan(gateways, race):
    await gateways[0].provider(credentials={"API_KEY": "old"})
    box = await gateways[0].sandbox(providers=["work"], policy=BOUND)
    results = await race(
        *(
            gateway.UpdateProvider(update(credentials={"API_KEY": f"new-{n}"}, version=1))
            for n, gateway in enumerate(gateways * 3)
        )
    )
    winners = [n for n, result in enumerate(results) if not isinstance(result, Exception)]
    losers = [result for result in results if isinstance(result, Exception)]
    assert {code_of(loser) for loser in losers} == {Code.ABORTED}
    (winner,) = winners
    assert (await gateways[1].environment(box)).environment["API_KEY"] == f"new-{winner}"
    assert len(await credential_rows(gateways[0])) == 1


async def test_unconditional_updates_all_happen(gateways):
    await gateways[0].provider(credentials={"API_KEY": "old"})
    await asyncio.gather(
        *(
            gateway.UpdateProvider(update(credentials={f"K{n}": "x"}))
            for n, gateway in enumerate(gateways * 5)
        )
    )
    answer = await gateways[0].GetProvider(get())
    assert len(answer.provider.credentials) == 11
    assert answer.provider.metadata.resource_version == 11
    assert len(await credential_rows(gateways[0])) == 11


@pytest.mark.parametrize("round_", range(ROUNDS))
async def test_a_create_racing_a_delete_never_attaches_nobody(gateways, race, round_):
    one, two = gateways
    await one.provider()
    calls = [one.sandbox(providers=["work"]), two.DeleteProvider(delete())]
    results = await race(*(calls if round_ % 2 else reversed(calls)))
    losers = [result for result in results if isinstance(result, Exception)]
    assert [code_of(loser) for loser in losers] == [Code.FAILED_PRECONDITION]


async def test_a_caller_that_hangs_up_does_not_keep_the_news_from_the_sandbox(gateway):
    await gateway.provider()
    box = await gateway.sandbox()
    told = asyncio.Event()
    gateway.bus.listen(CONFIG, lambda _key, _reason: told.set())
    calling = asyncio.create_task(gateway.attach(box, "work"))
    await asyncio.sleep(0)
    calling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await calling
    async with asyncio.timeout(10):
        await told.wait()
    assert list((await gateway.reload(box)).spec.providers) == ["work"]
