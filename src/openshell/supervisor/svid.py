"""Where the supervisor gets the signed statement of who it is: JWT-SVIDs for token grants.

Two sources. A file that something else keeps fresh is read anew for every token, so that a change is
seen at once. The SPIFFE Workload API is asked for a token with the audience that is needed; its agent
knows us by our process, not by a secret. Which one is used is the operator's affair: it comes with the
launch plan, which no sandbox can write.
"""

import os
import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Final, Protocol

import grpc
import grpc.aio

from openshell._proto import spiffe_workload_pb2
from openshell.drivers.launch import SVID_FILE, WORKLOAD_SOCKET

__all__ = [
    "FileSource",
    "NoSource",
    "SvidSource",
    "SvidUnavailable",
    "WorkloadApi",
    "source_from",
    "workload_target",
]

# A JWT-SVID has about one KiB.
_MAX_SVID: Final = 16 << 10
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+").fullmatch
# The agent is on this host; one that needs longer is stuck.
_CALL_SECONDS: Final = 10.0
_METHOD: Final = "/SpiffeWorkloadAPI/FetchJWTSVID"
# What the standard asks of every call, so that nobody reaches the agent through a tricked client.
_METADATA: Final = (("workload.spiffe.io", "true"),)
_OPTIONS: Final[list[tuple[str, int | str]]] = [
    ("grpc.max_receive_message_length", 1 << 20),
    ("grpc.enable_http_proxy", 0),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.default_authority", "localhost"),
]
_DETAILS: Final = 200


class SvidUnavailable(Exception):
    """There is no SVID; a sentence for the log that holds nothing of one."""


class SvidSource(Protocol):
    """Where SVIDs come from."""

    async def jwt(self, audience: str) -> str:
        """A JWT-SVID for the audience. Raises SvidUnavailable."""
        ...


class NoSource:
    """Nothing to get an SVID from, and why."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    async def jwt(self, audience: str) -> str:
        del audience
        raise SvidUnavailable(self._reason)


class FileSource:
    """A file with one JWT. Its audience is whatever it was made for."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def jwt(self, audience: str) -> str:
        del audience
        try:
            # Not blocking: a pipe in the file's place would hold up the whole proxy.
            descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
            try:
                data = os.read(descriptor, _MAX_SVID + 1)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise SvidUnavailable(
                f"the JWT-SVID file {self._path} cannot be read: {error.strerror}"
            ) from None
        return _checked(data.decode("ascii", "replace").strip(), f"the file {self._path}")


class WorkloadApi:
    """The SPIFFE Workload API of this host. A channel lives for one call: they are minutes apart."""

    def __init__(self, target: str) -> None:
        self._target = target

    async def jwt(self, audience: str) -> str:
        request = spiffe_workload_pb2.JwtSvidRequest(audience=[audience])
        async with grpc.aio.insecure_channel(self._target, options=_OPTIONS) as channel:
            call = channel.unary_unary(
                _METHOD,
                request_serializer=spiffe_workload_pb2.JwtSvidRequest.SerializeToString,
                response_deserializer=spiffe_workload_pb2.JwtSvidResponse.FromString,
            )
            try:
                response = await call(request, metadata=_METADATA, timeout=_CALL_SECONDS)
            except grpc.aio.AioRpcError as error:
                details = "".join(c if c.isprintable() else " " for c in error.details() or "")
                raise SvidUnavailable(
                    f"the SPIFFE Workload API answered {error.code().name}: {details[:_DETAILS]}"
                ) from None
        if not response.svids:
            raise SvidUnavailable("the SPIFFE Workload API knows no identity of this process")
        return _checked(response.svids[0].svid, "the SPIFFE Workload API")


def source_from(named: Mapping[str, str]) -> SvidSource:
    """The source that a launch plan names; one that says why where it is unclear."""
    socket, file = named.get(WORKLOAD_SOCKET, ""), named.get(SVID_FILE, "")
    if socket and file:
        return NoSource(f"{WORKLOAD_SOCKET} and {SVID_FILE} are both set; unset one")
    if file:
        return FileSource(file)
    if not socket:
        return NoSource(f"no source of SVIDs is configured: set {WORKLOAD_SOCKET} or {SVID_FILE}")
    target = workload_target(socket)
    if target is None:
        return NoSource(f"{WORKLOAD_SOCKET} is neither a path nor a unix: or tcp: address")
    return WorkloadApi(target)


def workload_target(address: str) -> str | None:
    """The address as gRPC wants it; None when it is none. After `tcp:` only an IP address may stand."""
    if address.startswith("/"):
        return f"unix:{address}"
    scheme, _, rest = address.partition(":")
    if scheme == "unix":
        path = rest.removeprefix("//")
        return f"unix:{path}" if path.startswith("/") else None
    if scheme != "tcp":
        return None
    host, _, port = rest.removeprefix("//").rpartition(":")
    if not port.isascii() or not port.isdecimal() or not 1 <= int(port[:6]) <= 65535:
        return None
    try:
        ip = ip_address(host.removeprefix("[").removesuffix("]"))
    except ValueError:
        return None
    return f"ipv4:{ip}:{port}" if ip.version == 4 else f"ipv6:[{ip}]:{port}"


def _checked(svid: str, source: str) -> str:
    if len(svid) > _MAX_SVID or _JWT(svid) is None:
        raise SvidUnavailable(f"what {source} holds is no JWT")
    return svid
