"""Two gateways on one database: what each may do alone, both together may not (providers.md 10).

Each race is run in both orders of starting; whoever comes second is refused as if it had come second.
"""

import grpc
import pytest

from openshell._proto import datamodel_pb2, openshell_pb2
from openshell.gateway.errors import ApiError
from openshell.gateway.services.situations import Situations, sandboxes_in
from openshell.providers.fitness import find_faults
from support.policies import BOUND, OPEN
from support.profile_values import granted, profile

ROUNDS = 4
BACKENDS = ("sqlite", "postgres")
AUDITED = OPEN.replace("api.example.com", "api.acme.test").replace(
    "enforcement: enforce", "enforcement: audit"
)


def update(name, **fields):
    message = datamodel_pb2.Provider(metadata=datamodel_pb2.ObjectMeta(name=name), **fields)
    return openshell_pb2.UpdateProviderRequest(provider=message)


async def faults(gateway):
    def read(tx):
        situations = Situations(tx)
        return [
            fault
            for sandbox in sandboxes_in(tx, None)
            for fault in find_faults(situations.of(sandbox), gate=True)
        ]

    return await gateway.store.read(read)


async def layer_against_policy(one, two, box):
    """A layer that contradicts the policy that is being set."""
    await one.v2()
    return one.attach(box, "work"), two.set_policy(box, AUDITED)


async def layer_against_activation(one, two, box):
    await one.set_policy(box, AUDITED)
    return one.attach(box, "work"), two.v2()


async def policy_against_activation(one, two, box):
    await one.attach(box, "work")
    return one.set_policy(box, AUDITED), two.v2()


async def grants(one, two, box):
    return one.attach(box, "g1"), two.attach(box, "g2")


async def binding_against_detach(one, two, box):
    await one.attach(box, "plain")
    policy = BOUND.replace("provider: work", "provider: plain")
    return one.set_policy(box, policy), two.detach(box, "plain")


async def update_against_update(one, two, box):
    await one.attach(box, "plain")
    await one.attach(box, "other")
    return (
        one.UpdateProvider(update("plain", credentials={"NEW": "x"})),
        two.UpdateProvider(update("other", credentials={"NEW": "y"})),
    )


async def creation_against_update(one, two, _box):
    return (
        one.sandbox("new", providers=["plain", "other"]),
        two.UpdateProvider(update("other", credentials={"PLAIN": "y"})),
    )


async def deletion_against_attach(one, two, box):
    """The end of a global policy lets layers in that nobody looked at while it was there."""
    await one.set_policy(box, AUDITED)
    await one.set_global(OPEN)
    await one.v2()
    return one.delete_global(), two.attach(box, "work")


RACES = (
    layer_against_policy,
    layer_against_activation,
    policy_against_activation,
    grants,
    binding_against_detach,
    update_against_update,
    creation_against_update,
    deletion_against_attach,
)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("round_", range(ROUNDS))
@pytest.mark.parametrize("prepare", RACES, ids=lambda race: race.__name__.replace("_", " "))
async def test_one_of_two_is_refused(gateways, race, prepare, round_):
    one, two = gateways
    await one.profile(profile())
    for name in ("g1", "g2"):
        await one.profile(profile(name, credentials=[granted(name)]))
        await one.provider(name, {}, kind=name)
    await one.provider("work", {"ACME_KEY": "x"}, kind="acme")
    await one.provider("plain", {"PLAIN": "x"})
    await one.provider("other", {"OTHER": "x"})
    box = await one.sandbox(policy=OPEN)
    calls = await prepare(one, two, box)
    results = await race(*(calls if round_ % 2 else reversed(calls)))
    assert not await faults(two)
    losers = [result for result in results if isinstance(result, BaseException)]
    assert len(losers) == 1
    assert isinstance(losers[0], ApiError)
    assert losers[0].code.name == grpc.StatusCode.FAILED_PRECONDITION.name
