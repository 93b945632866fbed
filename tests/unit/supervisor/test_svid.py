"""Where statements of identity come from, and what is said when there is none."""

import os

import pytest

from openshell.drivers.launch import SVID_FILE, WORKLOAD_SOCKET
from openshell.supervisor.svid import (
    FileSource,
    NoSource,
    SvidUnavailable,
    WorkloadApi,
    source_from,
    workload_target,
)

JWT = "eyJhbGciOiJFUzI1NiJ9.eyJzdWIiOiJ4In0.c2ln"


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("/run/agent.sock", "unix:/run/agent.sock"),
        ("unix:/run/agent.sock", "unix:/run/agent.sock"),
        ("unix:///run/agent.sock", "unix:/run/agent.sock"),
        ("tcp:127.0.0.1:8081", "ipv4:127.0.0.1:8081"),
        ("tcp://127.0.0.1:8081", "ipv4:127.0.0.1:8081"),
        ("tcp://[::1]:8081", "ipv6:[::1]:8081"),
        ("run/agent.sock", None),
        ("unix:agent.sock", None),
        ("unix://host/agent.sock", None),
        ("tcp:localhost:8081", None),
        ("tcp:127.0.0.1", None),
        ("tcp:127.0.0.1:0", None),
        ("tcp:127.0.0.1:99999", None),
        ("tcp:127.0.0.1:8081/x", None),
        ("https://agent", None),
        ("", None),
    ],
)
def test_addresses_of_the_workload_api(address, target):
    assert workload_target(address) == target


def test_the_environment_names_one_source():
    assert isinstance(source_from({WORKLOAD_SOCKET: "/run/a.sock"}), WorkloadApi)
    assert isinstance(source_from({SVID_FILE: "/run/svid"}), FileSource)
    for environment in ({}, {WORKLOAD_SOCKET: "x"}, {WORKLOAD_SOCKET: "/a", SVID_FILE: "/b"}):
        assert isinstance(source_from(environment), NoSource)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({}, "no source of SVIDs is configured"),
        ({WORKLOAD_SOCKET: "x"}, "neither a path nor"),
        ({WORKLOAD_SOCKET: "/a", SVID_FILE: "/b"}, "both set"),
        ({SVID_FILE: "/nowhere/svid"}, "No such file"),
    ],
)
async def test_why_there_is_none(environment, said):
    with pytest.raises(SvidUnavailable, match=said):
        await source_from(environment).jwt("audience")


async def test_a_file_is_read_each_time(tmp_path):
    path = tmp_path / "svid"
    source = FileSource(str(path))
    for text in (JWT, f"{JWT}2\n"):
        path.write_text(text)
        assert await source.jwt("audience") == text.strip()


@pytest.mark.parametrize(
    "content", ["", "secret-no-jwt", f"{JWT} x", f"{JWT}.x", "a..b", "é.b.c", f"{'a' * 20_000}.b.c"]
)
async def test_files_that_hold_none_are_refused_and_not_shown(tmp_path, content):
    path = tmp_path / "svid"
    path.write_text(content)
    with pytest.raises(SvidUnavailable) as raised:
        await FileSource(str(path)).jwt("audience")
    assert "secret" not in str(raised.value)


async def test_a_pipe_in_the_place_of_the_file_holds_nobody_up(tmp_path):
    path = tmp_path / "svid"
    os.mkfifo(path)
    with pytest.raises(SvidUnavailable):
        await FileSource(str(path)).jwt("audience")
