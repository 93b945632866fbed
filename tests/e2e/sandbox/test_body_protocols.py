"""Programs in a real sandbox speak GraphQL and MCP: what the policy names goes out, the rest is refused by name."""

import json

from integration.egress.harness import Upstream
from openshell.codec.policy import policy_to_proto
from openshell.policy.parse import parse_policy
from support.graphql_server import GraphqlServer
from support.mcp_server import mcp_server

ALIAS = "host.openshell.internal"
CURL = "/usr/bin/curl"
HTTP_OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"

POLICY = """
version: 1
network_policies:
  api:
    endpoints:
      - host: {alias}
        port: {api}
        path: /graphql
        protocol: graphql
        enforcement: enforce
        access: read-only
    binaries: [{{path: {curl}}}]
  tools:
    endpoints:
      - host: {alias}
        port: {tools}
        path: /mcp
        protocol: mcp
        enforcement: enforce
        rules:
          - allow: {{method: initialize}}
          - allow: {{method: tools/call, tool: read_file}}
    binaries: [{{path: {curl}}}]
"""


def configure(gateway, api, tools):
    text = POLICY.format(alias=ALIAS, api=api, tools=tools, curl=CURL)
    gateway.config.policy.CopyFrom(policy_to_proto(parse_policy(text, source="test")))


def split(output):
    """The response that curl showed, and the status it wrote behind it."""
    text = output.decode()
    return int(text[-3:]), text[:-3]


async def post(world, box, url, document, *more):
    ran = await world.gateway.run(
        box,
        CURL, "-sS", "-w", "%{http_code}", "-H", "Content-Type: application/json",
        "-H", "Accept: application/json, text/event-stream",
        *more, "-d", json.dumps(document), url,
    )  # fmt: skip
    assert ran.code == 0, ran.stderr
    return split(ran.stdout)


async def test_a_query_passes_and_a_mutation_is_refused_by_the_rule(world):
    server = GraphqlServer()

    def answer(request):
        method, target, _ = request.line.decode().split(" ")
        body = server.execute(method, target, request.body)
        return HTTP_OK % (len(body), body)

    async with Upstream(answer) as api:
        configure(world.gateway, api.port, 1)
        box = await world.create()
        url = f"http://{ALIAS}:{api.port}/graphql"
        status, told = await post(world, box, url, {"query": "{ me }"})
        assert (status, json.loads(told)) == (200, {"data": {"me": "me"}})
        status, told = await post(world, box, url, {"query": "mutation { drop }"})
        refused = json.loads(told)
        assert status == 403
        assert refused["error"] == "policy_denied"
        assert refused["nearest_rule"] == "api.endpoints[0]"
        assert refused["suggestion"] == "set access: read-write at api.endpoints[0]"
        # In chunks, and behind a wait for 100-continue.
        more = "-H", "Transfer-Encoding: chunked", "-H", "Expect: 100-continue"
        assert (await post(world, box, url, {"query": "{ secret }"}, *more))[0] == 200
        batch = [{"query": "{ me }"}, {"query": "mutation { drop }"}]
        assert (await post(world, box, url, batch, *more))[0] == 403
    assert server.ran == ["me", "secret"]


async def test_one_tool_is_allowed_and_another_refused(world):
    with mcp_server() as tools:
        configure(world.gateway, 1, tools.port)
        box = await world.create()
        url = f"http://{ALIAS}:{tools.port}/mcp"
        hello = {
            "protocolVersion": "2025-06-18",
            "capabilities": {},
            "clientInfo": {"name": "test", "version": "1"},
        }
        call = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello}
        status, told = await post(world, box, url, call, "-D", "-")
        assert status == 200, told
        fields = dict(line.split(": ", 1) for line in told.splitlines() if ": " in line)
        session = f"Mcp-Session-Id: {fields['mcp-session-id']}"
        for name, expected in (("read_file", 200), ("delete_file", 403)):
            params = {"name": name, "arguments": {"path": "/x"}}
            call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": params}
            status, told = await post(world, box, url, call, "-H", session)
            assert status == expected, told
            assert ("content of /x" in told) is (expected == 200)
        refused = json.loads(told)
        assert refused["detail"].endswith("POST /mcp not permitted by policy")
        assert refused["nearest_rule"] == "tools.endpoints[0].rules[1]"
        assert refused["suggestion"] == (
            "add allow {method: tools/call, tool: delete_file} to tools.endpoints[0].rules"
        )
    assert tools.called == ["read_file"]
