"""Everything one endpoint says about requests, compiled, whatever its protocol.

An endpoint has the families of rules that its protocol knows: for the head of a request (rest,
websocket, sql and endpoints without protocol), for GraphQL operations (graphql, and websocket
endpoints with such rules), for JSON-RPC calls. Made by `compile`, read by the `judge_*` modules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from openshell.policy.globs import GlobError, TextMatcher, compile_glob
from openshell.policy.graphql import GraphqlRules, compile_graphql
from openshell.policy.model import Endpoint
from openshell.policy.protocols import RPC_PROTOCOLS, has_graphql_policy
from openshell.policy.rest import RestRules, compile_rest
from openshell.policy.rpc import RpcRules, compile_rpc

__all__ = ["EndpointRules", "compile_endpoint_rules"]

_NO_REST: Final = RestRules((), ())


@dataclass(frozen=True, slots=True, eq=False)
class EndpointRules:
    protocol: str
    covers_path: TextMatcher
    rest: RestRules
    graphql: GraphqlRules | None = None
    rpc: RpcRules | None = None
    # Names a pattern that cannot be read.
    broken: str | None = None


def _everything(_text: str) -> bool:
    return True


def compile_endpoint_rules(endpoint: Endpoint, location: str) -> EndpointRules:
    """Compiles what one endpoint says.

    A pattern that cannot be read makes it refuse every request that it covers, because a deny rule
    that silently never fires would be an opening.
    """
    protocol = endpoint.protocol.strip().lower()
    covers_path: TextMatcher = _everything
    try:
        if endpoint.path:
            covers_path = compile_glob(endpoint.path, "/")
        if protocol in RPC_PROTOCOLS:
            rpc = compile_rpc(endpoint, location)
            return EndpointRules(protocol, covers_path, _NO_REST, rpc=rpc)
        if protocol == "graphql":
            graphql = compile_graphql(endpoint, location)
            return EndpointRules(protocol, covers_path, _NO_REST, graphql=graphql)
        rest = compile_rest(endpoint, location)
        if protocol == "websocket" and has_graphql_policy(endpoint):
            return EndpointRules(
                protocol, covers_path, rest, graphql=compile_graphql(endpoint, location)
            )
        return EndpointRules(protocol, covers_path, rest)
    except GlobError as error:
        return EndpointRules(protocol, covers_path, _NO_REST, broken=str(error))
