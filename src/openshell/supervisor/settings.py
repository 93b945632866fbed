"""What changed in the settings beside the policy, as events. Values in, events out.

`ConfigSource` calls it with every new configuration. No setting changes what is enforced: what
reads one asks for its present value where it is used.
"""

from collections.abc import Mapping

from openshell import ocsf
from openshell._proto import sandbox_pb2
from openshell.codec.settings import value_text

__all__ = ["settings_events", "settings_of"]

_ON, _OFF = "true", "false"


def settings_of(config: sandbox_pb2.GetSandboxConfigResponse) -> Mapping[str, str]:
    """Every key with its effective value as text."""
    return {key: value_text(setting.value) for key, setting in config.settings.items()}


def settings_events(
    before: Mapping[str, str], after: Mapping[str, str], now_ms: int
) -> list[ocsf.ConfigEvent]:
    """One event for every key whose effective value is another now."""
    unset = value_text(sandbox_pb2.SettingValue())
    events = []
    for key in sorted({*before, *after}):
        old, new = before.get(key, unset), after.get(key, unset)
        if old == new:
            continue
        state = {_ON: "enabled", _OFF: "disabled"}.get(new, "updated")
        events.append(
            ocsf.ConfigEvent(
                time_ms=now_ms,
                state=state,
                message=f"setting {key} changed from {old} to {new}",
                status=ocsf.Status.SUCCESS,
                unmapped={"key": key, "old": old, "new": new},
            )
        )
    return events
