"""The gateway's settings: flags over environment over TOML file over defaults, parsed once.

One table, `OPTIONS`, names every setting of the contract with its flag, variable and key; those that
are not built are in the table too and refused by name when somebody sets them. The result is frozen.
Nothing is read from the process here: arguments and environment are given. Called by `main.py`.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import ipaddress
import os
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

from openshell.gateway.credentials.keyfile import KEY_FILE_NAME
from openshell.gateway.middleware_registrations import (
    Registration,
    RegistrationError,
    read_registrations,
)

__all__ = [
    "OPTIONS",
    "ConfigError",
    "Database",
    "Embedded",
    "Jwt",
    "Listen",
    "Option",
    "Settings",
    "Tls",
    "build_parser",
    "load_settings",
]

DEFAULT_PORT: Final = 17670
EMBEDDED_GATEWAY_ID: Final = "openshell"
CONFIG_VERSION_MAX: Final = 1
CONFIG_BYTES_MAX: Final = 1_048_576
"""A settings file is a few kilobytes; more is a mistaken path."""
LOG_LEVELS: Final = ("trace", "debug", "info", "warn", "error")
BUILT_DRIVERS: Final = ("local",)
KNOWN_DRIVERS: Final = ("local", "kubernetes", "podman", "docker", "vm")


class ConfigError(Exception):
    """The settings cannot be used; the sentence names the key, never a secret."""


@dataclass(frozen=True, slots=True)
class Listen:
    host: str
    port: int


@dataclass(frozen=True, slots=True)
class Tls:
    """Paths; all empty means: the local bundle, where there is one."""

    disabled: bool
    cert: str
    key: str
    client_ca: str


@dataclass(frozen=True, slots=True)
class Jwt:
    """Paths of the keys for sandbox tokens; empty means: the local bundle."""

    signing_key: str
    public_key: str
    kid: str
    gateway_id: str
    # Zero: tokens never expire.
    ttl_seconds: int


@dataclass(frozen=True, slots=True)
class Database:
    """A file, or the URL of a PostgreSQL server, which may hold a password."""

    path: str
    url: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True)
class Embedded:
    """Started by a command of its user: own certificates, own port, says when it serves."""

    enabled: bool
    ready_fd: int | None


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything the gateway was told."""

    listen: Listen
    port_given: bool
    tls: Tls
    jwt: Jwt
    database: Database
    embedded: Embedded
    log_level: str
    driver: str
    driver_table: Mapping[str, Any]
    # None: derived from driver and TLS.
    mtls_users: bool | None
    allow_unauthenticated_users: bool
    failure_mode: str
    # Zero: SSH sessions never expire.
    ssh_session_ttl_seconds: int
    server_sans: tuple[str, ...]
    state_root: Path
    tls_dir: Path
    # Where clients of this user keep their registrations; empty when there is no home.
    config_root: Path | None
    credential_key_path: str
    # Services that policies may name, by name.
    middleware: Mapping[str, Registration] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Option:
    """One setting. `key` is its dotted place below `[openshell.gateway]`, empty when it has none."""

    name: str
    flag: str = ""
    env: str = ""
    key: str = ""
    parse: Callable[[str, object], Any] = field(default=lambda _name, value: value)
    default: Any = None
    built: bool = True
    is_switch: bool = False
    help: str = ""
    aliases: tuple[str, ...] = ()


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a string")
    return value


def _boolean(name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "1", "yes", "on"}:
        return True
    if isinstance(value, str) and value.lower() in {"false", "0", "no", "off", ""}:
        return False
    raise ConfigError(f"{name} must be true or false")


def _number(low: int, high: int) -> Callable[[str, object], int]:
    def parse(name: str, value: object) -> int:
        if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) < 20:
            value = int(value)
        if type(value) is not int or not low <= value <= high:
            raise ConfigError(f"{name} must be a number from {low} to {high}")
        return value

    return parse


def _address(name: str, value: object) -> str:
    try:
        return str(ipaddress.ip_address(_text(name, value)))
    except ValueError as error:
        raise ConfigError(f"{name} must be an IP address") from error


def _one_of(*allowed: str) -> Callable[[str, object], str]:
    def parse(name: str, value: object) -> str:
        text = _text(name, value).strip().lower()
        if text not in allowed:
            raise ConfigError(f"{name} must be one of: {', '.join(allowed)}")
        return text

    return parse


def _list(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{name} must be a list of strings")
    return tuple(item.strip() for item in value if item.strip())


def _database(name: str, value: object) -> Database:
    """Never says what the value is: a password may stand anywhere in it."""
    url = _text(name, value)
    scheme, separator, path = url.partition(":")
    if separator and scheme in {"postgres", "postgresql"}:
        return Database("", _postgres_url(name, url))
    if not separator or scheme != "sqlite":
        raise ConfigError(f"{name} must be sqlite:PATH or postgresql://USER@HOST/NAME")
    path = path.removeprefix("//")
    if not path or path == ":memory:":
        raise ConfigError(f"{name}: a database in memory is not supported; give sqlite:PATH")
    return Database(path)


def _postgres_url(name: str, url: str) -> str:
    if importlib.util.find_spec("psycopg") is None:
        raise ConfigError(f"{name}: PostgreSQL needs: pip install 'openshell-py[postgres]'")
    # Only now: it is an extra, and most gateways never need it.
    conninfo = importlib.import_module("psycopg.conninfo")
    try:
        given = conninfo.conninfo_to_dict(url)
    except Exception:
        # From None, and without its text: that quotes the URL.
        raise ConfigError(
            f"{name} is no valid PostgreSQL URL; write postgresql://USER@HOST/NAME and "
            "percent-encode what is special in its parts"
        ) from None
    if "@" in f"{given.get('host', '')}{given.get('dbname', '')}":
        raise ConfigError(f"{name}: write @ in a password as %40 and / as %2F")
    if name.startswith("--") and given.get("password"):
        raise ConfigError(
            f"{name}: every user of this machine can read a password on the command line; "
            "give the URL in OPENSHELL_DB_URL, or the password in PGPASSWORD or a password file"
        )
    return url


_PORT = _number(0, 65_535)
_U64 = _number(0, 2**63 - 1)
_UNBUILT: Final = "is not supported yet; leave it out"

OPTIONS: Final[tuple[Option, ...]] = (
    Option("bind_address", "--bind-address", "OPENSHELL_BIND_ADDRESS", "", _address, "127.0.0.1",
           help="IP address to listen on"),
    Option("port", "--port", "OPENSHELL_SERVER_PORT", "", _PORT, DEFAULT_PORT,
           help="port to listen on"),
    Option("log_level", "--log-level", "OPENSHELL_LOG_LEVEL", "log_level", _one_of(*LOG_LEVELS),
           "info", help="one of: " + ", ".join(LOG_LEVELS)),
    Option("tls_cert", "--tls-cert", "OPENSHELL_TLS_CERT", "tls.cert_path", _text, "",
           help="server certificate (PEM)"),
    Option("tls_key", "--tls-key", "OPENSHELL_TLS_KEY", "tls.key_path", _text, "",
           help="its key (PEM)"),
    Option("tls_client_ca", "--tls-client-ca", "OPENSHELL_TLS_CLIENT_CA", "tls.client_ca_path",
           _text, "", help="authority of client certificates (PEM)"),
    Option("disable_tls", "--disable-tls", "OPENSHELL_DISABLE_TLS", "disable_tls", _boolean, False,
           is_switch=True, help="serve in the clear"),
    Option("db_url", "--db-url", "OPENSHELL_DB_URL", "", _database, None,
           help="database: sqlite:PATH, or postgresql://USER@HOST/NAME with the password in the "
           "variable, PGPASSWORD or a password file"),
    Option("drivers", "--drivers", "OPENSHELL_DRIVERS", "compute_drivers", _list, (),
           aliases=("--driver",), help="compute driver; the default is local"),
    Option("mtls_users", "--enable-mtls-auth", "OPENSHELL_ENABLE_MTLS_AUTH", "mtls_auth.enabled",
           _boolean, None, help="whether client certificates identify users"),
    Option("server_sans", "--server-san", "OPENSHELL_SERVER_SAN", "server_sans", _list, (),
           help="further names of the server, comma-separated"),
    Option("allow_unauthenticated_users", key="auth.allow_unauthenticated_users", parse=_boolean,
           default=False),
    Option("failure_mode", key="policy_validation_failure_mode",
           parse=_one_of("fail_closed", "retain_last_valid"), default="fail_closed"),
    Option("jwt_signing_key", key="gateway_jwt.signing_key_path", parse=_text, default=""),
    Option("jwt_public_key", key="gateway_jwt.public_key_path", parse=_text, default=""),
    Option("jwt_kid", key="gateway_jwt.kid_path", parse=_text, default=""),
    Option("jwt_gateway_id", key="gateway_jwt.gateway_id", parse=_text,
           default=EMBEDDED_GATEWAY_ID),
    Option("ssh_session_ttl", key="ssh_session_ttl_secs", parse=_U64, default=86_400),
    Option("jwt_ttl", key="gateway_jwt.ttl_secs", parse=_U64, default=0),
    Option("credential_key_path", key="credential_storage.key_encryption_key_path", parse=_text,
           default=""),
    Option("embedded", "--embedded", is_switch=True, parse=_boolean, default=False,
           help="serve one user: own certificates, a free port, state under XDG_STATE_HOME"),
    Option("ready_fd", "--ready-fd", parse=_number(3, 65_535),
           help="descriptor to print one JSON line on when serving"),
    # Known to the contract, not built here.
    Option("health_port", "--health-port", "OPENSHELL_HEALTH_PORT", "health_bind_address",
           built=False),
    Option("metrics_port", "--metrics-port", "OPENSHELL_METRICS_PORT", "metrics_bind_address",
           built=False),
    Option("compute_driver_socket", "--compute-driver-socket", "OPENSHELL_COMPUTE_DRIVER_SOCKET",
           built=False),
    Option("oidc_issuer", "--oidc-issuer", "OPENSHELL_OIDC_ISSUER", "oidc.issuer", built=False),
    Option("oidc_audience", "--oidc-audience", "OPENSHELL_OIDC_AUDIENCE", "oidc.audience",
           built=False),
    Option("oidc_jwks_ttl", "--oidc-jwks-ttl", "OPENSHELL_OIDC_JWKS_TTL", "oidc.jwks_ttl_secs",
           built=False),
    Option("oidc_roles_claim", "--oidc-roles-claim", "OPENSHELL_OIDC_ROLES_CLAIM",
           "oidc.roles_claim", built=False),
    Option("oidc_admin_role", "--oidc-admin-role", "OPENSHELL_OIDC_ADMIN_ROLE", "oidc.admin_role",
           built=False),
    Option("oidc_user_role", "--oidc-user-role", "OPENSHELL_OIDC_USER_ROLE", "oidc.user_role",
           built=False),
    Option("oidc_scopes_claim", "--oidc-scopes-claim", "OPENSHELL_OIDC_SCOPES_CLAIM",
           "oidc.scopes_claim", built=False),
    Option("rate_requests", "--grpc-rate-limit-requests", "OPENSHELL_GRPC_RATE_LIMIT_REQUESTS",
           "grpc_rate_limit_requests", built=False),
    Option("rate_window", "--grpc-rate-limit-window-seconds",
           "OPENSHELL_GRPC_RATE_LIMIT_WINDOW_SECONDS", "grpc_rate_limit_window_seconds",
           built=False),
    Option("loopback_http", "--enable-loopback-service-http",
           "OPENSHELL_ENABLE_LOOPBACK_SERVICE_HTTP", "enable_loopback_service_http", built=False),
    *(
        Option(key.replace(".", "_"), key=key, built=False)
        for key in (
            "sandbox_namespace", "credential_drivers",
            "default_credential_driver", "provider_profile_sources", "default_image",
            "supervisor_image", "client_tls_secret_name", "service_account_name",
            "host_gateway_ip", "enable_user_namespaces", "sa_token_ttl_secs", "guest_tls_ca",
            "guest_tls_cert", "guest_tls_key", "credential_storage.key_encryption_key_env",
            "tls.external_cert_path", "tls.external_key_path", "tls.external_server_names",
            "otlp.endpoint", "otlp.service_name", "interceptors",
        )
    ),
)  # fmt: skip

# Accepted for the contract's sake and without effect: what it asks for is always the case.
_INERT_KEYS: Final = frozenset({"tls.require_client_auth"})


def build_parser() -> argparse.ArgumentParser:
    """Every flag of the table. Unknown flags end the program with status 2."""
    parser = argparse.ArgumentParser(
        prog="openshell-gateway",
        description="The OpenShell gateway: API, state and delivery of policy and credentials.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", metavar="FILE", help="settings file (TOML)")
    for option in OPTIONS:
        if not option.flag:
            continue
        help_text = option.help if option.built else argparse.SUPPRESS
        flags = (option.flag, *option.aliases)
        if option.is_switch:
            parser.add_argument(
                *flags, dest=option.name, action="store_const", const="true", help=help_text
            )
        else:
            parser.add_argument(*flags, dest=option.name, metavar="VALUE", help=help_text)
    return parser


def load_settings(arguments: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Settings from the command line, the environment and the file they name."""
    given = vars(build_parser().parse_args(list(arguments)))
    document = _read_document(
        given.get("config") or environ.get("OPENSHELL_GATEWAY_CONFIG"), environ
    )
    tables = _check_document(document)
    values, explicit = _resolve(given, environ, tables)
    return _build(values, explicit, tables, environ)


def _read_document(path: str | None, environ: Mapping[str, str]) -> dict[str, Any]:
    if path is None:
        root = _xdg(environ, "XDG_CONFIG_HOME", ".config")
        candidate = root / "openshell" / "gateway.toml" if root is not None else None
        if candidate is None or not candidate.is_file():
            return {}
        path = str(candidate)
    try:
        with open(path, "rb") as file:
            content = file.read(CONFIG_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"cannot read the settings file {path}: {error.strerror}") from error
    if len(content) > CONFIG_BYTES_MAX:
        raise ConfigError(f"the settings file {path} is larger than {CONFIG_BYTES_MAX} bytes")
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"the settings file {path} is no valid TOML: {error}") from error


@dataclass(frozen=True, slots=True)
class _Tables:
    """The file, flattened: dotted keys of `[openshell.gateway]`, and the drivers' own tables."""

    gateway: Mapping[str, object]
    drivers: Mapping[str, Mapping[str, Any]]
    middleware: object = ()


def _check_document(document: Mapping[str, Any]) -> _Tables:
    """Refuses every key that the contract does not know, by its full name."""
    _only(document, {"openshell"}, "")
    root = _table(document.get("openshell", {}), "openshell")
    _only(root, {"version", "gateway", "supervisor", "drivers", "credential_drivers"}, "openshell.")
    version = root.get("version", CONFIG_VERSION_MAX)
    if type(version) is not int or not 0 <= version <= CONFIG_VERSION_MAX:
        raise ConfigError(f"openshell.version must be at most {CONFIG_VERSION_MAX}")
    if root.get("credential_drivers"):
        raise ConfigError(f"openshell.credential_drivers {_UNBUILT}")
    supervisor = _table(root.get("supervisor", {}), "openshell.supervisor")
    _only(supervisor, {"middleware"}, "openshell.supervisor.")
    gateway = _table(root.get("gateway", {}), "openshell.gateway")
    if "database_url" in gateway:
        raise ConfigError(
            "openshell.gateway.database_url is not read from the file: use --db-url or OPENSHELL_DB_URL"
        )
    flat = _flatten(gateway)
    known = {option.key for option in OPTIONS if option.key} | _INERT_KEYS | {"bind_address"}
    for key in flat:
        if key not in known:
            raise ConfigError(f"unknown key openshell.gateway.{key}")
    drivers = {
        name: _table(table, f"openshell.drivers.{name}")
        for name, table in _table(root.get("drivers", {}), "openshell.drivers").items()
    }
    middleware = supervisor.get("middleware", [])
    return _Tables(MappingProxyType(flat), MappingProxyType(drivers), middleware)


def _only(table: Mapping[str, Any], allowed: set[str], prefix: str) -> None:
    for key in table:
        if key not in allowed:
            raise ConfigError(f"unknown key {prefix}{key}")


def _table(value: object, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{name} must be a table")
    return value


_NESTED: Final = frozenset(option.key.partition(".")[0] for option in OPTIONS if "." in option.key)


def _flatten(table: Mapping[str, Any]) -> dict[str, object]:
    flat: dict[str, object] = {}
    for key, value in table.items():
        if key in _NESTED:
            nested = _table(value, f"openshell.gateway.{key}")
            flat.update({f"{key}.{inner}": item for inner, item in nested.items()})
        else:
            flat[key] = value
    return flat


def _resolve(
    given: Mapping[str, Any], environ: Mapping[str, str], tables: _Tables
) -> tuple[dict[str, Any], set[str]]:
    """Value of every option, and the names of those that were set by flag or environment."""
    values: dict[str, Any] = {}
    explicit: set[str] = set()
    file = dict(tables.gateway)
    if "bind_address" in file:
        host, port = _split_address(file["bind_address"])
        values["bind_address"], values["port"] = host, port
    for option in OPTIONS:
        source, raw = _source(option, given, environ, file)
        if raw is None:
            values.setdefault(option.name, option.default)
            continue
        if not option.built:
            raise ConfigError(f"{source} {_UNBUILT}")
        values[option.name] = option.parse(source, raw)
        if source != f"openshell.gateway.{option.key}":
            explicit.add(option.name)
    if "bind_address" in file:
        explicit.add("port")
    return values, explicit


def _source(
    option: Option, given: Mapping[str, Any], environ: Mapping[str, str], file: Mapping[str, object]
) -> tuple[str, object]:
    """Who sets an option, by the name to use in an error, and what to."""
    if option.flag and given.get(option.name) is not None:
        return option.flag, given[option.name]
    if option.env and environ.get(option.env):
        return option.env, environ[option.env]
    if option.key and option.key in file:
        return f"openshell.gateway.{option.key}", file[option.key]
    return option.name, None


def _split_address(value: object) -> tuple[str, int]:
    name = "openshell.gateway.bind_address"
    host, separator, port = _text(name, value).rpartition(":")
    if not separator:
        raise ConfigError(f"{name} must be written ip:port")
    return _address(name, host.removeprefix("[").removesuffix("]")), _PORT(name, port)


def _xdg(environ: Mapping[str, str], variable: str, below_home: str) -> Path | None:
    if environ.get(variable):
        return Path(environ[variable])
    if environ.get("HOME"):
        return Path(environ["HOME"]) / below_home
    return None


def _build(
    values: Mapping[str, Any], explicit: set[str], tables: _Tables, environ: Mapping[str, str]
) -> Settings:
    state = _xdg(environ, "XDG_STATE_HOME", ".local/state")
    if state is None:
        raise ConfigError("cannot find a place for state: set HOME or XDG_STATE_HOME")
    state_root = state / "openshell"
    config = _xdg(environ, "XDG_CONFIG_HOME", ".config")
    driver = _driver(values["drivers"])
    tls = Tls(
        disabled=values["disable_tls"],
        cert=values["tls_cert"],
        key=values["tls_key"],
        client_ca=values["tls_client_ca"],
    )
    _check_tls(tls, values["mtls_users"])
    jwt = _jwt(values)
    return Settings(
        listen=Listen(values["bind_address"], values["port"]),
        port_given="port" in explicit,
        tls=tls,
        jwt=jwt,
        database=values["db_url"] or Database(os.fspath(state_root / "gateway" / "openshell.db")),
        embedded=Embedded(values["embedded"], values["ready_fd"]),
        log_level=values["log_level"],
        driver=driver,
        driver_table=MappingProxyType(dict(tables.drivers.get(driver, {}))),
        mtls_users=values["mtls_users"],
        allow_unauthenticated_users=values["allow_unauthenticated_users"],
        failure_mode=values["failure_mode"],
        ssh_session_ttl_seconds=values["ssh_session_ttl"],
        server_sans=tuple(values["server_sans"]),
        state_root=state_root,
        tls_dir=Path(environ.get("OPENSHELL_LOCAL_TLS_DIR") or state_root / "tls"),
        config_root=None if config is None else config / "openshell",
        middleware=_middleware(tables.middleware),
        credential_key_path=values["credential_key_path"]
        or os.fspath(state_root / "gateway" / "credential-keys" / KEY_FILE_NAME),
    )


def _middleware(value: object) -> Mapping[str, Registration]:
    try:
        return read_registrations(value)
    except RegistrationError as error:
        raise ConfigError(f"openshell.supervisor.middleware{error}") from error


def _driver(names: Sequence[str]) -> str:
    if len(names) > 1:
        raise ConfigError(
            "--drivers names more than one driver; multiple drivers are not supported"
        )
    name = names[0].strip().lower() if names else BUILT_DRIVERS[0]
    if not name.replace("-", "").replace("_", "").isalnum() or not name.isascii():
        raise ConfigError("--drivers: a driver's name has letters, digits, '-' and '_'")
    if name not in BUILT_DRIVERS:
        what = f"the driver '{name}'" if name in KNOWN_DRIVERS else f"'{name}', no built-in driver,"
        raise ConfigError(f"--drivers: {what} {_UNBUILT}, or use: {', '.join(BUILT_DRIVERS)}")
    return name


def _check_tls(tls: Tls, mtls_users: bool | None) -> None:
    if tls.disabled and tls.client_ca:
        raise ConfigError("--disable-tls and --tls-client-ca contradict each other; leave one out")
    if tls.disabled and mtls_users:
        raise ConfigError("--enable-mtls-auth needs TLS; leave out --disable-tls")
    if not tls.disabled and bool(tls.cert) != bool(tls.key):
        raise ConfigError("--tls-cert and --tls-key belong together; give both or none")


def _jwt(values: Mapping[str, Any]) -> Jwt:
    signing, public, kid = values["jwt_signing_key"], values["jwt_public_key"], values["jwt_kid"]
    if not bool(signing) == bool(public) == bool(kid):
        raise ConfigError(
            "openshell.gateway.gateway_jwt needs signing_key_path, public_key_path and kid_path"
        )
    return Jwt(signing, public, kid, values["jwt_gateway_id"], values["jwt_ttl"])
