"""A scripted gateway that the command line, run in this process, takes for its own."""

import pytest

from support.scripted_gateway import serving


@pytest.fixture
def scripted(monkeypatch, tmp_path):
    with serving() as (gateway, endpoint):
        for name, value in {
            "HOME": str(tmp_path),
            "XDG_CONFIG_HOME": str(tmp_path / "config"),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "OPENSHELL_GATEWAY_ENDPOINT": endpoint,
        }.items():
            monkeypatch.setenv(name, value)
        for name in ("OPENSHELL_GATEWAY", "OPENSHELL_WORKSPACE", "GITHUB_TOKEN", "GH_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.chdir(tmp_path)
        yield gateway
