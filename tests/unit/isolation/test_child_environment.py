"""The layers of a program's environment."""

from __future__ import annotations

import pytest

from openshell.supervisor.environment import (
    SUPERVISOR_ONLY,
    ProgramRole,
    SandboxUser,
    child_environment,
    search_path,
)


def environment(role: ProgramRole = ProgramRole.EXEC, **options: object) -> dict[str, str]:
    fields: dict[str, object] = {"user_env": {}, "provider_env": {}, "terminal": None, **options}
    return child_environment(role=role, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("role", list(ProgramRole))
def test_the_basics(role: ProgramRole) -> None:
    made = environment(role)
    assert made == {
        "OPENSHELL_SANDBOX": "1",
        "HOME": "/sandbox",
        "USER": "sandbox",
        "SHELL": "/bin/bash",
        "TERM": "dumb",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "ALL_PROXY": "http://10.200.0.1:3128",
        "HTTP_PROXY": "http://10.200.0.1:3128",
        "HTTPS_PROXY": "http://10.200.0.1:3128",
        "http_proxy": "http://10.200.0.1:3128",
        "https_proxy": "http://10.200.0.1:3128",
        "grpc_proxy": "http://10.200.0.1:3128",
        "NO_PROXY": "127.0.0.1,localhost,::1",
        "no_proxy": "127.0.0.1,localhost,::1",
        "NODE_USE_ENV_PROXY": "1",
        "NODE_EXTRA_CA_CERTS": "/etc/openshell-tls/openshell-ca.pem",
        "DENO_CERT": "/etc/openshell-tls/openshell-ca.pem",
        "SSL_CERT_FILE": "/etc/openshell-tls/ca-bundle.pem",
        "REQUESTS_CA_BUNDLE": "/etc/openshell-tls/ca-bundle.pem",
        "CURL_CA_BUNDLE": "/etc/openshell-tls/ca-bundle.pem",
        "GIT_SSL_CAINFO": "/etc/openshell-tls/ca-bundle.pem",
        "npm_config_cafile": "/etc/openshell-tls/ca-bundle.pem",
        "PIP_CERT": "/etc/openshell-tls/ca-bundle.pem",
        "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": "/etc/openshell-tls/ca-bundle.pem",
    }


def test_without_a_ca_the_tls_variables_are_absent() -> None:
    assert not {
        n for n in environment(trust_directory=None) if "SSL" in n or "CERT" in n or "ca" in n
    }


@pytest.mark.parametrize(
    ("terminal", "expected"),
    [(None, "dumb"), ("", "xterm-256color"), ("screen", "screen")],
)
def test_the_terminals_name(terminal: str | None, expected: str) -> None:
    assert environment(terminal=terminal)["TERM"] == expected


@pytest.mark.parametrize("role", list(ProgramRole))
def test_a_user_keeps_to_his_own_names(role: ProgramRole) -> None:
    made = environment(
        role, user_env={"HOME": "/tmp", "HTTP_PROXY": "http://x", "OPENSHELL_X": "1", "A": "b"}
    )
    assert made["A"] == "b"
    assert made["HOME"] == "/tmp"
    assert made["HTTP_PROXY"] == "http://10.200.0.1:3128"
    assert "OPENSHELL_X" not in made


def test_providers_win_in_later_programs_and_not_over_the_proxy_in_the_main_one() -> None:
    provided = {"HTTP_PROXY": "http://provider", "HOME": "/p", "KEY": "openshell:resolve:env:KEY"}
    later = environment(ProgramRole.EXEC, provider_env=provided)
    assert (later["HTTP_PROXY"], later["HOME"]) == ("http://provider", "/p")
    main = environment(ProgramRole.MAIN, provider_env=provided)
    assert (main["HTTP_PROXY"], main["HOME"]) == ("http://10.200.0.1:3128", "/sandbox")
    assert main["KEY"] == later["KEY"] == provided["KEY"]


@pytest.mark.parametrize("role", list(ProgramRole))
@pytest.mark.parametrize("name", sorted(SUPERVISOR_ONLY))
def test_what_is_the_supervisors_alone_never_comes_in(role: ProgramRole, name: str) -> None:
    made = environment(role, provider_env={name: "x"}, user_env={name: "x"})
    assert name not in made


def test_identity_and_search_path() -> None:
    made = environment(user=SandboxUser("1234", "/work", "/bin/sh"), path=search_path(("/t/bin",)))
    assert (made["USER"], made["HOME"], made["SHELL"]) == ("1234", "/work", "/bin/sh")
    assert made["PATH"].startswith("/t/bin:/usr/local/sbin:")
    assert search_path(("/usr/bin",)).split(":").count("/usr/bin") == 1
