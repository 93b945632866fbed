"""The security log as a file on the host: on and off while a sandbox runs, and out of the agent's reach."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

from openshell.sdk.client import SandboxClient
from support.private_gateway import PrivateGateway, ready_sandbox, wait_until

ASK = (
    "import urllib.request as r\n"
    "try: r.urlopen('http://nobody.example/%s', timeout=5)\n"
    "except Exception as e: print(type(e).__name__)"
)


def test_events_are_written_where_the_agent_cannot_see_them(
    gateway: PrivateGateway, client: SandboxClient
) -> None:
    with ready_sandbox(client) as ref:
        (root,) = (gateway.state / "local/sandboxes").glob(f"{ref.id}*")
        directory = root / "events"

        def ask(path: str) -> None:
            ran = gateway.cli("sandbox", "exec", "-n", ref.name, "--", "python3", "-c", ASK % path)
            assert ran.returncode == 0, ran.stderr

        def written() -> list[dict[str, Any]]:
            files = sorted(directory.glob("*.log")) if directory.exists() else []
            return [json.loads(line) for file in files for line in file.read_text().splitlines()]

        def paths() -> set[str]:
            urls = [event.get("http_request", {}).get("url", {}) for event in written()]
            return {url.get("path", "") for url in urls}

        ask("before")
        assert not directory.exists()
        switch(gateway, ref.name, "true")
        ask("during?secret=1")
        wait_until(lambda: "/during" in paths())
        assert "/before" not in paths()
        events = written()
        denied = next(e for e in events if e.get("action") == "Denied")
        assert (denied["class_uid"], denied["metadata"]["uid"]) == (4002, ref.id)
        assert "secret" not in json.dumps(events)
        (file,) = directory.iterdir()
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700

        look = "import os,sys; print(os.path.exists(sys.argv[1]))"
        for path, seen in (("/usr", "True"), (str(directory), "False"), (str(file), "False")):
            ran = gateway.cli("sandbox", "exec", "-n", ref.name, "--", "python3", "-c", look, path)
            assert ran.stdout.strip() == seen, (path, ran)

        switch(gateway, ref.name, "false")
        count = len(written())
        ask("after")
        wait_until(lambda: "/after" in gateway.cli("logs", ref.name).stdout)
        assert "/after" not in paths()
        assert len(written()) - count <= 2
    wait_until(lambda: not Path(root).exists())


def switch(gateway: PrivateGateway, name: str, value: str) -> None:
    ran = gateway.cli("settings", "set", name, "--key", "ocsf_json_enabled", "--value", value)
    assert ran.returncode == 0, ran
    assert "no effect" not in ran.stderr
    told = f"ocsf_json_enabled changed from {'<unset>' if value == 'true' else 'true'} to {value}"
    wait_until(lambda: told in gateway.cli("logs", name).stdout)
