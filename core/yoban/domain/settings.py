"""Which of a Database's settings its engine refuses, told by name before anything is changed.

What the engine does not know by name is left to the server's own catalogue, which the agent asks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from yoban.errors import InvalidInput
from yoban.plugins import Engine, SettingClass


@dataclass(frozen=True, slots=True)
class RefusedSetting:
    """A setting that a user may not set, of class FIXED or REFUSED, and why."""

    name: str
    kind: SettingClass
    why: str


def refused(engine: Engine, version: str, settings: Mapping[str, str]) -> tuple[RefusedSetting, ...]:
    """Return the settings that cannot be, by name."""
    found = []
    for name in sorted(settings):
        rule = engine.setting_rule(name, version)
        if rule.kind in (SettingClass.FIXED, SettingClass.REFUSED):
            found.append(RefusedSetting(name, rule.kind, rule.why))
    return tuple(found)


def check(engine: Engine, version: str, settings: Mapping[str, str]) -> None:
    """Check all settings.

    Raises:
        InvalidInput: some are refused (reason `SettingRefused`); all of them are named, each with why.
    """
    wrong = refused(engine, version, settings)
    if not wrong:
        return
    words = {SettingClass.FIXED: "is set by the operator", SettingClass.REFUSED: "is refused"}
    why = "; ".join(f"{item.name} {words[item.kind]}{f': {item.why}' if item.why else ''}" for item in wrong)
    raise InvalidInput(
        "settings that cannot be",
        object="settings",
        cause=why,
        fix=f"remove {', '.join(item.name for item in wrong)}",
        reason="SettingRefused",
    )
