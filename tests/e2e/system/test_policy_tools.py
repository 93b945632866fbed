"""`policy diff` and `policy replay` on what a real sandbox did."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from openshell.sdk.client import SandboxClient
from openshell.sdk.refs import SandboxRef
from support.private_gateway import (
    FILESYSTEM,
    OPENSHELL,
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


MANY = 12_000
"""More than one answer of the gateway holds, by number and by size, and fewer than are kept."""


def kept_lines_are_all_replayed(gateway: PrivateGateway, box: SandboxRef, candidate: Path) -> None:
    """Lines are multiplied where they are kept: pushing so many takes the supervisor minutes."""
    database = gateway.state / "gateway" / "openshell.db"
    with closing(sqlite3.connect(database, timeout=10)) as store, store:
        added = store.execute(
            "INSERT INTO logs (sandbox_id, ts_ms, source, level, target, message, fields) "
            "WITH RECURSIVE times (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM times WHERE n < ?) "
            "SELECT sandbox_id, ts_ms, source, level, target, message, fields FROM logs, times "
            "WHERE sandbox_id = ? AND fields LIKE '%/lost%'",
            (MANY, box.id),
        ).rowcount
        assert added == MANY
        store.execute(
            "UPDATE log_counts SET lines = lines + ? WHERE sandbox_id = ?", (MANY, box.id)
        )
    arguments = ("policy", "replay", box.name, "--policy", str(candidate), "-o", "json")
    found = json.loads(gateway.cli(*arguments).stdout)
    assert (found["total"], found["is_partial"]) == (MANY + 5, False)
    assert found["changes"][0]["count"] == MANY + 1
    assert json.loads(gateway.cli(*arguments, "--since", "1d").stdout) == found
    printed = gateway.cli("logs", box.name, "-n", "50000", "--source", "sandbox")
    assert printed.stdout.count("/lost") >= MANY


def test_a_policy_under_which_nothing_starts_says_what_to_add(
    gateway: PrivateGateway, tmp_path: Path
) -> None:
    policy = tmp_path / "bare.yaml"
    policy.write_text("version: 1\n")
    create = ("sandbox", "create", "--no-keep", "--policy", str(policy), "--", "/bin/true")
    refused = gateway.cli(*create)
    assert refused.returncode != 0
    said = " ".join(refused.stderr.split())
    assert "no program can start" in said
    advice = said.partition("; write ")[2].partition("}")[0] + "}\n"
    policy.write_text(f"version: 1\n{advice}")
    followed = gateway.cli(*create)
    assert (followed.returncode, "no program can start" in followed.stderr) == (0, False)


def test_following_a_log_ends_quietly(gateway: PrivateGateway, client: SandboxClient) -> None:
    with (
        ready_sandbox(client) as box,
        subprocess.Popen(
            [OPENSHELL, "logs", box.name, "-f"],
            env=gateway.environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (process.returncode, said) == (130, "")


TUNNEL = """
import http.client, os, sys, urllib.parse
proxy = urllib.parse.urlsplit(os.environ["HTTP_PROXY"])
def ask(method, path, body=None):
    connection = http.client.HTTPConnection(proxy.hostname, proxy.port, timeout=10)
    connection.set_tunnel(sys.argv[1], int(sys.argv[2]))
    fields = {"Content-Type": "application/json"} if body else {}
    connection.request(method, path, body, fields)
    print(method, path, connection.getresponse().status)
ask("GET", "/kept")
ask("POST", "/graphql", '{"query": "{ a }"}')
ask("POST", "/graphql", '{"query": "mutation { a }"}')
"""
SHELL = os.path.realpath("/bin/sh")


def spoken(port: int, binary: str) -> str:
    place = f"host: {ALIAS}, port: {port}, enforcement: enforce"
    return (
        "network_policies:\n  web:\n    endpoints:\n"
        f"      - {{{place}, protocol: rest, access: read-only}}\n"
        f"      - {{{place}, path: /graphql, protocol: graphql, access: read-only}}\n"
        f"    binaries: [{{path: {binary}}}]\n"
    )


def test_replay_by_parent_program_and_without_bodies(
    gateway: PrivateGateway, client: SandboxClient, upstream: Upstream, tmp_path: Path
) -> None:
    """The program is allowed because a shell runs it, which only connections tell."""
    by_shell, by_other = tmp_path / "shell.yaml", tmp_path / "other.yaml"
    by_shell.write_text(FILESYSTEM + spoken(upstream.port, SHELL))
    by_other.write_text(FILESYSTEM + spoken(upstream.port, "/usr/bin/other"))
    with ready_sandbox(client, sandbox_spec(network=spoken(upstream.port, SHELL))) as box:
        ran = client.exec(
            box.id,
            [SHELL, "-c", '"$0" -c "$1" "$2" "$3"; exit $?', PYTHON, TUNNEL, ALIAS,
             str(upstream.port)],
            timeout_seconds=40,
        )  # fmt: skip
        assert ran.stdout.split("\n")[:3] == [
            "GET /kept 200",
            "POST /graphql 200",
            "POST /graphql 403",
        ], ran.stderr

        def replayed(policy: Path) -> dict[str, object]:
            done = gateway.cli(
                "policy", "replay", box.name, "--policy", str(policy), "-o", "json"
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            answer: dict[str, object] = json.loads(done.stdout)
            return answer

        wait_until(lambda: replayed(by_shell)["total"] == 6, pause=0.2)
        same = replayed(by_shell)
        assert (same["unchanged"], same["changes"], same["skipped"]) == (4, [], {})
        open_ = sorted((c["before"], c["count"], *c["doubts"]) for c in same["undecided"])
        doubt = "the answer depends on what the body asked for, which is not recorded"
        assert open_ == [("allowed", 1, doubt), ("denied", 1, doubt)]
        other = replayed(by_other)
        changes = sorted(
            (c["kind"], c["before"], c["after"], c["count"], c["doubts"]) for c in other["changes"]
        )
        assert changes == [
            ("connection", "allowed", "denied", 3, []),
            ("request", "allowed", "denied", 2, []),
        ]
        assert (other["unchanged"], other["undecided"]) == (1, [])


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

        kept_lines_are_all_replayed(gateway, box, candidate)
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
            "scope": "sandbox",
            "sandbox": box.name,
            "before": 2,
            "after": 2,
            "network": [],
            "sections": [],
        }
        missing = gateway.cli("policy", "diff", box.name, "1", "9")
        assert (missing.returncode, missing.stdout) == (1, "")
        assert "not found" in missing.stderr
