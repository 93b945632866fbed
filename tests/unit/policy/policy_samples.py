"""Random policies: `full_policies` fills every key, `rest_policies` collide on few names."""

from types import MappingProxyType

from hypothesis import strategies as st

from openshell.policy import model as m

WORDS = st.sampled_from(["a", "b.c", "x y", "1", "true", "1e5", "é", "0o7", "-", "a: b", "*", ""])
KEYS = st.sampled_from(["a", "b", "k-1", "1", "true", "x y"])
MATCHERS = st.one_of(
    WORDS.map(m.Matcher),
    st.lists(WORDS, min_size=1, max_size=2).map(lambda w: m.Matcher("", tuple(w))),
)


def tuples(items, **kw):
    return st.lists(items, max_size=2, **kw).map(tuple)


def maps(values):
    return st.dictionaries(KEYS, values, max_size=2).map(MappingProxyType)


L7_RULES = st.builds(
    m.L7Rule,
    method=WORDS,
    path=WORDS,
    command=WORDS,
    query=maps(MATCHERS),
    operation_type=WORDS,
    operation_name=WORDS,
    fields=tuples(WORDS),
    params=maps(MATCHERS),
)
OPTIONAL_BOOL = st.sampled_from([None, True, False])


def endpoints():
    built = st.builds(
        m.Endpoint,
        host=WORDS,
        ports=tuples(st.integers(1, 65535)),
        path=WORDS,
        protocol=st.sampled_from(["", "rest", "mcp", "json-rpc"]),
        tls=WORDS,
        enforcement=WORDS,
        access=WORDS,
        rules=tuples(L7_RULES),
        deny_rules=tuples(L7_RULES),
        allowed_ips=tuples(WORDS),
        allow_encoded_slash=st.booleans(),
        websocket_credential_rewrite=st.booleans(),
        request_body_credential_rewrite=st.booleans(),
        allow_uninspected_credentials=st.booleans(),
        persisted_queries=WORDS,
        graphql_persisted_queries=maps(st.builds(m.GraphqlOperation, WORDS, WORDS, tuples(WORDS))),
        graphql_max_body_bytes=st.integers(0, 2**32 - 1),
        credential_signing=WORDS,
        signing_service=WORDS,
        signing_region=WORDS,
        credential_binding=st.one_of(st.none(), st.builds(m.CredentialBinding, WORDS)),
    )
    limits = st.integers(0, 2**32 - 1)
    options = st.one_of(st.none(), st.builds(m.McpOptions, OPTIONAL_BOOL, OPTIONAL_BOOL))
    return st.tuples(built, limits, options).map(_with_family)


def _with_family(parts):
    """Methods that an mcp reader would fill in are filled in, and a limit alone has no block."""
    from dataclasses import replace

    endpoint, limit, options = parts
    if endpoint.protocol == "mcp" and limit and options is None:
        options = m.McpOptions()
    endpoint = replace(endpoint, json_rpc_max_body_bytes=limit, mcp=options)

    def fill(rules):
        return tuple(
            r if r.method else replace(r, method=m.implied_method(r, endpoint)) for r in rules
        )

    return replace(endpoint, rules=fill(endpoint.rules), deny_rules=fill(endpoint.deny_rules))


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-9, 9), st.just(0.5), WORDS),
    lambda inner: st.one_of(tuples(inner), maps(inner)),
    max_leaves=4,
)


def full_policies():
    def keyed(entries):
        from dataclasses import replace

        return MappingProxyType(
            {k: replace(v, key=k, name=v.name or k) for k, v in sorted(entries.items())}
        )

    rules = st.builds(
        m.NetworkRule,
        key=st.just(""),
        name=WORDS,
        endpoints=tuples(endpoints()),
        binaries=tuples(st.builds(m.Binary, WORDS)),
    )
    middlewares = st.builds(
        m.MiddlewareConfig,
        key=st.just(""),
        middleware=WORDS,
        name=WORDS,
        order=st.integers(-9, 9),
        config=maps(JSON),
        on_error=WORDS,
        include=tuples(WORDS),
        exclude=tuples(WORDS),
    )
    return st.builds(
        m.SandboxPolicy,
        version=st.integers(0, 2**32 - 1),
        filesystem=st.one_of(
            st.none(), st.builds(m.FilesystemPolicy, st.booleans(), tuples(WORDS), tuples(WORDS))
        ),
        landlock=st.one_of(st.none(), st.builds(m.LandlockPolicy, WORDS)),
        process=st.one_of(st.none(), st.builds(m.ProcessPolicy, WORDS.filter(bool), WORDS)),
        network_policies=st.dictionaries(KEYS, rules, max_size=2).map(keyed),
        network_middlewares=st.dictionaries(KEYS, middlewares, max_size=1).map(keyed),
    )


HOSTS = ["a.x.com", "b.x.com", "c.a.x.com", "x.com", "10.0.0.1"]
PATHS = ["/", "/v1", "/v1/a", "/v1/a/b", "/graphql", "/a%2Fb"]
PROGRAMS = ["/usr/bin/curl", "/usr/bin/git", "/bin/sh", "/opt/t/x"]

REST_RULES = st.builds(
    m.L7Rule,
    method=st.sampled_from(["GET", "get", "POST", "HEAD", "*", ""]),
    path=st.sampled_from(["**", "/v1/**", "/v1/*", "/**/b", "/v1", "/{v1,graphql}", ""]),
    query=st.dictionaries(
        st.sampled_from(["p", "q"]),
        st.sampled_from([m.Matcher("foo-*"), m.Matcher("", ("1", "2")), m.Matcher("**")]),
        max_size=1,
    ),
)


def rest_policies():
    endpoint = st.builds(
        m.Endpoint,
        host=st.sampled_from(
            ["a.x.com", "A.X.com", "*.x.com", "**.x.com", "*.a.x.com", "b.x.com", ""]
        ),
        ports=st.sampled_from([(443,), (80, 443), (8443,)]),
        path=st.sampled_from(["", "", "/v1/**", "/v*", "/graphql", "**"]),
        protocol=st.sampled_from(["", "rest", "rest", "tcp"]),
        enforcement=st.sampled_from(["", "enforce", "Enforce".lower()]),
        access=st.sampled_from(["", "", "read-only", "read-write", "full", "odd"]),
        rules=st.lists(REST_RULES, max_size=2).map(tuple),
        deny_rules=st.lists(REST_RULES, max_size=1).map(tuple),
        allowed_ips=st.sampled_from([(), ("10.0.0.0/8",)]),
        allow_encoded_slash=st.booleans(),
        advisor_proposed=st.booleans(),
    )
    binary = st.builds(
        m.Binary, st.sampled_from(["/usr/bin/curl", "/usr/bin/*", "/**", "/opt/**", "/bin/sh"])
    )

    def keyed(rules):
        names = ["b", "a", "B", "_provider_x"]
        return m.SandboxPolicy(
            network_policies={
                key: m.NetworkRule(key, key, tuple(e), tuple(b))
                for key, (e, b) in zip(names, rules, strict=False)
            }
        )

    rule = st.tuples(st.lists(endpoint, max_size=2), st.lists(binary, max_size=2))
    return st.lists(rule, max_size=4).map(keyed)
