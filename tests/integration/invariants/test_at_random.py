"""Two gateway processes on one database under random requests: no state they leave breaks a rule.

Rounds of requests come from several clients at once and go to both gateways. In the middle of each
round and after it the rows are judged by `support.invariants`, which knows none of the product's
rules. What the rows cannot tell, that a profile went while somebody used it, is judged from the times
of the requests. A failure names the seed and the round; `OPENSHELL_WALK_SEED` repeats its requests,
`OPENSHELL_WALK_OPERATIONS` makes a longer walk.
"""

import asyncio
import collections
import os
import random
import re

import pytest

from integration.invariants.universe import CLIENT_SECRET, OK, STALE, VALUE, WORKSPACE, Universe
from openshell._proto import openshell_pb2_grpc, sandbox_pb2
from support.gateways import Gateways
from support.invariants import Objects, Picture, violations
from support.oauth_server import oauth_issuer

OPERATIONS = int(os.environ.get("OPENSHELL_WALK_OPERATIONS", "2000"))
"""On each of two databases."""
SEED = int(os.environ.get("OPENSHELL_WALK_SEED", "20261124"))
ROUND, CLIENTS = 50, 8

CONFLICTS = {
    "(a) one variable, two owners": r"both provide the environment variable|has the name of an",
    "(b) ambiguous grants": r"ambiguous",
    "(c) profile in use": r"is in use by sandbox",
    "(d) contradicting endpoints": r"disagree on",
    "(e) two refreshes, one variable": r"^ConfigureProviderRefresh .*environment variable",
    "activation": r"cannot activate provider policy composition",
    "attached provider": r"is attached to sandbox\(es\)",
    "bound provider": r"credential_binding provider",
    "missing provider": r"^(AttachSandboxProvider|CreateSandbox) .*not found",
    "refreshed key": r"the gateway refreshes",
    "taken provider": r"^CreateProvider .*already exists",
    "taken sandbox": r"^CreateSandbox .*already exists",
    "taken profile": r"^ImportProviderProfiles .*already exists",
    "stale version": r" ABORTED ",
}


class Walk:
    """One run: the requests so far and what is counted of them."""

    def __init__(self, universe, objects, apis):
        self._universe = universe
        self._objects = objects
        self._apis = apis
        self.number = 0
        self.round = []
        self.seen = collections.Counter()
        self.done = collections.Counter()
        self.statuses = collections.Counter()
        self.judged = self.attached = self.composed = 0
        self.met = 0
        """Pairs of requests that were under way at both gateways at once."""

    async def go(self):
        self.number += 1
        before = Picture.of(self._objects.read())
        self.round = self._universe.requests(ROUND)
        left = iter(self.round)

        async def client():
            for request in left:
                await request.run()

        clients = [asyncio.ensure_future(client()) for _ in range(CLIENTS)]
        while not any(each.done() for each in clients) and self._ended() < ROUND // 2:
            await asyncio.sleep(0.002)
        self.judge()
        await asyncio.gather(*clients)
        self.judge()
        assert not list(deleted_in_use(before, self.round))
        for request in self.round:
            self._count(request)
        here, there = ([r for r in self.round if r.gateway == at] for at in (0, 1))
        self.met += sum(
            one.began < two.ended and two.began < one.ended for one in here for two in there
        )

    def _ended(self):
        return sum(bool(request.ended) for request in self.round)

    def judge(self):
        rows = self._objects.read()
        assert not violations(rows)
        picture = Picture.of(rows)
        self.judged += 1
        self.attached += sum(len(sandbox.spec.providers) for sandbox in picture.sandboxes)
        self.composed += picture.composes

    def _count(self, request):
        assert request.status in request.statuses, f"not in the contract: {request}"
        assert VALUE not in request.said, request
        assert CLIENT_SECRET not in request.said, request
        self.statuses[request.status] += 1
        if request.succeeded:
            self.done[request.verb, request.gateway] += 1
        line = f"{request.verb} {request.status} {request.said}"
        for name, pattern in CONFLICTS.items():
            self.seen[name] += bool(re.search(pattern, line))

    async def delivered(self):
        """Every sandbox gets a policy, the same from both gateways."""
        for sandbox in Picture.of(self._objects.read()).sandboxes:
            message = sandbox_pb2.GetSandboxConfigRequest(sandbox_id=sandbox.metadata.id)
            one, two = [await api.GetSandboxConfig(message) for api in self._apis]
            assert one == two
            assert one.HasField("policy")

    def __str__(self):
        return f"round {self.number}:\n" + "\n".join(map(str, self.round))


def deleted_in_use(before, round_):
    """(c) Profiles that went although a provider of that type stayed attached all the while.

    A provider without a profile may be attached, so only times tell who was first: attached before
    the round, or by a call that had ended, and by no call taken away before the deletion had ended.
    """
    gone = [r for r in round_ if r.verb == "DeleteProviderProfile" and r.succeeded]
    if not gone:
        return
    since = {
        (sandbox.metadata.name, name): 0.0
        for sandbox in before.sandboxes
        for name in sandbox.spec.providers
    }
    for request in round_:
        if request.verb == "AttachSandboxProvider" and request.succeeded:
            since.setdefault(request.about, request.ended)
        if request.verb == "CreateSandbox" and request.succeeded:
            for name in request.about[1:]:
                since.setdefault((request.about[0], name), request.ended)
    ends = [
        r for r in round_ if r.status == OK and r.verb in ("DetachSandboxProvider", "DeleteSandbox")
    ]
    replaced = {r.about[0] for r in round_ if r.verb == "DeleteProvider" and r.succeeded}
    for deletion in gone:
        for (sandbox, name), start in since.items():
            _id, record = before.providers.get((WORKSPACE, name), (None, None))
            if record is None or name in replaced:
                continue
            uses = (record.profile_workspace, record.type) == deletion.about
            taken_away = any(
                r.about in ((sandbox,), (sandbox, name))
                and r.began < deletion.ended
                and r.ended > start
                for r in ends
            )
            if uses and start < deletion.began and not taken_away:
                yield f"(c) {deletion} although {name} of {sandbox} used it"


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    if request.param == "postgres":
        return request.getfixturevalue("database_url")
    return f"sqlite:{tmp_path}/shared.db"


@pytest.fixture
def issuer():
    with oauth_issuer() as started:
        started.register("agent", secret=CLIENT_SECRET, grants=("client_credentials",))
        yield started


@pytest.mark.timeout(600)
async def test_two_gateways_at_random(tmp_path, url, issuer):
    with Gateways(tmp_path, url) as gateways, Objects(url) as objects:
        channels = [gateway.channel() for gateway in gateways.start(2)]
        universe = Universe(random.Random(SEED), channels, issuer.url)
        apis = [openshell_pb2_grpc.OpenShellStub(channel) for channel in channels]
        walk = Walk(universe, objects, apis)
        try:
            for at in range(0, OPERATIONS, ROUND):
                await walk.go()
                if at % 500 == 0:
                    await walk.delivered()
        except BaseException:
            print(f"seed {SEED}, {walk}")
            raise
        finally:
            for channel in channels:
                await channel.close()
        logs = "\n".join(gateway.log for gateway in gateways.all)
    assert "Traceback" not in logs
    missing = [name for name in CONFLICTS if not walk.seen[name]]
    assert not missing, f"seed {SEED}: these conflicts never arose"
    verbs = {verb for verb, _gateway in walk.done}
    for gateway in (0, 1):
        idle = [verb for verb in sorted(verbs) if not walk.done[verb, gateway]]
        assert not idle, f"seed {SEED}: gateway {gateway} never did these"
    assert walk.met > OPERATIONS
    # The states were worth judging: providers attached, and rules composed.
    assert walk.attached > 2 * walk.judged
    assert walk.composed > walk.judged // 10
    # Lost races are told, but most calls are not lost.
    assert walk.statuses[STALE] < OPERATIONS // 10
