"""The credential guard, and that an admission is judged by the newest generation."""

import json
from dataclasses import replace
from ipaddress import ip_address

import pytest

from openshell.egress.admission import Admission, Admitted, DestinationRefused, is_guarded
from openshell.egress.credentials import CredentialSet
from openshell.egress.destination import HostFacts
from openshell.egress.generation import Generation, GenerationHolder
from openshell.egress.identity import Identity, IdentityUnknown
from openshell.policy.compile import compile_policy
from openshell.policy.decide import ConnectionDenied, ConnectionRequest
from openshell.policy.parse import parse_policy

HOST = "api.example"
REST = {"protocol": "rest", "access": "full"}
ME = Identity("/bin/x", 1)


def generation(number, *endpoints, credentialed=False):
    rule = {
        "name": "r",
        "endpoints": [{"host": HOST, "port": 443, **endpoint} for endpoint in endpoints],
        "binaries": [{"path": "/bin/x"}],
    }
    policy = parse_policy(
        json.dumps({"version": 1, "network_policies": {"r": rule}}), source="test"
    )
    if credentialed:
        marked = replace(
            policy.network_policies["r"],
            endpoints=tuple(
                replace(e, provider_credentialed=True)
                for e in policy.network_policies["r"].endpoints
            ),
        )
        policy = replace(policy, network_policies={"r": marked})
    return Generation(number, compile_policy(policy, generation=number), CredentialSet())


GUARD = {
    "inspected": ([REST], True, False),
    "raw": ([{}], True, True),
    "tcp": ([{"protocol": "tcp"}], True, True),
    "tcp with consent": (
        [{"protocol": "tcp", "allow_uninspected_credentials": True}],
        True,
        False,
    ),
    "skipped": ([{"tls": "skip"}], True, True),
    "raw with consent": ([{"allow_uninspected_credentials": True}], True, False),
    "one of two is raw": ([REST, {"path": "/x"}], True, True),
    "raw without credentials": ([{}], False, False),
}


@pytest.mark.parametrize(("endpoints", "marked", "guarded"), GUARD.values(), ids=GUARD.keys())
def test_credential_guard(endpoints, marked, guarded):
    policy = generation(1, *endpoints, credentialed=marked).policy
    decision = policy.connect(ConnectionRequest(HOST, 443, "/bin/x"))
    assert is_guarded(decision) is guarded


class Names:
    def __init__(self, answer, local=(), then=lambda: None):
        self._answer, self._local, self._then = answer, local, then

    async def resolve(self, host):
        self._then()
        return tuple(map(ip_address, self._answer))

    def local(self, addresses):
        if self._local is None:
            raise OSError
        return frozenset(map(ip_address, self._local))


def admission(names, holder=None):
    holder = holder or GenerationHolder(generation(1, REST))
    return holder, Admission(holder, None, names, HostFacts())


async def test_admitted_with_pinned_addresses():
    _, subject = admission(Names(["10.0.0.1"]))
    outcome = await subject.admit(ME, HOST, 443)
    assert isinstance(outcome, Admitted)
    assert outcome.plan.addresses == (ip_address("10.0.0.1"),)
    assert outcome.plan.by_declaration


async def test_public_addresses_need_no_declaration():
    _, subject = admission(Names(["93.184.216.34"]))
    outcome = await subject.admit(ME, HOST, 443)
    assert isinstance(outcome, Admitted)
    assert not outcome.plan.by_declaration


async def test_an_address_of_this_host_is_refused():
    _, subject = admission(Names(["10.0.0.1"], local=["10.0.0.1"]))
    assert isinstance(await subject.admit(ME, HOST, 443), DestinationRefused)


async def test_without_an_answer_of_the_routing_table_everything_is_refused():
    _, subject = admission(Names(["93.184.216.34"], local=None))
    assert isinstance(await subject.admit(ME, HOST, 443), DestinationRefused)


async def test_a_reload_during_the_lookup_has_the_last_word():
    holder = GenerationHolder(generation(1, REST))
    _, subject = admission(Names(["10.0.0.1"], then=lambda: holder.swap(generation(2))), holder)
    outcome = await subject.admit(ME, HOST, 443)
    assert isinstance(outcome, ConnectionDenied)
    assert outcome.generation == 2


async def test_nobody_is_refused_without_asking_the_resolver():
    _, subject = admission(Names([], then=lambda: pytest.fail("asked")))
    outcome = await subject.admit(IdentityUnknown("hidden"), HOST, 443)
    assert (outcome.reason_code, outcome.reason) == ("identity_unknown", "hidden")


async def test_without_identity_every_program_counts():
    holder = GenerationHolder(generation(1, REST))
    subject = Admission(holder, None, Names(["10.0.0.1"]), HostFacts(), relaxed=True)
    assert await subject.identify(None) is None
    assert isinstance(await subject.admit(None, HOST, 443), Admitted)
