"""The keys of a profile document: type, default, limit and meaning of each.

`dialect` accepts exactly these keys and `reference` makes the tables of `docs/providers.md` of them, so
neither can know a key that the other does not. How large things may be is in `limits`. Endpoints and their
rules are those of a sandbox policy: the shared keys come from its table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from openshell.policy import fields as policy_fields

__all__ = ["SECTIONS", "Field", "Holds", "Section", "section_of"]

_U32: Final = (0, 2**32 - 1)
_U64: Final = (0, 2**64 - 1)
_I64: Final = (-(2**63), 2**63 - 1)


class Holds(Enum):
    """How a value contains entries of another section."""

    ONE = "one"
    LIST = "list"
    MAP = "map"


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: str
    default: str
    meaning: str
    limit: str = ""
    required: bool = False
    # What a number may be; the type that carries it in messages.
    bounds: tuple[int, int] | None = None
    # The section that describes the value or its entries.
    holds: tuple[Holds, str] | None = None


@dataclass(frozen=True, slots=True)
class Section:
    key: str
    title: str
    fields: tuple[Field, ...]


_TOP: Final = Section(
    "profile",
    "A profile",
    (
        Field(
            "id",
            "text",
            "",
            "the provider type that it defines",
            "lower-case kebab-case",
            required=True,
        ),
        Field(
            "resource_version",
            "number",
            "0",
            "written by export; an update needs it, an import ignores it",
            "0 to 18446744073709551615",
            bounds=_U64,
        ),
        Field("annotations", "map of text", "none", "notes of yours, kept; no secrets"),
        Field("display_name", "text", "", "shown in lists", required=True),
        Field("description", "text", "empty", "shown in details"),
        Field(
            "category",
            "`other`, `inference`, `agent`, `source_control`, `messaging`, `data`, `knowledge`",
            "`other`",
            "where lists show it",
            "any case, `-` for `_`",
        ),
        Field(
            "credentials",
            "list",
            "none",
            "what a provider of this type holds",
            holds=(Holds.LIST, "credential"),
        ),
        Field(
            "endpoints",
            "list",
            "none",
            "where the credentials may be used; with composition on, also what the sandbox may reach",
            holds=(Holds.LIST, "endpoint"),
        ),
        Field(
            "binaries",
            "list of paths",
            "none",
            "programs that may reach the endpoints, as in a policy",
            holds=(Holds.LIST, "binary"),
        ),
        Field("inference_capable", "boolean", "false", "shown in lists; nothing else"),
        Field(
            "discovery",
            "map",
            "none",
            "what `--from-existing` looks for",
            holds=(Holds.ONE, "discovery"),
        ),
        Field(
            "client_certificate",
            "map",
            "none",
            "shown to the endpoints in the TLS handshake; no process in the sandbox sees it",
            holds=(Holds.ONE, "client_certificate"),
        ),
        Field("source", "text", "", "written by export, ignored on input"),
        Field("scope", "text", "", "written by export, ignored on input"),
    ),
)

_CREDENTIAL: Final = (
    Section(
        "credential",
        "An entry of `credentials`",
        (
            Field("name", "text", "", "unique in the profile", required=True),
            Field("description", "text", "empty", "shown in details"),
            Field(
                "env_vars",
                "list of names",
                "none",
                "variables that stand for it in the sandbox; each once in the profile",
            ),
            Field("required", "boolean", "false", "a provider may not be created without it"),
            Field(
                "auth_style",
                "`basic`, `bearer`, `header`, `query`, `path`",
                "none",
                "how it is sent; token grants follow it, for others it is information",
                "any case; token grants: `bearer`, `header`",
            ),
            Field("header_name", "text", "none", "needed with `bearer` and `header`"),
            Field("query_param", "text", "none", "needed with `query`"),
            Field(
                "path_template",
                "text",
                "none",
                "needed with `path`",
                "holds `{credential}` exactly once",
            ),
            Field(
                "refresh",
                "map",
                "none",
                "how its value is renewed",
                holds=(Holds.ONE, "refresh"),
            ),
            Field(
                "token_grant",
                "map",
                "none",
                "the supervisor fetches it when a request needs it",
                holds=(Holds.ONE, "token_grant"),
            ),
        ),
    ),
    Section(
        "discovery",
        "`discovery`",
        (Field("credentials", "list of names", "none", "credentials declared above", "each once"),),
    ),
    Section(
        "client_certificate",
        "`client_certificate`",
        (
            Field(
                "certificate",
                "name",
                "",
                "the credential with the certificate in PEM, its chain behind it",
                required=True,
            ),
            Field(
                "private_key",
                "name",
                "",
                "the credential with its key in PEM, without a password",
                required=True,
            ),
        ),
    ),
    Section(
        "binary",
        "An entry of `binaries`: a path, or",
        (
            Field("path", "path or pattern", "", "as in a policy", required=True),
            Field("harness", "boolean", "false", "deprecated; kept as it is"),
        ),
    ),
)

_REFRESH: Final = (
    Section(
        "refresh",
        "`refresh`",
        (
            Field(
                "strategy",
                "`static`, `external`, `oauth2_refresh_token`, `oauth2_client_credentials`, "
                "`google_service_account_jwt`, `aws_sts_assume_role`",
                "",
                "who renews it: nobody, you, or (the last four) the gateway",
                "needed; `-` for `_`",
            ),
            Field("token_url", "URL", "none", "where the gateway asks for a token"),
            Field("scopes", "list of text", "none", "what the token is for"),
            Field(
                "refresh_before_seconds",
                "number",
                "0: 300",
                "how long before its end it is renewed",
                "0 or more",
                bounds=_I64,
            ),
            Field(
                "max_lifetime_seconds",
                "number",
                "0: 3600",
                "how long a token is asked for, or taken to live when nothing says so",
                "0 or more",
                bounds=_I64,
            ),
            Field(
                "material",
                "list",
                "none",
                "inputs that `provider refresh configure` takes",
                holds=(Holds.LIST, "material"),
            ),
            Field(
                "additional_outputs",
                "list",
                "none",
                "further values of one renewal; `aws_sts_assume_role` alone, which needs both",
                holds=(Holds.LIST, "output"),
            ),
        ),
    ),
    Section(
        "material",
        "An entry of `material`",
        (
            Field("name", "text", "", "unique in the list", required=True),
            Field("description", "text", "empty", "shown in details"),
            Field("required", "boolean", "false", "nothing is renewed without it"),
            Field("secret", "boolean", "false", "kept in the credential store, never shown"),
        ),
    ),
    Section(
        "output",
        "An entry of `additional_outputs`",
        (
            Field("output", "`secret_access_key`, `session_token`", "", "the value", required=True),
            Field(
                "credential",
                "name",
                "",
                "the credential that receives it; its only variable is `AWS_SECRET_ACCESS_KEY` "
                "or `AWS_SESSION_TOKEN`",
                required=True,
            ),
        ),
    ),
    Section(
        "token_grant",
        "`token_grant`",
        (
            Field(
                "token_endpoint",
                "URL",
                "",
                "where the supervisor asks for a token",
                "https; http to loopback, `A.B.svc` and `A.B.svc.cluster.local`",
                required=True,
            ),
            Field("audience", "text", "none", "whom the token is for"),
            Field("jwt_svid_audience", "text", "the token endpoint", "whom the assertion is for"),
            Field(
                "client_assertion_type",
                "text",
                "of JWT-SVID",
                "what kind of assertion is sent",
            ),
            Field("scopes", "list of text", "none", "what the token is for"),
            Field(
                "cache_ttl_seconds",
                "number",
                "0: as the answer says",
                "how long a token is kept",
                bounds=_I64,
            ),
            Field(
                "audience_overrides",
                "list",
                "none",
                "another audience for part of the endpoints; no two may fit one request equally well",
                holds=(Holds.LIST, "override"),
            ),
        ),
    ),
    Section(
        "override",
        "An entry of `audience_overrides`",
        (
            Field("host", "name or pattern", "the endpoint's", "which hosts"),
            Field("port", "number", "0: the endpoint's", "which port", bounds=_U32),
            Field("path", "pattern", "the endpoint's", "which paths"),
            Field("audience", "text", "", "whom the token is for", required=True),
            Field("scopes", "list of text", "none", "what the token is for"),
        ),
    ),
)

# What the keys of policies contain, as far as profiles have them too.
_HOLDS: Final = {
    ("endpoint", "rules"): (Holds.LIST, "allow"),
    ("endpoint", "deny_rules"): (Holds.LIST, "l7_rule"),
    ("endpoint", "graphql_persisted_queries"): (Holds.MAP, "graphql_operation"),
    ("endpoint", "mcp"): (Holds.ONE, "mcp"),
    ("l7_rule", "query"): (Holds.MAP, "matcher"),
    ("l7_rule", "params"): (Holds.MAP, "matcher"),
    ("l7_rule", "tool"): (Holds.ONE, "matcher"),
}
# A policy may leave the host to `allowed_ips`.
_REQUIRED: Final = frozenset((("endpoint", "host"),))
_NUMBERS: Final = frozenset(("port", "ports", "graphql_max_body_bytes"))
# A credential cannot name its own provider, and the sizes of bodies stand flat.
_POLICY_ONLY: Final = frozenset(
    (("endpoint", "json_rpc"), ("endpoint", "credential_binding"), ("mcp", "max_body_bytes"))
)


def _shared(key: str, *more: Field) -> Section:
    """A section of the policy's table, as profiles use it."""
    (section,) = (item for item in policy_fields.SECTIONS if item.key == key)
    taken = tuple(
        Field(
            field.name,
            field.type,
            "" if (key, field.name) in _REQUIRED else field.default,
            field.meaning,
            field.limit,
            required=(key, field.name) in _REQUIRED,
            bounds=_U32 if field.name in _NUMBERS else None,
            holds=_HOLDS.get((key, field.name)),
        )
        for field in section.fields
        if (key, field.name) not in _POLICY_ONLY and field.name not in {m.name for m in more}
    )
    return Section(key, section.title, (*taken, *more))


_ENDPOINT: Final = (
    _shared(
        "endpoint",
        Field(
            "json_rpc_max_body_bytes",
            "number",
            "65536",
            "json-rpc, mcp: how much of a body is read to judge it",
            "0 to 4294967295; 0 is the default",
            bounds=_U32,
        ),
    ),
    _shared("mcp"),
    _shared("graphql_operation"),
    Section(
        "allow",
        "An entry of `rules`",
        (
            Field(
                "allow",
                "rule",
                "",
                "what is allowed",
                required=True,
                holds=(Holds.ONE, "l7_rule"),
            ),
        ),
    ),
    _shared("l7_rule"),
    _shared(
        "matcher",
        Field("glob", "pattern", "", "the one pattern"),
        Field("any", "list of patterns", "", "some of them matches", "one at least"),
    ),
)

SECTIONS: Final = (_TOP, *_CREDENTIAL, *_REFRESH, *_ENDPOINT)
_BY_KEY: Final = {section.key: section for section in SECTIONS}


def section_of(key: str) -> Section:
    return _BY_KEY[key]
