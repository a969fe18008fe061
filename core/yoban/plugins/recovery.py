"""Facet of the agent: put a base backup back, replay the log to a target, stop exactly there."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from pathlib import Path

from yoban.errors import Unsupported
from yoban.plugins.context import InstanceContext
from yoban.plugins.positions import Fork, Position
from yoban.plugins.targets import RecoveryTarget


@dataclass(frozen=True, slots=True)
class RecoveryPlan:
    """What core decided about a recovery.

    Attributes:
        target: parsed target; LATEST also when the asked time lies between the last stored commit and the window's end.
        line: line to follow to its end or the target; "" for an engine without lines.
        end: place up to which the log is proven to be stored on that line; replay that ends before it has failed.
        backup_facts: `BackupEnd.facts` of the base backup.
        backup_end: place from which on the base backup is consistent.
        has_log: False when only the base backup itself is to be restored.
        forks: those between the base backup's line and `line`, oldest first; what lies past one on its parent does not
            belong to the history.
        segments: for a recovery that `feeds`: names of what leads from the base backup to `end`, in replay order.
    """

    target: RecoveryTarget
    line: str
    end: Position | None
    backup_end: Position
    backup_facts: Mapping[str, str] = field(default_factory=dict)
    has_log: bool = True
    forks: tuple[Fork, ...] = ()
    segments: tuple[str, ...] = ()


class RecoveryState(Enum):
    """How far a recovery is."""

    REPLAYING = "replaying"
    WAITING = "waiting"
    """Everything that was fed is replayed, and more is to be handed over (`Recovery.feed`)."""
    REACHED = "reached"
    """At the target, and not a transaction further; the server waits for `finish`."""
    RESTART = "restart"
    """It cannot go on as it was started, `message` says why: core stops the server, calls `configure` and `prepare` again,
    and starts it. The same `message` after that is a failure. Not for a recovery that `feeds`."""
    FAILED = "failed"
    """It cannot reach the target; `message` says why."""


@dataclass(frozen=True, slots=True)
class RecoveryProgress:
    """An observation of a recovery: state, replayed place, time of the last replayed commit, a sentence."""

    state: RecoveryState
    position: Position | None = None
    last_commit: datetime | None = None
    message: str = ""


@dataclass(frozen=True, slots=True)
class RecoveryReached:
    """Where a finished recovery stands: last replayed place, last commit, line written from now on, its parent."""

    position: Position
    last_commit: datetime | None
    line: str
    parent: str


class Recovery(ABC):
    """Restores into an empty instance.

    Attributes:
        feeds: who brings the log. False: the server asks for each segment while it replays. True: core hands over the
            plan's segments by `feed`, before it starts the server and whenever `progress` says WAITING.
    """

    feeds: bool = False

    @abstractmethod
    def place(self, ctx: InstanceContext, path: str) -> Path:
        """Return where the backup item `path` belongs, always below `ctx.data` or `ctx.log`. Pure.

        Raises:
            IntegrityError: the path would lead outside.
        """

    @abstractmethod
    async def placed(self, ctx: InstanceContext) -> None:
        """All items are in place and synced: do what the data needs before it can replay (links, permissions)."""

    @abstractmethod
    async def prepare(self, ctx: InstanceContext, plan: RecoveryPlan) -> None:
        """Write what makes the next start a recovery by `plan`. The server fetches segments by `InstanceContext.ask`,
        or by whatever means the engine has. May be called again before the start."""

    async def feed(self, ctx: InstanceContext, plan: RecoveryPlan, name: str, path: Path) -> bool:
        """Take one segment of `plan.segments`; return whether another one is taken now.

        Called in their order, after `prepare`. After False, or the last one, the server is started, and what was taken is to
        be replayed; then `progress` says WAITING, and feeding goes on while the server runs. So the volume need not have
        room for the whole log. After the last one the answer does not matter.

        Args:
            ctx: the instance.
            plan: of the recovery.
            name: of the segment.
            path: a verified copy, on the file system of the log, that may be moved or changed; removed afterwards. The last
                segment of a line may be cut at any byte.

        Raises:
            IntegrityError: it is damaged, or does not go on from what was fed before.
            NotReady: what was fed before is not replayed yet.
        """
        raise Unsupported("this engine's server asks for its log", object=f"segment {name}")

    @abstractmethod
    async def progress(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryProgress:
        """Observe. Also called when the server has ended by itself; then its log says why, and the state is FAILED."""

    @abstractmethod
    async def finish(self, ctx: InstanceContext, plan: RecoveryPlan) -> RecoveryReached:
        """Leave recovery: the server becomes a primary of a new life, on a line of its own where the engine has lines.

        Called again after it was done, it returns the same.
        """
