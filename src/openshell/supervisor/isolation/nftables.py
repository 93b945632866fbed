"""The rule set inside a sandbox's network namespace, as one netlink batch.

Pure: builds bytes and reads counters' replies. Two chains of one table: `capture` gives every
TCP connection that is not for loopback or the proxy to the capture listeners (tproxy keeps the
source port and the original destination), `output` refuses what is neither TCP nor DNS, counts
it and logs a sample. network.py sends it.
"""

from __future__ import annotations

import ipaddress
import struct

from openshell.supervisor.isolation.netlink import (
    FLAG_ACK,
    FLAG_APPEND,
    FLAG_CREATE,
    FLAG_DUMP,
    FLAG_REQUEST,
    Message,
    attribute,
    attributes_of,
    nested,
)

__all__ = [
    "COUNTERS",
    "LOG_GROUP",
    "counters_of",
    "counters_request",
    "nflog_messages",
    "ruleset",
]

_SUBSYSTEM = 10 << 8
_LOG_SUBSYSTEM = 4 << 8
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, _NEW_OBJECT, _GET_OBJECT = 0, 3, 6, 18, 19
_INET, _IPV4, _IPV6 = 1, 2, 10
_TCP, _UDP, _ICMP, _ICMP6 = 6, 17, 1, 58
_TABLE = b"openshell\0"
_ACCEPT, _DROP = 1, 0
_HOOK_PREROUTING, _HOOK_OUTPUT = 0, 3
_COUNTER_OBJECT = 1

COUNTERS = ("refused_udp", "refused_icmp", "refused_other")
LOG_GROUP = 1
# A sample is enough to report who tried what; the counters hold the whole truth.
_LOG_PER_SECOND, _LOG_BURST = 10, 20
# Enough for the IPv6 header, an extension and the UDP header; payload is nobody's business.
_LOG_SNAPLEN = 96


def _body(family: int, *attributes: bytes, resource: int = 0) -> bytes:
    return struct.pack(">BBH", family, 0, resource) + b"".join(attributes)


def _u32(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">I", value))


def _u64(kind: int, value: int) -> bytes:
    return attribute(kind, struct.pack(">Q", value))


def _expression(name: str, *parts: bytes) -> bytes:
    return nested(1, attribute(1, name.encode() + b"\0"), nested(2, *parts))


def _meta(key: int) -> bytes:
    return _expression("meta", _u32(2, key), _u32(1, 1))


def _compare(value: bytes) -> bytes:
    return _expression("cmp", _u32(1, 1), _u32(2, 0), nested(3, attribute(1, value)))


def _payload(base: int, offset: int, length: int) -> bytes:
    return _expression("payload", _u32(1, 1), _u32(2, base), _u32(3, offset), _u32(4, length))


def _masked(mask: bytes) -> bytes:
    return _expression(
        "bitwise",
        _u32(1, 1),
        _u32(2, 1),
        _u32(3, len(mask)),
        nested(4, attribute(1, mask)),
        nested(5, attribute(1, bytes(len(mask)))),
    )


def _verdict(code: int) -> bytes:
    return _expression("immediate", _u32(1, 0), nested(2, nested(2, _u32(1, code))))


def _family(family: int) -> bytes:
    return _meta(15) + _compare(bytes([family]))


def _protocol(number: int) -> bytes:
    return _meta(16) + _compare(bytes([number]))


def _destination(network: str) -> bytes:
    parsed = ipaddress.ip_network(network)
    four = parsed.version == 4
    size = 4 if four else 16
    parts = _family(_IPV4 if four else _IPV6) + _payload(1, 16 if four else 24, size)
    if parsed.prefixlen != size * 8:
        parts += _masked(parsed.netmask.packed)
    return parts + _compare(parsed.network_address.packed)


def _port(number: int) -> bytes:
    return _payload(2, 2, 2) + _compare(struct.pack(">H", number))


def _transport_type(protocol: int, value: int) -> bytes:
    return _protocol(protocol) + _payload(2, 0, 1) + _compare(bytes([value]))


def _tproxy(family: int, address: str, port: int) -> bytes:
    packed = ipaddress.ip_address(address).packed
    load_address = _expression("immediate", _u32(1, 1), nested(2, attribute(1, packed)))
    load_port = _expression(
        "immediate", _u32(1, 2), nested(2, attribute(1, struct.pack(">H", port)))
    )
    action = _expression("tproxy", _u32(1, family), _u32(2, 1), _u32(3, 2))
    return load_address + load_port + action


def _count(name: str) -> bytes:
    return _expression("objref", _u32(1, _COUNTER_OBJECT), attribute(2, name.encode() + b"\0"))


def _reject() -> bytes:
    return _expression("reject", _u32(1, 2), attribute(2, b"\x01"))


def _log() -> bytes:
    limit = _expression(
        "limit", _u64(1, _LOG_PER_SECOND), _u64(2, 1), _u32(3, _LOG_BURST), _u32(4, 0)
    )
    log = _expression(
        "log",
        attribute(1, struct.pack(">H", LOG_GROUP)),
        attribute(2, b"openshell\0"),
        _u32(3, _LOG_SNAPLEN),
    )
    return limit + log


def _chain(name: str, hook: int, priority: int, policy: int) -> Message:
    body = _body(
        _INET,
        attribute(1, _TABLE),
        attribute(3, name.encode() + b"\0"),
        nested(4, _u32(1, hook), attribute(2, struct.pack(">i", priority))),
        _u32(5, policy),
        attribute(7, b"filter\0"),
    )
    return Message(
        f"chain {name}", _SUBSYSTEM | _NEW_CHAIN, FLAG_REQUEST | FLAG_ACK | FLAG_CREATE, body
    )


def _rule(chain: str, label: str, *expressions: bytes) -> Message:
    body = _body(
        _INET,
        attribute(1, _TABLE),
        attribute(2, chain.encode() + b"\0"),
        nested(4, *expressions),
    )
    flags = FLAG_REQUEST | FLAG_ACK | FLAG_CREATE | FLAG_APPEND
    return Message(f"rule {label}", _SUBSYSTEM | _NEW_RULE, flags, body)


def _counter(name: str) -> Message:
    body = _body(
        _INET,
        attribute(1, _TABLE),
        attribute(2, name.encode() + b"\0"),
        _u32(3, _COUNTER_OBJECT),
        nested(4, _u64(1, 0), _u64(2, 0)),
    )
    flags = FLAG_REQUEST | FLAG_ACK | FLAG_CREATE
    return Message(f"counter {name}", _SUBSYSTEM | _NEW_OBJECT, flags, body)


def ruleset(
    *, proxy: str, own: tuple[str, ...], capture_port: int, ipv6: bool = True
) -> list[Message]:
    """Build the batch: `proxy` is our loopback address, `own` the agent's source addresses."""
    accept = _verdict(_ACCEPT)
    batch_end = {
        "begin": Message("batch begin", 16, FLAG_REQUEST, _body(0, resource=10)),
        "end": Message("batch end", 17, FLAG_REQUEST, _body(0, resource=10)),
    }
    table = Message(
        "table",
        _SUBSYSTEM | _NEW_TABLE,
        FLAG_REQUEST | FLAG_ACK | FLAG_CREATE,
        _body(_INET, attribute(1, _TABLE), _u32(2, 0)),
    )
    not_tcp = _meta(16) + _expression(
        "cmp", _u32(1, 1), _u32(2, 1), nested(3, attribute(1, bytes([_TCP])))
    )
    capture = [
        _rule("capture", "only tcp", not_tcp, accept),
        _rule("capture", "loopback", _destination("127.0.0.0/8"), accept),
        _rule("capture", "loopback v6", _destination("::1/128"), accept),
        _rule("capture", "proxy", _destination(f"{proxy}/32"), accept),
        _rule("capture", "dns over tcp", _port(53), accept),
        _rule(
            "capture", "tproxy", _family(_IPV4), _tproxy(_IPV4, "127.0.0.1", capture_port), accept
        ),
    ]
    if ipv6:
        expressions = _family(_IPV6), _tproxy(_IPV6, "::1", capture_port), accept
        capture.append(_rule("capture", "tproxy v6", *expressions))
    output = [
        _rule("output", "tcp", _protocol(_TCP), accept),
        *(
            _rule("output", f"to {network}", _destination(network), accept)
            for network in ("127.0.0.0/8", "::1/128", *own)
        ),
        _rule("output", "dns", _protocol(_UDP), _port(53), accept),
        # Our own refusals are ICMP errors: they must not be refused again.
        _rule("output", "icmp errors", _family(_IPV4), _transport_type(_ICMP, 3), accept),
        _rule("output", "icmpv6 errors", _family(_IPV6), _transport_type(_ICMP6, 1), accept),
        _rule("output", "log", _log()),
        _rule("output", "udp", _protocol(_UDP), _count("refused_udp"), _reject()),
        _rule("output", "icmp", _protocol(_ICMP), _count("refused_icmp"), _reject()),
        _rule("output", "icmpv6", _protocol(_ICMP6), _count("refused_icmp"), _reject()),
        _rule("output", "other", _count("refused_other"), _reject()),
    ]
    return [
        batch_end["begin"],
        table,
        *(_counter(name) for name in COUNTERS),
        _chain("capture", _HOOK_PREROUTING, -150, _ACCEPT),
        _chain("output", _HOOK_OUTPUT, 0, _DROP),
        *capture,
        *output,
        batch_end["end"],
    ]


def counters_request() -> Message:
    """Ask for all counters of the table; works through a socket opened inside."""
    body = _body(_INET, attribute(1, _TABLE), _u32(3, _COUNTER_OBJECT))
    return Message("counters", _SUBSYSTEM | _GET_OBJECT, FLAG_REQUEST | FLAG_DUMP, body)


def counters_of(bodies: list[bytes]) -> dict[str, int]:
    """Read name -> packets from the replies to `counters_request`."""
    found: dict[str, int] = {}
    for body in bodies:
        fields = attributes_of(body[4:])
        values = attributes_of(fields.get(4, b""))
        name = fields.get(2, b"").rstrip(b"\0").decode("ascii", "replace")
        # counter object: 1 bytes, 2 packets
        if name in COUNTERS and 2 in values:
            found[name] = int.from_bytes(values[2], "big")
    return found


def nflog_messages() -> list[Message]:
    """Bind the log group to the sending socket: headers only, delivered at once."""
    config = _LOG_SUBSYSTEM | 1
    flags = FLAG_REQUEST | FLAG_ACK
    group = LOG_GROUP

    def message(label: str, *attributes: bytes) -> Message:
        return Message(label, config, flags, _body(0, *attributes, resource=group))

    return [
        message("nflog bind", attribute(1, b"\x01")),
        message("nflog mode", attribute(2, struct.pack(">IBB", _LOG_SNAPLEN, 2, 0))),
        message("nflog threshold", _u32(5, 1)),
    ]
