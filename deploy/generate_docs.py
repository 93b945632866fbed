"""Writes the pages that are made of the code itself: docs/cli.md, configuration.md, policy.md.

Of docs/providers.md it writes the part between two marks; the rest is written by hand.

`make docs` runs it; a test compares, so the pages cannot drift.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

from openshell.cli.main import cli
from openshell.gateway.config import OPTIONS
from openshell.policy.document import MAX_DOCUMENT_BYTES
from openshell.policy.features import ENFORCED
from openshell.policy.fields import CODES, SECTIONS
from openshell.policy.graphql import GRAPHQL_PRESETS
from openshell.policy.rest import ACCESS_PRESETS, WEBSOCKET_PRESETS
from openshell.providers.profile.reference import reference

_DOCS = Path(__file__).parents[1] / "docs"

_CLI_INTRO = """\
# Command line

Written by `make docs` from the program's own help. Exit codes: 0 done, 1 failed, 2 wrong usage, 124 a
wait ran out of time, 130 interrupted; `sandbox exec`, `sandbox connect` and an attached
`sandbox create` return the remote command's own code (128 + n after signal n).

Results go to stdout, progress and hints to stderr. `-o json` and `-o yaml` are for programs: sorted
keys, no colour. Colours appear on terminals only, and not with `NO_COLOR`.

The options `-g/--gateway`, `--gateway-endpoint`, `--workspace` and `-v` are understood before and
after every command; their variables are `OPENSHELL_GATEWAY`, `OPENSHELL_GATEWAY_ENDPOINT` and
`OPENSHELL_WORKSPACE`.
"""

_CONFIG_INTRO = """\
# Configuration of the gateway

Written by `make docs` from the table in `openshell/gateway/config.py`. A flag beats a variable, a
variable beats `gateway.toml`, which beats the default. The file is
`$XDG_CONFIG_HOME/openshell/gateway.toml` unless `--config` names another. Unknown keys, wrong types and
contradictions stop the start with the key's full name. What the contract has and this version has not is
refused by name; those settings are the last table.

The keys of the local driver stand in `[openshell.drivers.local]`:

| key | type, default | meaning |
|---|---|---|
| `upstream_ca_bundle` | path, none | PEM file with further authorities for TLS to upstreams, added to the system's |
| `https_proxy` | `http://HOST:PORT`, none | corporate proxy: tunnels of agents, captured connections and TLS to models are opened through it (CONNECT); plain requests with an absolute target are not |
| `no_proxy` | string, none | what is dialled directly in spite of it: `*`, names (with all below them), addresses, networks, comma-separated, each with `:PORT` or without; addresses also match what a name resolves to, and then only those are dialled. Loopback and the host alias always are |
| `proxy_auth_file` | path, none | file with one line `user:password` for the proxy, at most 4 KiB; read when a sandbox starts |
| `proxy_auth_allow_insecure` | `true` or `false` | says that these may travel to the proxy in the clear; goes with `proxy_auth_file` |
| `proxy_connect_by_hostname` | `true` or `false` | asks the proxy for names instead of checked addresses: what a name means is then the proxy's word, and `allowed_ips` and the rules for internal addresses hold only for what this machine resolves |
| `provider_spiffe_workload_api_socket_path` | path, `unix:` or `tcp:` address, none | SPIFFE agent that says who a supervisor is, for token grants; default: `OPENSHELL_PROVIDER_SPIFFE_WORKLOAD_API_SOCKET` of the gateway |
| `provider_spiffe_jwt_svid_file` | path, none | file with one JWT-SVID, instead of an agent; default: `OPENSHELL_PROVIDER_SPIFFE_JWT_SVID_FILE` of the gateway |
| `pids_limit` | number, 2048 | processes per sandbox |

State is under `$XDG_STATE_HOME/openshell` (`~/.local/state/openshell`): `gateway/` (database, log, key of
stored credentials), `tls/` (certificates and token keys), `local/` (sandboxes). Everything is 0600 in 0700.

## Database

`OPENSHELL_DB_URL` (or `--db-url`) is `sqlite:PATH`, the default, or `postgresql://USER@HOST:PORT/NAME` with
whatever parameters libpq knows (`?sslmode=verify-full`, `?host=/run/postgresql`). PostgreSQL needs
`pip install 'openshell-py[postgres]'`, a database with `ENCODING 'UTF8'`, and a user that may create tables
in it. Its password stands in the variable, in `PGPASSWORD` or in a password file; on the command line it is
refused. A pooler between must keep sessions (no transaction pooling).

Several gateways may use one database: PostgreSQL, or one SQLite file on one machine. Each has its own state
directory and hosts its own sandboxes; `local/host-id` says whose they are. Everything else is common, and a
change made at one reaches sandboxes of the others at once. Commands that need the compute of a sandbox
(`exec`, `connect`, `stop`, `start`, `delete`) are answered by the gateway that hosts it; the others refuse and
name the host. The gateways must share the key of stored credentials
(`credential_storage.key_encryption_key_path`). If a state directory is lost, its sandboxes' records can be
deleted by a gateway whose `local/host-id` is set to the host that the refusal names.
"""


def cli_page() -> str:
    parts = [_CLI_INTRO]
    _describe(cli, click.Context(cli, info_name="openshell"), parts)
    return "\n".join(parts)


def _describe(command: click.Command, context: click.Context, parts: list[str]) -> None:
    context.terminal_width = context.max_content_width = 90
    parts += [f"## {context.command_path}\n", "```", command.get_help(context).rstrip(), "```\n"]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            _describe(child, click.Context(child, info_name=name, parent=context), parts)


def configuration_page() -> str:
    parts = [_CONFIG_INTRO]
    for title, built in (("Settings", True), ("Known, not built yet", False)):
        parts += [
            f"## {title}\n",
            "| flag | variable | key | default | meaning |",
            "|---|---|---|---|---|",
        ]
        for option in OPTIONS:
            if option.built is built:
                cells = (option.flag, option.env, option.key)
                named = [f"`{cell}`" if cell else "" for cell in cells]
                default = "" if option.default in (None, "", ()) else f"`{option.default}`"
                parts.append("| " + " | ".join([*named, default, option.help]) + " |")
        parts.append("")
    return "\n".join(parts)


def policy_page() -> str:
    enforced = ", ".join(["connections without protocol", *(f"`{f}`" for f in sorted(ENFORCED))])
    intro = (Path(__file__).parent / "policy_intro.md").read_text()
    parts = [intro.format(enforced=enforced, document=MAX_DOCUMENT_BYTES)]
    for section in SECTIONS:
        parts += [
            f"### {section.title}\n",
            "| key | type | default | limit | meaning | findings |",
            "|---|---|---|---|---|---|",
        ]
        for field in section.fields:
            codes = ", ".join(f"`{code}`" for code in field.codes)
            cells = (
                f"`{field.name}`",
                field.type,
                field.default,
                field.limit,
                field.meaning,
                codes,
            )
            parts.append("| " + " | ".join(cells) + " |")
        parts.append("")
    parts += ["## Presets\n", "| access | rest | websocket | graphql |", "|---|---|---|---|"]
    for name, methods in ACCESS_PRESETS.items():
        columns = (methods, WEBSOCKET_PRESETS[name], GRAPHQL_PRESETS[name])
        parts.append(f"| `{name}` | " + " | ".join(" ".join(c) for c in columns) + " |")
    parts += [
        "\n## Findings\n",
        "Errors keep a policy from being stored and from being loaded. Codes are stable.\n",
        "| code | what it says |",
        "|---|---|",
        *(f"| `{code}` | {text} |" for code, text in sorted(CODES.items())),
    ]
    return "\n".join(parts) + "\n"


_BEGIN = "<!-- generated: make docs -->\n"
_END = "<!-- end of generated -->\n"


def providers_page() -> str:
    before, rest = (_DOCS / "providers.md").read_text().split(_BEGIN)
    after = rest.split(_END)[1]
    return f"{before}{_BEGIN}\n{reference()}\n{_END}{after}"


PAGES = {
    "cli.md": cli_page,
    "configuration.md": configuration_page,
    "policy.md": policy_page,
    "providers.md": providers_page,
}


def main() -> int:
    directory = Path(sys.argv[1]) if len(sys.argv) > 1 else _DOCS
    for name, page in PAGES.items():
        (directory / name).write_text(page())
    return 0


if __name__ == "__main__":
    sys.exit(main())
