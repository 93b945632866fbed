"""The keys of a policy file: type, default, limit, meaning and what a check may say about each.

`parse` accepts exactly these keys, and `docs/policy.md` is written from this table by
`deploy/generate_docs.py`, so neither can know a key that the other does not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

__all__ = ["CODES", "SECTIONS", "Field", "Section", "names_of"]


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    type: str
    default: str
    meaning: str
    limit: str = ""
    # Codes of findings about it; see CODES.
    codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Section:
    key: str
    title: str
    fields: tuple[Field, ...]


def _codes(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_TOP: Final = Section(
    "policy",
    "A policy",
    (
        Field("version", "number, required", "", "1", "0 to 4294967295", _codes("version")),
        Field("filesystem_policy", "map", "none", "files; fixed while a sandbox lives"),
        Field("landlock", "map", "none", "how files are guarded; fixed while a sandbox lives"),
        Field("process", "map", "none", "who the process is; fixed while a sandbox lives"),
        Field(
            "network_policies",
            "map of rules",
            "none: no network",
            "key to rule; the key is the rule's identity, `_provider_` at its start is reserved",
            "",
            _codes("reserved_key empty_key ambiguous_endpoints"),
        ),
        Field(
            "network_middlewares",
            "map of attachments",
            "none",
            "key to middleware",
            "10",
            _codes("too_many_middlewares"),
        ),
    ),
)

_STATIC: Final = (
    Section(
        "filesystem_policy",
        "`filesystem_policy`",
        (
            Field("include_workdir", "boolean", "false", "the workspace is writable"),
            Field(
                "read_only",
                "list of paths",
                "none",
                "may be read; what is listed nowhere is unreachable",
                "256 paths with `read_write`, 4096 bytes each",
                _codes("too_many_paths path_too_long path_not_absolute path_traversal path_nul"),
            ),
            Field(
                "read_write",
                "list of paths",
                "none",
                "may be read and written; not the root",
                "as `read_only`",
                _codes("path_too_broad"),
            ),
        ),
    ),
    Section(
        "landlock",
        "`landlock`",
        (
            Field(
                "compatibility",
                "`best_effort`, `hard_requirement`",
                "`best_effort`",
                "whether a kernel without Landlock, or a path that cannot be used, stops the start",
                "",
                _codes("landlock_compatibility"),
            ),
        ),
    ),
    Section(
        "process",
        "`process`",
        tuple(
            Field(
                name,
                "text",
                "the driver's choice",
                "`sandbox` or a number, in quotes",
                "1 to 4294967294",
                _codes("run_as"),
            )
            for name in ("run_as_user", "run_as_group")
        ),
    ),
)

_RULE: Final = (
    Section(
        "network_rule",
        "A rule in `network_policies`",
        (
            Field("name", "text", "the key", "shown in messages"),
            Field(
                "endpoints",
                "list",
                "none",
                "where the programs may connect; none grants nothing",
                "",
                _codes("no_endpoints"),
            ),
            Field(
                "binaries",
                "list",
                "none",
                "which programs; none matches no program, `/**` any",
                "",
                _codes("no_binaries"),
            ),
        ),
    ),
    Section(
        "binary",
        "An entry of `binaries`",
        (
            Field(
                "path",
                "path or pattern, required",
                "",
                "of the executable or of an ancestor, as the kernel resolves it",
                "",
                _codes("binary_not_absolute"),
            ),
            Field("harness", "boolean", "false", "accepted in old files and dropped"),
        ),
    ),
)

_ENDPOINT: Final = Section(
    "endpoint",
    "An entry of `endpoints`",
    (
        Field(
            "host",
            "name, address or pattern",
            "none: any host, with `allowed_ips`",
            "`*` is one label or part of the first, `**` one or more labels in front",
            "two literal labels after a wildcard",
            _codes("empty_host host_never_matches host_wildcard tld_wildcard tcp_host ")
            + _codes("tcp_host_literal tcp_host_selector mcp_host"),
        ),
        Field("port", "number", "", "one port", "1 to 65535", _codes("no_port")),
        Field(
            "ports",
            "list of numbers",
            "`port`",
            "wins over `port`",
            "",
            _codes("port_range tcp_port_53"),
        ),
        Field(
            "path",
            "pattern",
            "every path",
            "which requests of this host and port; the longest pattern governs",
            "starts with `/`, or is `**`",
            _codes("endpoint_path unreadable_glob"),
        ),
        Field(
            "protocol",
            "`tcp`, `rest`, `websocket`, `graphql`, `json-rpc`, `mcp`, `sql`",
            "none: not inspected",
            "how requests are read and judged",
            "",
            _codes("unknown_protocol tcp_rules tcp_fields not_supported_yet"),
        ),
        Field(
            "tls",
            "`skip`",
            "opened where TLS is seen",
            "`skip` leaves encrypted traffic closed; `terminate` and `passthrough` do nothing",
            "",
            _codes("tls_deprecated tls_unknown tls_skip_l7"),
        ),
        Field(
            "enforcement",
            "`enforce`, `audit`",
            "`audit`",
            "`enforce` refuses what no rule allows, `audit` forwards and records it",
            "",
            _codes("enforcement_unknown sql_enforce"),
        ),
        Field(
            "access",
            "`read-only`, `read-write`, `full`",
            "none",
            "a preset instead of `rules`",
            "not for tcp, json-rpc, mcp",
            _codes("access_unknown access_not_for_protocol rules_and_access ")
            + _codes("rules_without_protocol"),
        ),
        Field(
            "rules",
            "list of `{allow: {...}}`",
            "none",
            "what is allowed",
            "",
            _codes("no_rules deny_all"),
        ),
        Field(
            "deny_rules",
            "list of rules",
            "none",
            "what is refused whatever is allowed",
            "",
            _codes("deny_without_protocol deny_without_base"),
        ),
        Field(
            "allowed_ips",
            "list of addresses or ranges",
            "public addresses",
            "the only addresses that the host may resolve to, private ones among them",
            "no loopback or link-local; /16 or narrower is advised",
            _codes("allowed_ip allowed_ip_broad"),
        ),
        Field("allow_encoded_slash", "boolean", "false", "`%2F` in a path is kept, not refused"),
        Field(
            "websocket_credential_rewrite",
            "boolean",
            "false",
            "credentials are put into text messages",
            "rest, websocket",
            _codes("foreign_field"),
        ),
        Field(
            "request_body_credential_rewrite",
            "boolean",
            "false",
            "credentials are put into request bodies",
            "rest",
            _codes("signing_and_rewrite"),
        ),
        Field(
            "allow_uninspected_credentials",
            "boolean",
            "false",
            "credentials may be used where traffic is not inspected",
        ),
        Field(
            "persisted_queries",
            "`deny`, `allow_registered`",
            "`deny`",
            "operations that are sent as a hash or id alone",
            "graphql, websocket",
            _codes("persisted_queries"),
        ),
        Field(
            "graphql_persisted_queries",
            "map of operations",
            "none",
            "hash or id to the operation that it stands for",
            "graphql, websocket",
        ),
        Field(
            "graphql_max_body_bytes",
            "number",
            "65536",
            "how much of a body is read to judge it; a larger one is refused",
            "0 to 4294967295; 0 is the default; never more than 4 MiB are read",
        ),
        Field("json_rpc", "map", "none", "settings of json-rpc"),
        Field("mcp", "map", "none", "settings of mcp", "", _codes("mcp_options")),
        Field(
            "credential_signing",
            "`sigv4`, `sigv4:body`, `sigv4:no_body`",
            "none",
            "requests are signed with the provider's AWS keys on their way out",
            "",
            _codes("signing_uninspected signing_unknown"),
        ),
        Field(
            "signing_service",
            "text",
            "none",
            "the service to sign for; needed with signing",
            "",
            _codes("signing_service"),
        ),
        Field("signing_region", "text", "from the host", "the region to sign for"),
        Field("credential_binding", "map", "none", "whose credentials may be used here"),
    ),
)

_BLOCKS: Final = (
    Section(
        "json_rpc",
        "`json_rpc`",
        (Field("max_body_bytes", "number", "65536", "body read to judge it", "as above"),),
    ),
    Section(
        "mcp",
        "`mcp`",
        (
            Field("max_body_bytes", "number", "65536", "body read to judge it", "as above"),
            Field(
                "strict_tool_names",
                "boolean",
                "true",
                "tools are named with 1 to 128 of `A-Z a-z 0-9 _ . -`",
                "",
                _codes("mcp_tool_wildcard"),
            ),
            Field(
                "allow_all_known_mcp_methods",
                "boolean",
                "false",
                "methods of the protocol are allowed; tools too where no rule names one",
            ),
        ),
    ),
    Section(
        "credential_binding",
        "`credential_binding`",
        (
            Field(
                "provider",
                "text, required",
                "",
                "an attached provider",
                "",
                _codes("binding_provider binding_host"),
            ),
        ),
    ),
    Section(
        "graphql_operation",
        "An operation in `graphql_persisted_queries`",
        (
            Field(
                "operation_type",
                "`query`, `mutation`, `subscription`",
                "",
                "needed",
                "",
                _codes("operation_type"),
            ),
            Field("operation_name", "text", "none", "its name"),
            Field("fields", "list of text", "none", "its root fields"),
        ),
    ),
)

_L7: Final = (
    Section(
        "l7_rule",
        "A rule: `allow`, or an entry of `deny_rules`",
        (
            Field(
                "method",
                "text",
                "",
                "rest, websocket: `*` or a method (GET covers HEAD); json-rpc: `*` or one method; "
                "mcp: one method, or a pattern below `tools/`",
                "",
                _codes("unknown_method rpc_method rpc_method_glob mcp_method_glob websocket_text"),
            ),
            Field(
                "path",
                "pattern",
                "",
                "rest, websocket: of the request; needed beside `method`",
                "",
                _codes("rule_never_matches rpc_path websocket_mixed"),
            ),
            Field("command", "text", "", "sql: `*` or a command"),
            Field(
                "query",
                "map of matchers",
                "none",
                "rest, websocket: an allow needs every value to match, a deny one of them",
            ),
            Field("operation_type", "as above; websocket also `*`", "", "graphql, websocket"),
            Field("operation_name", "pattern", "any", "graphql, websocket"),
            Field(
                "fields",
                "list of patterns",
                "any",
                "graphql, websocket: an allow covers all root fields, a deny one of them",
                "",
                _codes("graphql_fields"),
            ),
            Field(
                "tool",
                "matcher",
                "any",
                "mcp: short for `params: {name: ...}`",
                "",
                _codes("mcp_tool_method mcp_mixed_tools params_foreign"),
            ),
            Field("params", "map of matchers", "none", "mcp", "", _codes("rpc_params mcp_params")),
        ),
    ),
    Section(
        "matcher",
        "A matcher: one pattern, or",
        (
            Field(
                "any",
                "list of patterns, required",
                "",
                "some of them matches",
                "one at least",
                _codes("matcher"),
            ),
        ),
    ),
)

_MIDDLEWARE: Final = (
    Section(
        "middleware",
        "An attachment in `network_middlewares`",
        (
            Field("name", "text", "the key", "shown in messages"),
            Field(
                "middleware",
                "text, required",
                "",
                "the implementation",
                "",
                _codes("middleware_invalid"),
            ),
            Field(
                "order",
                "number",
                "0",
                "lower ones run first; each number once",
                "-2147483648 to 2147483647",
                _codes("middleware_order"),
            ),
            Field("config", "map", "none", "its settings"),
            Field("on_error", "`fail_closed`, `fail_open`", "`fail_closed`", "when it fails"),
            Field("endpoints", "map, needed", "", "which hosts", "", _codes("middleware_tls_skip")),
        ),
    ),
    Section(
        "selector",
        "`endpoints` of an attachment",
        (
            Field(
                "include",
                "list of host patterns, needed",
                "",
                "hosts",
                "32 patterns with `exclude`",
                _codes("too_many_selectors"),
            ),
            Field("exclude", "list of host patterns", "none", "wins over `include`"),
        ),
    ),
)

SECTIONS: Final = (_TOP, *_STATIC, *_RULE, _ENDPOINT, *_BLOCKS, *_L7, *_MIDDLEWARE)

# What each code says. Errors keep a policy from being stored and loaded, warnings are shown.
CODES: Final[dict[str, str]] = {
    "access_not_for_protocol": "json-rpc and mcp have no presets; write rules",
    "access_unknown": "no such preset: it allows nothing (warning)",
    "allowed_ip": "neither an address nor a range: connections will be refused (warning)",
    "allowed_ip_broad": "broader than /16 (warning)",
    "ambiguous_endpoints": "two endpoints would treat the same traffic differently",
    "binary_not_absolute": "matches no program (warning)",
    "binding_host": "a binding needs a host",
    "binding_provider": "the provider's name is empty or has white space around it",
    "deny_all": "every allow is empty",
    "deny_without_base": "deny rules without anything allowed",
    "deny_without_protocol": "deny rules need a protocol",
    "empty_host": "a host is needed without `allowed_ips`",
    "empty_key": "a rule without key",
    "endpoint_path": "does not start with `/`",
    "enforcement_unknown": "neither enforce nor audit",
    "foreign_field": "has no effect with this protocol (warning)",
    "graphql_fields": "an empty field name",
    "host_never_matches": "no name or address, such as a URL (warning)",
    "host_wildcard": "a wildcard where none may be",
    "landlock_compatibility": "unknown word",
    "matcher": "both a pattern and `any`, or neither",
    "mcp_host": "an mcp endpoint needs a host",
    "mcp_method_glob": "a pattern that is not below `tools/`",
    "mcp_mixed_tools": "some rules name tools while another speaks of all tools",
    "mcp_options": "the block is for mcp only",
    "mcp_params": "only `name` can be matched",
    "mcp_tool_method": "a tool goes with `tools/call` only",
    "mcp_tool_wildcard": "patterns need strict names",
    "middleware_invalid": "no implementation, no hosts, a bad pattern or word",
    "middleware_order": "two attachments with one number",
    "middleware_tls_skip": "fail_closed, but the endpoint stays closed to it",
    "no_binaries": "the rule matches no program (warning)",
    "no_endpoints": "the rule allows nothing (warning)",
    "no_port": "at least one port is needed",
    "no_rules": "an inspected endpoint needs rules or access",
    "not_supported_yet": "part of the language, not enforced by this version: refused by name",
    "operation_type": "not one of the types",
    "params_foreign": "tool and params are for mcp",
    "path_not_absolute": "does not start with `/`",
    "path_nul": "contains NUL",
    "path_too_broad": "the root cannot be writable",
    "path_too_long": "over 4096 bytes",
    "path_traversal": "contains `..`",
    "persisted_queries": "neither deny nor allow_registered",
    "port_range": "not from 1 to 65535",
    "reserved_key": "`_provider_` is for rules of attached providers",
    "rpc_method": "a rule needs a method",
    "rpc_method_glob": "json-rpc methods are exact, or `*`",
    "rpc_params": "json-rpc does not look at parameters",
    "rpc_path": "json-rpc and mcp rules have no path and no query",
    "rule_never_matches": "method and path are both needed (warning)",
    "rules_and_access": "one or the other",
    "rules_without_protocol": "nothing is restricted without protocol (warning)",
    "run_as": "neither `sandbox` nor a number in range",
    "signing_and_rewrite": "signing and body rewrite exclude each other",
    "signing_service": "signing needs a service",
    "signing_uninspected": "connections would be refused (warning)",
    "signing_unknown": "unknown word",
    "sql_enforce": "sql can only be recorded",
    "tcp_fields": "keys of inspection on tcp",
    "tcp_host": "tcp needs a host name",
    "tcp_host_literal": "tcp needs a name, not an address",
    "tcp_host_selector": "no name of DNS",
    "tcp_port_53": "the sandbox's resolver answers there (warning)",
    "tcp_rules": "tcp has no rules",
    "tld_wildcard": "a wildcard over a whole top-level domain",
    "tls_deprecated": "does nothing any more (warning)",
    "tls_skip_l7": "rules do not apply to encrypted traffic (warning)",
    "tls_unknown": "does nothing (warning)",
    "too_many_middlewares": "over 10",
    "too_many_paths": "over 256",
    "too_many_selectors": "over 32",
    "unknown_method": "no such method with this protocol (warning)",
    "unknown_protocol": "no such protocol",
    "unreadable_glob": "the pattern cannot be read: requests that meet it are refused (warning)",
    "version": "not 1 (warning)",
    "websocket_mixed": "connection and operation in one rule",
    "websocket_text": "text cannot be allowed where messages are operations",
}


_NAMES: Final = {one.key: tuple(field.name for field in one.fields) for one in SECTIONS}


def names_of(section: str) -> tuple[str, ...]:
    """The keys that a map accepts, in the order in which they are named to people."""
    return _NAMES[section]
