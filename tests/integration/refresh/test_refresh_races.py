"""Two gateways, one grant: who wins, who is told what, and that nothing is lost or comes back."""

import asyncio
import threading

import pytest

from integration.refresh.conftest import Refreshing
from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.credentials import DatabaseCredentialStore
from openshell.gateway.errors import ApiError, Code
from openshell.gateway.records import Kind, load
from openshell.gateway.refresh.minting import Minter
from openshell.gateway.refresh.renewal import CLAIM_MS
from openshell.gateway.refresh.states import State
from openshell.gateway.store.model import StoreUnavailable
from openshell.providers.profile.model import Strategy
from openshell.providers.refresh_answers import Minted


def outcome(results):
    """The one that succeeded and the codes of the rest."""
    errors = [result for result in results if isinstance(result, BaseException)]
    assert all(isinstance(error, ApiError) for error in errors), errors
    winners = [result for result in results if not isinstance(result, BaseException)]
    return winners, [error.code for error in errors]


async def grant(gateway, issuer):
    await gateway.provider(credentials={}, kind="graph")
    await gateway.configure_grant(issuer.authorise("agent"))


class Held:
    """An issuer that has decided and does not answer yet."""

    def __init__(self, issuer):
        self._issuer = issuer
        issuer.hold = threading.Event()
        issuer.arrived.clear()

    async def until_asked(self):
        assert await asyncio.to_thread(self._issuer.arrived.wait, 10)
        self._issuer.arrived.clear()

    def release(self):
        self._issuer.hold.set()
        self._issuer.hold = None


async def start_rotation(gateway, issuer):
    held = Held(issuer)
    rotating = asyncio.create_task(gateway.rotate())
    await held.until_asked()
    return held, rotating


async def test_two_first_configurations_leave_one_and_no_orphan(gateways, monkeypatch):
    """Both have sealed their secrets before either writes."""
    one, two = gateways
    await one.provider(credentials={}, kind="graph")
    both = asyncio.Barrier(2)
    prepare = DatabaseCredentialStore.prepare

    async def together(store, provider_id, values):
        prepared = await prepare(store, provider_id, values)
        await both.wait()
        return prepared

    monkeypatch.setattr(DatabaseCredentialStore, "prepare", together)
    results = await asyncio.gather(one.configure(), two.configure(), return_exceptions=True)
    monkeypatch.undo()
    winners, codes = outcome(results)
    assert codes == [Code.ABORTED]
    assert await one.statuses() == winners
    assert await one.sealed() == 1
    assert (await two.rotate()).status == "refreshed"


async def test_two_reconfigurations_have_one_winner(gateways, monkeypatch):
    one, two = gateways
    await one.provider(credentials={}, kind="graph")
    await one.configure()
    epoch = (await one.state()).authorization_epoch
    both = asyncio.Barrier(2)
    prepare = DatabaseCredentialStore.prepare

    async def together(store, provider_id, values):
        await both.wait()
        return await prepare(store, provider_id, values)

    monkeypatch.setattr(DatabaseCredentialStore, "prepare", together)
    results = await asyncio.gather(one.configure(), two.configure(), return_exceptions=True)
    monkeypatch.undo()
    winners, codes = outcome(results)
    assert (len(winners), codes) == (1, [Code.ABORTED])
    assert (await one.state()).authorization_epoch != epoch
    assert await one.sealed() == 1


async def test_two_providers_cannot_claim_one_key_of_a_sandbox(gateways, monkeypatch):
    one, two = gateways
    for name in ("first", "second"):
        await one.provider(name, credentials={}, kind="graph")
    await one.sandbox(providers=["first", "second"])
    both = asyncio.Barrier(2)
    prepare = DatabaseCredentialStore.prepare

    async def together(store, provider_id, values):
        await both.wait()
        return await prepare(store, provider_id, values)

    monkeypatch.setattr(DatabaseCredentialStore, "prepare", together)
    results = await asyncio.gather(
        one.configure(provider="first"), two.configure(provider="second"), return_exceptions=True
    )
    monkeypatch.undo()
    winners, codes = outcome(results)
    assert (len(winners), codes) == (1, [Code.FAILED_PRECONDITION])
    assert await one.sealed() == 1


async def test_an_attachment_and_a_configuration_cannot_both_take_a_key(gateways):
    one, two = gateways
    await one.provider(credentials={}, kind="graph")
    await one.provider("other", credentials={"TOKEN": "x"})
    box = await one.sandbox(providers=["work"])
    results = await asyncio.gather(
        one.configure(), two.attach(box, "other"), return_exceptions=True
    )
    winners, codes = outcome(results)
    assert (len(winners), codes) == (1, [Code.FAILED_PRECONDITION])


async def test_a_deletion_during_a_rotation_brings_nothing_back(gateways, issuer):
    one, two = gateways
    await grant(one, issuer)
    version = (await one.record()).metadata.resource_version
    held, rotating = await start_rotation(one, issuer)
    assert await two.forget()
    held.release()
    with pytest.raises(ApiError) as caught:
        await rotating
    assert caught.value.code is Code.ABORTED
    assert await one.statuses() == []
    assert await one.value() is None
    assert (await one.record()).metadata.resource_version == version
    assert await one.sealed() == 0


async def test_a_configuration_during_a_rotation_stands(gateways, issuer):
    one, two = gateways
    await grant(one, issuer)
    held, rotating = await start_rotation(one, issuer)
    await two.configure_grant(issuer.authorise("agent"))
    epoch = (await two.state()).authorization_epoch
    held.release()
    with pytest.raises(ApiError) as caught:
        await rotating
    assert caught.value.code is Code.ABORTED
    assert (await two.state()).authorization_epoch == epoch
    assert (await two.statuses())[0].status == "configured"
    assert await two.value() is None
    assert (await two.rotate()).status == "refreshed"
    assert await two.sealed() == 3


async def test_a_provider_deleted_during_a_rotation_stays_deleted(gateways, issuer):
    one, two = gateways
    await grant(one, issuer)
    held, rotating = await start_rotation(one, issuer)
    await two.DeleteProvider(openshell_pb2.DeleteProviderRequest(name="work"))
    held.release()
    with pytest.raises(ApiError) as caught:
        await rotating
    assert caught.value.code is Code.ABORTED
    assert not await two.store.read(lambda tx: tx.all(Kind.PROVIDER))
    assert not await two.store.read(lambda tx: tx.all(Kind.REFRESH_STATE))
    assert await two.sealed() == 0


async def test_an_update_of_the_provider_during_a_rotation_is_kept(gateways, issuer):
    one, two = gateways
    await grant(one, issuer)
    held, rotating = await start_rotation(one, issuer)
    message = datamodel_pb2.Provider(
        metadata=datamodel_pb2.ObjectMeta(name="work"), config={"region": "eu"}
    )
    await two.UpdateProvider(openshell_pb2.UpdateProviderRequest(provider=message))
    held.release()
    assert (await rotating).status == "refreshed"
    assert dict((await one.record()).config) == {"region": "eu"}
    assert issuer.accepts(await one.value())


async def test_a_refresh_token_is_never_sent_twice_at_once(gateways, issuer):
    one, two = gateways
    await grant(one, issuer)
    held, rotating = await start_rotation(one, issuer)
    with pytest.raises(ApiError) as caught:
        await two.rotate()
    assert caught.value.code is Code.ABORTED
    assert "right now" in caught.value.message
    await two.worker.sweep()
    held.release()
    assert (await rotating).status == "refreshed"
    assert len(issuer.requests) == 1
    assert issuer.accepts(await two.value())


async def test_what_is_due_is_minted_once_by_all_gateways(gateways, issuer):
    one, two = gateways
    for number in range(5):
        await one.provider(f"p{number}", credentials={}, kind="graph")
        await one.configure(provider=f"p{number}")
    await asyncio.gather(one.worker.sweep(), two.worker.sweep())
    for number in range(5):
        (status,) = await one.statuses(provider=f"p{number}")
        assert status.status == "refreshed"
    assert len(issuer.requests) == 5


async def test_the_claim_of_a_gateway_that_died_ends(gateways, issuer, clock):
    one, two = gateways
    await grant(one, issuer)

    def claim(tx):
        (row,) = tx.all(Kind.REFRESH_STATE)
        return one.renewals._claim(tx, row)

    await one.store.write(claim)
    await two.worker.sweep()
    assert not issuer.requests
    clock.advance(CLAIM_MS / 1000 + 1)
    await two.worker.sweep()
    assert issuer.accepts(await two.value())


async def test_a_caller_that_hangs_up_loses_no_refresh_token(gateway, issuer):
    await grant(gateway, issuer)
    held, rotating = await start_rotation(gateway, issuer)
    rotating.cancel()
    with pytest.raises(asyncio.CancelledError):
        await rotating
    held.release()
    async with asyncio.timeout(10):
        while (await gateway.statuses())[0].status != "refreshed":
            await asyncio.sleep(0.01)
    assert (await gateway.rotate()).status == "refreshed"


async def test_a_gateway_that_ends_waits_for_a_refresh_token(gateway, issuer):
    await grant(gateway, issuer)
    held, rotating = await start_rotation(gateway, issuer)
    closing = asyncio.create_task(gateway.tasks.close())
    await asyncio.sleep(0.05)
    assert not closing.done()
    held.release()
    await closing
    with pytest.raises(asyncio.CancelledError):
        await rotating
    assert (await gateway.statuses())[0].status == "refreshed"
    assert (await gateway.rotate()).status == "refreshed"


async def test_a_gateway_that_ends_waits_for_nothing_else(gateway, issuer):
    await gateway.provider(credentials={}, kind="graph")
    await gateway.configure()
    held, rotating = await start_rotation(gateway, issuer)
    async with asyncio.timeout(3):
        await gateway.tasks.close()
    with pytest.raises(asyncio.CancelledError):
        await rotating
    held.release()


class FailingStore:
    """Answers writes with an error while told to."""

    def __init__(self, store):
        self._store = store
        self.fails = 0

    async def write(self, fn):
        if self.fails:
            self.fails -= 1
            raise StoreUnavailable("the disk that holds the gateway's database is full")
        return await self._store.write(fn)

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.fixture
def failing(gateway, clock):
    return Refreshing(FailingStore(gateway.store), clock)


async def rotate_with_failures(failing, issuer, fails):
    held, rotating = await start_rotation(failing, issuer)
    failing.store.fails = fails
    held.release()
    with pytest.raises(ApiError) as caught:
        await rotating
    return caught.value


async def test_a_refresh_token_outlives_one_failed_write(failing, issuer):
    await grant(failing, issuer)
    error = await rotate_with_failures(failing, issuer, 1)
    assert "disk" in error.message
    (status,) = await failing.statuses()
    assert status.status == "error"
    assert (await failing.rotate()).status == "refreshed"
    assert issuer.accepts(await failing.value())


async def test_a_lost_refresh_token_is_told(failing, issuer, caplog):
    await grant(failing, issuer)
    error = await rotate_with_failures(failing, issuer, 2)
    assert error.code is Code.FAILED_PRECONDITION
    assert "authorise the account again" in error.message
    assert "authorise the account again" in caplog.text
    assert await failing.value() is None
    assert await failing.sealed() == 2


async def test_a_bug_is_kept_as_an_error_without_its_words(gateway, issuer, caplog):
    class Broken(Minter):
        async def mint(self, key, inputs, now_ms):
            raise KeyError(inputs.material["client_secret"])

    await grant(gateway, issuer)
    secret = issuer.clients["agent"].secret
    gateway.use(Broken())
    with pytest.raises(ApiError) as caught:
        await gateway.rotate()
    assert caught.value.code is Code.INTERNAL
    (status,) = await gateway.statuses()
    assert status.status == "error"
    assert "KeyError" in caplog.text
    ours = str([r.getMessage() for r in caplog.records if not r.name.startswith("authlib")])
    assert secret not in ours + status.last_error + caught.value.message


class Fixed(Minter):
    """Gives what it is told to."""

    def __init__(self, *, ends):
        super().__init__()
        self.ends = ends

    async def mint(self, key, inputs, now_ms):
        return Minted({key: "fixed"}, self.ends)


async def test_a_value_without_an_end_clears_the_providers(gateway, clock):
    await gateway.provider(credentials={}, kind="graph")
    await gateway.configure(expires_at_ms=clock() + 60_000)
    gateway.use(Fixed(ends=0))
    status = await gateway.rotate()
    assert (status.expires_at_ms, status.next_refresh_at_ms) == (0, 0)
    assert not (await gateway.record()).credential_expires_at_ms


async def test_a_rule_broken_meanwhile_refuses_the_value(gateways, issuer, monkeypatch):
    """The sandboxes are judged with what was minted, in the transaction that stores it."""
    one, _two = gateways
    await grant(one, issuer)
    await one.sandbox(providers=["work"])
    first = (await one.statuses())[0]

    def refuse(situation, *, gate, known, named):
        raise ApiError(Code.FAILED_PRECONDITION, f"{situation.sandbox} would be unfit")

    monkeypatch.setattr("openshell.gateway.refresh.users.refuse_faults", refuse)
    with pytest.raises(ApiError) as caught:
        await one.rotate()
    monkeypatch.undo()
    assert caught.value.code is Code.FAILED_PRECONDITION
    assert await one.value() is None
    (status,) = await one.statuses()
    assert (status.status, status.last_error) == ("error", "box would be unfit")
    assert first.status == "configured"
    assert (await one.rotate()).status == "refreshed", "the new refresh token was kept"


async def test_the_claim_is_seen_in_the_row_alone(gateway, issuer):
    """The status that clients see stays the contract's."""
    await grant(gateway, issuer)
    held, rotating = await start_rotation(gateway, issuer)
    (row,) = await gateway.store.read(lambda tx: tx.all(Kind.REFRESH_STATE))
    assert row.status == "minting"
    assert load(row, State).status == "configured"
    held.release()
    await rotating
    (row,) = await gateway.store.read(lambda tx: tx.all(Kind.REFRESH_STATE))
    assert row.status == "idle"
    assert load(row, State).strategy == Strategy.OAUTH2_REFRESH_TOKEN
