"""Checks of middleware attachments: identity, order, selectors, settings of those that are built in.

What registered services make of their settings only they know; the gateway asks them.

Called by `validate` on the whole policy, since selectors are compared with its endpoints.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from openshell.policy.findings import Finding, Severity
from openshell.policy.globs import GlobError, compile_selector
from openshell.policy.hosts import is_wildcard_host
from openshell.policy.model import Endpoint, MiddlewareConfig, SandboxPolicy
from openshell.policy.overlap import Budget, hosts_overlap

__all__ = [
    "BUILT_IN_PREFIX",
    "MAX_MIDDLEWARES",
    "MAX_SELECTORS",
    "REGEX",
    "check_middlewares",
    "is_service_name",
]

# Implementations of ours; nobody registers a service under such a name.
BUILT_IN_PREFIX: Final = "openshell/"
REGEX: Final = "openshell/regex"

# Each one may see and delay every request that it selects.
MAX_MIDDLEWARES: Final = 10
# Patterns of one attachment, both lists together.
MAX_SELECTORS: Final = 32


_SERVICE_NAME = re.compile(r"[A-Za-z0-9._/-]{1,128}")


def is_service_name(name: str) -> bool:
    """Whether a service may be registered under `name`."""
    return bool(_SERVICE_NAME.fullmatch(name)) and not name.startswith(BUILT_IN_PREFIX)


def check_middlewares(policy: SandboxPolicy) -> Iterator[Finding]:
    items = [policy.network_middlewares[key] for key in sorted(policy.network_middlewares)]
    if len(items) > MAX_MIDDLEWARES:
        yield _error(
            "too_many_middlewares",
            "network_middlewares",
            f"too many middleware configs ({len(items)} > {MAX_MIDDLEWARES})",
        )
    orders: dict[int, str] = {}
    budget = Budget()
    for item in items:
        yield from _check_one(item)
        first = orders.setdefault(item.order, item.key)
        if first != item.key:
            yield _error(
                "middleware_order",
                f"network_middlewares.{item.key}.order",
                f"middleware configs '{first}' and '{item.key}' use duplicate order {item.order}",
            )
        yield from _check_skipped(item, policy, budget)


def _error(code: str, location: str, message: str) -> Finding:
    return Finding(code, Severity.ERROR, location, message)


def _check_one(item: MiddlewareConfig) -> Iterator[Finding]:
    where = f"network_middlewares.{item.key}"
    for field, reason in _faults(item):
        yield _error(
            "middleware_invalid",
            f"{where}.{field}" if field else where,
            f"middleware config '{item.key}' is invalid: {reason}",
        )
    count = len(item.include) + len(item.exclude)
    if count > MAX_SELECTORS:
        yield _error(
            "too_many_selectors",
            f"{where}.endpoints",
            f"middleware config '{item.key}' has too many selector patterns "
            f"({count} > {MAX_SELECTORS})",
        )


def _faults(item: MiddlewareConfig) -> Iterator[tuple[str, str]]:
    if not item.key:
        yield "", "its key must not be empty"
    if not item.middleware:
        yield "middleware", "middleware must name an implementation"
    elif item.middleware.startswith(BUILT_IN_PREFIX):
        yield from _built_in_faults(item)
    elif not is_service_name(item.middleware):
        yield "middleware", "a name is 1 to 128 letters, digits, '.', '_', '/' and '-'"
    if item.on_error not in ("", "fail_closed", "fail_open"):
        yield "on_error", "on_error must be fail_closed or fail_open"
    if not item.has_selector:
        yield "endpoints", "endpoints must select hosts"
    elif not item.include:
        yield "endpoints.include", "endpoints.include must not be empty"
    for name, patterns in (("include", item.include), ("exclude", item.exclude)):
        for index, pattern in enumerate(patterns):
            try:
                compile_selector(pattern)
            except GlobError as error:
                yield f"endpoints.{name}[{index}]", f"bad host pattern: {error}"


def _built_in_faults(item: MiddlewareConfig) -> Iterator[tuple[str, str]]:
    if item.middleware != REGEX:
        yield "middleware", f"'{item.middleware}' is not built in; '{REGEX}' is"
        return
    for key in sorted(set(item.config) - {"mode"}):
        yield "config", f"{REGEX} has no setting '{key}'; it has 'mode'"
    if item.config.get("mode") != "redact":
        yield "config", f"{REGEX} needs mode: redact"


def _check_skipped(
    item: MiddlewareConfig, policy: SandboxPolicy, budget: Budget
) -> Iterator[Finding]:
    """What must not be left out cannot be asked for where traffic stays closed."""
    if item.on_error == "fail_open":
        return
    for key in sorted(policy.network_policies):
        rule = policy.network_policies[key]
        for index, endpoint in enumerate(rule.endpoints):
            if endpoint.tls.strip().lower() == "skip" and _may_select(item, endpoint, budget):
                yield _error(
                    "middleware_tls_skip",
                    f"network_middlewares.{item.key}.endpoints",
                    f"middleware config '{item.key}' is fail_closed and selects network policy "
                    f"'{rule.display_name}' tls: skip endpoint '{endpoint.host or '<any-host>'}' "
                    f"({index}), whose traffic it cannot see",
                )


def _may_select(item: MiddlewareConfig, endpoint: Endpoint, budget: Budget) -> bool:
    host = endpoint.host.lower()
    exact = bool(host) and not is_wildcard_host(host)
    if exact and any(_covers(pattern, host) for pattern in item.exclude):
        return False
    if host in (pattern.lower() for pattern in item.exclude):
        return False
    if exact:
        return any(_covers(pattern, host) for pattern in item.include)
    # `?` and classes count as pattern here even without a star.
    return any(
        not _is_plain(pattern) or hosts_overlap(pattern, host, budget) for pattern in item.include
    )


def _is_plain(pattern: str) -> bool:
    return "?" not in pattern and "[" not in pattern


def _covers(pattern: str, host: str) -> bool:
    """A pattern that cannot be read covers nothing; it is reported by itself."""
    try:
        return bool(compile_selector(pattern)(host))
    except GlobError:
        return False
