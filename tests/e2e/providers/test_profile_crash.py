"""The gateway is killed while it applies fifty profiles: afterwards each batch is there whole, or not at all."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest

from e2e.providers.asking import document, item, switch_on
from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell.sdk.profiles import ProfileClient
from support.private_gateway import PrivateGateway, wait_until
from support.traces import is_alive

PROFILES = 50
HOST = "{host: a.example, port: 443, protocol: rest, access: full, enforcement: enforce}"


@pytest.fixture
def gateway() -> Iterator[PrivateGateway]:
    with PrivateGateway() as gateway:
        switch_on(gateway)
        yield gateway


class Batch:
    """Fifty files whose contents say which generation they are of."""

    def __init__(self, gateway: PrivateGateway, directory: Path) -> None:
        self.gateway, self.directory = gateway, directory
        self.ids = [f"crash-{number:02}" for number in range(PROFILES)]

    def stored(self) -> tuple[set[int], dict[str, int]]:
        """The generations that are stored, 0 for nothing, and the version of each profile."""
        with self.gateway.client() as client:
            profiles = ProfileClient(client)
            found = {
                profile.id: profile
                for profile in profiles.iterate(workspace="default")
                if profile.id in self.ids
            }
            revisions = {id_: len(profiles.revisions(id_, workspace="default")) for id_ in found}
        generations = {int(profile.annotations["generation"]) for profile in found.values()}
        if len(found) < PROFILES:
            generations.add(0)
        assert len(set(revisions.values())) <= 1, "the history is as whole as the profiles"
        return generations, {id_: profile.resource_version for id_, profile in found.items()}

    def write(self, generation: int, versions: dict[str, int]) -> None:
        for id_ in self.ids:
            more = f"annotations: {{generation: '{generation}'}}\n"
            if id_ in versions:
                more += f"resource_version: {versions[id_]}\n"
            variable = id_.upper().replace("-", "_")
            text = document(id_, HOST, variable=variable, more=more)
            (self.directory / f"{id_}.yaml").write_text(text)

    def apply(self) -> tuple[int, str]:
        done = self.gateway.cli("provider", "profile", "apply", "--from", str(self.directory))
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout + done.stderr

    def apply_and_kill(self, delay: float) -> int:
        """By command; kills the gateway so long after something of it has reached the disk."""
        journal = next(self.gateway.state.rglob("openshell.db-wal"))
        before = journal.stat()

        def is_due() -> bool:
            return journal.stat().st_mtime_ns != before.st_mtime_ns

        with self._killing(is_due, delay):
            return self.apply()[0]

    def apply_and_kill_at(self, part: float) -> int:
        """By call; kills the gateway after that part of the time that the call takes."""
        items = [
            ext.ApplyProfilesItem(id=found.profile.id, profile=found.profile, source=str(path))
            for path in sorted(self.directory.iterdir())
            for found in [item(path.read_text())]
        ]
        with self.gateway.client() as client:
            profiles = ProfileClient(client)
            started = time.monotonic()
            assert profiles.apply(items, workspace="default", dry_run=True).valid
            lasts = time.monotonic() - started
            with self._killing(lambda: True, part * lasts):
                try:
                    return 0 if profiles.apply(items, workspace="default").applied else 1
                except grpc.RpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE
                    return 1

    @contextlib.contextmanager
    def _killing(self, is_due: Callable[[], bool], delay: float) -> Iterator[None]:
        running = self.gateway.embedded.record()
        assert running is not None
        over = threading.Event()

        def kill() -> None:
            while not over.is_set() and not is_due():
                time.sleep(0.0002)
            time.sleep(delay)
            os.kill(running.pid, signal.SIGKILL)

        killer = threading.Thread(target=kill)
        killer.start()
        try:
            yield
        finally:
            over.set()
            killer.join()
            wait_until(lambda: not is_alive(running.pid))


# Parts of the call's time, then seconds after its first write.
PARTS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4)
DELAYS = (0.0, 0.001, 0.003)


@pytest.mark.timeout(200)
def test_a_batch_is_whole_after_a_crash(gateway: PrivateGateway, tmp_path: Path) -> None:
    batch = Batch(gateway, tmp_path)
    assert batch.stored() == ({0}, {})
    rounds = [
        *((batch.apply_and_kill_at, part) for part in PARTS),
        *((batch.apply_and_kill, delay) for delay in DELAYS),
    ]
    outcomes = []
    versions: dict[str, int] = {}
    present = 0
    for generation, (attempt, when) in enumerate(rounds, 1):
        batch.write(generation, versions)
        is_answered = attempt(when) == 0
        gateway.embedded.start()
        stored, versions = batch.stored()
        assert stored in ({present}, {generation}), f"a part of the batch is there: {stored}"
        is_stored = stored == {generation}
        assert is_stored or not is_answered, "what was answered is kept"
        outcomes.append((is_answered, is_stored))
        (present,) = stored
    print(f"answered and stored: {outcomes}")
    # The control: undisturbed, the very same batch goes through.
    batch.write(len(rounds) + 1, versions)
    code, said = batch.apply()
    assert code == 0, said
    assert batch.stored()[0] == {len(rounds) + 1}
