"""A slow evaluator written from the contract's tables alone, to compare the compiled one with.

No code is shared with `openshell.policy` but the model's types: globs are matched by trying every
possibility with memory, rules by loops in the order of the text.
"""

import ipaddress
from functools import lru_cache


def _class_end(pattern, at):
    end = pattern.find("]", at + 2 + (pattern[at + 1 : at + 2] in ("!", "^")))
    assert end > 0
    return end


def _in_class(body, char, sep):
    negated = body[:1] in ("!", "^")
    body = body[1:] if negated else body
    found = False
    i = 0
    while i < len(body):
        if body[i + 1 : i + 2] == "-" and i + 2 < len(body):
            found |= body[i] <= char <= body[i + 2]
            i += 3
        else:
            found |= body[i] == char
            i += 1
    return char != sep and found != negated


def component_matches(pattern, text, sep):
    """One component without braces: every way is tried."""

    @lru_cache(None)
    def go(p, t):
        if p == len(pattern):
            return t == len(text)
        char = pattern[p]
        if char == "*":
            return go(p + 1, t) or (t < len(text) and go(p, t + 1))
        if t == len(text):
            return False
        if char == "?":
            return go(p + 1, t + 1)
        if char == "[":
            end = _class_end(pattern, p)
            return _in_class(pattern[p + 1 : end], text[t], sep) and go(end + 1, t + 1)
        return char == text[t] and go(p + 1, t + 1)

    return go(0, 0)


def expand(pattern):
    """Innermost braces first, as text."""
    close = pattern.find("}")
    if close < 0:
        return [pattern]
    start = pattern.rfind("{", 0, close)
    return [
        full
        for option in pattern[start + 1 : close].split(",")
        for full in expand(pattern[:start] + option + pattern[close + 1 :])
    ]


def glob_matches(pattern, text, sep):
    """Dialect E."""
    if pattern == "**":
        return True
    return any(_components(one.split(sep), text.split(sep), sep) for one in expand(pattern))


def _components(pattern, text, sep):
    @lru_cache(None)
    def go(p, t):
        if p == len(pattern):
            return t == len(text)
        if pattern[p] != "**":
            return (
                t < len(text) and component_matches(pattern[p], text[t], sep) and go(p + 1, t + 1)
            )
        least = 1 if sep == "." or p == len(pattern) - 1 else 0
        return any(go(p + 1, t + taken) for taken in range(least, len(text) - t + 1))

    return go(0, 0)


def route_matches(pattern, path):
    """Dialect R, without `/**/` inside, whose meaning the table leaves open."""
    if pattern in ("", "**", "/**", path):
        return True
    if pattern.endswith("/**"):
        base = pattern[:-3]
        return any(
            component_matches(base, path[:end], None)
            for end in range(len(path) + 1)
            if end == len(path) or path[end] == "/"
        )
    return component_matches(pattern, path, None)


def host_matches(pattern, host):
    if "*" in pattern:
        return glob_matches(pattern.lower(), host, ".") and "" not in host.split(".")
    return pattern.lower() == host


def _binary_matches(rule, request):
    if request.relaxed:
        return True
    if request.binary is None:
        return False
    for entry in rule.binaries:
        for program in (request.binary, *request.ancestors):
            if "*" in entry.path:
                if glob_matches(entry.path, program, "/"):
                    return True
            elif entry.path == program:
                return True
    return False


def _is_address(host):
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _endpoint_matches(endpoint, host, port):
    if port not in endpoint.ports:
        return False
    if endpoint.protocol == "tcp" and _is_address(host):
        # Found by name only.
        return False
    if not endpoint.host:
        return bool(endpoint.allowed_ips)
    return host_matches(endpoint.host, host)


def connect(policy, request):
    """(code, matched key, [(key, index)] of endpoints)."""
    matched, near = [], False
    for key in sorted(policy.network_policies):
        rule = policy.network_policies[key]
        for index, endpoint in enumerate(rule.endpoints):
            if _endpoint_matches(endpoint, request.host, request.port):
                near = True
                if _binary_matches(rule, request):
                    matched.append((key, index))
    if matched:
        return "allowed", matched[0][0], matched
    if not policy.network_policies:
        return "no_policy", None, []
    return ("binary_not_allowed" if near else "endpoint_not_allowed"), None, []
