"""From nothing to a governed agent, told step by step. Exits 0 only if every step came out right.

Needs no root, no container engine and no tool but Python: the "agent" is a few lines of Python run by
`openshell sandbox exec`. Everything lives in a temporary directory that is removed at the end.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from upstreams import ALIAS, start_http, start_https

SANDBOX = "demo"
OPENSHELL = str(Path(sys.executable).parent / "openshell")
# The interpreter below the virtual environment: what runs inside, at the same path.
PYTHON = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
PREFIX = sys.base_prefix

FILESYSTEM = """\
version: 1
filesystem_policy:
  include_workdir: true
  read_only: [/usr, /lib, /lib64, /bin, /proc, /dev/urandom, /etc/ssl, /etc/ld.so.cache,
              /etc/resolv.conf, /etc/hosts, /etc/nsswitch.conf, /etc/openshell-tls]
  read_write: [/tmp, /dev/null]
"""

PROFILE = """\
id: catalog
display_name: Catalog
credentials:
  - {{name: token, env_vars: [CATALOG_TOKEN], auth_style: bearer, header_name: authorization}}
endpoints:
  - host: {host}
    port: {port}
    protocol: rest
    enforcement: enforce
    rules:
      - allow: {{method: GET, path: /v1/**}}
binaries: [{python}]
"""

# What the "agent" runs: one request through whatever proxy the environment names.
REQUEST = """\
import json, os, sys, urllib.error, urllib.request
method, url, header = sys.argv[1:4]
headers = {"Authorization": "Bearer " + os.environ[header]} if header else {}
request = urllib.request.Request(url, method=method, headers=headers,
                                 data=b"{}" if method == "POST" else None)
try:
    with urllib.request.urlopen(request, timeout=10) as answer:
        print(answer.status, answer.read().decode())
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
except urllib.error.URLError as error:
    # A refused CONNECT comes as an OSError that carries the proxy's status line.
    print("refused:", error.reason)
"""

DIRECT = """\
import socket
connection = socket.create_connection(("192.0.2.10", 7777), timeout=5)
try:
    connection.sendall(b"secret data\\n")
    print("received", len(connection.recv(100)), "bytes")
except OSError as error:
    print("no byte:", error.strerror)
"""

# A program that keeps asking: how often it was refused, and when it got through.
PERSIST = """\
import os, sys, time, urllib.error, urllib.request
url, header = sys.argv[1:3]
request = urllib.request.Request(url, headers={"Authorization": "Bearer " + os.environ[header]})
refused, deadline = 0, time.monotonic() + 30
while time.monotonic() < deadline:
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            print(refused, time.monotonic(), answer.status, answer.read().decode())
            break
    except urllib.error.HTTPError as error:
        refused += 1
        if refused == 1:
            print(error.code, error.read().decode(), flush=True)
        time.sleep(0.005)
"""


class Story:
    """Prints the steps and remembers whether any went wrong."""

    def __init__(self) -> None:
        self.failed = 0
        self._colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")

    def _paint(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self._colour else text

    def chapter(self, title: str) -> None:
        print("\n" + self._paint(title, "1;36"))

    def step(self, asked: str, expected: str, happened: str, right: bool) -> None:
        mark = self._paint("✓", "32") if right else self._paint("✗ NOT AS EXPECTED", "1;31")
        self.failed += not right
        print(f"  {self._paint('asked', '2')}     {asked}")
        print(f"  {self._paint('expected', '2')}  {expected}")
        lines = happened.strip().splitlines() or ["(nothing)"]
        print(f"  {self._paint('happened', '2')}  {lines[0]} {mark}")
        for line in lines[1:]:
            print(f"            {line}")
        print(flush=True)


class Demo:
    """One run in a private directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.story = Story()
        self.secret = f"demo-{secrets.token_hex(12)}"
        self.http = start_http()
        self.https, ca = start_https(directory)
        self.http_url = f"http://{ALIAS}:{self.http.port}/hello"
        self.https_url = f"https://{ALIAS}:{self.https.port}"
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("OPENSHELL_")},
            "HOME": str(directory / "home"),
            "XDG_CONFIG_HOME": str(directory / "config"),
            "XDG_STATE_HOME": str(directory / "state"),
            "PATH": f"{Path(PYTHON).parent}:/usr/local/bin:/usr/bin:/bin",
        }
        for name in ("home", "config/openshell", "state"):
            (directory / name).mkdir(mode=0o700, parents=True)
        (directory / "config/openshell/gateway.toml").write_text(
            f'[openshell.drivers.local]\nupstream_ca_bundle = "{ca}"\n'
        )

    def run(self, *arguments: str, **extra: str) -> subprocess.CompletedProcess[str]:
        """Runs `openshell` as a user would."""
        return subprocess.run(
            [OPENSHELL, *arguments],
            env={**self.environment, **extra},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def inside(self, *argv: str) -> str:
        """Runs a command in the sandbox and answers what it said."""
        done = self.run("sandbox", "exec", "--name", SANDBOX, "--", *argv)
        return (done.stdout + done.stderr).strip()

    def request(self, method: str, url: str, variable: str = "", program: str = PYTHON) -> str:
        return self.inside(program, "-c", REQUEST, method, url, variable)

    def write_policy(self, network: str) -> str:
        path = self.directory / "policy.yaml"
        path.write_text(FILESYSTEM + network)
        return str(path)

    # The chapters

    def create(self) -> None:
        self.story.chapter("1. A sandbox with no network policy, under the local driver")
        policy = self.write_policy("")
        common = ["--policy", policy, *host_path_options()]
        started = time.monotonic()
        done = self.run(
            "sandbox",
            "create",
            "--no-keep",
            *common,
            "--",
            PYTHON,
            "-c",
            "import os; print('I am uid', os.getuid()); raise SystemExit(7)",
        )
        seconds = time.monotonic() - started
        said = next((line for line in done.stdout.splitlines() if line.startswith("I am")), "")
        self.story.step(
            "openshell sandbox create --no-keep -- python3 -c '...; raise SystemExit(7)'",
            "the gateway starts by itself, the command runs, its exit code comes back",
            f"{said}; exit code {done.returncode}; {seconds:.2f} s with the gateway's first start"
            + (f"\n{done.stderr.strip()}" if done.returncode != 7 else ""),
            done.returncode == 7 and said == "I am uid 1000",
        )
        started = time.monotonic()
        done = self.run(
            "sandbox", "create", "--name", SANDBOX, "--detach", *common, "--", "sleep", "infinity"
        )
        self.story.step(
            f"openshell sandbox create --name {SANDBOX} --detach -- sleep infinity",
            "a sandbox that stays",
            f"{done.stdout.strip()} ({time.monotonic() - started:.2f} s)"
            + (f"\n{done.stderr.strip()}" if done.returncode else ""),
            done.returncode == 0,
        )

    def refusals(self) -> None:
        self.story.chapter("2. Inside, nothing is allowed that the policy does not name")
        for asked, url in (("HTTP", self.http_url), ("HTTPS", f"{self.https_url}/hello")):
            before = len(self.http.seen) + len(self.https.seen)
            said = self.request("GET", url)
            self.story.step(
                f"GET {url}",
                f"{asked} is refused by the proxy with 403, the upstream sees nothing",
                said,
                "403" in said and len(self.http.seen) + len(self.https.seen) == before,
            )
        said = self.inside(PYTHON, "-c", DIRECT)
        self.story.step(
            "a TCP connection to 192.0.2.10:7777 that ignores the proxy",
            "no byte gets through",
            said,
            said.startswith("no byte") or "received 0 bytes" in said,
        )
        logged = eventually(
            lambda: matching(self.run("logs", SANDBOX).stdout, "DENIED", "192.0.2.10:7777")
        )
        self.story.step(
            f"openshell logs {SANDBOX}", "the attempt is an event in the log", logged, bool(logged)
        )
        said = self.inside(PYTHON, "-c", "print(open('/etc/passwd').read())")
        self.story.step(
            "read /etc/passwd, which exists but is not in the policy",
            "permission denied",
            said.splitlines()[-1] if said else "",
            "PermissionError" in said,
        )
        said = self.inside(PYTHON, "-c", "open('/usr/local/evil', 'w')")
        self.story.step(
            "write /usr/local/evil, outside the workspace",
            "refused",
            said.splitlines()[-1] if said else "",
            "PermissionError" in said or "Read-only file system" in said,
        )

    def credentials(self) -> None:
        self.story.chapter("3. A provider holds the secret; the sandbox gets a placeholder")
        done = self.run(
            "provider",
            "create",
            "--name",
            "upstream",
            "--type",
            "generic",
            "--credential",
            "UPSTREAM_TOKEN",
            UPSTREAM_TOKEN=self.secret,
        )
        attach = self.run("sandbox", "provider", "attach", SANDBOX, "upstream")
        self.story.step(
            "openshell provider create --name upstream --credential UPSTREAM_TOKEN; attach it",
            "stored and attached",
            f"{done.stdout.strip()}\n{attach.stdout.strip()}"
            + done.stderr.strip()
            + attach.stderr.strip(),
            done.returncode == 0 and attach.returncode == 0,
        )
        self.policy = self.write_policy(
            "network_policies:\n"
            "  upstream:\n"
            "    endpoints:\n"
            f"      - host: {ALIAS}\n"
            f"        port: {self.https.port}\n"
            "        protocol: rest\n"
            "        enforcement: enforce\n"
            "        credential_binding: {provider: upstream}\n"
            "        rules:\n"
            "          - allow: {method: GET, path: /**}\n"
            "    binaries:\n"
            f"      - path: {PYTHON}\n"
        )
        done = self.run("policy", "set", SANDBOX, "--policy", self.policy, "--wait")
        said = eventually(
            lambda: value if "UPSTREAM" in (value := self.inside("/usr/bin/env")) else ""
        )
        value = next((x for x in said.splitlines() if x.startswith("UPSTREAM_TOKEN=")), "")
        self.story.step(
            "the variable UPSTREAM_TOKEN inside",
            "a placeholder, not the secret",
            value or f"not set\n{done.stderr.strip()}",
            bool(value) and self.secret not in said,
        )

    def policy_steps(self) -> None:
        self.story.chapter("4. A policy for GET, one endpoint, one program; nothing restarted")
        url = f"{self.https_url}/v1/items"
        said = self.request("GET", url, "UPSTREAM_TOKEN")
        self.story.step(f"GET {url}", "200", said, said.startswith("200"))
        said = self.request("POST", url, "UPSTREAM_TOKEN")
        self.story.step(
            f"POST {url}",
            "403 with the reason, from the proxy",
            pretty(said),
            said.startswith("403") and "policy_denied" in said,
        )
        self.inside(PYTHON, "-c", f"import shutil; shutil.copy2({PYTHON!r}, '/sandbox/other')")
        before = len(self.https.seen)
        said = self.inside(
            "/usr/bin/env",
            f"PYTHONHOME={PREFIX}",
            f"LD_LIBRARY_PATH={PREFIX}/lib",
            "/sandbox/other",
            "-c",
            REQUEST,
            "GET",
            url,
            "UPSTREAM_TOKEN",
        )
        self.story.step(
            "the same GET from another program, /sandbox/other",
            "refused: the policy names one program",
            said,
            "403" in said and len(self.https.seen) == before,
        )
        seen = [item.authorization for item in self.https.seen if item.method == "GET"]
        everywhere = self.inside(
            PYTHON,
            "-c",
            "import os;print(dict(os.environ)); print(open('/proc/self/environ').read())",
        )
        self.story.step(
            "the upstream's own log",
            "the real secret arrived, the sandbox never saw it",
            f"Authorization: {', '.join(seen)}",
            seen == [f"Bearer {self.secret}"] and self.secret not in everywhere,
        )

    def logs(self) -> None:
        self.story.chapter("5. Every decision is on record")
        wanted = eventually(
            lambda: (
                text
                if "DENIED" in (text := self.run("logs", SANDBOX).stdout) and "POST" in text
                else ""
            )
        )
        lines = [x for x in wanted.splitlines() if "ALLOWED" in x or "DENIED" in x]
        self.story.step(
            f"openshell logs {SANDBOX}",
            "what was allowed and what was refused, without the secret",
            "\n".join(lines[-6:]),
            bool(lines) and self.secret not in wanted,
        )

    def edited_profile(self) -> None:
        self.story.chapter(
            "6. A profile says what a type of service is; edited, running sandboxes follow"
        )
        original = self.directory / "catalog.yaml"
        original.write_text(PROFILE.format(host=ALIAS, port=self.http.port, python=PYTHON))
        steps = (
            "settings set --global --key providers_v2_enabled --value true --yes",
            f"provider profile import -f {original}",
            "provider create --name catalog --type catalog --credential CATALOG_TOKEN",
            f"sandbox provider attach {SANDBOX} catalog",
        )
        ran = [self.run(*step.split(), CATALOG_TOKEN=self.secret) for step in steps]
        self.story.step(
            "profiles switched on; openshell provider profile import -f catalog.yaml; "
            "create a provider of it; attach it",
            "the sandbox gets what the profile says: an endpoint and a placeholder",
            "\n".join((done.stdout + done.stderr).strip() for done in ran[1:]),
            not any(done.returncode for done in ran),
        )
        url = f"http://{ALIAS}:{self.http.port}/v2/items"
        argv = (PYTHON, "-c", PERSIST, url, "CATALOG_TOKEN")
        with subprocess.Popen(
            [OPENSHELL, "sandbox", "exec", "--name", SANDBOX, "--", *argv],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        ) as asking:
            assert asking.stdout is not None
            said = asking.stdout.readline()
            self.story.step(
                f"GET {url}, again and again",
                "403: the profile allows /v1 only",
                reason(said),
                said.startswith("403") and not self.http.seen,
            )
            self.edit(original, asking)

    def edit(self, original: Path, asking: subprocess.Popen[str]) -> None:
        exported = self.run("provider", "profile", "export", "catalog")
        original.write_text(exported.stdout.replace("/v1/**", "/v2/**"))
        started = time.monotonic()
        done = self.run("provider", "profile", "update", "catalog", "-f", str(original))
        ended = time.monotonic()
        refused, when, answer = "?", ended, asking.communicate(timeout=40)[0].strip()
        if answer[:1].isdigit():
            refused, text, answer = answer.split(" ", 2)
            when = float(text)
        self.story.step(
            "openshell provider profile export catalog; v1 -> v2; openshell provider profile update",
            "200 for the program that is asking, as soon as the command is through",
            f"{done.stdout.strip()} ({ended - started:.2f} s)\n"
            f"refused {refused} times, then {abs(when - ended) * 1000:.0f} ms "
            f"{'after' if when > ended else 'before'} the command ended: {answer}"
            + (f"\n{done.stderr.strip()}" if done.returncode else ""),
            answer.startswith("200")
            and [item.authorization for item in self.http.seen] == [f"Bearer {self.secret}"],
        )

    def delete(self) -> None:
        self.story.chapter("7. Delete it: nothing is left")
        record = json.loads(self.run("sandbox", "get", SANDBOX, "-o", "json").stdout or "{}")
        sandbox_id = record.get("id", "?")
        before = traces(sandbox_id, self.directory)
        done = self.run("sandbox", "delete", SANDBOX)
        left = None
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            left = traces(sandbox_id, self.directory, before["pids"])
            if not any(left.values()):
                break
            time.sleep(0.02)
        summary = ", ".join(f"{len(value)} {key}" for key, value in (left or {}).items())
        self.story.step(
            f"openshell sandbox delete {SANDBOX}",
            "no process, mount, cgroup, socket or file",
            f"{done.stdout.strip()}; before: "
            + ", ".join(f"{len(value)} {key}" for key, value in before.items())
            + f"; left: {summary}",
            done.returncode == 0
            and bool(before["pids"])
            and not any((left or {"?": [1]}).values()),
        )

    def close(self) -> None:
        self.run("gateway", "stop")
        self.http.close()
        self.https.close()


def host_path_options() -> list[str]:
    """Shows the interpreter inside when it is not part of the system."""
    return [] if PREFIX == "/usr" or PREFIX.startswith("/usr/") else ["--host-path", PREFIX]


def traces(sandbox_id: str, directory: Path, pids: list[str] | None = None) -> dict[str, list[str]]:
    """Everything of a sandbox that the host can see."""
    state = directory / "state/openshell/local/sandboxes" / sandbox_id
    if pids is None:
        pids = []
        try:
            root = str(json.loads((state / "pid.json").read_text())["pid"])
            pids = [root, *descendants(root)]
        except (OSError, ValueError, KeyError):
            pass
    alive = [pid for pid in pids if is_alive(pid)]
    cgroups = [
        str(path) for base in (Path("/sys/fs/cgroup"),) for path in base.glob(f"**/*{sandbox_id}*")
    ]
    return {
        "pids": alive,
        "mounts": [
            x for x in Path("/proc/self/mountinfo").read_text().splitlines() if sandbox_id in x
        ],
        "cgroups": cgroups,
        "sockets": [x for x in Path("/proc/net/unix").read_text().splitlines() if sandbox_id in x],
        "files": [str(path) for path in directory.glob(f"**/*{sandbox_id}*")],
    }


def is_alive(pid: str) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def descendants(pid: str) -> list[str]:
    found: list[str] = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return found
    for child in children:
        found += [child, *descendants(child)]
    return found


def matching(text: str, *words: str) -> str:
    return next((line for line in text.splitlines() if all(word in line for word in words)), "")


def eventually(attempt: Callable[[], str], seconds: float = 5.0) -> str:
    """Asks again until there is an answer: log lines arrive in batches."""
    deadline = time.monotonic() + seconds
    while not (value := attempt()) and time.monotonic() < deadline:
        time.sleep(0.1)
    return value


def pretty(said: str) -> str:
    status, _, body = said.partition(" ")
    try:
        return f"{status}\n" + json.dumps(json.loads(body), indent=2)
    except ValueError:
        return said


def reason(said: str) -> str:
    """Of a refusal only what it says for people."""
    status, _, body = said.partition(" ")
    try:
        return f"{status} {json.loads(body)['detail']}"
    except (ValueError, KeyError, TypeError):
        return said


def main() -> int:
    directory = Path(tempfile.mkdtemp(prefix="osdemo-"))
    demo = Demo(directory)
    try:
        for chapter in (
            demo.create,
            demo.refusals,
            demo.credentials,
            demo.policy_steps,
            demo.logs,
            demo.edited_profile,
            demo.delete,
        ):
            chapter()
            if demo.story.failed and os.environ.get("DEMO_STOP"):
                break
    finally:
        demo.close()
        if not os.environ.get("DEMO_KEEP"):
            shutil.rmtree(directory, ignore_errors=True)
    if demo.story.failed:
        print(f"{demo.story.failed} step(s) did not come out as expected.")
        return 1
    print("Every step came out as expected.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
