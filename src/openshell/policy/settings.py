"""The registry of settings beside the policy: each key with its type, default and effect.

One definition for gateway, supervisor, command line and documentation. A setting has no value until
it is set, for all sandboxes or for one; the value for all wins. Where values are kept is the
gateway's part, how they travel `openshell.codec.settings`'.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

__all__ = [
    "POLICY_KEY",
    "SETTINGS",
    "Scope",
    "Setting",
    "SettingRejected",
    "Value",
    "allowed_keys",
    "check_value",
    "parse_value",
    "resolve",
]

POLICY_KEY: Final = "policy"
"""Reserved: stands for the gateway-wide policy in deletions, never for a setting of its own."""

_TRUE: Final = frozenset({"1", "true", "yes", "y", "on"})
_FALSE: Final = frozenset({"0", "false", "no", "n", "off"})
_ECHO: Final = 40
"""Characters of a refused value that are shown."""

Value: TypeAlias = bool | str


class Scope(StrEnum):
    """Where an effective value comes from."""

    GLOBAL = "global"
    SANDBOX = "sandbox"
    UNSET = "unset"


@dataclass(frozen=True, slots=True)
class Setting:
    """`choices` empty: a boolean. `pending`: what is missing before the value has an effect."""

    key: str
    default: Value
    effect: str
    choices: tuple[str, ...] = ()
    pending: str = ""

    @property
    def type_name(self) -> str:
        return " or ".join(self.choices) if self.choices else "bool"


class SettingRejected(ValueError):
    """The value does not fit the setting; one sentence."""


_ALL: Final = (
    Setting(
        "agent_policy_proposals_enabled",
        default=False,
        effect="agents may propose policy changes (http://policy.local in the sandbox)",
    ),
    Setting(
        "ocsf_json_enabled",
        default=False,
        effect="the security log is also written as lines of JSON, on the host: events/ in the directory"
        " of the sandbox",
    ),
    Setting(
        "proposal_approval_mode",
        default="manual",
        choices=("manual", "auto"),
        effect="whether proposed policy changes wait for a person",
        pending="every proposal waits: deciding about proposals is not built yet",
    ),
    Setting(
        "providers_v2_enabled",
        default=False,
        effect="profiles of attached providers add rules to the policy; read from the gateway only",
    ),
)

SETTINGS: Final[Mapping[str, Setting]] = MappingProxyType({item.key: item for item in _ALL})


def allowed_keys() -> str:
    return ", ".join(sorted(SETTINGS))


def check_value(setting: Setting, value: object) -> Value:
    """The value if it has the setting's type; raises `SettingRejected`."""
    if not setting.choices:
        if isinstance(value, bool):
            return value
        raise SettingRejected(f"setting '{setting.key}' expects bool value")
    if not isinstance(value, str):
        raise SettingRejected(f"setting '{setting.key}' expects string value")
    if value not in setting.choices:
        choices = ", ".join(setting.choices)
        raise SettingRejected(
            f"setting '{setting.key}' expects one of [{choices}]; got '{value[:_ECHO]}'"
        )
    return value


def parse_value(setting: Setting, text: str) -> Value:
    """A value as people write it; raises `SettingRejected`."""
    if setting.choices:
        return check_value(setting, text)
    word = text.strip().lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise SettingRejected(
        f"setting '{setting.key}' expects bool value: one of true, yes, on, 1 or false, no, off, 0"
    )


def resolve(
    key: str, everywhere: Mapping[str, Value], sandbox: Mapping[str, Value]
) -> tuple[Value | None, Scope]:
    """The effective value: the one for all sandboxes, else the sandbox's own, else none."""
    if key in everywhere:
        return everywhere[key], Scope.GLOBAL
    if key in sandbox:
        return sandbox[key], Scope.SANDBOX
    return None, Scope.UNSET
