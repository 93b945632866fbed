"""`openshell logs`: what it refuses, how it reads page by page, how it ends."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from openshell._proto import openshell_pb2
from openshell.cli import logs as module
from openshell.cli.failures import report
from openshell.cli.main import cli
from openshell.sdk.nouns import LogClient


class Gateway:
    """Keeps lines 1 to `count` and answers as the contract says."""

    def __init__(self, count):
        self.lines = [
            openshell_pb2.SandboxLogLine(message=f"m{n}", level="INFO", timestamp_ms=n)
            for n in range(1, count + 1)
        ]
        self.asked = []

    def GetSandboxLogs(self, request, timeout):
        assert timeout
        self.asked.append(request.lines)
        upper = request.before_id - 1 if request.before_id else len(self.lines)
        lower = max(upper - request.lines, 0)
        return openshell_pb2.GetSandboxLogsResponse(
            logs=self.lines[lower:upper],
            buffer_total=upper - lower,
            oldest_id=lower + 1 if lower else 0,
            is_complete=not lower,
        )


def client_of(gateway):
    return LogClient(SimpleNamespace(unary=(gateway, 5)))


@pytest.mark.parametrize(
    ("kept", "lines", "pages"),
    [
        (0, 0, [1000]),
        (999, 0, [1000]),
        (1000, 0, [1000]),
        (2500, 0, [1000, 1000, 1000]),
        (2500, 200, [200]),
        (2500, 1000, [1000]),
        (2500, 1001, [1000, 1]),
        (2500, 50_000, [1000, 1000, 1000]),
    ],
)
def test_as_many_pages_as_are_needed(kept, lines, pages):
    gateway = Gateway(kept)
    answers = list(client_of(gateway).pages("id", workspace="w", lines=lines))
    assert gateway.asked == pages
    assert sum(len(answer.logs) for answer in answers) == min(kept, lines or kept)
    assert answers[-1].is_complete is (not lines or lines >= kept)


def test_lines_come_oldest_first_however_many_pages_they_took():
    found = client_of(Gateway(2500)).read("id", workspace="w", lines=2100)
    assert [line.timestamp_ms for line in found] == list(range(401, 2501))


@pytest.fixture
def run(monkeypatch):
    def call(*arguments, follow=None):
        opened = SimpleNamespace(
            client=SimpleNamespace(
                get=lambda name, workspace: SimpleNamespace(id=name),
                unary=(Gateway(2500), 5),
            ),
            sandbox_name=lambda name: name,
            workspace="w",
        )

        @contextmanager
        def session(*, start):
            assert not start
            yield opened

        monkeypatch.setattr(module, "session", session)
        if follow is not None:
            monkeypatch.setattr(LogClient, "follow", lambda *_, **__: follow())
        done = CliRunner().invoke(cli, ["logs", "box", *arguments], standalone_mode=False)
        code = report(done.exception) if done.exception else done.return_value or 0
        return code, done.stdout, done.stderr

    return call


def test_more_lines_than_one_answer_holds(run):
    code, out, _ = run("-n", "2000")
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()] == [f"m{n}" for n in range(501, 2501)]


@pytest.mark.parametrize("level", ["foo", "WARNING", ""])
def test_a_level_that_is_none_is_refused_with_those_there_are(run, capsys, level):
    code, out, _ = run("--level", level)
    assert (code, out) == (2, "")
    assert "'error', 'warn', 'info', 'ocsf', 'debug', 'trace'" in capsys.readouterr().err.lower()


@pytest.mark.parametrize("level", ["warn", "OCSF", "Trace"])
def test_levels_in_any_case(run, level):
    assert run("--level", level, "-n", "1")[0] == 0


def test_following_ends_quietly_when_a_person_stops_it(run, capsys):
    def follow():
        yield openshell_pb2.SandboxLogLine(message="one")
        raise KeyboardInterrupt

    code, out, err = run("-f", follow=follow)
    assert (code, len(out.splitlines()), err) == (130, 1, "")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("event", "ends"),
    [
        ('{"unmapped": {"suggestion": "add a rule\\u001b"}}', " [fix:add a rule\\x1b]"),
        ('{"unmapped": {"code": "x"}}', "no"),
        ('{"suggestion": "elsewhere"}', "no"),
        ('{"unmapped": {"suggestion": 5}}', "no"),
        ('{"suggestion"', "no"),
        ("", "no"),
    ],
)
def test_a_refusal_shows_what_would_allow_it(event, ends):
    line = openshell_pb2.SandboxLogLine(level="OCSF", target="ocsf", message="no")
    if event:
        line.fields["ocsf"] = event
    assert module.format_line(line).endswith(ends)
