"""From a sandbox's directory to a running supervisor: the part before there is an event loop.

Order matters here. The plan is read, process 1 is cloned, and only then is the token read and a
loop, a channel or a thread made: process 1 is a copy of what this process was when it was cloned.
While it shuts itself in, the gateway is called. A start that fails leaves the reason in the
sandbox's directory and nothing else.

`prepare` runs in the zygote, the rest in its forks.
"""

import argparse
import asyncio
import os
import signal
import sys
from collections.abc import Callable, Sequence

import uvloop

from openshell._proto import sandbox_pb2
from openshell.drivers.launch import LaunchPlan, PlanError, decode_plan
from openshell.drivers.local.paths import SandboxPaths, StatePaths
from openshell.drivers.local.state import (
    FailureRecord,
    IsolationRecord,
    ProcessRecord,
    boot_id,
    start_ticks,
    write_record,
)
from openshell.drivers.upstream_proxy import UpstreamProxyError
from openshell.supervisor.bearer import TokenError, read_token
from openshell.supervisor.candidate import read_policy
from openshell.supervisor.gateway_client import EndpointError, method_table
from openshell.supervisor.hardening import harden
from openshell.supervisor.isolation.errors import IsolationError
from openshell.supervisor.isolation.launch import Prepared, StartingSandbox, begin
from openshell.supervisor.isolation.launch import prepare as prepare_isolation
from openshell.supervisor.network import TrustRoots
from openshell.supervisor.phases import Phases, phase_of
from openshell.supervisor.runtime import Supervisor
from openshell.supervisor.spec import SpecError, static_policy, to_spec
from openshell.supervisor.version import version

__all__ = ["main", "prepare", "supervise"]

_FAILED = 1


class _StartError(Exception):
    """The start failed in this phase, with a code and a sentence."""

    def __init__(self, phase: str, code: str, message: str) -> None:
        super().__init__(message)
        self.phase = phase
        self.code = code
        self.message = message


def prepare() -> Callable[[StatePaths, str, str], int]:
    """Everything that all supervisors of this machine share; the function that starts one."""
    prepared = prepare_isolation()
    roots = TrustRoots.load()
    version()
    method_table()

    def run(paths: StatePaths, sandbox_id: str, boot: str) -> int:
        return supervise(paths.sandbox(sandbox_id), boot, prepared, roots)

    return run


def supervise(paths: SandboxPaths, boot: str, prepared: Prepared, roots: TrustRoots) -> int:
    """Start the sandbox of this directory and serve it to its end; answers the exit status."""
    phases = Phases()
    try:
        plan = _read_plan(paths)
        _write_process(paths, plan, boot)
        starting = _isolate(paths, plan, prepared)
    except _StartError as error:
        return _fail(paths, phases, error)
    except OSError as error:
        return _fail(paths, phases, _state_error(paths, error))
    # Whatever fails from here takes process 1 along.
    try:
        write_record(paths.isolation, _isolation_record(starting, boot))
        # Needed no more from here on, and gone before there is a second thread or a secret.
        own_layers = harden(prepared)
        token = read_token(paths.token)

        async def serve() -> int:
            supervisor = Supervisor(plan, starting, own_layers, roots, token, phases, paths.events)
            return await supervisor.run()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(serve())
    except IsolationError as error:
        return _fail(paths, phases, _isolation_error(error))
    except (TokenError, EndpointError, UpstreamProxyError, OSError) as error:
        return _fail(paths, phases, _StartError("supervisor", "SUPERVISOR", str(error)))
    finally:
        starting.close()


def _read_plan(paths: SandboxPaths) -> LaunchPlan:
    with open(paths.plan, "rb") as file:
        data = file.read()
    try:
        return decode_plan(data)
    except PlanError as error:
        raise _StartError("supervisor", "PLAN", str(error)) from None


def _write_process(paths: SandboxPaths, plan: LaunchPlan, boot: str) -> None:
    """Who we are, first of all: a gateway that restarts in this moment must find us."""
    pid = os.getpid()
    ticks = start_ticks(pid)
    record = ProcessRecord(pid, -1 if ticks is None else ticks, boot, plan.instance_id)
    write_record(paths.process, record)


def _isolate(paths: SandboxPaths, plan: LaunchPlan, prepared: Prepared) -> StartingSandbox:
    try:
        with open(paths.config, "rb") as file:
            config = sandbox_pb2.GetSandboxConfigResponse.FromString(file.read())
        policy = static_policy(read_policy(config))
        spec = to_spec(plan, policy, paths.workspace, uid=os.getuid(), gid=os.getgid())
    except SpecError as error:
        raise _StartError("isolation", "SPEC", str(error)) from None
    except ValueError as error:
        raise _StartError("isolation", "POLICY", f"the policy cannot be used: {error}") from None
    try:
        return begin(spec, prepared)
    except IsolationError as error:
        raise _isolation_error(error) from None


def _isolation_error(error: IsolationError) -> _StartError:
    return _StartError(phase_of(error.step), error.step.upper(), str(error))


def _state_error(paths: SandboxPaths, error: OSError) -> _StartError:
    return _StartError("supervisor", "STATE", f"{error.filename or paths.root}: {error.strerror}")


def _isolation_record(sandbox: StartingSandbox, boot: str) -> IsolationRecord:
    ticks = start_ticks(sandbox.init_pid)
    init = ProcessRecord(sandbox.init_pid, -1 if ticks is None else ticks, boot)
    return IsolationRecord(init, sandbox.cgroups.paths)


def _fail(paths: SandboxPaths, phases: Phases, error: _StartError) -> int:
    """Store the reason before anything is removed, then end."""
    phases.fail(error.phase, error.code, error.message)
    sys.stderr.write(f"start failed in phase {error.phase} ({error.code}): {error.message}\n")
    try:
        write_record(paths.failure, FailureRecord(error.code, error.message, phases.current()))
    except OSError as problem:
        sys.stderr.write(f"the reason could not be stored: {problem.strerror}\n")
    return _FAILED


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `openshell-sandbox`: one supervisor, without a zygote."""
    parser = argparse.ArgumentParser(prog="openshell-sandbox")
    parser.add_argument("--state-dir", required=True)
    parser.add_argument("--sandbox-id", required=True)
    arguments = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    paths = StatePaths(os.path.abspath(arguments.state_dir))
    return prepare()(paths, arguments.sandbox_id, boot_id())


if __name__ == "__main__":
    sys.exit(main())
