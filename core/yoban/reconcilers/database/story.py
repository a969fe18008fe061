"""Which changes of a Database's status are worth an event: what somebody wants to read who asks what happened tonight.

Guarantees: pure. Nothing that moves all the time makes an event, nor what is told of a Database that is only coming to be.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_TOLD = ("Ready", "Archiving", "Recoverable")
"""Conditions whose turns are events: `Ready` when it comes true, `NotReady` when it is true no more."""
_NO_NEWS = frozenset(("NoPolicy", "NoLog", "NoBackup", "Progressing", "Deleting"))
"""Reasons of what was never true so far, or is what its owner asked for."""


@dataclass(frozen=True, slots=True)
class Tidings:
    """An event to be: reason, a sentence, and whether a person should look."""

    reason: str
    note: str
    warning: bool = False


def tidings(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Tidings]:
    """Yield what is to be told when a status follows another: another primary, a restore that ended, and
    conditions that turned."""
    if after.get("phase") == "Deleting":
        return
    old, new = before.get("primary"), after.get("primary")
    if old and new and old != new:
        yield Tidings("PrimaryChanged", f"{new} is the primary now; before, it was {old}")
    restored = after.get("restored")
    if restored and not before.get("restored"):
        upto = f", up to the commit of {restored['lastCommit']}" if restored.get("lastCommit") else ""
        yield Tidings("Restored", f"restored from base backup {restored['backup']}{upto}")
    known = {entry.get("type"): entry for entry in before.get("conditions") or ()}
    for entry in after.get("conditions") or ():
        kind, last = entry["type"], known.get(entry["type"])
        if kind not in _TOLD or last is None or last.get("status") == entry["status"]:
            continue
        if entry["status"] == "True" and last.get("status") == "False":
            yield Tidings(kind, entry["message"])
        elif entry["status"] == "False" and (last.get("status") == "True" or entry["reason"] not in _NO_NEWS):
            wanted = entry["reason"] == "Progressing"  # somebody asked for what makes it so for a while
            yield Tidings(f"Not{kind}", f"{entry['reason']}: {entry['message']}", warning=not wanted)
