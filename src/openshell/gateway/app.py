"""The gateway put together: store, keys, doors, driver, services; opened and closed in order.

Everything that touches the world outside is an argument. `main.py` gives the real ones and handles
signals; tests give a driver of their own. The order of `open` is the contract's: nothing is started
before the state is locked and every address is bound, and nothing is announced before it serves.
"""

from __future__ import annotations

import inspect
import logging
import os
import ssl
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc.aio

from openshell._proto import (
    inference_pb2_grpc,
    openshell_ext_inference_pb2_grpc,
    openshell_ext_pb2_grpc,
    openshell_ext_profiles_pb2_grpc,
    openshell_ext_snapshots_pb2_grpc,
    openshell_pb2,
    openshell_pb2_grpc,
)
from openshell.drivers.base import ComputeDriver
from openshell.gateway.auth.authentication import AuthSettings, Listener
from openshell.gateway.auth.authorization import AuthorizationTable, RolePolicy, gateway_services
from openshell.gateway.auth.interceptor import AuthInterceptor
from openshell.gateway.compute import Compute
from openshell.gateway.config import Settings
from openshell.gateway.credentials import CredentialStore, DatabaseCredentialStore
from openshell.gateway.credentials.keyfile import load_or_create_key
from openshell.gateway.driver_choice import (
    local_directory,
    make_driver,
    restrict_for_stranger,
    supervisor_socket,
)
from openshell.gateway.events import Bus
from openshell.gateway.grpc_errors import ErrorInterceptor
from openshell.gateway.hosting import load_host_id
from openshell.gateway.inference_probe import Probe
from openshell.gateway.keys import Identity, load_identity
from openshell.gateway.lifecycle import Lifecycle
from openshell.gateway.listener import ListenError, bind_tcp, bind_unix, new_server
from openshell.gateway.middleware import MiddlewareServices
from openshell.gateway.peer import uid_of_peer
from openshell.gateway.peers import Peers, make_channel
from openshell.gateway.refresh.minting import Minter
from openshell.gateway.refresh.renewal import Renewals
from openshell.gateway.refresh.worker import RefreshWorker
from openshell.gateway.relay import Relays
from openshell.gateway.services.admission import admit_sandbox
from openshell.gateway.services.attach import AttachService
from openshell.gateway.services.attachments import Attachments
from openshell.gateway.services.config import Config
from openshell.gateway.services.drafts import Drafts
from openshell.gateway.services.exec import ExecService
from openshell.gateway.services.forward import ForwardService
from openshell.gateway.services.health import HealthService
from openshell.gateway.services.inference import InferenceRoutes
from openshell.gateway.services.inference_budgets import InferenceBudgets
from openshell.gateway.services.inference_bundle import InferenceBundle
from openshell.gateway.services.logs import Logs
from openshell.gateway.services.policies import Policies
from openshell.gateway.services.profile_apply import ProfileApply
from openshell.gateway.services.profile_history import ProfileHistory
from openshell.gateway.services.profile_writer import ProfileWriter
from openshell.gateway.services.profiles import Profiles
from openshell.gateway.services.provider_environment import ProviderEnvironment
from openshell.gateway.services.providers import Providers
from openshell.gateway.services.readiness import Readiness
from openshell.gateway.services.refresh import Refresh
from openshell.gateway.services.sandbox_config import build_sandbox_config
from openshell.gateway.services.sandboxes import SandboxService
from openshell.gateway.services.session import SessionService
from openshell.gateway.services.settings import Settings as SettingsService
from openshell.gateway.services.snapshots import SnapshotService
from openshell.gateway.services.ssh_sessions import SessionEndpoint, SshSessions
from openshell.gateway.services.tokens import TokenService
from openshell.gateway.services.watch import WatchService
from openshell.gateway.sessions import Sessions
from openshell.gateway.store import Store, Tx
from openshell.gateway.store.choice import open_store
from openshell.gateway.tasks import Tasks
from openshell.gateway.workspaces import ensure_default

__all__ = ["Gateway", "MakeDriver", "World"]

STOP_GRACE_SECONDS = 0.5
"""For unary calls in flight when the gateway ends; streams are cut, their clients reconnect."""

_log = logging.getLogger(__name__)

MakeDriver = Callable[..., ComputeDriver]
_Served = tuple[Callable[[Any, Any], None], type[Any], list[object]]
"""How a gRPC service is added to a server, its generated base, the parts that have its methods."""


def _clock_ms() -> int:
    return time.time_ns() // 1_000_000


def _new_id() -> str:
    return str(uuid.uuid4())


@dataclass(frozen=True, slots=True)
class World:
    """What the gateway takes from outside."""

    environ: Mapping[str, str] = field(repr=False)
    version: str = "0"
    clock_ms: Callable[[], int] = _clock_ms
    new_id: Callable[[], str] = _new_id
    make_driver: MakeDriver = make_driver


class Gateway:
    """One gateway. `open`, then `close`; `endpoint` is set between them."""

    def __init__(self, settings: Settings, world: World) -> None:
        self._settings = settings
        self._world = world
        self.tasks = Tasks()
        self.bus = Bus()
        self.sessions = Sessions(self.bus, self.tasks)
        self.relays = Relays(self.sessions, world.new_id)
        self.port = 0
        self._store: Store | None = None
        self._driver: ComputeDriver | None = None
        self._peers: Peers | None = None
        self._lifecycle: Lifecycle | None = None
        self._snapshots: SnapshotService | None = None
        self._session_service: SessionService | None = None
        self._refresh_worker: RefreshWorker | None = None
        self._middleware = MiddlewareServices(settings.middleware)
        self._servers: list[grpc.aio.Server] = []
        self._roles = RolePolicy()

    @property
    def endpoint(self) -> str:
        scheme = "http" if self._settings.tls.disabled else "https"
        host = self._settings.listen.host
        shown = f"[{host}]" if ":" in host else host
        return f"{scheme}://{shown}:{self.port}"

    async def open(self, port: int) -> None:
        """Serves when it returns. After an error call `close` all the same."""
        settings = self._settings
        identity = load_identity(settings, time.time)
        _warn(settings, identity)
        await self._middleware.open()
        store = await self._open_store()
        users, supervisors = self._make_servers(identity)
        socket = supervisor_socket(settings)
        self.port = self._bind(users, identity, port)
        driver = self._world.make_driver(
            settings,
            endpoint=f"unix:{socket}",
            gateway_addresses=(f"{settings.listen.host}:{self.port}",),
            environ=self._world.environ,
        )
        await driver.open()
        self._driver = driver
        bind_unix(supervisors, socket)
        host_id = load_host_id(Path(local_directory(settings)))
        compute = Compute(store, driver, self.sessions, self.bus, self.tasks, host_id=host_id)
        await compute.adopt()
        self._compose(store, driver, compute, identity, f"unix:{socket}")
        self._peers = Peers(
            self.bus, make_channel(settings.database, host_id), self.tasks, own_id=host_id
        )
        await self._peers.open()
        if self._snapshots is not None:
            await self._snapshots.settle()
        for server in self._servers:
            await server.start()
        compute.start()
        self.tasks.spawn("heartbeats", self.sessions.heartbeats())
        if self._refresh_worker is not None:
            self.tasks.spawn("refresh", self._refresh_worker.run())
        if self._lifecycle is not None:
            self.tasks.spawn("recovery", self._lifecycle.recover())
        _log.info("serving on %s and %s", self.endpoint, socket)

    async def stop_sandboxes(self) -> list[str]:
        """Stops everything that runs; the sentences of what could not be stopped."""
        return await self._lifecycle.stop_all() if self._lifecycle is not None else []

    async def close(self) -> None:
        """Ends serving and lets go of everything; sandboxes run on."""
        # First, so that the ends of sessions are not mistaken for those of supervisors.
        self.sessions.abandon("the gateway ends")
        for server in self._servers:
            await server.stop(STOP_GRACE_SECONDS)
        self._servers.clear()
        await self.tasks.close()
        if self._peers is not None:
            await self._peers.close()
        if self._driver is not None:
            await self._driver.close()
        await self._middleware.close()
        if self._store is not None:
            await self._store.close()

    # -- parts

    async def _open_store(self) -> Store:
        store = await open_store(self._settings.database, clock_ms=self._world.clock_ms)
        self._store = store
        new_id = self._world.new_id()
        await store.write(lambda tx: ensure_default(tx, new_id))
        return store

    def _make_servers(self, identity: Identity) -> tuple[grpc.aio.Server, grpc.aio.Server]:
        table = AuthorizationTable.from_services(gateway_services())
        auth = AuthSettings.derive(
            tokens=identity.tokens,
            mtls_users=identity.mtls_users,
            allow_unauthenticated_users=self._settings.allow_unauthenticated_users,
        )
        self._roles = auth.roles
        servers = [
            new_server(
                [AuthInterceptor(table, auth, listener, self._sandbox_exists), ErrorInterceptor()]
            )
            for listener in (Listener.USERS, Listener.SUPERVISORS)
        ]
        self._servers = servers
        return servers[0], servers[1]

    async def _sandbox_exists(self, sandbox_id: str) -> bool:
        service = self._session_service
        return service is not None and await service.sandbox_exists(sandbox_id)

    def _bind(self, server: grpc.aio.Server, identity: Identity, port: int) -> int:
        host = self._settings.listen.host
        try:
            return bind_tcp(server, host, port, identity.tls)
        except ListenError:
            if not self._settings.embedded.enabled or self._settings.port_given:
                raise
            # Remembered from an earlier start and taken by somebody else since.
            _log.warning("port %d is in use, another one is chosen", port)
            return bind_tcp(server, host, 0, identity.tls)

    def _compose(
        self,
        store: Store,
        driver: ComputeDriver,
        compute: Compute,
        identity: Identity,
        endpoint: str,
    ) -> None:
        settings, new_id = self._settings, self._world.new_id

        def build_config(tx: Tx, sandbox: Any) -> Any:
            return build_sandbox_config(
                tx,
                sandbox,
                failure_mode=settings.failure_mode,
                needed=self._middleware.needed,
            )

        self._lifecycle = Lifecycle(
            store=store,
            driver=driver,
            compute=compute,
            sessions=self.sessions,
            bus=self.bus,
            tasks=self.tasks,
            admit=admit_sandbox,
            build_config=build_config,
            mint_token=lambda sandbox_id: identity.tokens.issue(sandbox_id).token,
            endpoint=endpoint,
        )
        self._session_service = SessionService(
            store, compute, self.sessions, self.relays, self.tasks, new_id=new_id
        )
        for add, base, parts in self._served(store, driver, compute, identity):
            for server in self._servers:
                add(_servicer(base, parts), server)

    def _served(
        self, store: Store, driver: ComputeDriver, compute: Compute, identity: Identity
    ) -> list[_Served]:
        """What each gRPC service is made of; a method that no part has stays unimplemented."""
        new_id = self._world.new_id
        credentials = DatabaseCredentialStore(
            load_or_create_key(Path(self._settings.credential_key_path))
        )
        attach = AttachService(store, compute, self.sessions, self.relays, self.bus, self.tasks)
        profiles = ProfileWriter(store, self.bus, new_id=new_id, tasks=self.tasks)
        budgets = InferenceBudgets(store, self.bus, new_id=new_id)
        routes = InferenceRoutes(
            store, credentials, self.bus, self._probe(), new_id=new_id, tasks=self.tasks
        )
        return [
            (
                openshell_pb2_grpc.add_OpenShellServicer_to_server,
                openshell_pb2_grpc.OpenShellServicer,
                [
                    *self._core_services(store, driver, compute),
                    *self._noun_services(store, compute, credentials),
                    Profiles(store, profiles, roles=self._roles),
                    TokenService(identity.tokens),
                ],
            ),
            (
                openshell_ext_pb2_grpc.add_SandboxesServicer_to_server,
                openshell_ext_pb2_grpc.SandboxesServicer,
                [attach],
            ),
            (
                openshell_ext_profiles_pb2_grpc.add_ProviderProfilesServicer_to_server,
                openshell_ext_profiles_pb2_grpc.ProviderProfilesServicer,
                [
                    ProfileApply(profiles, roles=self._roles),
                    ProfileHistory(store, roles=self._roles),
                ],
            ),
            (
                inference_pb2_grpc.add_InferenceServicer_to_server,
                inference_pb2_grpc.InferenceServicer,
                [routes, InferenceBundle(store, credentials)],
            ),
            (
                openshell_ext_inference_pb2_grpc.add_InferenceRoutesServicer_to_server,
                openshell_ext_inference_pb2_grpc.InferenceRoutesServicer,
                [routes],
            ),
            (
                openshell_ext_inference_pb2_grpc.add_InferenceBudgetsServicer_to_server,
                openshell_ext_inference_pb2_grpc.InferenceBudgetsServicer,
                [budgets],
            ),
            (
                openshell_ext_inference_pb2_grpc.add_InferenceMeteringServicer_to_server,
                openshell_ext_inference_pb2_grpc.InferenceMeteringServicer,
                [budgets],
            ),
            *self._snapshot_services(store, driver, compute),
        ]

    def _snapshot_services(
        self, store: Store, driver: ComputeDriver, compute: Compute
    ) -> list[_Served]:
        assert self._lifecycle is not None  # noqa: S101  set by the only caller
        snapshots = SnapshotService(
            store,
            driver,
            compute,
            self._lifecycle,
            self.tasks,
            new_id=self._world.new_id,
            restrict=self._restrict,
        )
        self._snapshots = snapshots
        return [
            (
                openshell_ext_snapshots_pb2_grpc.add_PausingServicer_to_server,
                openshell_ext_snapshots_pb2_grpc.PausingServicer,
                [snapshots],
            ),
            (
                openshell_ext_snapshots_pb2_grpc.add_SnapshotsServicer_to_server,
                openshell_ext_snapshots_pb2_grpc.SnapshotsServicer,
                [snapshots],
            ),
        ]

    def _probe(self) -> Probe:
        bundle = self._settings.driver_table.get("upstream_ca_bundle", "")

        def make_tls() -> ssl.SSLContext:
            context = ssl.create_default_context()
            if bundle:
                context.load_verify_locations(cafile=str(bundle))
            return context

        return Probe(make_tls, closed_ports=lambda: (self.port,))

    def _core_services(self, store: Store, driver: ComputeDriver, compute: Compute) -> list[object]:
        assert self._lifecycle is not None  # noqa: S101  set by the only caller
        assert self._session_service is not None  # noqa: S101
        capabilities = driver.capabilities()
        new_id = self._world.new_id
        readiness = Readiness(store, self.sessions, host_id=compute.host_id)
        ssh_sessions = SshSessions(store, readiness, self._session_endpoint(), new_id=new_id)
        return [
            HealthService(self._world.version, capabilities),
            SandboxService(
                store,
                compute,
                self._lifecycle,
                new_id=new_id,
                default_image=capabilities.default_image,
                restrict=self._restrict,
                middleware=self._middleware,
            ),
            self._session_service,
            ExecService(self.relays, readiness, self.tasks, new_id=new_id),
            ssh_sessions,
            ForwardService(self.relays, readiness, ssh_sessions, self.tasks),
            WatchService(store, compute, self.bus),
        ]

    def _session_endpoint(self) -> SessionEndpoint:
        settings = self._settings
        scheme = "http" if settings.tls.disabled else "https"
        ttl_seconds = settings.ssh_session_ttl_seconds
        return SessionEndpoint(settings.listen.host, self.port, scheme, ttl_seconds)

    def _restrict(self, sandbox: openshell_pb2.Sandbox, context: Any) -> None:
        assert self._driver is not None  # noqa: S101  set before any service exists
        if not sandbox.spec.template.driver_config.fields:
            return
        if uid_of_peer(context.peer(), self._settings.listen.host, self.port) != os.getuid():
            restrict_for_stranger(sandbox, self._driver.capabilities().driver_name)

    def _noun_services(
        self, store: Store, compute: Compute, credentials: CredentialStore
    ) -> list[object]:
        renewals = Renewals(store, credentials, self.bus, Minter())
        self._refresh_worker = RefreshWorker(store, renewals)
        return [
            Providers(store, credentials, self.bus, new_id=self._world.new_id, tasks=self.tasks),
            Attachments(store, self.bus, show=compute.show, tasks=self.tasks),
            Config(
                store,
                self.bus,
                failure_mode=self._settings.failure_mode,
                tasks=self.tasks,
                middleware=self._middleware,
            ),
            Policies(store, self.bus),
            Drafts(store, self.bus, new_id=self._world.new_id),
            ProviderEnvironment(store, credentials),
            Refresh(
                store,
                credentials,
                self.bus,
                renewals,
                new_id=self._world.new_id,
                tasks=self.tasks,
            ),
            Logs(store, self.bus),
            SettingsService(store),
        ]


def _servicer(base: type[Any], services: Iterable[object]) -> Any:
    """One servicer whose built methods are those of the services; the rest stay the base's."""
    servicer = base()
    taken: set[str] = set()
    for service in services:
        for name, method in inspect.getmembers(service, inspect.ismethod):
            if not hasattr(base, name) or name.startswith("_"):
                continue
            if name in taken:
                raise TypeError(f"{name} is served twice")
            taken.add(name)
            setattr(servicer, name, method)
    return servicer


def _warn(settings: Settings, identity: Identity) -> None:
    if settings.tls.disabled:
        _log.warning("TLS is off: everything on the wire can be read")
    if settings.allow_unauthenticated_users:
        _log.warning("callers without a certificate are let in as the local developer")
    elif not identity.mtls_users:
        _log.warning("no user can authenticate: enable mTLS or allow_unauthenticated_users")
