"""The local driver: sandboxes on this machine, without an engine, a daemon or root.

A zygote process per state directory forks one supervisor per sandbox; this package finds or starts
the zygote, writes launch plans, watches supervisors, and removes everything they leave. It never
builds a namespace itself: that is the supervisor's part, in another process.
"""

from openshell.drivers.local.driver import LocalDriver, LocalDriverConfig

__all__ = ["LocalDriver", "LocalDriverConfig"]
