"""A real OAuth 2 authorization server on loopback: authlib's grants behind the standard library's HTTP.

It keeps clients, rotates refresh tokens, revokes a grant whose refresh token is replayed, and verifies
signed assertions. It refuses what a real one refuses. `hold` makes it wait before it answers, so that
a test can do something while a request is under way.
"""

from __future__ import annotations

import contextlib
import json
import socketserver
import ssl
import threading
import time
import urllib.parse
import wsgiref.simple_server
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from authlib.common.security import generate_token
from authlib.oauth2.rfc6749 import (
    AuthorizationServer,
    ClientCredentialsGrant,
    ClientMixin,
    OAuth2Request,
    RefreshTokenGrant,
    TokenMixin,
)
from authlib.oauth2.rfc6749.requests import BasicOAuth2Payload
from authlib.oauth2.rfc6750 import BearerTokenGenerator
from authlib.oauth2.rfc7523 import JWTBearerGrant
from joserfc.jwk import RSAKey


@dataclass
class Client(ClientMixin):
    """One registered client. Without a secret it is a public one."""

    client_id: str
    secret: str = ""
    grants: tuple[str, ...] = ()
    scopes: frozenset[str] = frozenset()
    public_key: str = ""

    def get_client_id(self):
        return self.client_id

    def get_allowed_scope(self, scope):
        asked = (scope or "").split()
        return " ".join(asked) if self.scopes.issuperset(asked) else None

    def check_client_secret(self, client_secret):
        return bool(self.secret) and client_secret == self.secret

    def check_endpoint_auth_method(self, method, endpoint):
        return method == ("client_secret_post" if self.secret else "none")

    def check_grant_type(self, grant_type):
        return grant_type in self.grants


@dataclass
class Token(TokenMixin):
    """One issued pair; pairs of one authorisation share a family."""

    client_id: str
    access_token: str
    refresh_token: str
    scope: str
    expires_at: float
    family: str
    used: bool = False
    revoked: bool = False

    def check_client(self, client):
        return self.client_id == client.client_id

    def get_scope(self):
        return self.scope

    def get_expires_in(self):
        return self.expires_at - time.time()

    def is_revoked(self):
        return self.revoked

    def is_expired(self):
        return time.time() >= self.expires_at


@dataclass
class Issuer:
    """What a test sees and steers."""

    port: int = 0
    scheme: str = "http"
    expires_in: int = 3600
    rotates: bool = True
    clients: dict[str, Client] = field(default_factory=dict)
    tokens: list[Token] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    hold: threading.Event | None = None
    arrived: threading.Event = field(default_factory=threading.Event)

    @property
    def url(self) -> str:
        """The token endpoint."""
        return f"{self.scheme}://localhost:{self.port}/token"

    def at(self, path: str) -> str:
        return f"{self.scheme}://localhost:{self.port}{path}"

    def register(self, client_id: str, **fields) -> Client:
        client = self.clients[client_id] = Client(client_id, **fields)
        return client

    def authorise(self, client_id: str, scope: str = "") -> str:
        """What a user's consent in a browser would give: the first refresh token."""
        token = Token(
            client_id, "", generate_token(42), scope, time.time() + 3600, family=generate_token(12)
        )
        self.tokens.append(token)
        return token.refresh_token

    def accepts(self, access_token: str) -> bool:
        """As an API behind this issuer would judge."""
        return any(
            token.access_token == access_token and not token.is_revoked() and not token.is_expired()
            for token in self.tokens
        )

    def revoke_family(self, family: str) -> None:
        for token in self.tokens:
            token.revoked |= token.family == family


class _Request(OAuth2Request):
    def __init__(self, uri: str, form: dict[str, str], headers: dict[str, str]) -> None:
        super().__init__("POST", uri, headers=headers)
        self.payload = BasicOAuth2Payload(form)

    @property
    def form(self):
        return self.payload.data

    @property
    def args(self):
        return {}


class _RefreshToken(RefreshTokenGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_post", "none"]

    @property
    def INCLUDE_NEW_REFRESH_TOKEN(self):
        return self.server.issuer.rotates

    def authenticate_refresh_token(self, refresh_token):
        issuer = self.server.issuer
        for token in issuer.tokens:
            if token.refresh_token != refresh_token or token.revoked:
                continue
            if token.used:
                issuer.revoke_family(token.family)
                return None
            return token
        return None

    def authenticate_user(self, refresh_token):
        return "somebody"

    def revoke_old_credential(self, refresh_token):
        refresh_token.used = self.server.issuer.rotates


class _ClientCredentials(ClientCredentialsGrant):
    TOKEN_ENDPOINT_AUTH_METHODS = ["client_secret_post"]


class _Assertion(JWTBearerGrant):
    def resolve_issuer_client(self, issuer):
        return self.server.issuer.clients.get(issuer)

    def resolve_client_public_key(self, client):
        return RSAKey.import_key(client.public_key)

    def authenticate_user(self, subject):
        return "somebody" if subject == "user@example.com" else None

    def has_granted_permission(self, client, user):
        return True

    def get_audiences(self):
        return [self.server.issuer.url]


class _Server(AuthorizationServer):
    def __init__(self, issuer: Issuer) -> None:
        super().__init__()
        self.issuer = issuer
        self.register_token_generator(
            "default",
            BearerTokenGenerator(
                lambda **_fields: generate_token(42),
                lambda **_fields: generate_token(48),
                lambda _client, _grant: issuer.expires_in,
            ),
        )
        for grant in (_RefreshToken, _ClientCredentials, _Assertion):
            self.register_grant(grant)

    def query_client(self, client_id):
        return self.issuer.clients.get(client_id)

    def save_token(self, token, request):
        before = request.refresh_token
        self.issuer.tokens.append(
            Token(
                request.client.client_id,
                token["access_token"],
                token.get("refresh_token", ""),
                token.get("scope", ""),
                time.time() + token["expires_in"],
                family=before.family if isinstance(before, Token) else generate_token(12),
            )
        )

    def create_oauth2_request(self, request):
        return request

    def send_signal(self, name, *args, **kwargs):
        pass

    def handle_response(self, status, body, headers):
        return status, body, headers


class _Http(socketserver.ThreadingMixIn, wsgiref.simple_server.WSGIServer):
    daemon_threads = True

    def server_bind(self):
        # The base asks a resolver for this machine's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name = "localhost"
        self.server_port = self.server_address[1]
        self.setup_environ()


class _Quiet(wsgiref.simple_server.WSGIRequestHandler):
    def log_message(self, format, *args):
        pass


# Answers that no issuer should give, by path.
_ODD = {
    "/redirect": ("302 Found", [("Location", "/token")], b""),
    "/redirect-keeping-form": ("307 Temporary Redirect", [("Location", "/token")], b""),
    "/garbage": ("200 OK", [], b"access_token=x"),
    "/huge": ("200 OK", [], b'{"access_token": "' + b"x" * 1_000_000 + b'"}'),
    "/compressed": ("200 OK", [("Content-Encoding", "gzip")], b"\x1f\x8b"),
    "/empty": ("200 OK", [], b'{"token_type": "Bearer"}'),
}


def _application(issuer: Issuer):
    server = _Server(issuer)
    lock = threading.Lock()

    def application(environ, start_response):
        path = environ["PATH_INFO"]
        issuer.paths.append(path)
        raw = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        form = dict(urllib.parse.parse_qsl(raw.decode(), keep_blank_values=True))
        issuer.requests.append(form)
        hold = issuer.hold
        issuer.arrived.set()
        if path in _ODD:
            status, headers, body = _ODD[path]
            start_response(status, headers)
            return [body]
        if path != "/token" or environ["REQUEST_METHOD"] != "POST":
            start_response("404 Not Found", [])
            return [b""]
        with lock:
            status, answer, headers = server.create_token_response(_Request(issuer.url, form, {}))
        if hold is not None:
            hold.wait(20)
        start_response(f"{status} X", list(headers))
        return [json.dumps(answer).encode()]

    return application


@contextlib.contextmanager
def oauth_issuer(certificate: Path | None = None) -> Iterator[Issuer]:
    """Serves until the block ends; with a certificate over TLS."""
    issuer = Issuer(scheme="https" if certificate else "http")
    http = wsgiref.simple_server.make_server(
        "127.0.0.1", 0, _application(issuer), server_class=_Http, handler_class=_Quiet
    )
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        http.socket = context.wrap_socket(http.socket, server_side=True)
    issuer.port = http.server_port
    thread = threading.Thread(target=http.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        if issuer.hold is not None:
            issuer.hold.set()
        http.shutdown()
        thread.join(10)
        http.server_close()
