"""The short notation of cases/merge.yaml, so that a case reads like the tables of the contract.

Rule: `endpoint; endpoint | binary binary!`. Endpoint: `host:port,port word=value ...`; words: protocol,
access, enforcement, tls, path, rules=GET:/a,POST:/b, deny=..., ips=a,b, flag=name,name, binding=name,
mcp=strict|loose|profile, limit=bytes, mark. `!` after a binary marks it.
"""

from dataclasses import replace

from openshell.policy import merge as mg
from openshell.policy import model as m

MCP = {
    "strict": m.McpOptions(strict_tool_names=True),
    "loose": m.McpOptions(strict_tool_names=False),
    "profile": m.McpOptions(allow_all_known_mcp_methods=True),
}


def l7_rules(text):
    def one(part):
        method, _, path = part.partition(":")
        if method.startswith("op-"):
            return m.L7Rule(operation_type=method.removeprefix("op-"))
        return m.L7Rule(method=method, path=path)

    return tuple(one(part) for part in text.split(",") if part)


def endpoint(text):
    where, *words = text.split()
    host, _, ports = where.rpartition(":")
    out = m.Endpoint(host=host, ports=tuple(int(p) for p in ports.split(",") if p))
    for word in words:
        name, _, value = word.partition("=")
        match name:
            case "mark":
                out = replace(out, advisor_proposed=True)
            case "rules":
                out = replace(out, rules=l7_rules(value))
            case "deny":
                out = replace(out, deny_rules=l7_rules(value))
            case "ips":
                out = replace(out, allowed_ips=tuple(value.split(",")))
            case "flag":
                out = replace(out, **dict.fromkeys(value.split(","), True))
            case "binding":
                out = replace(out, credential_binding=m.CredentialBinding(value))
            case "mcp":
                out = replace(out, mcp=MCP[value])
            case "limit":
                out = replace(out, json_rpc_max_body_bytes=int(value))
            case _:
                assert name in ("protocol", "access", "enforcement", "tls", "path"), word
                out = replace(out, **{name: value})
    return out


def binary(text):
    path = text.removesuffix("!")
    path = path if path.startswith("/") else f"/usr/bin/{path}"
    return m.Binary(path, advisor_proposed=text.endswith("!"))


def rule(key, text):
    endpoints, _, binaries = text.partition("|")
    return m.NetworkRule(
        key=key,
        name=key,
        endpoints=tuple(endpoint(e) for e in endpoints.split(";") if e.strip()),
        binaries=tuple(binary(b) for b in binaries.split()),
    )


def policy(rules):
    return m.SandboxPolicy(network_policies={k: rule(k, v) for k, v in sorted(rules.items())})


def _place(text):
    host, _, port = text.rpartition(":")
    return host, int(port)


def operation(row):
    match row:
        case {"add": name, **rest}:
            return mg.AddRule(name, rule(name.strip(), rest.get("rule", "")))
        case {"remove_endpoint": where, **rest}:
            return mg.RemoveEndpoint(*_place(where), rest.get("from", ""))
        case {"remove_rule": name}:
            return mg.RemoveRule(name)
        case {"remove_binary": path, "from": name}:
            return mg.RemoveBinary(name, binary(path).path if path else "")
        case {"allow": where, "rules": rules}:
            return mg.AddAllowRules(*_place(where), l7_rules(rules) if rules else ())
        case {"allow": where, "blank": True}:
            return mg.AddAllowRules(*_place(where), (m.L7Rule(),))
        case {"deny": where, "rules": rules}:
            return mg.AddDenyRules(*_place(where), l7_rules(rules) if rules else ())
    raise AssertionError(row)
