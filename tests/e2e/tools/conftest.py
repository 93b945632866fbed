"""One gateway, one sandbox and one nginx with everything behind it, for all tools."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import websockets

from openshell.sdk.client import SandboxClient
from support.certificates import make_certificates
from support.echo_server import Echo, echo_server
from support.git_server import git_server, make_repository
from support.nginx_server import NGINX, Nginx, nginx_server
from support.packages import write_npm_registry, write_python_index
from support.private_gateway import PREFIX, PrivateGateway, ready_sandbox, sandbox_spec
from support.tool_box import PROBE, ToolBox
from support.upstream import ALIAS

WEBSOCKETS = Path(websockets.__file__).parent
GO_SOURCE = Path(__file__).parent / "probe.go"


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    directory = tmp_path_factory.mktemp("certificates")
    paths = directory / "ca.pem", directory / "key.pem"
    make_certificates(*paths, ALIAS)
    return paths


@pytest.fixture(scope="session")
def gateway(certificate: tuple[Path, Path]) -> Iterator[PrivateGateway]:
    toml = f'[openshell.drivers.local]\nupstream_ca_bundle = "{certificate[0]}"\n'
    with PrivateGateway(toml=toml) as gateway:
        yield gateway


@pytest.fixture(scope="session")
def client(gateway: PrivateGateway) -> Iterator[SandboxClient]:
    with gateway.client() as client:
        yield client


@pytest.fixture(scope="session")
def echo() -> Iterator[Echo]:
    with echo_server() as echo:
        yield echo


@pytest.fixture(scope="session")
def nginx(
    tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path], echo: Echo
) -> Iterator[Nginx]:
    if NGINX is None:
        pytest.skip("no nginx: package nginx-light (make system)")
    if shutil.which("git") is None:
        pytest.skip("no git: package git (make system)")
    root = tmp_path_factory.mktemp("repositories")
    make_repository(root, "project.git")
    directory = tmp_path_factory.mktemp("nginx")
    with (
        git_server(root) as git_port,
        nginx_server(directory, certificate[1], git_port=git_port, echo_port=echo.port) as nginx,
    ):
        (nginx.files / "v1").mkdir()
        (nginx.files / "v1/items").write_text('["one", "two"]')
        write_npm_registry(nginx.files, f"https://{ALIAS}:{nginx.tls_port}")
        yield nginx


@pytest.fixture(scope="session")
def wheel(nginx: Nginx) -> str:
    """The hash of the one package of the Python index."""
    return write_python_index(nginx.files)


@pytest.fixture(scope="session")
def box(client: SandboxClient, nginx: Nginx) -> Iterator[ToolBox]:
    spec = sandbox_spec()
    paths = [str(WEBSOCKETS), *([] if PREFIX.startswith("/usr") else [PREFIX])]
    spec.template.driver_config.update({"local": {"host_paths": paths}})
    with ready_sandbox(client, spec) as ref:
        yield ToolBox(client, ref, nginx)


@pytest.fixture(scope="session")
def probe(box: ToolBox, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A client in Go, built here and put into the sandbox."""
    go = shutil.which("go", path=f"{os.environ.get('PATH', '')}:/usr/local/go/bin")
    if go is None:
        pytest.skip("no Go: package golang-go (make system)")
    directory = tmp_path_factory.mktemp("go")
    shutil.copy(GO_SOURCE, directory / "main.go")
    (directory / "go.mod").write_text("module probe\n\ngo 1.19\n")
    offline = {"GOFLAGS": "-mod=mod", "GOPROXY": "off", "GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    subprocess.run(
        [go, "build", "-ldflags=-s -w", "-o", "probe", "."],
        cwd=directory, env={**os.environ, **offline}, check=True,
    )  # fmt: skip
    box.put(PROBE, (directory / "probe").read_bytes())
    return PROBE
