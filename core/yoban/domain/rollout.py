"""Which instance may be restarted or updated next.

Guarantees: at most one instance at a time, and only while all others are ready; replicas before the primary; a primary
with a replica that can take over is relieved by a switchover first. An instance that is down already, and needs the
change, goes first: it has nothing to lose. Does not say what an update is; that is a difference of revisions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from yoban.domain.candidates import Candidate, choose
from yoban.errors import YobanError


class Action(Enum):
    """What to do next."""

    DONE = "done"
    WAIT = "wait"
    REPLACE = "replace"
    """Delete the Pod, so that it is made anew by its StatefulSet."""
    RESTART = "restart"
    """Restart the server in its Pod."""
    SWITCHOVER = "switchover"
    """Make `instance` the primary; the old one is next."""


@dataclass(frozen=True, slots=True)
class Running:
    """An instance and what it needs.

    Attributes:
        candidate: what is known of it.
        outdated: its Pod differs from what it is to be.
        restart: its server is to be restarted.
        gone: it has no Pod now, or one being deleted.
    """

    candidate: Candidate
    outdated: bool = False
    restart: bool = False
    gone: bool = False

    @property
    def needs(self) -> bool:
        """Something is to be done with it."""
        return self.outdated or self.restart


@dataclass(frozen=True, slots=True)
class Next:
    """The next step: what, with which instance ("" for DONE), and why."""

    action: Action
    instance: str = ""
    why: str = ""


def next_step(instances: Sequence[Running], *, paused: bool = False) -> Next:
    """Decide the next step of a rollout. Called again after each change; an unfinished step leads to WAIT."""
    waiting = [item for item in instances if item.needs]
    if not waiting:
        return Next(Action.DONE)
    if paused:
        return Next(Action.WAIT, waiting[0].candidate.name, "the Database is paused")
    down = [item for item in waiting if not item.candidate.ready and not item.gone and item.outdated]
    if down:
        # An instance that does not come up with the old Pod may with the new one; waiting for it would be for ever.
        item = min(down, key=lambda entry: (entry.candidate.primary, entry.candidate.number))
        return Next(Action.REPLACE, item.candidate.name, "it is not ready as it is")
    unready = [item.candidate.name for item in instances if item.gone or not item.candidate.ready]
    if unready:
        return Next(Action.WAIT, unready[0], f"{', '.join(unready)} must be ready first")
    replicas = [item for item in waiting if not item.candidate.primary]
    if replicas:
        item = min(replicas, key=lambda entry: (entry.candidate.synchronous, entry.candidate.number))
        return Next(_what(item), item.candidate.name, "replicas first")
    primary = waiting[0]
    others = [item.candidate for item in instances if not item.candidate.primary]
    if not others:
        return Next(_what(primary), primary.candidate.name, "it is the only instance")
    if not primary.outdated:
        return Next(Action.RESTART, primary.candidate.name, "the primary last; a restart keeps it the primary")
    try:
        heir = choose([item.candidate for item in instances])
    except YobanError as error:
        return Next(Action.WAIT, primary.candidate.name, str(error))
    return Next(Action.SWITCHOVER, heir.name, f"{primary.candidate.name} is the primary and last")


def _what(item: Running) -> Action:
    return Action.REPLACE if item.outdated else Action.RESTART
