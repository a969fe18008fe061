"""Facet of the agent, optional: replicas, and the change of primary."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from yoban.plugins.context import InstanceContext, Peer
from yoban.plugins.positions import Fork, Position

ProgressCallback = Callable[[int, int], None]
"""Called with (bytes done, bytes in all or 0 when unknown); cheap, may be called often."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion led to.

    Attributes:
        line: written from now on, or "".
        parent: the line that it left.
        fork: last place that both share.
        ancestors: the forks that lead to `parent`, oldest first, where the server knows them. They stand in for the record of
            a reign that ended before it could be stored.
    """

    line: str
    parent: str
    fork: Position
    ancestors: tuple[Fork, ...] = ()


@dataclass(frozen=True, slots=True)
class BrokenReplica:
    """A replica that will not follow by itself. With `rebuild` its data must be provisioned anew; `why` says why."""

    why: str
    rebuild: bool


class Replication(ABC):
    """Replicas of one Database."""

    election: Literal["agent", "self"] = "agent"
    """Who chooses the primary: `agent`, our agents by the Lease. `self`, the servers, is reserved and not used yet."""

    @abstractmethod
    async def provision(self, ctx: InstanceContext, donor: Peer, progress: ProgressCallback) -> None:
        """Fill the empty `ctx.data` with a copy of `donor` that can be started as its replica.

        What a failed attempt left is removed by the next one. Must carry over no identity that has to be unique.

        Raises:
            Unavailable: the donor does not serve now.
        """

    @abstractmethod
    async def prepare_follow(self, ctx: InstanceContext, upstream: Peer) -> BrokenReplica | None:
        """Before a start as replica of data that was a primary or followed another: make it able to follow `upstream`.

        Returns None when it can, else why not. The server is stopped when this is called.
        """

    @abstractmethod
    async def diagnose(self, ctx: InstanceContext) -> BrokenReplica | None:
        """On a running replica: tell whether it is broken for good. None when healthy, or merely behind."""

    @abstractmethod
    async def promote(self, ctx: InstanceContext, *, deadline: float) -> Promotion:
        """Turn the running replica into a primary that accepts writes. The caller holds the Lease.

        Called again after it was done, it returns the same.

        Raises:
            DeadlineExceeded: not done within `deadline` seconds; the caller gives the Lease back or tries again.
        """

    @abstractmethod
    async def manage_members(self, ctx: InstanceContext, members: Sequence[Peer]) -> Sequence[str]:
        """On a primary: keep what must exist for each replica (a slot, its place among the synchronous ones).

        Returns what was changed, in words; empty when nothing was. Called every few seconds.
        """

    @abstractmethod
    async def drained_position(self, ctx: InstanceContext) -> Position:
        """After a clean stop of a primary: the last place of its log, read from its data. The server is stopped."""
