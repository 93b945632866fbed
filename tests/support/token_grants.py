"""What a token grant needs around it: a SPIFFE agent and an authorization server, both real.

The agent signs JWT-SVIDs and serves the Workload API over gRPC, its messages written by hand so that a
wrong field number of ours would show. The server is authlib's: it authenticates clients by their
assertion (RFC 7523), signature, audience and expiry included, and issues tokens for client credentials.
"""

from __future__ import annotations

import json
import time
import urllib.parse

import grpc
import grpc.aio
from authlib.common.security import generate_token
from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    ClientCredentialsGrant,
    ClientMixin,
    OAuth2Request,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7523 import JWTBearerClientAssertion
from joserfc import jwt
from joserfc.jwk import ECKey

SPIFFE_ID = "spiffe://test.example/supervisor"


class Agent:
    """A SPIFFE agent with one identity."""

    def __init__(self):
        self.key = ECKey.generate_key("P-256")
        self.asked = []
        self.knows_us = True
        self._server = None

    def svid(self, *audience, lives=300):
        now = int(time.time())
        claims = {
            "iss": SPIFFE_ID,
            "sub": SPIFFE_ID,
            "aud": list(audience),
            "iat": now,
            "exp": now + lives,
        }
        return jwt.encode({"alg": "ES256"}, claims, self.key)

    async def serve(self, address):
        """Serve the Workload API at a gRPC address; answers the port."""
        self._server = grpc.aio.server()
        method = grpc.unary_unary_rpc_method_handler(self._fetch)
        handler = grpc.method_handlers_generic_handler(
            "SpiffeWorkloadAPI", {"FetchJWTSVID": method}
        )
        self._server.add_generic_rpc_handlers((handler,))
        port = self._server.add_insecure_port(address)
        await self._server.start()
        return port

    async def close(self):
        if self._server is not None:
            await self._server.stop(None)

    async def _fetch(self, request, context):
        metadata = dict(context.invocation_metadata())
        if metadata.get("workload.spiffe.io") != "true":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "the security header is missing")
        if not self.knows_us:
            await context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity\r\nissued")
        # repeated string audience = 1
        assert request[0] == 0x0A
        audience = request[2:].decode()
        assert request[1] == len(audience) < 128
        self.asked.append(audience)
        svid = _field(1, SPIFFE_ID.encode()) + _field(2, self.svid(audience).encode())
        return _field(1, svid)


def _field(number, data):
    size, length = len(data), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


class _Client(ClientMixin):
    def check_endpoint_auth_method(self, method, endpoint):
        return (method, endpoint) == ("client_assertion_jwt", "token")

    def check_grant_type(self, grant_type):
        return grant_type == "client_credentials"

    def get_allowed_scope(self, scope):
        asked = (scope or "").split()
        return " ".join(asked) if {"read", "write"}.issuperset(asked) else None


class _Request(OAuth2Request):
    def __init__(self, form):
        super().__init__("POST", "https://localhost/token", headers={})
        self.payload = BasicOAuth2Payload(form)

    @property
    def form(self):
        return self.payload.data

    @property
    def args(self):
        return {}


class _Assertion(JWTBearerClientAssertion):
    def __init__(self, server):
        super().__init__(validate_jti=False, leeway=0)
        self._server = server

    def get_audiences(self):
        return self._server.audiences

    def resolve_client_public_key(self, client):
        return self._server.agent.key


class _Grant(ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_assertion_jwt"]


class Authorization(AuthorizationServer):
    """The authorization server. `answer` is what an HTTP server in front of it calls."""

    def __init__(self, agent):
        super().__init__()
        self.agent = agent
        self.audiences = []
        self.expires_in = 3600
        self.forms = []
        self.issued = []
        self.override = None
        self.register_token_generator(
            "default",
            BearerTokenGenerator(
                lambda **_fields: generate_token(42), None, lambda _client, _grant: self.expires_in
            ),
        )
        self.register_client_auth_method("client_assertion_jwt", _Assertion(self))
        self.register_grant(_Grant)

    def answer(self, request):
        """HTTP in, HTTP out."""
        assert request.line == b"POST /token HTTP/1.1"
        assert request.header(b"content-type") == b"application/x-www-form-urlencoded"
        assert request.header(b"authorization") is None
        form = dict(urllib.parse.parse_qsl(request.body.decode(), strict_parsing=True))
        self.forms.append(form)
        if self.override is not None:
            return self.override
        status, body = self.create_token_response(_Request(form))
        data = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data

    def query_client(self, client_id):
        return _Client() if client_id == SPIFFE_ID else None

    def save_token(self, token, request):
        self.issued.append((token["access_token"], token.get("scope", "")))

    def create_oauth2_request(self, request):
        return request

    def send_signal(self, name, *args, **kwargs):
        pass

    def handle_response(self, status, body, headers):
        return status, body
