"""The life of one instance: look at everything, decide one step, do it, again.

Guarantees: one step at a time; a step is interrupted only when the Pod ends; a step that fails is told as a problem and
tried again with back-off. What must not wait for a step (the Lease, the heartbeat, the probes, the shipper) has tasks of
its own. The decision itself is `yoban.agent.decisions.decide`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from datetime import datetime
from typing import Any, Protocol

from opentelemetry import trace

from yoban.agent import bootstrap, switchover
from yoban.agent.context import own_member, peer_of
from yoban.agent.decisions import Decision, Running, Situation, Step, Volume, decide
from yoban.agent.ending import RESTART_DEADLINE, Ending
from yoban.agent.instance import Instance
from yoban.agent.lease import LeaseView, PrimaryLease
from yoban.agent.marker import holds_data, read_marker
from yoban.agent.observer import Observer
from yoban.agent.ownership import Ownership
from yoban.agent.pace import Pace
from yoban.errors import DeadlineExceeded, Retryable, Terminal, Unavailable, YobanError
from yoban.model.control import LeaseState, Problem, SwitchoverState
from yoban.model.instance import LEASE_SWITCHOVER, Marker
from yoban.plugins import BrokenReplica, InstanceContext, Peer, Promotion, Role, StopMode

log = logging.getLogger("yoban.agent.life")
tracer = trace.get_tracer("yoban.agent")

TURN_EVERY = 2.0
CARE_DEADLINE = 20.0
ACCOUNTS_DEADLINE = 100.0
"""Engines know better how long theirs take; this only bounds one that hangs."""
DIAGNOSE_EVERY = 10.0
TELL_FOR = 30.0
"""Seconds for which it stays told that data had to be copied anew, so that the operator hears of it in any case."""
ACCOUNTS_EVERY = 30.0
FORCE_DEADLINE = 15.0
PHASES = {
    Step.WAIT: "waiting",
    Step.STOP: "stopping",
    Step.FORCE: "stopping",
    Step.INITIALISE: "initializing",
    Step.RESTORE: "restoring",
    Step.PROVISION: "cloning",
    Step.RUN_PRIMARY: "running",
    Step.RUN_REPLICA: "running",
}


class Ended(Exception):
    """The server has ended because the Pod ends: so does the agent."""


class Archiver(Protocol):
    """What a life asks of the log shipper."""

    async def drain(self, seconds: float) -> bool:
        """Store what the log has, within so many seconds; False when something is left."""
        ...

    def reigns(self, term: int, promotion: Promotion | None, began: datetime | None = None) -> None:
        """We reign in `term` (by this promotion) from now on; term 0: we do not."""
        ...

    def follows(self, follows: bool) -> None:
        """Whether another instance reigns, and stores the log first."""
        ...


class Restorer(Protocol):
    """What a life asks of the restorer."""

    async def restore(self, term: int) -> None:
        """Fill the volume from a repository, up to the marker."""
        ...


class Life:
    """`run` lives until the Pod ends."""

    def __init__(
        self, instance: Instance, lease: PrimaryLease, observer: Observer, archiver: Archiver, restorer: Restorer
    ) -> None:
        self._instance = instance
        self._lease = lease
        self._observer = observer
        self._archiver = archiver
        self._restorer = restorer
        self._ownership = Ownership(instance)
        self._ending = Ending()
        self._broken = ""
        self._told_until = float("-inf")
        self._diagnosed = 0.0
        self._accounts: tuple[float, object] = (0.0, None)
        self._last: Decision | None = None
        self._pace = Pace(instance.clock)
        self._marker: Marker | None = None
        self._rejected: dict[str, str] = {}
        self.running = Running.NOTHING
        self.role = ""
        self.cared = False
        """Whether this server got its settings and accounts since it was started or promoted."""

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Live. Returns when the Pod ends and the server has ended."""
        wake = self._instance.wake
        while True:
            seen = wake.serial
            try:
                pause = await self._turn()
            except Ended:
                return
            await wake.wait(seen, pause)

    async def _turn(self) -> float:
        instance = self._instance
        if instance.configurations.current is None:
            if instance.supervision.stop_by is not None:
                await self._stop()
            instance.board.set(phase="waiting", message="there is no document yet")
            return TURN_EVERY
        try:
            now = await self.gather()
        except Exception as error:
            self._failed("gather", error, key="gather")
            if instance.supervision.stop_by is not None:
                await self._stop()
            return TURN_EVERY
        instance.board.problem("gather", None)
        decision = decide(now)
        self._tell(now, decision)
        if decision.step in (Step.WAIT,):
            await self._settle(now)
            return TURN_EVERY
        if self._pace.asked is not instance.configurations.current:
            self._pace.asked, self._pace.due = instance.configurations.current, 0.0
        if self._pace.due > instance.clock.monotonic() and decision.step not in (
            Step.STOP,
            Step.FENCE,
            Step.FORCE,
        ):
            return self._pace.due - instance.clock.monotonic()
        try:
            if decision.step is Step.STOP:
                await self._stop()
            await self._uninterrupted(self._act(decision, now))
        except Ended:
            raise
        except Exception as error:
            self._failed(decision.step.value, error)
            return self._pace.failed(costly=decision.step is Step.RESTORE and isinstance(error, Terminal))
        instance.board.problem("step", None)
        if decision.step in (Step.RUN_PRIMARY, Step.RUN_REPLICA):
            server = instance.supervision.server
            if server is not None and instance.clock.now().timestamp() - server.since > 30:
                self._pace.failures = 0
            return TURN_EVERY
        if decision.step in (Step.START_PRIMARY, Step.START_REPLICA):
            # A server that ends at once must not be started in a hot loop.
            self._pace.failed()
        instance.wake.ring()
        return 0.0

    async def _uninterrupted(self, work: Coroutine[Any, Any, None]) -> None:
        """Do `work`, unless the Pod ends meanwhile."""
        supervision = self._instance.supervision
        task = asyncio.create_task(work)
        try:
            while not task.done():
                seen = supervision.changed.serial
                if supervision.stop_by is not None:
                    break
                watch = asyncio.create_task(supervision.changed.wait(seen, 60.0))
                await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
                watch.cancel()
        finally:
            if not task.done():
                task.cancel()
                await asyncio.wait({task})
        if not task.cancelled():
            task.result()

    def _failed(self, what: str, error: Exception, *, key: str = "step") -> None:
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded("it was not done in time")
        elif not isinstance(error, YobanError):
            log.error("%s failed", what, exc_info=error)
            error = Terminal(f"{type(error).__name__}: {error}", reason="InternalError")
        log.warning("%s failed: %s", what, error, extra={"reason": error.reason})
        self._instance.board.problem(key, Problem(reason=error.reason, message=f"{what}: {error}", fix=error.fix))
        if isinstance(error, Terminal):
            self._instance.board.set(phase="failed", message=str(error))

    # -- looking -----------------------------------------------------------------------------------------------------

    async def gather(self) -> Situation:
        """Look at everything a decision needs. Raises what a volume that cannot be read says."""
        instance = self._instance
        document = instance.document
        context = instance.context
        marker = self._marker = await asyncio.to_thread(read_marker, context)
        server = instance.supervision.server
        view = self._lease.view()
        volume = await self._volume(context, marker, running=server is not None)
        reigned = marker is not None and marker.reigned
        if server is None:
            running = Running.NOTHING
            self._broken = ""
        elif server.mode:
            running = Running.STOPPING
        elif server.note.get("role") == Role.RECOVERY.value:
            running = Running.RECOVERY
        else:
            running = Running.PRIMARY if reigned else Running.REPLICA
        if running is Running.REPLICA:
            await self._diagnose(context)
        elif running is Running.PRIMARY:
            instance.board.problem("replica", None)
        request = document.switchover
        awaited = request is not None and request.target == context.name and request.id != view.switchover
        handing = view.known and not view.holder and context.name in (view.successor, view.last_holder)
        self._lease.eager = not view.held and (awaited or handing)
        return Situation(
            me=context.name,
            incarnation=document.incarnation,
            members=tuple(member.name for member in document.members),
            founder=document.founder,
            restore=document.restore is not None,
            volume=volume,
            reigned=reigned,
            reigned_in=marker.term if marker is not None else 0,
            running=running,
            lease=view,
            identity=await self._ownership.look(view),
            replicas=instance.engine.replication is not None,
            covers=self._covers(view),
            switchover=request.target if request is not None else "",
            switchover_id=request.id if request is not None else "",
            restart=server is not None and str(server.note.get("restart", "")) != document.restart_of(context.name),
            rebuild=self._broken,
            stopping=instance.supervision.stop_by is not None,
            paused=document.paused,
            overdue=self._ending.overdue(server, instance.clock.monotonic()),
        )

    async def _volume(self, context: InstanceContext, marker: Marker | None, *, running: bool) -> Volume:
        if marker is None:
            return Volume.FOREIGN if await asyncio.to_thread(holds_data, context) else Volume.EMPTY
        if marker.incarnation != context.incarnation:
            return Volume.FOREIGN
        if marker.state != "ready":
            return Volume.MAKING
        if running:
            return Volume.READY
        async with asyncio.timeout(CARE_DEADLINE):
            complete = await self._instance.engine.server.initialized(context)
        return Volume.READY if complete else Volume.DAMAGED

    def _covers(self, view: LeaseView) -> bool | None:
        status = self._observer.last.status
        if view.successor != self._instance.environment.instance or not view.position:
            return None
        if status is None or status.position is None:
            return None
        positions = self._instance.engine.positions
        return positions.covers(status.position, positions.parse(view.position))

    async def _diagnose(self, context: InstanceContext) -> None:
        replication = self._instance.engine.replication
        now = self._instance.clock.monotonic()
        if replication is None or not self._observer.last.accepting or now - self._diagnosed < DIAGNOSE_EVERY:
            return
        self._diagnosed = now
        try:
            async with asyncio.timeout(CARE_DEADLINE):
                broken = await replication.diagnose(context)
        except (YobanError, TimeoutError) as error:
            log.debug("diagnosis failed: %s", error)
            return
        self._broken = broken.why if broken is not None and broken.rebuild else ""
        if broken is not None or now >= self._told_until:
            self._tell_broken(broken)

    def _tell_broken(self, broken: BrokenReplica | None) -> None:
        """Tell why this replica cannot follow, for long enough: a small copy is made before anybody asks again."""
        if broken is not None and broken.rebuild:
            self._told_until = self._instance.clock.monotonic() + TELL_FOR
        self._instance.board.problem("replica", _problem(broken))

    def _tell(self, now: Situation, decision: Decision) -> None:
        instance = self._instance
        board = instance.board
        last = self._last
        if last is None or (last.step, last.why, last.peer) != (decision.step, decision.why, decision.peer):
            log.info("next: %s%s", decision.step.value, f" ({decision.why})" if decision.why else "")
        self._last = decision
        if decision.step in PHASES:
            phase = PHASES[decision.step]
            if decision.step is Step.WAIT and now.running is not Running.NOTHING:
                phase = "running"
            board.set(phase=phase, message=decision.why)
        elif decision.step in (Step.START_PRIMARY, Step.START_REPLICA):
            board.set(phase="starting", message=decision.why)
        problem = None
        if decision.problem:
            problem = Problem(reason=decision.problem, message=decision.why, fix=decision.fix)
        board.problem("decision", problem)
        server = instance.supervision.server
        board.set(
            data={Volume.READY: "ready", Volume.MAKING: "making", Volume.EMPTY: "empty"}.get(now.volume, "foreign"),
            generation=instance.document.generation,
            revision=instance.document.revision,
            restart=str(server.note.get("restart", "")) if server is not None else "",
            lease=LeaseState(
                holder=now.lease.holder, held=now.lease.held, term=now.lease.term, expires_in=now.lease.expires_in
            ),
        )
        reigning = now.running is Running.PRIMARY and now.lease.held
        if not reigning:
            self._archiver.reigns(0, None)
        if now.running is not self.running:
            self.cared = False
        others = now.lease.holder not in ("", now.me)
        self._archiver.follows(now.running is Running.REPLICA and others)
        self.running = now.running
        role = "primary" if reigning else ""
        if now.running is Running.REPLICA and decision.step is Step.RUN_REPLICA:
            role = "replica"
        if role != self.role:
            self.role = role
            board.changed.ring()
        handover = board.status.switchover
        if handover.state == "running" and others and not now.lease.held:
            board.set(switchover=SwitchoverState(id=handover.id, state="done", message=f"{now.lease.holder} reigns"))

    async def _settle(self, now: Situation) -> None:
        if now.running is Running.NOTHING:
            await self._lease.settled()

    # -- doing -------------------------------------------------------------------------------------------------------

    async def _act(self, decision: Decision, now: Situation) -> None:
        instance = self._instance
        await self._settle(now)
        acts: dict[Step, Callable[[], Awaitable[None]]] = {
            Step.FENCE: self._fence,
            Step.FORCE: self._fence,
            Step.TAKE: lambda: self._take(decision, now),
            Step.INITIALISE: lambda: bootstrap.initialise(instance, decision.term),
            Step.RESTORE: lambda: self._restorer.restore(decision.term),
            Step.ANNOUNCE: lambda: bootstrap.announce(instance, self._lease),
            Step.PROVISION: lambda: bootstrap.provision(instance, self._peer(decision.peer)),
            Step.START_PRIMARY: lambda: self._start_primary(decision),
            Step.START_REPLICA: lambda: self._start_replica(decision),
            Step.PROMOTE: lambda: self._promote(decision),
            Step.HAND_OVER: self._hand_over,
            Step.DECLINE: self._decline,
            Step.RESTART: self._end_server,
            Step.REBUILD: lambda: self._rebuild(decision),
            Step.RUN_PRIMARY: lambda: self._care(Role.PRIMARY, None, decision.term),
            Step.RUN_REPLICA: lambda: self._care(Role.REPLICA, decision.peer),
            Step.LET_GO: self._let_go,
        }
        if decision.step in (Step.RUN_PRIMARY, Step.RUN_REPLICA):
            await acts[decision.step]()
            return
        with tracer.start_as_current_span(f"agent {decision.step.value}"):
            await acts[decision.step]()

    def _peer(self, name: str) -> Peer:
        peer = peer_of(self._instance.document, name)
        if peer is None:
            raise Terminal("it is no member of this Database", object=name, reason="UnknownMember")
        return peer

    async def _take(self, decision: Decision, now: Situation) -> None:
        if await self._lease.take(decision.term) and now.lease.successor == now.me:
            self._instance.board.set(
                switchover=SwitchoverState(id=now.lease.switchover, state="running", message="taking over")
            )
        elif now.lease.successor and now.lease.successor != now.me and self._lease.view().held:
            self._instance.board.set(
                switchover=SwitchoverState(id=now.lease.switchover, state="failed", message=decision.why)
            )

    async def _let_go(self) -> None:
        await self._lease.give_up()

    async def _fence(self) -> None:
        await self._instance.supervision.stop(StopMode.IMMEDIATE, FORCE_DEADLINE)

    async def _start_primary(self, decision: Decision) -> None:
        context = self._instance.context
        await bootstrap.check_versions(self._instance)
        await bootstrap.reign(context, reigned=True, term=decision.term)
        await self._configure(Role.PRIMARY, None, running=False)
        if not self._lease.view().held:
            raise Unavailable("the Lease is not ours any more", object=context.name)
        await self._start(Role.PRIMARY)

    async def _start_replica(self, decision: Decision) -> None:
        instance = self._instance
        context = instance.context
        replication = instance.engine.replication
        await bootstrap.check_versions(instance)
        upstream = peer_of(instance.document, decision.peer) if decision.peer else None
        if replication is not None and upstream is not None:
            broken = await replication.prepare_follow(context, upstream)
            if broken is not None and broken.rebuild:
                log.warning("this data cannot follow %s any more: %s", upstream.name, broken.why)
                self._tell_broken(broken)
                await bootstrap.provision(instance, upstream)
        await bootstrap.reign(context, reigned=False)
        await self._configure(Role.REPLICA, upstream, running=False)
        await self._start(Role.REPLICA)

    async def _start(self, role: Role) -> None:
        instance = self._instance
        context = instance.context
        command = instance.engine.server.command(context)
        restart = instance.document.restart_of(context.name)
        # What was told before may have been lifted since, for a restore.
        await self._lease.tell()
        await instance.supervision.start(command, {"role": role.value, "restart": restart})

    async def _promote(self, decision: Decision) -> None:
        promotion, began = await switchover.take_over(self._instance, decision.term)
        self._archiver.reigns(decision.term, promotion, began)
        handover = self._instance.board.status.switchover
        if handover.state == "running":
            self._instance.board.set(
                switchover=SwitchoverState(id=handover.id, state="done", message=f"reigning in term {decision.term}")
            )

    async def _hand_over(self) -> None:
        request = self._instance.document.switchover
        assert request is not None
        await switchover.hand_over(self._instance, self._lease, self._observer, request, self._archiver.drain)

    async def _decline(self) -> None:
        request = self._instance.document.switchover
        assert request is not None
        await self._lease.note({LEASE_SWITCHOVER: request.id})
        me = self._instance.environment.instance
        done = request.target == me
        self._instance.board.set(
            switchover=SwitchoverState(
                id=request.id,
                state="done" if done else "failed",
                message=f"{me} reigns already" if done else f"{request.target or 'nobody'} cannot take over",
            )
        )

    async def _end_server(self) -> None:
        """Stop the server cleanly, by force when it does not end; the next step starts it again."""
        instance = self._instance
        await instance.engine.server.close(instance.context)
        supervision = instance.supervision
        if not await supervision.stop(StopMode.CLEAN, RESTART_DEADLINE) and not await supervision.stop(
            StopMode.IMMEDIATE, FORCE_DEADLINE
        ):
            raise Unavailable("the server does not end", object=instance.environment.instance)

    async def _rebuild(self, decision: Decision) -> None:
        """Empty the volume for a new copy, once there is somebody to copy from: bad data may be the last there is."""
        instance = self._instance
        replication = instance.engine.replication
        assert replication is not None
        await self._end_server()
        try:
            await replication.prepare_follow(instance.context, self._peer(decision.peer))
        except Retryable:
            raise
        except YobanError as error:
            log.info("no reason to keep what cannot be read: %s", error)
        await bootstrap.begin(instance.context, instance, "copy")

    async def _stop(self) -> None:
        """End everything because the Pod ends."""
        instance = self._instance
        supervision = instance.supervision
        # A start may have been broken off by this end, before anybody learned that the server runs.
        await supervision.learn()
        stop_by = supervision.stop_by or instance.clock.boottime()
        if supervision.server is not None:
            instance.board.set(phase="stopping", ready=False)
            left = stop_by - instance.clock.boottime()
            if self._lease.view().held and left > 10:
                await self._archiver.drain(min(5.0, left / 4))
            mode = supervision.server.unattended
            if instance.configurations.current is not None:
                await instance.engine.server.close(instance.context)
                mode = StopMode.CLEAN
            left = stop_by - instance.clock.boottime()
            if not await supervision.stop(mode, max(0.0, left - 1)):
                await supervision.stop(StopMode.IMMEDIATE, FORCE_DEADLINE)
        if self._lease.view().mine and supervision.gone():
            try:
                async with asyncio.timeout(5):
                    await self._lease.give_up()
            except (YobanError, TimeoutError) as error:
                log.warning("the Lease could not be given up; it runs out by itself: %s", error)
        instance.board.set(phase="stopped")
        raise Ended

    # -- caring for a running server ---------------------------------------------------------------------------------

    async def _configure(self, role: Role, upstream: Peer | None, *, running: bool) -> None:
        instance = self._instance
        async with asyncio.timeout(CARE_DEADLINE * 3):
            result = await instance.engine.server.configure(instance.context, role, upstream, running=running)
        if result.changed:
            log.info("settings changed: %s", ", ".join(result.changed))
        rejected = {problem.name: problem.message for problem in result.rejected}
        if rejected != self._rejected:
            self._rejected = rejected
            instance.board.set(rejected=rejected)
        problem = None
        if rejected:
            named = "; ".join(f"{name}: {text}" for name, text in rejected.items())
            problem = Problem(
                reason="SettingsRejected",
                message=f"the server rejects settings, the last good ones stay in force: {named}",
                fix="correct spec.settings",
            )
        instance.board.problem("settings", problem)

    async def _care(self, role: Role, upstream: str | None, term: int = 0) -> None:
        """Keep a running server as the document wants it; a primary reigns in `term`."""
        instance = self._instance
        if not self._observer.last.accepting:
            return
        document = instance.document
        if role is Role.PRIMARY:
            told, me = instance.board.status.switchover, instance.environment.instance
            members = [member.name for member in document.members]
            broken = switchover.broken_off(document.switchover, self._lease.view(), told, me, members)
            if broken is not None:
                log.warning("switchover %s: %s", broken.id, broken.message)
                instance.board.set(switchover=broken)
        member = own_member(instance.environment, document)
        if member is None and role is Role.REPLICA:
            return
        await self._configure(role, peer_of(document, upstream) if upstream else None, running=True)
        if role is Role.REPLICA:
            self.cared = True
            return
        context = instance.context
        if self._lease.view().held:
            # The term that was decided with: the Lease may tell of another one's by now.
            self._archiver.reigns(term, None)
        at, seen = self._accounts
        now = instance.clock.monotonic()
        if context.accounts != seen or not self.cared or now - at > ACCOUNTS_EVERY:
            async with asyncio.timeout(ACCOUNTS_DEADLINE):
                changed = await instance.engine.server.ensure_accounts(context)
            for line in changed:
                log.info("accounts: %s", line)
            self._accounts = (now, context.accounts)
        self.cared = True
        if instance.engine.replication is not None:
            async with asyncio.timeout(CARE_DEADLINE):
                for line in await instance.engine.replication.manage_members(context, context.peers):
                    log.info("members: %s", line)


def _problem(broken: BrokenReplica | None) -> Problem | None:
    """What is told of a replica until it follows again."""
    if broken is None:
        return None
    fix = "its data is copied anew from the primary" if broken.rebuild else ""
    return Problem(reason="ReplicaBroken", message=broken.why, fix=fix)
