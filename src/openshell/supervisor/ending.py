"""Ending every program of a sandbox while process 1 lives on, so that clients get their output."""

from openshell.supervisor.isolation.processes import descendants, kill

__all__ = ["end_programs"]

# A fork bomb dies round by round; the end of process 1 takes whatever is left.
_ROUNDS = 16


def end_programs(init_pid: int) -> bool:
    """Kill everything below process 1; False if something kept coming back."""
    for _ in range(_ROUNDS):
        living = [process for process in descendants(init_pid) if process.state != "Z"]
        if not living:
            return True
        for process in living:
            kill(process)
    return False
