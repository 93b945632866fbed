"""Limits of a sandbox, and that nothing of it is left behind."""

from __future__ import annotations

import os

from e2e.isolation.sandboxes import running_sandbox


def test_memory_is_bounded(mode: str) -> None:
    limits = {"memory_bytes": 96 << 20, "cpu_millis": 500}
    with running_sandbox(mode, limits=limits) as small:
        assert small.plain("allocate", "256")["outcome"] == "ok"
        argv = (f"{_python(small.workspace)}", "-I", "-S", "/sandbox/probes.py", "allocate", "256")
        answer = small.run(*argv)
        if small.layers["cgroup.memory"][0] == "enforced":
            assert answer["exit_code"] == 137
        else:
            assert small.layers["memory"][0] == "partly"
            assert "MemoryError" in answer["stdout"]
        assert small.probe("allocate", "16")["outcome"] == "ok"
        # Process 1 itself is well.
        assert small.run("true")["exit_code"] == 0


def _python(_workspace: str) -> str:
    import sys

    return os.path.realpath(sys.executable)


def _mounts() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        return sorted(line.partition(" - ")[2] for line in file)


def test_nothing_is_left_after_the_end(mode: str) -> None:
    before = _mounts()
    with running_sandbox(mode, limits={"memory_bytes": 96 << 20}) as sandbox:
        init = sandbox.greeting["init_pid"]
        groups = sandbox.greeting["cgroups"]
        sandbox.run(
            "sh", "-c", "(sleep 300 &) >/dev/null 2>&1; setsid -f sleep 300 >/dev/null 2>&1"
        )
        assert os.path.exists(f"/proc/{init}")
        assert all(os.path.isdir(group) for group in groups)
    assert not os.path.exists(f"/proc/{init}")
    assert not [group for group in groups if os.path.exists(group)]
    assert _mounts() == before
