"""`openshell policy check` without any gateway, and the arguments of its siblings."""

import json

import pytest
from click.testing import CliRunner

from openshell.cli.failures import report
from openshell.cli.main import cli

GOOD = """\
version: 1
network_policies:
  api:
    endpoints:
      - {host: api.x.com, port: 443, protocol: rest, enforcement: enforce, access: read-only}
      - {host: "*.y.com", port: 443}
    binaries: [{path: /usr/bin/curl}]
"""
BAD = """\
version: 1
network_policies:
  _provider_x:
    endpoints: [{host: "*.com", port: 443}]
"""
NO_NETWORK = "version: 1\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    def call(text, *arguments):
        path = tmp_path / "p.yaml"
        path.write_text(text)
        done = CliRunner().invoke(
            cli, ["policy", "check", str(path), *arguments], standalone_mode=False
        )
        code = report(done.exception) if done.exception else done.return_value or 0
        return code, done.stdout, done.stderr

    return call


def test_a_good_policy_is_a_table_of_what_it_allows(run):
    code, out, _ = run(GOOD)
    assert code == 0
    assert out.splitlines() == [
        "BINARY         ENDPOINT       TERMS",
        "/usr/bin/curl  *.y.com:443    not inspected: any traffic",
        "/usr/bin/curl  api.x.com:443  rest; enforce; allow GET **, OPTIONS **",
    ]


def test_a_policy_without_network_says_so(run):
    code, out, err = run(NO_NETWORK)
    assert (code, out) == (0, "")
    assert "allows no network" in err


STARTABLE = {
    "nothing at all": ("version: 1\n", True),
    "the working directory alone": (
        "version: 1\nfilesystem_policy: {include_workdir: true}\n",
        True,
    ),
    "a path": ("version: 1\nfilesystem_policy: {read_only: [/usr]}\n", False),
    "network rules bring paths": (GOOD, False),
}


@pytest.mark.parametrize(("text", "warns"), STARTABLE.values(), ids=STARTABLE)
def test_a_policy_under_which_no_program_starts(run, text, warns):
    code, _, err = run(text)
    assert (code, "no program can start" in err) == (0, warns)
    assert ("filesystem_policy: {include_workdir: true, read_only: [/usr, " in err) is warns


def test_what_another_version_means_is_said(run):
    code, _, err = run(GOOD.replace("version: 1", "version: 2"))
    assert code == 0
    assert "version 2 is unknown: the policy is read as version 1" in err


SPEAKS = """\
version: 1
network_policies:
  api:
    endpoints:
      - {host: api.x.com, port: 443, protocol: mcp, mcp: {allow_all_known_mcp_methods: true}}
    binaries: [{path: /usr/bin/curl}]
"""


def test_what_only_the_body_decides_is_open(run):
    code, out, _ = run(SPEAKS, "--request", "POST https://api.x.com/m")
    assert code == 0
    assert out.startswith("POST https://api.x.com/m: open\n")
    assert "· body" in out
    code, out, _ = run(SPEAKS, "--request", "POST https://api.x.com/m", "-o", "json")
    assert (code, json.loads(out)["requests"][0]["outcome"]) == (0, None)


def test_a_bad_policy_is_refused_with_every_finding(run):
    code, out, err = run(BAD, "--request", "GET https://api.x.com/")
    assert (code, out) == (1, "")
    assert "Error:" in err
    assert "network_policies._provider_x: " in err
    assert "TLD wildcard" in err


def test_a_file_that_is_no_policy(run, capsys):
    code, out, _ = run("version: 1\nnetwork: {}\n")
    assert (code, out) == (1, "")
    assert "p.yaml:2:1" in capsys.readouterr().err


PROFILE = "id: a\n{}\nendpoints: []\n"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param(PROFILE.format("display_name: A"), True, id="a profile"),
        pytest.param(PROFILE.format("credentials: []"), True, id="without a name"),
        pytest.param("id: a\n", False, id="an id alone"),
        pytest.param("id: [\n", False, id="no YAML"),
    ],
)
def test_a_profile_is_no_policy(run, capsys, text, says):
    assert run(text)[0] == 1
    assert ("openshell provider profile lint -f " in capsys.readouterr().err) is says


def test_a_binary_is_a_mapping(run, capsys):
    assert run(GOOD.replace("[{path: /usr/bin/curl}]", "[/usr/bin/curl]"))[0] == 1
    err = " ".join(capsys.readouterr().err.split())
    assert "expected a mapping, got text; write `- path: /usr/bin/curl`" in err


@pytest.mark.parametrize(
    "paths",
    [["--binary", "curl"], ["--binary", "/bin/sh", "--ancestor", "bin/sh"]],
    ids=["binary", "ancestor"],
)
def test_a_program_is_asked_for_by_its_path(run, capsys, paths):
    assert run(GOOD, "--request", "https://api.x.com/", *paths)[0] == 2
    assert f"{paths[-2]} '{paths[-1]}': give an absolute path" in capsys.readouterr().err


def test_a_request_is_explained_and_decides_the_exit_code(run):
    code, out, _ = run(GOOD, "--request", "GET https://api.x.com/a", "--binary", "/usr/bin/curl")
    assert code == 0
    assert out.startswith("GET https://api.x.com/a by /usr/bin/curl: allowed\n  ✓ endpoint")
    code, out, _ = run(
        GOOD,
        "--binary",
        "/bin/sh",
        "--ancestor",
        "/usr/bin/curl",
        "--request",
        "https://api.x.com/",
        "--request",
        "PUT https://api.x.com/",
    )
    assert code == 1
    assert "https://api.x.com/ by /bin/sh: allowed" in out
    assert "PUT https://api.x.com/ by /bin/sh: denied" in out
    assert "to allow it" in out


def test_json(run):
    code, out, _ = run(GOOD, "--request", "PUT https://api.x.com/", "-o", "json")
    document = json.loads(out)
    assert (code, document["valid"], document["findings"]) == (1, True, [])
    assert [item["host"] for item in document["allows"]] == ["*.y.com", "api.x.com"]
    assert document["requests"][0]["reason_code"] == "no_allow"
    code, out, _ = run(BAD, "-o", "json")
    document = json.loads(out)
    assert (code, document["valid"], document["allows"]) == (1, False, [])
    assert {"reserved_key", "tld_wildcard"} <= {item["code"] for item in document["findings"]}


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["--binary", "/a"], 2),
        (["--request", "GET https://a.com/", "--ancestor", "/a"], 2),
        (["--request", "GET a.com"], 1),
    ],
)
def test_questions_that_cannot_be_asked(run, arguments, code):
    assert run(GOOD, *arguments)[0] == code


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["policy", "diff", "box", "1", "2", "--policy", "x.yaml"], "takes the place of AFTER"),
        (["policy", "diff", "box", "0"], "range"),
        (["policy", "replay", "box"], "--policy"),
    ],
)
def test_usage_of_the_others(arguments, says):
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 2
    assert says in done.output
