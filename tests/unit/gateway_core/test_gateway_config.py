"""Settings: precedence, strict keys, and what is known but not built, refused by name."""

import traceback

import pytest

from openshell.gateway.config import OPTIONS, ConfigError, build_parser, load_settings


@pytest.fixture
def load(tmp_path):
    def run(*arguments, env=(), toml=None):
        environ = {"HOME": str(tmp_path), **dict(env)}
        if toml is not None:
            path = tmp_path / "gateway.toml"
            path.write_text(toml)
            environ.setdefault("OPENSHELL_GATEWAY_CONFIG", str(path))
        return load_settings(arguments, environ)

    return run


def test_defaults(load, tmp_path):
    settings = load()
    assert (settings.listen.host, settings.listen.port, settings.driver) == (
        "127.0.0.1",
        17670,
        "local",
    )
    assert settings.state_root == tmp_path / ".local/state/openshell"
    assert settings.database.path == str(settings.state_root / "gateway/openshell.db")
    assert settings.mtls_users is None
    assert not settings.port_given


def test_flag_over_variable_over_file_over_default(load):
    toml = '[openshell.gateway]\nbind_address = "127.0.0.2:3"\nlog_level = "warn"\n'
    env = {"OPENSHELL_SERVER_PORT": "2", "OPENSHELL_LOG_LEVEL": "error"}
    assert load(toml=toml).listen.port == 3
    assert load(toml=toml).listen.host == "127.0.0.2"
    assert load(toml=toml, env=env).listen.port == 2
    settings = load("--port", "17670", toml=toml, env=env)
    assert (settings.listen.port, settings.log_level, settings.port_given) == (17670, "error", True)


def test_empty_file_is_all_defaults(load):
    assert load(toml="").listen.port == 17670


def test_file_in_the_config_directory_is_found(load, tmp_path):
    (tmp_path / "openshell").mkdir()
    (tmp_path / "openshell" / "gateway.toml").write_text("[openshell.gateway]\nlog_level='debug'\n")
    assert load(env={"XDG_CONFIG_HOME": str(tmp_path)}).log_level == "debug"


@pytest.mark.parametrize(
    ("toml", "says"),
    [
        ("x = 1", "unknown key x"),
        ("[openshell]\nfoo = 1", "unknown key openshell.foo"),
        ("[openshell]\nversion = 2", "openshell.version"),
        ("[openshell.gateway]\nfoo = 1", "unknown key openshell.gateway.foo"),
        ("[openshell.gateway.tls]\nfoo = 1", "unknown key openshell.gateway.tls.foo"),
        ("[openshell.gateway]\ntls = 1", "openshell.gateway.tls must be a table"),
        ("[openshell.gateway]\ndatabase_url = 'x'", "OPENSHELL_DB_URL"),
        ("[openshell.gateway]\nlog_level = 3", "openshell.gateway.log_level must be a string"),
        ("[openshell.gateway]\nlog_level = 'loud'", "openshell.gateway.log_level must be one of"),
        ("[openshell.gateway]\ndisable_tls = 'maybe'", "openshell.gateway.disable_tls"),
        ("[openshell.gateway]\nbind_address = 'localhost:1'", "openshell.gateway.bind_address"),
        ("[openshell.gateway]\nbind_address = '127.0.0.1'", "ip:port"),
        ("[openshell.gateway]\ncompute_drivers = ['docker']", "'docker' is not supported yet"),
        ("[openshell.gateway]\ncredential_drivers = []", "credential_drivers is not supported yet"),
        ("[openshell.gateway.oidc]\nissuer = 'x'", "oidc.issuer is not supported yet"),
        ("[openshell.gateway.otlp]\nendpoint = 'x'", "otlp.endpoint is not supported yet"),
        ("[[openshell.gateway.interceptors]]\nname = 'x'", "interceptors is not supported yet"),
        (
            "[[openshell.supervisor.middleware]]\nname = 'x'",
            "openshell.supervisor.middleware[0].grpc_endpoint",
        ),
        ("[openshell.gateway.gateway_jwt]\nsigning_key_path = 'x'", "public_key_path"),
        ("not toml", "no valid TOML"),
    ],
)
def test_file_refused(load, toml, says):
    with pytest.raises(ConfigError, match=says.replace("[", r"\[")):
        load(toml=toml)


@pytest.mark.parametrize(
    ("arguments", "env", "says"),
    [
        (["--port", "x"], {}, "--port must be a number"),
        (["--port", "70000"], {}, "--port must be a number"),
        ([], {"OPENSHELL_SERVER_PORT": "-1"}, "OPENSHELL_SERVER_PORT must be a number"),
        (["--bind-address", "localhost"], {}, "--bind-address must be an IP"),
        (["--oidc-issuer", "x"], {}, "--oidc-issuer is not supported yet"),
        (
            [],
            {"OPENSHELL_GRPC_RATE_LIMIT_REQUESTS": "1"},
            "RATE_LIMIT_REQUESTS is not supported yet",
        ),
        (["--health-port", "1"], {}, "--health-port is not supported yet"),
        (["--drivers", "docker"], {}, "'docker' is not supported yet"),
        (["--drivers", "local,vm"], {}, "more than one"),
        (["--drivers", "no/name"], {}, "a driver's name"),
        (["--drivers", "custom"], {}, "no built-in driver"),
        (["--disable-tls", "--tls-client-ca", "x"], {}, "contradict"),
        (["--disable-tls", "--enable-mtls-auth", "true"], {}, "needs TLS"),
        (["--tls-cert", "x"], {}, "belong together"),
        (["--db-url", "postgres://u:hunter2@h/n"], {}, "can read a password on the command line"),
        (["--db-url", "postgres://h/n?password=hunter2"], {}, "on the command line"),
        ([], {"OPENSHELL_DB_URL": "postgresql://u:hunter2@x@h/n"}, "%40"),
        ([], {"OPENSHELL_DB_URL": "postgresql://u:hunter2/x@h/n"}, "no valid|%40"),
        ([], {"OPENSHELL_DB_URL": "postgresql://u:hunter2%zz@h/n"}, "no valid PostgreSQL URL"),
        ([], {"OPENSHELL_DB_URL": "postgresql://u@h/n?hunter2"}, "no valid PostgreSQL URL"),
        (["--db-url", "mysql:x"], {}, "sqlite:PATH"),
        (["--db-url", "sqlite::memory:"], {}, "memory"),
        (["--config", "/nonexistent.toml"], {}, "cannot read the settings file"),
    ],
)
def test_arguments_refused(load, arguments, env, says):
    with pytest.raises(ConfigError, match=says) as caught:
        load(*arguments, env=env)
    assert "hunter2" not in "".join(traceback.format_exception(caught.value, limit=0))


def test_a_database_url_is_kept_and_not_shown(load):
    url = "postgresql://app:hunter2@db.example/state?sslmode=verify-full"
    settings = load(env={"OPENSHELL_DB_URL": url})
    assert settings.database.url == url
    assert "hunter2" not in repr(settings)
    assert load("--db-url", "postgresql://app@db/state").database.url


def test_postgres_without_its_extra_says_what_to_install(load, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'openshell-py\[postgres\]'"):
        load("--db-url", "postgresql://app@db/state")


def test_unknown_flag_is_a_usage_error(load, capsys):
    with pytest.raises(SystemExit) as caught:
        load("--sandbox-image", "x")
    assert caught.value.code == 2
    assert "--sandbox-image" in capsys.readouterr().err


def test_driver_tables_of_others_are_left_alone(load):
    toml = "[openshell.drivers.docker]\nwhatever = 1\n[openshell.drivers.local]\npids_limit = 7\n"
    assert load(toml=toml).driver_table == {"pids_limit": 7}


def test_every_option_is_named_once():
    for attribute in ("name", "flag", "env", "key"):
        names = [getattr(option, attribute) for option in OPTIONS if getattr(option, attribute)]
        assert len(names) == len(set(names)), attribute
    help_text = build_parser().format_help()
    for option in OPTIONS:
        if option.flag and option.built:
            assert option.flag in help_text


def test_no_home_is_one_sentence():
    with pytest.raises(ConfigError, match="HOME"):
        load_settings([], {})
