"""What a policy grants, flat: for each program and each host and port, on which terms.

A policy may say one thing in many rules; here everything said about one program and one place is
put together. Which endpoints count is asked of the compiled policy, as for a real connection:
patterns are stood in for by two samples that have nothing in common, and only what holds for both
counts. So a pattern is seen to be part of a wider one, and there is no second evaluator.

Rules stay text: this describes, it does not decide. Callers: `diff`, and the table of an offline
check.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from openshell.policy.advice import place
from openshell.policy.compile import CompiledPolicy, compile_policy
from openshell.policy.decide import ConnectionAllowed, ConnectionRequest, EndpointConfig
from openshell.policy.hosts import is_wildcard_host, normalize_host
from openshell.policy.model import Endpoint, JsonValue, L7Rule, Matcher, SandboxPolicy
from openshell.policy.rest import ACCESS_PRESETS, methods_of

__all__ = ["Allowance", "Grants", "Reach", "RequestRule", "Terms", "samples_of", "terms_json"]

# What stars are filled with: two texts without a character in common, of unequal length. The
# second crosses separators where the star may.
_FILL: Final = ("7", "xjqz-vw")
_DEEP: Final = ("7", "xjqz-vw{sep}k9h{sep}x")
_ANY_HOST: Final = ("7.any.invalid", "xjqz-vw.k9h.example")
_EVERY_PATH: Final = ("", "**", "/**")


@dataclass(frozen=True, slots=True, order=True)
class Reach:
    """A program and a place, as written; host "" is any host whose address is allowed."""

    binary: str
    host: str
    port: int

    @property
    def place(self) -> str:
        return place(self.host or "<any host>", self.port)


@dataclass(frozen=True, slots=True, order=True)
class RequestRule:
    """One allow or deny rule of an inspected endpoint. `within`: the endpoint's own path, if any."""

    method: str
    path: str
    more: str = ""
    within: str = ""

    def __str__(self) -> str:
        shown = " ".join(part for part in (self.method, self.path, self.more) if part)
        return f"{shown} (within {self.within})" if self.within else shown

    def includes(self, other: RequestRule) -> bool:
        """Whether it certainly matches all that the other one matches."""
        mine, theirs = methods_of(self.method), methods_of(other.method)
        return (
            (mine is None or (theirs is not None and mine >= theirs))
            and (self.path in _EVERY_PATH[1:] or self.path == other.path)
            and (not self.more or self.more == other.more)
            and (not self.within or self.within == other.within)
        )


@dataclass(frozen=True, slots=True)
class Terms:
    """How a program may use a place. Without a protocol its traffic is not looked into."""

    protocols: tuple[str, ...] = ()
    enforcement: tuple[str, ...] = ()
    tls: str = "auto"
    allow: tuple[RequestRule, ...] = ()
    deny: tuple[RequestRule, ...] = ()
    allowed_ips: tuple[str, ...] = ()
    # Names that may resolve to private addresses, because a person named host and program.
    private_addresses: bool = False
    credentials: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    # Keys of the rules that say so; not part of what is allowed.
    rules: tuple[str, ...] = ()

    @property
    def is_inspected(self) -> bool:
        return bool(self.protocols)


@dataclass(frozen=True, slots=True)
class Allowance:
    reach: Reach
    terms: Terms


class Grants:
    """Answers for one policy. `terms` also answers for places that another policy names."""

    def __init__(self, policy: SandboxPolicy) -> None:
        self._policy = policy
        self._compiled: CompiledPolicy = compile_policy(policy, generation=0)

    def reaches(self) -> tuple[Reach, ...]:
        """Every program and place that the policy names, sorted."""
        return tuple(sorted(set(self._named())))

    def _named(self) -> Iterator[Reach]:
        for rule in self._policy.network_policies.values():
            for endpoint in rule.endpoints:
                for port in endpoint.ports:
                    for binary in rule.binaries:
                        yield Reach(binary.path, normalize_host(endpoint.host), port)

    def table(self) -> tuple[Allowance, ...]:
        found = ((reach, self.terms(reach)) for reach in self.reaches())
        return tuple(Allowance(reach, terms) for reach, terms in found if terms is not None)

    def terms(self, reach: Reach) -> Terms | None:
        """On which terms the whole of a reach is granted; None where some of it is refused."""
        answers: list[ConnectionAllowed] = []
        for host, binary in _samples(reach):
            answer = self._compiled.connect(ConnectionRequest(host, reach.port, binary))
            if not isinstance(answer, ConnectionAllowed):
                return None
            answers.append(answer)
        if not answers:
            return None
        first, *others = answers
        shared = [c for c in first.endpoints if all(c in other.endpoints for other in others)]
        trusted = all(any(c in answer.trusted for c in shared) for answer in answers)
        return _terms(first, shared, trusted=trusted) if shared else None


def _samples(reach: Reach) -> Iterator[tuple[str, str]]:
    hosts = samples_of(reach.host, ".") if is_wildcard_host(reach.host) else (reach.host,) * 2
    if not reach.host:
        hosts = _ANY_HOST
    glob = "*" in reach.binary
    binaries = samples_of(reach.binary, "/") if glob else (reach.binary,) * 2
    if hosts is None or binaries is None:
        return
    pairs = zip(hosts, binaries, strict=True)
    # A path that is not absolute names no program.
    yield from dict.fromkeys((h, b) for h, b in pairs if b.startswith("/"))


_BRACES = re.compile(r"\{([^{},]*)(?:,[^{}]*)?\}")
_CLASS = re.compile(r"\[([!^]?)([^\]]+)\]")


def samples_of(pattern: str, sep: str) -> tuple[str, str] | None:
    """Two texts that the pattern matches and that no narrower pattern matches both.

    None for a pattern whose class of characters excludes some: rare enough not to be worked out.
    """
    while (simpler := _BRACES.sub(r"\1", pattern)) != pattern:
        pattern = simpler
    if any(negated for negated, _ in _CLASS.findall(pattern)):
        return None
    pattern = _CLASS.sub(lambda found: found[2][0], pattern)
    parts = pattern.split(sep)
    out: list[str] = []
    for fill, deep in zip(_FILL, _DEEP, strict=True):
        filled = [
            deep.format(sep=sep) if part == "**" else part.replace("**", "*").replace("*", fill)
            for part in parts
        ]
        text = sep.join(filled).replace("?", "7").replace("\\", "")
        # `**` by itself, or in front of a path, stands for an absolute one here.
        out.append(f"/{text}" if sep == "/" and parts[0] == "**" else text)
    return out[0], out[1]


def _terms(first: ConnectionAllowed, shared: list[EndpointConfig], *, trusted: bool) -> Terms:
    inspected = [config for config in shared if config.is_inspected]
    # The first that says how to treat the connection decides, as it does for a connection.
    leading = next((config for config in first.configs if config in shared), None)
    words = {_within(c.enforcement, c.endpoint) for c in inspected}
    options = {
        _within(option, c.endpoint) for c in shared for option in _options(c.endpoint) if option
    }
    return Terms(
        protocols=tuple(sorted({c.protocol for c in inspected})),
        enforcement=tuple(sorted(words)),
        tls="skip" if leading is not None and leading.tls_skip else "auto",
        # On an inspected connection the rules of every matching endpoint count together.
        allow=_request_rules(shared if inspected else (), _allow),
        deny=_request_rules(shared if inspected else (), _deny),
        allowed_ips=tuple(sorted(set(leading.endpoint.allowed_ips))) if leading else (),
        private_addresses=trusted,
        credentials=tuple(sorted({name for c in shared for name in _credentials(c.endpoint)})),
        options=tuple(sorted(options)),
        rules=tuple(dict.fromkeys(c.policy_key for c in shared)),
    )


def _within(word: str, endpoint: Endpoint) -> str:
    return word if endpoint.path in _EVERY_PATH else f"{word} (within {endpoint.path})"


def _options(endpoint: Endpoint) -> Iterator[str]:
    # More than no protocol at all: whatever a direct connection begins with.
    yield "protocol: tcp" if endpoint.protocol.strip().lower() == "tcp" else ""
    for name in (
        "allow_encoded_slash",
        "websocket_credential_rewrite",
        "request_body_credential_rewrite",
        "allow_uninspected_credentials",
    ):
        yield name if getattr(endpoint, name) else ""


def _credentials(endpoint: Endpoint) -> Iterator[str]:
    if endpoint.credential_binding is not None:
        yield endpoint.credential_binding.provider
    if endpoint.provider_credentialed and endpoint.credential_binding is None:
        yield "<attached provider>"


def _allow(endpoint: Endpoint) -> Iterator[L7Rule]:
    yield from endpoint.rules
    for method in ACCESS_PRESETS.get(endpoint.access, ()):
        yield L7Rule(method=method, path="**")


def _deny(endpoint: Endpoint) -> Iterable[L7Rule]:
    return endpoint.deny_rules


def _request_rules(
    configs: Iterable[EndpointConfig], rules_of: Callable[[Endpoint], Iterable[L7Rule]]
) -> tuple[RequestRule, ...]:
    """Each rule once, without those that another one includes."""
    found = {
        RequestRule(
            method=rule.method.upper() if _is_rest(config) else rule.method,
            path=rule.path,
            more=" ".join(_more(rule)),
            within="" if config.endpoint.path in _EVERY_PATH else config.endpoint.path,
        )
        for config in configs
        for rule in rules_of(config.endpoint)
        # Such a rule never matches.
        if not _is_rest(config) or (rule.method and rule.path)
    }
    return tuple(
        sorted(
            rule
            for rule in found
            if not any(
                other.includes(rule) and (not rule.includes(other) or other < rule)
                for other in found
                if other != rule
            )
        )
    )


def _is_rest(config: EndpointConfig) -> bool:
    """Rules without a protocol of their own are read as those of the connection's."""
    return config.protocol in ("rest", "", "tcp")


def _more(rule: L7Rule) -> Iterator[str]:
    """What else a rule asks for, in the key names of the policy."""
    for name, matcher in sorted(rule.query.items()):
        yield f"?{name}={_matcher(matcher)}"
    for key in ("command", "operation_type", "operation_name"):
        value = getattr(rule, key)
        if value:
            yield f"{key}={value}"
    if rule.fields:
        yield f"fields={','.join(rule.fields)}"
    for name, matcher in sorted(rule.params.items()):
        yield f"{'tool' if name == 'name' else name}={_matcher(matcher)}"


def _matcher(matcher: Matcher) -> str:
    return "|".join(matcher.globs)


def terms_json(terms: Terms) -> dict[str, JsonValue]:
    """Plain values for a machine."""
    return {
        "protocols": terms.protocols,
        "enforcement": terms.enforcement,
        "tls": terms.tls,
        "allow": tuple(str(rule) for rule in terms.allow),
        "deny": tuple(str(rule) for rule in terms.deny),
        "allowed_ips": terms.allowed_ips,
        "private_addresses": terms.private_addresses,
        "credentials": terms.credentials,
        "options": terms.options,
        "rules": terms.rules,
    }
