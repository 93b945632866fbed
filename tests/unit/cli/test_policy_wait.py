"""What `--wait` makes of each fate of a revision, and which exit code follows."""

import json
from types import SimpleNamespace

import pytest

from openshell._proto import openshell_pb2
from openshell.cli.failures import CliError
from openshell.cli.policy_wait import report_submitted

PENDING = openshell_pb2.POLICY_STATUS_PENDING
LOADED = openshell_pb2.POLICY_STATUS_LOADED
FAILED = openshell_pb2.POLICY_STATUS_FAILED
SUPERSEDED = openshell_pb2.POLICY_STATUS_SUPERSEDED


class Client:
    """Answers one status after the other, the last one for ever."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.asked = []

    def revision(self, name, version, *, workspace):
        self.asked.append((name, version, workspace))
        status = self.statuses.pop(0) if len(self.statuses) > 1 else self.statuses[0]
        revision = openshell_pb2.SandboxPolicyRevision(
            version=version, status=status, load_error="it is ambiguous"
        )
        return openshell_pb2.GetSandboxPolicyStatusResponse(revision=revision)


def submit(client, *, before=2, wait=True, timeout=30, output="table"):
    answer = openshell_pb2.UpdateConfigResponse(version=3, policy_hash="0123456789abcdef")
    report_submitted(
        SimpleNamespace(workspace="default"),
        client,
        "box",
        answer,
        before,
        wait=wait,
        timeout=timeout,
        output=output,
    )


def test_loaded(capsys):
    client = Client(PENDING, PENDING, LOADED)
    submit(client)
    printed = capsys.readouterr()
    assert printed.out == "", "nothing on stdout"
    assert "Policy version 3 submitted (hash: 0123456789ab)" in printed.err
    assert "Policy version 3 loaded" in printed.err
    assert client.asked == [("box", 3, "default")] * 3


def test_superseded_is_a_warning(capsys):
    submit(Client(PENDING, SUPERSEDED))
    assert "Warning: policy version 3 was superseded" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("statuses", "timeout", "code", "says"),
    [
        pytest.param([PENDING, FAILED], 30, 1, "failed to load: it is ambiguous", id="failed"),
        pytest.param([PENDING], 0, 124, "was not loaded within 0 s", id="out of time"),
    ],
)
def test_a_wait_that_fails(statuses, timeout, code, says):
    with pytest.raises(CliError) as failed:
        submit(Client(*statuses), timeout=timeout)
    assert failed.value.code == code
    assert says in str(failed.value)


@pytest.mark.parametrize("fields", [{"wait": False}, {"before": 3}], ids=["no wait", "unchanged"])
def test_nothing_is_asked_without_need(capsys, fields):
    client = Client(FAILED)
    submit(client, **fields)
    assert not client.asked
    assert ("unchanged (version 3)" in capsys.readouterr().err) == ("before" in fields)


def test_the_outcome_as_json(capsys):
    submit(Client(LOADED), output="json")
    assert json.loads(capsys.readouterr().out) == {
        "sandbox": "box",
        "version": 3,
        "hash": "0123456789abcdef",
        "unchanged": False,
        "status": "loaded",
    }
