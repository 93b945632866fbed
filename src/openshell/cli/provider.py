"""`openshell provider`: the group. Each command is in a module of its own, loaded when it is called."""

from __future__ import annotations

from openshell.cli.groups import Entry, LazyGroup

__all__ = ["provider", "refresh"]

_TYPES = "What types of providers mean"

provider = LazyGroup(
    "provider",
    help=(
        "Keep credentials outside the sandboxes that use them.\n\n"
        "A sandbox sees a placeholder; the proxy puts the value into requests to the endpoints "
        "of the provider's profile, or to those that the policy binds to it."
    ),
    entries={
        "create": Entry("openshell.cli.provider_create:create", "Store credentials under a name."),
        "list": Entry("openshell.cli.provider_records:list_", "List providers."),
        "get": Entry("openshell.cli.provider_records:get", "Show one provider, without values."),
        "update": Entry("openshell.cli.provider_records:update", "Change or remove values."),
        "delete": Entry("openshell.cli.provider_records:delete", "Delete providers."),
        "refresh": Entry("openshell.cli.provider:refresh", "Let the gateway renew credentials."),
        "list-profiles": Entry(
            "openshell.cli.profile_show:list_profiles", "List the types there are.", _TYPES
        ),
        "profile": Entry(
            "openshell.cli.profile:profile", "Read, change and try profiles of types.", _TYPES
        ),
    },
    elsewhere={
        "show": "openshell provider get",
        "status": "openshell provider refresh status",
        "rotate": "openshell provider refresh rotate",
        "attach": "openshell sandbox provider attach",
        "detach": "openshell sandbox provider detach",
        "import": "openshell provider profile import",
        "profiles": "openshell provider list-profiles",
    },
)

refresh = LazyGroup(
    "refresh",
    help=(
        "Let the gateway renew a credential before it ends.\n\n"
        "Running processes keep their placeholders; the proxy always uses the newest value."
    ),
    entries={
        "status": Entry("openshell.cli.provider_refresh:status", "Show how renewals stand."),
        "configure": Entry("openshell.cli.provider_refresh:configure", "Hand over what it needs."),
        "rotate": Entry("openshell.cli.provider_refresh:rotate", "Renew now."),
        "delete": Entry("openshell.cli.provider_refresh:delete", "Stop renewing."),
    },
)
