"""The egress side of a sandbox: the one place where the supervisor puts the proxy together.

Takes the sockets that process 1 made, the generation holder and the host's facts, and gives them to
the proxy; reports what was refused without a connection (UDP, ICMP). It decides nothing.
"""

import datetime as dt
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import ip_address

from openshell.drivers.launch import LaunchPlan
from openshell.egress.ca import SandboxCA, client_context, system_roots
from openshell.egress.destination import HostFacts
from openshell.egress.generation import GenerationHolder
from openshell.egress.identity import IdentityResolver
from openshell.egress.inference.metering import Meter
from openshell.egress.local_names import LocalName
from openshell.egress.proxy import EgressProxy, Listeners
from openshell.egress.resolve import HostResolver
from openshell.supervisor.corporate import corporate_proxy
from openshell.supervisor.isolation.launch import IsolatedSandbox
from openshell.supervisor.isolation.model import TRUST_FILES
from openshell.supervisor.logs import Logs
from openshell.supervisor.packets import PacketLog
from openshell.supervisor.recent_denials import RecentDenials
from openshell.supervisor.spec import hostname_of

__all__ = ["Egress", "TrustRoots"]

# Where the host alias leads: this host's own loopback, and only under that name.
_ALIAS = (ip_address("127.0.0.1"), ip_address("::1"))


@dataclass(frozen=True, slots=True)
class TrustRoots:
    """The system's certificates, read once in the zygote; all forks share the memory."""

    bundle: bytes = field(repr=False)
    context: ssl.SSLContext = field(repr=False)

    @classmethod
    def load(cls) -> "TrustRoots":
        bundle = system_roots()
        # Thrown away: the first key of a process costs ten times as much as the next.
        SandboxCA(dt.datetime.now(dt.UTC))
        return cls(bundle, client_context(bundle))

    def with_operator(self, path: str) -> ssl.SSLContext:
        """The context for upstreams, with the operator's certificates where there are any."""
        if not path:
            return self.context
        with open(path, "rb") as file:
            return client_context(self.bundle, file.read())


class Egress:
    """Everything between the sandbox's sockets and the network."""

    def __init__(
        self,
        sandbox: IsolatedSandbox,
        holder: GenerationHolder,
        plan: LaunchPlan,
        roots: TrustRoots,
        ca: SandboxCA,
        logs: Logs,
        *,
        local: Sequence[LocalName],
        may_propose: Callable[[], bool],
        refused: RecentDenials,
        meter: Meter,
    ) -> None:
        own, bundle = TRUST_FILES
        # Before any program runs.
        sandbox.publish_trust({own: ca.certificate_pem, bundle: ca.bundle(roots.bundle)})
        self._resolver = HostResolver()
        self._packets = PacketLog(sandbox, logs.emit)
        self._proxy = EgressProxy(
            _listeners(sandbox),
            holder,
            IdentityResolver(sandbox.sock_diag, sandbox.init_pid),
            resolver=self._resolver,
            ca=ca,
            upstream_tls=roots.with_operator(plan.upstream_ca_bundle),
            events=refused.before(logs.emit),
            facts=HostFacts(_ALIAS, closed_ports(plan.gateway_addresses)),
            sandbox=plan.name,
            hostname=hostname_of(plan.name),
            corporate=corporate_proxy(plan.upstream_proxy),
            local=local,
            may_propose=may_propose,
            meter=meter,
        )

    async def start(self) -> None:
        """Serve; until then the kernel keeps clients waiting."""
        await self._proxy.start()
        self._packets.start()

    async def close(self) -> None:
        """End every connection."""
        self._packets.close()
        await self._proxy.close()
        self._resolver.close()


def closed_ports(addresses: tuple[str, ...]) -> frozenset[int]:
    """Ports of the gateway on this host, which the host alias does not reach."""
    ports = (address.rpartition(":")[2] for address in addresses)
    return frozenset(int(port) for port in ports if port.isdecimal())


def _listeners(sandbox: IsolatedSandbox) -> Listeners:
    """Sort the sockets by what they are for; what was not made is not there."""

    def those(*names: str) -> tuple[socket.socket, ...]:
        return tuple(sandbox.listeners[name] for name in names if name in sandbox.listeners)

    return Listeners(
        proxy=those("proxy"),
        capture=those("capture_v4", "capture_v6"),
        dns_udp=those("dns_udp_v4", "dns_udp_v6"),
        dns_tcp=those("dns_tcp_v4", "dns_tcp_v6"),
    )
