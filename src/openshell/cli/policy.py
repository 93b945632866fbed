"""`openshell policy`: the group. Each command is in a module of its own, loaded when it is called."""

from __future__ import annotations

from openshell.cli.groups import Entry, LazyGroup

__all__ = ["policy"]

_TRY = "Trying out"

policy = LazyGroup(
    "policy",
    help="Read, change and try policies; running sandboxes follow at once.",
    entries={
        "get": Entry("openshell.cli.policy_show:get", "Show the policy in force, or a revision."),
        "list": Entry("openshell.cli.policy_show:list_", "List revisions, newest first."),
        "set": Entry("openshell.cli.policy_set:set_", "Replace the policy."),
        "update": Entry("openshell.cli.policy_update:update", "Change parts of the policy."),
        "rollback": Entry("openshell.cli.policy_update:rollback", "Go back to an older revision."),
        "delete": Entry("openshell.cli.policy_set:delete", "Delete the policy for all sandboxes."),
        "check": Entry(
            "openshell.cli.policy_check:check", "Check a file; explain a request.", _TRY
        ),
        "diff": Entry(
            "openshell.cli.policy_diff:diff", "Show what a revision allows or forbids.", _TRY
        ),
        "replay": Entry(
            "openshell.cli.policy_replay:replay", "Try a policy on recorded traffic.", _TRY
        ),
    },
    elsewhere={
        "show": "openshell policy get",
        "history": "openshell policy list",
        "apply": "openshell policy set",
        "lint": "openshell policy check",
        "validate": "openshell policy check",
        "add": "openshell policy update",
    },
)
