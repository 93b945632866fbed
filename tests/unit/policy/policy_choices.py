"""Random policies and requests made of a string of bytes, one choice a byte.

Drawing one string is many times cheaper than drawing hundreds of values, and shrinks as well: fewer
and smaller bytes are smaller policies, because the first option is always the simplest.
"""

from openshell.policy import ConnectionRequest, L7Request
from openshell.policy import model as m
from openshell.policy.messages import (
    GraphqlCall,
    GraphqlRequest,
    RpcCall,
    RpcRequest,
    RpcStream,
    WebSocketMessage,
    WebSocketUpgrade,
)
from unit.policy.policy_samples import HOSTS, PATHS, PROGRAMS

PROTOCOLS = ("rest", "graphql", "json-rpc", "mcp", "websocket")
NAMES = ("a", "ab", "b", "a.b", "secret")
NAME_GLOBS = ("a", "a*", "*", "**", "[ab]", "{b,secret}", "a.*")
METHODS = (
    "tools/call",
    "ping",
    "tools/list",
    "own/x",
    "a.b",
    "notifications/progress",
    "resources/read",
)
KINDS = ("query", "mutation", "subscription")


class Choices:
    def __init__(self, data):
        self._data = iter(data)

    def pick(self, options):
        return options[next(self._data, 0) % len(options)]

    def some(self, make, most):
        return tuple(make() for _ in range(self.pick(range(most + 1))))

    def rarely(self):
        return self.pick((False,) * 7 + (True,))


class Maker:
    """Makes everything for one example; most endpoints speak `focus`, the rest anything."""

    def __init__(self, data, focus):
        self.choices = Choices(data)
        self.focus = focus

    def policy(self):
        keys = ["b", "a", "B", "_provider_x"][: self.choices.pick((1, 2, 3, 4))]
        return m.SandboxPolicy(network_policies={key: self._rule(key) for key in keys})

    def _rule(self, key):
        pick = self.choices.pick
        binaries = self.choices.some(
            lambda: m.Binary(
                pick(("/usr/bin/curl", "/usr/bin/*", "/**", "/opt/**", "/bin/sh")),
                self.choices.rarely(),
            ),
            2,
        )
        return m.NetworkRule(key, key, self.choices.some(self._endpoint, 3), binaries)

    def _endpoint(self):
        pick, some = self.choices.pick, self.choices.some
        protocol = pick((self.focus,) * 10 + ("", "rest", "tcp", "sql") + PROTOCOLS)
        access = (
            ""
            if protocol in ("json-rpc", "mcp")
            else pick(("", "", "read-only", "read-write", "full", "odd"))
        )
        rule = {
            "graphql": self._operation_rule,
            "json-rpc": self._rpc_rule,
            "mcp": self._mcp_rule,
            "websocket": self._websocket_rule,
        }.get(protocol, self._head_rule)
        return m.Endpoint(
            host=pick(
                ("a.x.com", "a.x.com", "A.X.com", "*.x.com", "**.x.com", "*.a.x.com", "b.x.com", "")
            ),
            ports=pick(((443,), (443,), (80, 443), (8443,))),
            path=pick(("", "", "", "/v1/**", "/v*", "/graphql", "**")),
            protocol=protocol,
            enforcement=pick(("", "enforce", "audit")),
            access=access,
            rules=some(rule, 3),
            deny_rules=some(rule, 1),
            allowed_ips=pick(((), ("10.0.0.0/8",))),
            allow_encoded_slash=pick((False, True)),
            persisted_queries=pick(("", "allow_registered", "deny")),
            graphql_persisted_queries=pick(({}, {})) if protocol == "rest" else self._registry(),
            mcp=m.McpOptions(pick((None, False, True)), pick((None, True, False)))
            if protocol == "mcp"
            else None,
            advisor_proposed=self.choices.rarely(),
        )

    def _registry(self):
        pick = self.choices.pick
        entry = m.GraphqlOperation(
            pick(KINDS), pick(("", "A")), pick(((), ("a",), ("a", "secret")))
        )
        return pick(({}, {"h": entry}))

    def _head_rule(self):
        pick = self.choices.pick
        return m.L7Rule(
            method=pick(("GET", "get", "POST", "HEAD", "*", "")),
            path=pick(("**", "/v1/**", "/v1/*", "/**/b", "/v1", "/{v1,graphql}", "")),
            query=pick(
                (
                    {},
                    {},
                    {"p": m.Matcher("foo-*")},
                    {"q": m.Matcher("", ("1", "2"))},
                    {"p": m.Matcher("**")},
                )
            ),
        )

    def _operation_rule(self):
        pick, some = self.choices.pick, self.choices.some
        return m.L7Rule(
            operation_type=pick((*KINDS, "Query", "*", "")),
            operation_name=pick(("", "", "A", "A*")),
            fields=some(lambda: pick(NAME_GLOBS), 2),
        )

    def _websocket_rule(self):
        if self.choices.pick((False, True)):
            return self._operation_rule()
        rule = self._head_rule()
        method = self.choices.pick(("GET", "WEBSOCKET_TEXT", "*", "websocket_text", ""))
        kind = "query" if self.choices.rarely() else ""
        return m.L7Rule(method=method, path=rule.path, query=rule.query, operation_type=kind)

    def _rpc_rule(self):
        return m.L7Rule(method=self.choices.pick((*METHODS, "*", "")))

    def _mcp_rule(self):
        pick = self.choices.pick
        method = pick((*METHODS, "tools/*", "", "", "*"))
        tool = pick((None, None, *NAME_GLOBS))
        return m.L7Rule(method=method, params={} if tool is None else {"name": m.Matcher(tool)})

    def connection(self):
        pick, some = self.choices.pick, self.choices.some
        return ConnectionRequest(
            host=pick(("a.x.com",) * 6 + tuple(HOSTS)),
            port=pick((443, 443, 443, 80)),
            binary=pick(("/usr/bin/curl",) * 5 + (*PROGRAMS, None)),
            ancestors=some(lambda: pick(PROGRAMS), 1),
            relaxed=pick((False, False, False, True)),
        )

    def request(self):
        pick = self.choices.pick
        query = {
            name: self.choices.some(lambda: pick(("foo-a", "1", "evil")), 2)
            for name in pick(((), ("p",), ("p", "q")))
        }
        path = pick(PATHS[:-1] * 2 + PATHS[-1:])
        kind = pick((self.focus,) * 6 + PROTOCOLS)
        method, content = {
            "rest": lambda: (pick(("GET", "HEAD", "POST", "DELETE", "get")), None),
            "graphql": lambda: (pick(("POST", "GET")), self._graphql()),
            "json-rpc": lambda: (pick(("POST", "POST", "post", "GET")), self._rpc()),
            "mcp": lambda: pick(
                (
                    ("POST", self._rpc()),
                    ("POST", self._rpc()),
                    ("GET", RpcStream()),
                    ("POST", RpcStream()),
                    ("GET", None),
                )
            ),
            "websocket": self._websocket,
        }[kind]()
        return L7Request(method, path, {k: v for k, v in query.items() if v}, content)

    def _graphql(self):
        if self.choices.rarely():
            return GraphqlRequest(error="bad")
        return GraphqlRequest(self.choices.some(self._operation, 2))

    def _operation(self):
        pick = self.choices.pick
        if self.choices.pick((False, False, True)):
            return GraphqlCall("", persisted=pick(("h", "x")))
        return GraphqlCall(
            pick((*KINDS, "Mutation")),
            pick(("", "A", "AB")),
            tuple(sorted(set(self.choices.some(lambda: pick(NAMES), 2)))),
        )

    def _rpc(self):
        pick = self.choices.pick
        if self.choices.rarely():
            return RpcRequest(error="invalid JSON")
        calls = self.choices.some(
            lambda: RpcCall(pick(METHODS), pick((*NAMES, "a b", None)), not self.choices.rarely()),
            2,
        )
        return RpcRequest(calls, int(self.choices.rarely()))

    def _websocket(self):
        pick = self.choices.pick
        kind = pick(("upgrade", "text", "graphql", "control", "none"))
        if kind in ("upgrade", "none"):
            return pick(("GET", "get", "POST")), WebSocketUpgrade() if kind == "upgrade" else None
        graphql = self._graphql() if kind == "graphql" else None
        return "WEBSOCKET_TEXT", WebSocketMessage(graphql, kind == "control")
