"""The egress side of a sandbox: the one place where the supervisor puts the proxy together."""

import datetime as dt

from openshell.drivers.launch import LaunchPlan
from openshell.egress.ca import SandboxCA
from openshell.egress.generation import GenerationHolder
from openshell.supervisor.isolation.launch import IsolatedSandbox
from openshell.supervisor.logs import Logs

__all__ = ["Egress"]


class Egress:
    def __init__(
        self, sandbox: IsolatedSandbox, holder: GenerationHolder, plan: LaunchPlan, logs: Logs
    ) -> None:
        self.ca = SandboxCA(dt.datetime.now(dt.UTC))

    async def start(self) -> None: ...

    async def close(self) -> None: ...
