"""Checks of one token grant: where the token comes from, how it is sent, which override applies.

Called by `lint_credentials` only. Grants of different credentials and providers are compared where
they meet, in a sandbox: `openshell.providers.token_grants`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator
from itertools import combinations
from typing import Final
from urllib.parse import urlsplit

from openshell.policy.overlap import Budget
from openshell.providers.profile.findings import ProfileFinding
from openshell.providers.profile.model import ProfileCredential, ProviderProfile, TokenGrant
from openshell.providers.selectors import selectors_overlap, spans_overlap
from openshell.providers.token_grants import override_bindings, score

__all__ = ["check_grant"]

_GRANT: Final = "credentials.token_grant"

# A header's name as RFC 9110 has it (RFC 7230 before).
_TOKEN: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# They belong to the connection; a credential there would change who reads the request.
_FORBIDDEN_HEADERS: Final = frozenset(("host", "content-length", "transfer-encoding", "connection"))
_LABEL: Final = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_CLUSTER: Final = (".svc", ".svc.cluster.local")

# Pairs that are named one by one; the first few show what is wrong.
_MAX_PAIRS: Final = 16


def check_grant(
    credential: ProfileCredential, grant: TokenGrant, profile: ProviderProfile, budget: Budget
) -> Iterator[ProfileFinding]:
    about = f"credential '{credential.name.strip()}'"
    problem = _url_problem(grant.token_endpoint)
    if problem:
        yield ProfileFinding(f"{_GRANT}.token_endpoint", f"{about}: token_endpoint {problem}")
    for message in _ambiguous(credential, grant, profile, budget):
        yield ProfileFinding(f"{_GRANT}.audience_overrides", f"{about}: {message}")
    style = credential.auth_style.strip().lower()
    if style in ("query", "path", "basic"):
        yield ProfileFinding(
            f"{_GRANT}.auth_style",
            f"{about}: a token grant supports only bearer or header auth, not {style}",
        )
    header = credential.header_name.strip()
    if header and not _TOKEN.fullmatch(credential.header_name):
        yield ProfileFinding(
            "credentials.header_name", f"{about}: header_name is no valid name of a header"
        )
    elif header.lower() in _FORBIDDEN_HEADERS:
        yield ProfileFinding(
            "credentials.header_name",
            f"{about}: a token grant must not use the header '{header.lower()}'",
        )


def _url_problem(text: str) -> str:
    """What keeps it from being where a token may be fetched, "" for nothing."""
    try:
        url = urlsplit(text)
        host, port = url.hostname or "", url.port
    except ValueError:
        return "must be an absolute URL"
    # urlsplit drops some of these silently, so that what is fetched would not be what is written.
    odd = any(char <= " " or char >= "\x7f" for char in text)
    if odd or not url.scheme or not host or port == 0:
        return "must be an absolute URL"
    if url.username is not None or url.password is not None or "#" in text:
        return "must have neither a user nor a fragment"
    if url.scheme == "https" or (url.scheme == "http" and _is_near(host)):
        return ""
    return "must use https; http only to loopback or to a service in the cluster"


def _is_near(host: str) -> bool:
    """Loopback, or a cluster's own name of a service: `NAME.NAMESPACE.svc[.cluster.local]`."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    for suffix in _CLUSTER:
        labels = host.removesuffix(suffix).split(".")
        if host.endswith(suffix) and len(labels) == 2 and all(map(_LABEL.fullmatch, labels)):
            return True
    return False


def _ambiguous(
    credential: ProfileCredential, grant: TokenGrant, profile: ProviderProfile, budget: Budget
) -> Iterator[str]:
    """One sentence for each two overrides that could serve one request equally well."""
    too_many = "the profile has too many overrides, endpoints and ports to compare them all"
    budget.spend(len(grant.audience_overrides) * sum(len(e.ports) for e in profile.endpoints))
    if budget.is_spent:
        yield too_many
        return
    groups: dict[tuple[int, int], list[tuple[int, str, str]]] = {}
    for index, override in enumerate(grant.audience_overrides):
        found = override_bindings(profile, credential, override)
        for host, port, path in sorted({(b.host, b.port, b.path) for b in found}):
            groups.setdefault((port, score(host, path)), []).append((index, host, path))
    named: set[tuple[int, int]] = set()
    for group in groups.values():
        for (one, host, path), (two, other_host, other_path) in combinations(group, 2):
            budget.spend(1)
            if budget.is_spent:
                yield too_many
                return
            if one == two or (one, two) in named or len(named) >= _MAX_PAIRS:
                continue
            if selectors_overlap(host, other_host, budget) and spans_overlap(
                path, other_path, budget
            ):
                named.add((one, two))
                yield (
                    f"audience_overrides[{one}] and audience_overrides[{two}] are ambiguous for "
                    f"{host} (paths '{path}' and '{other_path}'); narrow one of them"
                )
