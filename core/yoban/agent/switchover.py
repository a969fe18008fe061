"""The planned change of primary: the reigning side hands over, the named side takes over.

Guarantees: the Lease is given up only after the server has ended cleanly, with the last place of its log beside the
successor's name; the successor takes it only with all of that replayed (`yoban.agent.decisions`). So nothing is lost. What
may go wrong before the server is stopped leaves everything as it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from datetime import datetime

from yoban.agent.bootstrap import reign
from yoban.agent.instance import Instance
from yoban.agent.lease import LeaseView, PrimaryLease
from yoban.agent.observer import Observer
from yoban.errors import NotReady, Unsupported, YobanError
from yoban.kube.clock import Clock
from yoban.model.control import SwitchoverState
from yoban.model.instance import LEASE_POSITION, LEASE_SUCCESSOR, LEASE_SWITCHOVER, SwitchoverDocument
from yoban.plugins import Promotion, ReplicaLink, Role, StopMode

log = logging.getLogger("yoban.agent.switchover")
STOP_DEADLINE = 60.0
ARCHIVE_DEADLINE = 30.0
PROMOTE_DEADLINE = 60.0
STATUS_DEADLINE = 5.0
LINK_LOOKS = 6


async def hand_over(
    instance: Instance,
    lease: PrimaryLease,
    observer: Observer,
    request: SwitchoverDocument,
    drain: Callable[[float], Awaitable[bool]],
) -> None:
    """End our reign in favour of `request.target`. `drain` stores what the log still has, within so many seconds.

    Raises NotReady before anything was changed when the target is not fit; the request counts as dealt with then.
    """
    replication = instance.engine.replication
    if replication is None:
        raise Unsupported("the engine has no replicas", object=f"engine {instance.engine.name}")
    context = instance.context
    link = await _link(observer, request.target, instance.clock)
    if link is None or not link.streaming:
        await lease.note({LEASE_SWITCHOVER: request.id})
        message = f"{request.target} does not follow the primary now"
        instance.board.set(switchover=SwitchoverState(id=request.id, state="failed", message=message))
        raise NotReady("switchover refused", object=request.target, cause=message, fix="ask again when it follows")
    instance.board.set(
        switchover=SwitchoverState(id=request.id, state="running", message=f"handing over to {request.target}"),
        phase="stopping",
    )
    log.info("switchover %s: handing over to %s", request.id, request.target)
    await lease.note({LEASE_SWITCHOVER: request.id})
    await drain(ARCHIVE_DEADLINE / 3)
    await instance.engine.server.close(context)
    clean = await instance.supervision.stop(StopMode.CLEAN, STOP_DEADLINE)
    if not clean:
        # It reigns again after its restart: the Lease is still ours.
        await instance.supervision.stop(StopMode.IMMEDIATE, 15.0)
        message = f"the server did not stop cleanly within {STOP_DEADLINE:g} s; it goes on as primary"
        instance.board.set(switchover=SwitchoverState(id=request.id, state="failed", message=message))
        raise NotReady("switchover failed", object=context.name, cause=message)
    # What is not stored by then stays on this volume and is stored later: nothing is lost by going on.
    if not await drain(ARCHIVE_DEADLINE):
        log.warning("handing over with log that is not stored yet: the object store is slow or down")
    position = await replication.drained_position(context)
    if await lease.give_up({LEASE_SUCCESSOR: request.target, LEASE_POSITION: position}):
        log.info("switchover %s: handed over at %s", request.id, position)
    else:
        log.warning("switchover %s: the Lease could not be given up", request.id)


def broken_off(
    request: SwitchoverDocument | None, lease: LeaseView, told: SwitchoverState, me: str, members: Collection[str]
) -> SwitchoverState | None:
    """What is told of a hand-over that was begun and not carried out; None when there is none. Pure.

    The caller is a running primary that holds the Lease, and no hand-over is under way: each is tried once, so the request
    whose id the Lease has will not be carried out any more.
    """
    if request is None or not request.id or request.id != lease.switchover or request.target == me or not lease.held:
        return None
    if request.target not in members:
        return None  # it took over, and was lost since
    if told.id == request.id and told.state in ("failed", "done"):
        return None
    message = f"the hand-over to {request.target} was broken off; {me} goes on as primary"
    return SwitchoverState(id=request.id, state="failed", message=message)


async def _link(observer: Observer, target: str, clock: Clock) -> ReplicaLink | None:
    """Return the target as our server sees it, after a few looks: a replica that connects just now is fit, too."""
    link: ReplicaLink | None = None
    for _ in range(LINK_LOOKS):
        seen = await observer.look()
        links = seen.status.replicas if seen.status is not None else ()
        link = next((link for link in links if link.name == target), None)
        if link is not None and link.streaming:
            break
        await clock.sleep(0.5)  # between two looks: no server tells when a replica connects
    return link


async def take_over(instance: Instance, term: int) -> tuple[Promotion, datetime | None]:
    """Make our replica the primary of `term`. The caller holds the Lease. May be repeated.

    Returns the promotion, and a moment (UTC) by which nothing had been written on the new line; None when that is not known:
    what an earlier try had promoted may have taken writes since.

    Raises DeadlineExceeded when the server did not do it in time.
    """
    replication = instance.engine.replication
    if replication is None:
        raise Unsupported("the engine has no replicas", object=f"engine {instance.engine.name}")
    context = instance.context
    began = instance.clock.now() if await _replicates(instance) else None
    async with asyncio.timeout(PROMOTE_DEADLINE + 10):
        promotion = await replication.promote(context, deadline=PROMOTE_DEADLINE)
    await reign(context, reigned=True, term=term)
    async with asyncio.timeout(30):
        await instance.engine.server.configure(context, Role.PRIMARY, None, running=True)
    log.info("promoted in term %s: line %s from %s at %s", term, promotion.line, promotion.parent, promotion.fork)
    return promotion, began


async def _replicates(instance: Instance) -> bool:
    """Whether our server is known to be a replica still."""
    try:
        async with asyncio.timeout(STATUS_DEADLINE):
            status = await instance.engine.server.status(instance.context)
    except (YobanError, TimeoutError):
        return False
    return status.role is Role.REPLICA
