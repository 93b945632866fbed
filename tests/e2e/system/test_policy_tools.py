"""`policy diff` and `policy replay` on what a real sandbox did."""

from __future__ import annotations

import json
from pathlib import Path

from openshell.sdk.client import SandboxClient
from support.private_gateway import (
    FILESYSTEM,
    PYTHON,
    PrivateGateway,
    ready_sandbox,
    sandbox_spec,
    wait_until,
)
from support.upstream import ALIAS, Upstream

PROGRAM = """
import sys, urllib.error, urllib.request
def ask(method, path):
    request = urllib.request.Request(sys.argv[1] + path, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as got:
            print(method, path, got.status)
    except urllib.error.HTTPError as error:
        print(method, path, error.code)
for _ in range(2):
    ask("GET", "/kept")
ask("GET", "/lost")
ask("PUT", "/gained")
ask("GET", "/kept?tag=1")
"""


def policy(port: int, rules: str) -> str:
    return (
        "network_policies:\n  web:\n    endpoints:\n"
        f"      - {{host: {ALIAS}, port: {port}, protocol: rest, enforcement: enforce,\n"
        f"         rules: [{rules}]}}\n"
        f"    binaries: [{{path: {PYTHON}}}]\n"
    )


def allow(method: str, path: str) -> str:
    return f"{{allow: {{method: {method}, path: {path}}}}}"


def test_replay_and_diff(
    gateway: PrivateGateway, client: SandboxClient, upstream: Upstream, tmp_path: Path
) -> None:
    kept, lost, gained = allow("GET", "/kept"), allow("GET", "/lost"), allow("PUT", "/gained")
    candidate = tmp_path / "candidate.yaml"
    candidate.write_text(FILESYSTEM + policy(upstream.port, f"{kept}, {gained}"))
    with ready_sandbox(
        client, sandbox_spec(network=policy(upstream.port, f"{kept}, {lost}"))
    ) as box:
        ran = client.exec(
            box.id,
            [PYTHON, "-c", PROGRAM, f"http://{ALIAS}:{upstream.port}"],
            timeout_seconds=40,
        )
        assert ran.exit_code == 0, ran.stderr
        assert ran.stdout.split("\n")[:5] == [
            "GET /kept 200",
            "GET /kept 200",
            "GET /lost 200",
            "PUT /gained 403",
            "GET /kept?tag=1 200",
        ]

        def replayed() -> dict[str, object]:
            done = gateway.cli(
                "policy", "replay", box.name, "--policy", str(candidate), "--since", "1h", "-o", "json"
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            answer: dict[str, object] = json.loads(done.stdout)
            return answer

        wait_until(lambda: replayed()["total"] == 5, pause=0.2)
        found = replayed()
        changes = [
            (c["before"], c["after"], c["count"], c["host"], c["binary"]) for c in found["changes"]
        ]
        assert changes == [
            ("allowed", "denied", 1, ALIAS, PYTHON),
            ("denied", "allowed", 1, ALIAS, PYTHON),
        ]
        assert (found["unchanged"], found["undecided"], found["is_partial"]) == (3, [], False)
        text = gateway.cli("policy", "replay", box.name, "--policy", str(candidate))
        assert "5 decisions: 3 unchanged, 2 changed, 0 open" in text.stdout
        assert f"GET http://{ALIAS}:{upstream.port}/lost" in text.stdout

        before = gateway.cli("policy", "diff", box.name, "--policy", str(candidate))
        assert "allow (other)" in before.stdout, before.stderr
        done = gateway.cli("policy", "set", box.name, "--policy", str(candidate), "--wait")
        assert done.returncode == 0, done.stderr
        after = gateway.cli("policy", "diff", box.name)
        assert after.stdout.startswith(f"{box.name}: revision 1 -> revision 2: 1 changed")
        assert [line.strip() for line in after.stdout.splitlines()[1:]] == [
            PYTHON,
            f"~ {ALIAS}:{upstream.port}",
            "allow (other)",
            "- GET /lost",
            "+ PUT /gained",
            "= GET /kept",
        ]
        same = gateway.cli("policy", "diff", box.name, "2", "2", "-o", "json")
        assert json.loads(same.stdout) == {
            "sandbox": box.name,
            "before": 2,
            "after": 2,
            "network": [],
            "sections": [],
        }
        missing = gateway.cli("policy", "diff", box.name, "1", "9")
        assert (missing.returncode, missing.stdout) == (1, "")
        assert "not found" in missing.stderr
