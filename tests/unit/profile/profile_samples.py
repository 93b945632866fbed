"""Random profiles that fill every key, and one that sets each key once."""

from types import MappingProxyType

from hypothesis import strategies as st

from openshell.policy import model as m
from openshell.providers.profile import model as p

# Text that a careless writer of YAML would turn into something else.
WORDS = st.sampled_from(
    ["a", "b.c", "x y", "1", "true", "1e5", "é", "0o7", "-", "a: b", "*", "", " x ", "a\nb", "#"]
)
NAMES = WORDS.filter(bool)
KEYS = st.sampled_from(["a", "b", "k-1", "1", "true", "x y"])
U32 = st.integers(0, 2**32 - 1)
I64 = st.integers(-(2**63), 2**63 - 1)
MATCHERS = st.builds(m.Matcher, glob=WORDS, any_of=st.lists(WORDS, max_size=2).map(tuple))
FLAG = st.sampled_from([None, True, False])


def tuples(items, **kw):
    return st.lists(items, max_size=2, **kw).map(tuple)


def maps(values):
    return st.dictionaries(KEYS, values, max_size=2).map(MappingProxyType)


RULES = st.builds(
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
ENDPOINTS = st.builds(
    m.Endpoint,
    host=WORDS,
    ports=tuples(st.integers(0, 2**32 - 1)),
    path=WORDS,
    protocol=st.sampled_from(["", "rest", "mcp", "json-rpc", "odd"]),
    tls=WORDS,
    enforcement=WORDS,
    access=WORDS,
    rules=tuples(RULES),
    deny_rules=tuples(RULES),
    allowed_ips=tuples(WORDS),
    allow_encoded_slash=st.booleans(),
    websocket_credential_rewrite=st.booleans(),
    request_body_credential_rewrite=st.booleans(),
    allow_uninspected_credentials=st.booleans(),
    persisted_queries=WORDS,
    graphql_persisted_queries=maps(st.builds(m.GraphqlOperation, WORDS, WORDS, tuples(WORDS))),
    graphql_max_body_bytes=U32,
    json_rpc_max_body_bytes=U32,
    mcp=st.one_of(st.none(), st.builds(m.McpOptions, FLAG, FLAG)),
    credential_signing=WORDS,
    signing_service=WORDS,
    signing_region=WORDS,
)
REFRESHES = st.builds(
    p.Refresh,
    strategy=st.sampled_from(p.Strategy),
    token_url=WORDS,
    scopes=tuples(WORDS),
    refresh_before_seconds=I64,
    max_lifetime_seconds=I64,
    material=tuples(st.builds(p.Material, WORDS, WORDS, st.booleans(), st.booleans())),
    additional_outputs=tuples(st.builds(p.RefreshOutput, WORDS, WORDS)),
)
GRANTS = st.builds(
    p.TokenGrant,
    token_endpoint=WORDS,
    audience=WORDS,
    jwt_svid_audience=WORDS,
    client_assertion_type=WORDS,
    scopes=tuples(WORDS),
    cache_ttl_seconds=I64,
    audience_overrides=tuples(
        st.builds(p.AudienceOverride, WORDS, U32, WORDS, WORDS, tuples(WORDS))
    ),
)
CREDENTIALS = st.builds(
    p.ProfileCredential,
    name=WORDS,
    description=WORDS,
    env_vars=tuples(WORDS),
    required=st.booleans(),
    auth_style=WORDS,
    header_name=WORDS,
    query_param=WORDS,
    path_template=WORDS,
    refresh=st.one_of(st.none(), REFRESHES),
    token_grant=st.one_of(st.none(), GRANTS),
)
PROFILES = st.builds(
    p.ProviderProfile,
    id=WORDS,
    display_name=WORDS,
    description=WORDS,
    category=st.sampled_from(p.Category),
    credentials=tuples(CREDENTIALS),
    endpoints=tuples(ENDPOINTS),
    binaries=tuples(st.builds(m.Binary, WORDS, st.booleans())),
    inference_capable=st.booleans(),
    discovery=st.one_of(st.none(), st.builds(p.Discovery, tuples(WORDS))),
    client_certificate=st.one_of(st.none(), st.builds(p.ClientCertificate, WORDS, WORDS)),
    annotations=maps(WORDS),
    resource_version=st.integers(0, 2**64 - 1),
    source=WORDS,
    scope=WORDS,
)

EVERY_KEY = """\
id: every-key
resource_version: 7
annotations:
  owner: somebody
display_name: Every key
description: Sets every key once
category: source_control
credentials:
  - name: primary
    description: Renewed
    env_vars:
      - AWS_ACCESS_KEY_ID
    required: true
    auth_style: path
    header_name: x-key
    query_param: key
    path_template: /k/{credential}
    refresh:
      strategy: aws_sts_assume_role
      token_url: https://sts.example.com/
      scopes:
        - s1
      refresh_before_seconds: 60
      max_lifetime_seconds: 900
      material:
        - name: role_arn
          description: Role
          required: true
          secret: true
      additional_outputs:
        - output: secret_access_key
          credential: secret
  - name: grant
    description: ""
    env_vars: []
    required: false
    auth_style: bearer
    header_name: authorization
    query_param: ""
    token_grant:
      token_endpoint: https://idp.example.com/token
      audience: api
      jwt_svid_audience: idp
      client_assertion_type: jwt
      scopes:
        - s2
      cache_ttl_seconds: 30
      audience_overrides:
        - host: '*.example.com'
          port: 8443
          path: /v1/**
          audience: other
          scopes:
            - s3
endpoints:
  - host: api.example.com
    ports:
      - 443
      - 8443
    path: /v1/**
    protocol: mcp
    tls: skip
    access: full
    enforcement: enforce
    rules:
      - allow:
          method: tools/call
          path: /p
          command: SELECT
          query:
            q: a*
            r:
              any:
                - "1"
                - b
            s:
              glob: x
              any:
                - y
          operation_type: query
          operation_name: Op
          fields:
            - f
          params:
            name: search_*
    deny_rules:
      - method: ping
    allowed_ips:
      - 10.0.0.0/24
    allow_encoded_slash: true
    websocket_credential_rewrite: true
    request_body_credential_rewrite: true
    allow_uninspected_credentials: true
    persisted_queries: deny
    graphql_persisted_queries:
      hash:
        operation_type: query
        operation_name: Op
        fields:
          - f
    graphql_max_body_bytes: 1000
    json_rpc_max_body_bytes: 2000
    mcp:
      strict_tool_names: false
      allow_all_known_mcp_methods: true
    credential_signing: sigv4
    signing_service: s3
    signing_region: eu-central-1
  - host: other.example.com
    port: 443
binaries:
  - /usr/bin/curl
  - path: /usr/bin/agent
    harness: true
inference_capable: true
discovery:
  credentials:
    - primary
client_certificate:
  certificate: client_cert
  private_key: client_key
source: user
scope: workspace
"""
