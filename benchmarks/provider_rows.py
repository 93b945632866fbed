"""Changes of provider profiles: until a running sandbox follows, and what checking many of them costs.

The first row has a real sandbox. The others have a real gateway process whose driver starts nothing,
so that five hundred sandboxes fit: to the gateway they are sandboxes like any other, in its database.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from table import Peer, Row

from e2e.providers.asking import Talker, document, endpoint, item, switch_on
from openshell._proto import openshell_ext_profiles_pb2 as ext
from openshell.sdk.client import SandboxClient
from openshell.sdk.nouns import SettingsClient
from openshell.sdk.profiles import ProfileClient
from openshell.sdk.providers import ProviderClient
from openshell.sdk.registry import Registry
from support.gateways import GatewayProcess, Gateways
from support.postgres import PostgresServer, find_binaries
from support.private_gateway import PYTHON, PrivateGateway, ready_sandbox, sandbox_spec
from support.upstream import ALIAS, Upstream, http_upstream

_EDITS = 30
_PROFILES, _SANDBOXES = 100, 500
_APPLIED = 5
_WORKERS, _SECONDS = 8, 3.0
_HOME = "default"

# Asks on a kept connection; tells when the answer changes, by the clock that the host has, too.
_WATCH = """
import http.client, json, sys, threading, time
place = sys.argv[1]
stop = threading.Event()
threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
connection, before = http.client.HTTPConnection("10.200.0.1", 3128, timeout=20), None
while not stop.is_set():
    try:
        connection.request("GET", f"http://{place}/sometimes")
        answer = connection.getresponse()
        answer.read()
    except (OSError, http.client.HTTPException):
        # Cut off: the request under way is refused now.
        connection.close()
        continue
    if answer.status != before:
        before = answer.status
        print(json.dumps([before, time.monotonic_ns()]), flush=True)
    time.sleep(0.001)
"""


def rows() -> Iterator[Row]:
    yield _until_enforced()
    with tempfile.TemporaryDirectory(prefix="osb-") as name:
        directory = Path(name)
        with contextlib.ExitStack() as stack:
            urls = {"SQLite": f"sqlite:{directory}/shared.db"}
            binaries = find_binaries()
            if binaries is not None:
                server = stack.enter_context(PostgresServer(binaries))
                urls["PostgreSQL"] = stack.enter_context(server.database())
            yield from _on_databases(directory, urls)


def _until_enforced() -> Row:
    samples = []
    with (
        http_upstream() as upstream,
        PrivateGateway() as gateway,
        gateway.client() as client,
    ):
        switch_on(gateway)
        profiles = ProfileClient(client)
        assert profiles.import_([item(_edited(upstream, 0))], workspace=_HOME).imported
        ProviderClient(client).create("work", "work", {"WORK_KEY": "x"}, workspace=_HOME)
        with (
            ready_sandbox(client, sandbox_spec(providers=("work",))) as ref,
            Talker(
                client, ref.id, PYTHON, "-S", "-c", _WATCH, f"{ALIAS}:{upstream.port}"
            ) as inside,
        ):
            assert json.loads(inside.hear())[0] == 403
            for number in range(1, _EDITS + 1):
                version = profiles.get("work", workspace=_HOME).resource_version
                edited = item(_edited(upstream, number))
                started = time.monotonic_ns()
                profiles.update("work", edited, workspace=_HOME, expected=version)
                status, seen = json.loads(inside.hear())
                assert status == (200 if number % 2 else 403)
                samples.append((seen - started) / 1e6)
            inside.say("stop")
    note = "seen by a program inside that asks every millisecond"
    return Row("profile update -> enforced in a running sandbox", 200, "ms", samples, note=note)


def _edited(upstream: Upstream, number: int) -> str:
    paths = ["/always", f"/only/{number}"] + ["/sometimes"] * (number % 2)
    return document("work", endpoint(upstream, *paths))


def _on_databases(directory: Path, urls: dict[str, str]) -> Iterator[Row]:
    """Each measurement on all databases; the first is the row, the others stand beside it."""
    applied: dict[str, list[float]] = {}
    planned: dict[str, list[float]] = {}
    calls: dict[str, float] = {}
    for name, url in urls.items():
        place = directory / name
        place.mkdir()
        with Gateways(place, url) as gateways, _client(gateways.start(1)[0]) as client:
            calls[name] = _calls_per_second(client)
            _fill(client)
            planned[name], applied[name] = _apply(client)
    for what, samples in (("dry run", planned), ("written", applied)):
        first, *others = samples
        yield Row(
            f"Apply of {_PROFILES} profiles, {_SANDBOXES} attached sandboxes, {what}",
            1000,
            "ms",
            samples[first],
            [Peer(f"on {other}", statistics.median(samples[other])) for other in others],
        )
    for name in list(calls)[1:]:
        yield Row(
            f"gateway unary RPC per second (ListSandboxes), {name}",
            2000,
            "/s",
            [calls[name]],
            [Peer("on SQLite", calls["SQLite"])],
            more_is_better=True,
        )


@contextlib.contextmanager
def _client(gateway: GatewayProcess) -> Iterator[SandboxClient]:
    registry = Registry(gateway.root / "c/openshell", gateway.root / "no-system")
    target = registry.resolve(endpoint=None, gateway=None)
    assert target is not None
    with SandboxClient.from_target(registry, target) as client:
        yield client


def _fill(client: SandboxClient) -> None:
    """Profiles with a provider each; five sandboxes share one, and each has a second of its own."""
    SettingsClient(client).write_global("providers_v2_enabled", True)
    profiles, providers = ProfileClient(client), ProviderClient(client)
    assert profiles.import_(
        [item(_document(number, 0)) for number in range(_PROFILES)], workspace=_HOME
    ).imported
    for number in range(_PROFILES):
        providers.create(f"p{number}", f"type-{number}", {f"KEY_{number}": "x"}, workspace=_HOME)

    def create(number: int) -> None:
        attached = (f"p{number % _PROFILES}", f"p{(number * 7 + 1) % _PROFILES}")
        spec = sandbox_spec(providers=tuple(dict.fromkeys(attached)))
        client.create(workspace=_HOME, spec=spec, name=f"box-{number}")

    with ThreadPoolExecutor(_WORKERS) as pool:
        list(pool.map(create, range(_SANDBOXES)))


def _document(number: int, generation: int) -> str:
    rules = f"rules: [{{allow: {{method: GET, path: /v{generation}/**}}}}]"
    host = f"api-{number}.example.com"
    place = f"{{host: {host}, port: 443, protocol: rest, enforcement: enforce, {rules}}}"
    return document(f"type-{number}", place, variable=f"KEY_{number}")


def _apply(client: SandboxClient) -> tuple[list[float], list[float]]:
    """Milliseconds of dry runs and of written batches, in turn; each time every profile is a new one."""
    profiles = ProfileClient(client)
    times: dict[bool, list[float]] = {True: [], False: []}
    for generation in range(1, 2 * _APPLIED + 1):
        versions = {p.id: p.resource_version for p in profiles.iterate(workspace=_HOME)}
        items = []
        for number in range(_PROFILES):
            profile = item(_document(number, generation)).profile
            items.append(
                ext.ApplyProfilesItem(
                    id=profile.id,
                    profile=profile,
                    expected_resource_version=versions[profile.id],
                )
            )
        is_dry = generation % 2 == 1
        started = time.perf_counter()
        answer = profiles.apply(items, workspace=_HOME, dry_run=is_dry)
        times[is_dry].append((time.perf_counter() - started) * 1000)
        assert answer.valid
        assert answer.applied is not is_dry
        assert len(answer.impacts) == _SANDBOXES
    return times[True], times[False]


def _calls_per_second(client: SandboxClient) -> float:
    def call_until(deadline: float) -> int:
        calls = 0
        while time.perf_counter() < deadline:
            client.list(workspace=_HOME)
            calls += 1
        return calls

    with ThreadPoolExecutor(_WORKERS) as pool:
        deadline = time.perf_counter() + _SECONDS
        return sum(pool.map(call_until, [deadline] * _WORKERS)) / _SECONDS
