"""From the launch plan's corporate proxy to the one that the egress proxy dials through.

Reads the credential file, which a plan never holds. Called once, when the proxy is put together; an
unusable file ends the start.
"""

from ipaddress import ip_network

from openshell.drivers.upstream_proxy import ProxyBypass, UpstreamProxy, read_proxy_credential
from openshell.egress.corporate import Bypass, CorporateProxy

__all__ = ["corporate_proxy"]


def corporate_proxy(planned: UpstreamProxy | None) -> CorporateProxy | None:
    """The proxy with its credentials; raises UpstreamProxyError."""
    if planned is None:
        return None
    return CorporateProxy(
        planned.host,
        planned.port,
        tuple(_bypass(entry) for entry in planned.bypasses),
        read_proxy_credential(planned.auth_file) if planned.auth_file else "",
        planned.by_hostname,
    )


def _bypass(entry: ProxyBypass) -> Bypass:
    network = ip_network(entry.network) if entry.network else None
    return Bypass(network, entry.domain, entry.port)
