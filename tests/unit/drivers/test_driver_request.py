"""What the local driver accepts, refuses and observes."""

from dataclasses import replace

import pytest

from openshell.drivers.base import DriverError, DriverErrorCode, DriverSandbox, Phase, Resources
from openshell.drivers.local import request
from openshell.drivers.local.observe import Backend, Facts, conditions_of
from openshell.drivers.local.probe import missing_prerequisite
from openshell.drivers.local.state import FailureRecord

SANDBOX = DriverSandbox(id="i", name="n", workspace="w", token="t", endpoint="unix:/x")

FP = DriverErrorCode.FAILED_PRECONDITION
IA = DriverErrorCode.INVALID_ARGUMENT


def check(sandbox):
    request.check_request(sandbox)
    request.parse_config(sandbox.driver_config)
    request.parse_limits(sandbox.resources)


def test_a_plain_request_is_accepted():
    check(SANDBOX)
    check(replace(SANDBOX, image=request.DEFAULT_IMAGE))
    check(replace(SANDBOX, driver_config={"tool_dirs": ["/usr/bin"], "host_paths": ["/usr"]}))


@pytest.mark.parametrize(
    ("change", "code", "says"),
    [
        pytest.param({"image": "ubuntu:24.04"}, FP, "ubuntu:24.04", id="image"),
        pytest.param({"agent_socket": "/x"}, FP, "agent_socket", id="agent-socket"),
        pytest.param({"platform_config": {"b": 1, "a": 2}}, FP, "a, b", id="platform-config"),
        pytest.param({"resources": Resources(gpu=1)}, FP, "GPU", id="gpu"),
        pytest.param({"resources": Resources(cpu_request="1")}, FP, "requests", id="cpu-request"),
        pytest.param({"resources": Resources(memory_limit="x")}, IA, "memory limit", id="quantity"),
        pytest.param({"resources": Resources(memory_limit="1Mi")}, IA, "at least", id="too-small"),
        pytest.param({"resources": Resources(cpu_limit="1m")}, IA, "at least", id="too-slow"),
        pytest.param({"resources": Resources(memory_limit="9Ei")}, IA, "at most", id="too-large"),
        pytest.param({"resources": Resources(cpu_limit="9" * 20)}, IA, "at most", id="too-fast"),
        pytest.param({"driver_config": {"mounts": []}}, IA, "'mounts'", id="unknown-key"),
        pytest.param({"driver_config": {"tool_dirs": "/a"}}, IA, "list", id="no-list"),
        pytest.param({"driver_config": {"tool_dirs": [1]}}, IA, "absolute", id="no-text"),
        pytest.param({"driver_config": {"tool_dirs": ["a/b"]}}, IA, "absolute", id="relative"),
        pytest.param({"driver_config": {"tool_dirs": ["/\0"]}}, IA, "absolute", id="nul"),
        pytest.param({"driver_config": {"tool_dirs": ["/a"] * 200}}, IA, "more than", id="many"),
        pytest.param({"driver_config": {"tool_dirs": ["/" + "a" * 5000]}}, IA, "bytes", id="long"),
        pytest.param({"driver_config": {"host_paths": ["/no/such"]}}, FP, "exist", id="missing"),
    ],
)
def test_the_rest_is_refused_by_name(change, code, says):
    with pytest.raises(DriverError, match=says) as caught:
        check(replace(SANDBOX, **change))
    assert caught.value.code is code


@pytest.mark.parametrize(
    ("text", "memory"),
    [("512Mi", 512 << 20), ("2G", 2_000_000_000), ("1.5Gi", 3 << 29), ("67108864", 64 << 20)],
)
def test_memory_quantities(text, memory):
    assert request.parse_limits(Resources(memory_limit=text)).memory_bytes == memory


@pytest.mark.parametrize(("text", "millis"), [("500m", 500), ("2", 2000), ("0.5", 500)])
def test_cpu_quantities(text, millis):
    assert request.parse_limits(Resources(cpu_limit=text)).cpu_millis == millis


def test_no_token_no_sandbox():
    with pytest.raises(DriverError, match="token"):
        request.check_credentials(replace(SANDBOX, token=""), "unix:/x")
    assert "secret" not in repr(replace(SANDBOX, token="secret"))


FAILED = FailureRecord("X", "it broke", (Phase("rootfs", 1, 2, "X", "it broke"),))


@pytest.mark.parametrize(
    ("facts", "seen"),
    [
        pytest.param(Facts(Backend.PREPARING), {"Ready": ("False", "Starting")}, id="preparing"),
        pytest.param(Facts(Backend.RUNNING), {"Ready": ("True", "BackendReady")}, id="running"),
        pytest.param(
            Facts(Backend.GONE, exit_code=3), {"Ready": ("False", "ContainerExited")}, id="exited"
        ),
        pytest.param(
            Facts(Backend.GONE, stopped=True, exit_code=0),
            {"Suspended": ("True", "Stopped"), "Ready": ("False", "ContainerStopped")},
            id="stopped",
        ),
        pytest.param(
            Facts(Backend.GONE, failure=FAILED),
            {"Ready": ("False", "ContainerStartFailed")},
            id="failed",
        ),
        pytest.param(Facts(Backend.GONE), {"Ready": ("False", "ContainerExited")}, id="unseen"),
    ],
)
def test_observations_in_the_words_of_the_contract(facts, seen):
    assert {c.type: (c.status, c.reason) for c in conditions_of(facts)} == seen


def test_a_signal_is_named():
    (condition,) = conditions_of(Facts(Backend.GONE, exit_code=137))
    assert "signal 9" in condition.message


@pytest.fixture
def proc(tmp_path):
    for name, text in {
        "self/ns/user": "",
        "sys/user/max_user_namespaces": "100\n",
        "sys/kernel/unprivileged_userns_clone": "1\n",
        "sys/kernel/apparmor_restrict_unprivileged_userns": "0\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "uid", "says"),
    [
        pytest.param({}, 1000, "", id="allowed"),
        pytest.param({"sys/user/max_user_namespaces": "0"}, 0, "max_user_namespaces", id="none"),
        pytest.param(
            {"sys/kernel/unprivileged_userns_clone": "0"},
            1000,
            "kernel.unprivileged_userns_clone=1",
            id="forbidden",
        ),
        pytest.param({"sys/kernel/unprivileged_userns_clone": "0"}, 0, "", id="root-may"),
        pytest.param(
            {"sys/kernel/apparmor_restrict_unprivileged_userns": "1"},
            1000,
            "kernel.apparmor_restrict_unprivileged_userns=0",
            id="apparmor",
        ),
        pytest.param(
            {
                "sys/kernel/apparmor_restrict_unprivileged_userns": "1",
                "self/attr/current": "openshell (enforce)\n",
            },
            1000,
            "",
            id="own-profile",
        ),
        pytest.param(
            {
                "sys/kernel/apparmor_restrict_unprivileged_userns": "1",
                "self/attr/current": "unconfined\n",
            },
            1000,
            "AppArmor",
            id="unconfined",
        ),
    ],
)
def test_what_the_machine_forbids_is_named(proc, change, uid, says):
    for name, text in change.items():
        (proc / name).parent.mkdir(parents=True, exist_ok=True)
        (proc / name).write_text(text)
    problem = missing_prerequisite(str(proc), uid=uid)
    assert says in problem
    assert bool(says) == bool(problem)
