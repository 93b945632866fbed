"""`openshell provider profile`: the group. Each command is loaded when it is called."""

from __future__ import annotations

from openshell.cli.groups import Entry, LazyGroup

__all__ = ["profile"]

_SAFE = "Changes seen before they are made"

profile = LazyGroup(
    "profile",
    help=(
        "Say what a type of provider means: its credentials, endpoints and programs.\n\n"
        "\b\n"
        "The way to change one, while sandboxes use it:\n"
        "  openshell provider profile export ID > ID.yaml\n"
        "  edit ID.yaml\n"
        "  openshell provider profile diff ID -f ID.yaml      what it would do to sandboxes\n"
        "  openshell provider profile update ID -f ID.yaml    refused if it changed meanwhile\n"
    ),
    entries={
        "export": Entry("openshell.cli.profile_show:export", "Write a profile as a document."),
        "import": Entry("openshell.cli.profile_change:import_", "Create profiles of documents."),
        "lint": Entry("openshell.cli.profile_change:lint", "Judge documents, change nothing."),
        "update": Entry("openshell.cli.profile_change:update", "Replace one profile."),
        "delete": Entry("openshell.cli.profile_change:delete", "Delete a profile."),
        "diff": Entry("openshell.cli.profile_diff:diff", "Show what a document changes.", _SAFE),
        "apply": Entry(
            "openshell.cli.profile_apply:apply", "Create and update many, or none.", _SAFE
        ),
        "history": Entry("openshell.cli.profile_show:history", "List revisions.", _SAFE),
        "rollback": Entry(
            "openshell.cli.profile_apply:rollback", "Go back to an older revision.", _SAFE
        ),
    },
    elsewhere={
        "list": "openshell provider list-profiles",
        "get": "openshell provider profile export",
        "show": "openshell provider profile export",
        "create": "openshell provider profile import",
    },
)
