"""Makes proposals of denials: for each place and program the smallest rule that would have allowed it. Pure.

A proposal allows nothing; a person or a gate at the gateway decides. Nothing is proposed where no rule
could help, where none could be named (an unknown program), and never a rule that would take an inspection
away. What the gateway makes of proposals is its own affair. Called by `summaries`.
"""

import re
import zlib
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Final

from openshell._proto import openshell_pb2
from openshell.codec.policy import rule_to_proto
from openshell.policy.merge_operations import is_always_blocked
from openshell.policy.model import Binary, Endpoint, L7Rule, NetworkRule
from openshell.supervisor.tally import MAX_PATH, Denied

__all__ = ["propose"]

# Refusals that a rule for the place, the program or the request would have changed.
_HELPED: Final = frozenset(
    {"no_policy", "endpoint_not_allowed", "binary_not_allowed", "no_allow", "no_route"}
)
_SSRF: Final = "ssrf"
_TCP: Final = "transparent-tcp"
_L7_DENY: Final = "forward-l7-deny"
# Engines whose requests say everything by method and path.
_BY_HEAD: Final = frozenset({"", "opa", "l7"})

_PORTS: Final = {
    22: "SSH", 53: "DNS", 80: "HTTP", 443: "HTTPS", 587: "SMTP", 993: "IMAPS", 995: "POP3S",
    2181: "ZooKeeper", 3306: "MySQL", 5432: "PostgreSQL", 5672: "AMQP", 6379: "Redis",
    6443: "Kubernetes", 8080: "HTTP", 8443: "HTTPS", 9092: "Kafka", 9200: "Elasticsearch",
    11211: "memcached", 27017: "MongoDB",
}  # fmt: skip
# The contract's list, which has no SSH.
_KNOWN_PORTS: Final = frozenset(_PORTS) - {22}
_OFTEN: Final = 10
_REPEATED: Final = 3

_METHOD: Final = re.compile(r"[A-Z][A-Z-]{0,30}").fullmatch
# What globs give a meaning, and the brackets of a path that was redacted.
_GLOB: Final = re.compile(r"[*?\[\]{}\\]")
_NOT_A_NAME: Final = re.compile(r"[^A-Za-z0-9_]")
_MAX_HOST: Final = 96
# The gateway takes 4096 bytes.
_MAX_RATIONALE: Final = 2000


def propose(denied: Sequence[Denied]) -> list[openshell_pb2.PolicyChunk]:
    """The proposals, those first that are most likely wanted."""
    names: dict[str, str] = {}
    chunks = [chunk for each in denied if (chunk := _chunk(each, names)) is not None]
    return sorted(chunks, key=lambda chunk: -chunk.confidence)


def _chunk(denied: Denied, names: dict[str, str]) -> openshell_pb2.PolicyChunk | None:
    endpoint = _endpoint(denied)
    if endpoint is None:
        return None
    binary = Binary(denied.binary, advisor_proposed=True)
    name = _rule_name(denied, names)
    rule = NetworkRule(name, name, (endpoint,), (binary,))
    refusal = denied.first.refusal
    return openshell_pb2.PolicyChunk(
        rule_name=name,
        status="pending",
        proposed_rule=rule_to_proto(rule),
        rationale=_rationale(denied, endpoint),
        confidence=_confidence(denied),
        stage=refusal.stage if refusal is not None else "",
        hit_count=denied.count,
        first_seen_ms=denied.first.time_ms,
        last_seen_ms=denied.last_ms,
        binary=denied.binary,
    )


def _endpoint(denied: Denied) -> Endpoint | None:
    """What would have to be declared, or None where nothing should be."""
    if not denied.binary.startswith("/") or not 0 < denied.port <= 0xFFFF:
        return None
    if is_always_blocked(denied.host):
        return None
    if not (denied.codes & _HELPED or _SSRF in denied.stages):
        return None
    if not denied.engines <= _BY_HEAD | {_SSRF}:
        # A body decides there: method and path would allow too much, or what is refused again.
        return None
    place = Endpoint(host=denied.host, ports=(denied.port,), advisor_proposed=True)
    if _TCP in denied.stages:
        return Endpoint(
            host=denied.host, ports=(denied.port,), protocol="tcp", advisor_proposed=True
        )
    if not (denied.samples or _L7_DENY in denied.stages):
        return place
    rules = _rules(denied)
    if not rules:
        # The place as a whole would be more than was asked for.
        return None
    return Endpoint(
        host=denied.host,
        ports=(denied.port,),
        protocol="rest",
        enforcement="enforce",
        rules=rules,
        advisor_proposed=True,
    )


def _rules(denied: Denied) -> tuple[L7Rule, ...]:
    requests = {
        (method, _general(path))
        for method, path in denied.samples
        # A path that was cut is another one, and one with the signs of globs would allow others.
        if _METHOD(method) and len(path) < MAX_PATH and not _GLOB.search(path.partition("?")[0])
    }
    return tuple(L7Rule(method=method, path=path) for method, path in sorted(requests))


def _general(path: str) -> str:
    """The path with an identifier in its last segment left open."""
    path = path.partition("?")[0]
    parent, slash, last = path.rpartition("/")
    return f"{parent}{slash}*" if slash and _is_identifier(last) else path


def _is_identifier(segment: str) -> bool:
    hexadecimal = sum(char in "0123456789abcdefABCDEF" for char in segment)
    if segment.isascii() and segment.isdigit():
        return len(segment) >= 2
    return ("-" in segment and hexadecimal >= 24) or (
        len(segment) >= 16 and hexadecimal == len(segment)
    )


def _rule_name(denied: Denied, names: dict[str, str]) -> str:
    """The contract's name; another host of the same spelling gets one of its own."""
    host = denied.host[:_MAX_HOST].replace(".", "_").replace("-", "_")
    name = f"allow_{_NOT_A_NAME.sub('', host)}_{denied.port}"
    if names.setdefault(name, denied.host) != denied.host:
        name = f"{name}_{zlib.crc32(denied.host.encode()):08x}"
    return name


def _confidence(denied: Denied) -> float:
    often = 0.2 if denied.count >= _OFTEN else 0.1 if denied.count >= _REPEATED else 0.0
    known = 0.15 if denied.port in _KNOWN_PORTS else 0.0
    forbidden = 0.2 if _SSRF in denied.stages else 0.0
    return min(max(0.5 + often + known - forbidden, 0.1), 0.95)


def _rationale(denied: Denied, endpoint: Endpoint) -> str:
    kind = _PORTS.get(denied.port)
    shown = f"[{denied.host}]" if ":" in denied.host else denied.host
    text = f"Allow {PurePosixPath(denied.binary).name} to connect to {shown}:{denied.port}"
    if kind is not None:
        text += f" ({kind})"
    if endpoint.rules:
        text += " for " + ", ".join(f"{rule.method} {rule.path}" for rule in endpoint.rules)
    return text.encode()[:_MAX_RATIONALE].decode(errors="ignore")
