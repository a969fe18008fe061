"""Fills an empty volume from a repository: base backup, log up to the target, and then a new life.

Guarantees: the target is reached exactly or the restore fails with a reason that names the object; what an earlier attempt
left is removed first; the repository that is restored from is only read (but for a note that keeps retention away). The
marker says `ready` only after the engine left recovery and its server was stopped cleanly.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

from opentelemetry import trace

from yoban.agent import bootstrap, volume
from yoban.agent.feeding import Feeding
from yoban.agent.fencing import Fencing
from yoban.agent.instance import Instance
from yoban.agent.prefetch import Prefetch
from yoban.agent.rate import Rate
from yoban.domain.gathering import history
from yoban.domain.recoverability import Plan, plan
from yoban.errors import NotFound, NotReady, Terminal, Unavailable, Unsupported, YobanError
from yoban.model.control import Progress, RestoreState
from yoban.model.instance import TargetDocument
from yoban.plugins import (
    InstanceContext,
    LogRequest,
    Recovery,
    RecoveryProgress,
    RecoveryReached,
    RecoveryState,
    RecoveryTarget,
    Role,
    StopMode,
    TargetType,
)
from yoban.repository import Manifest, Repository, RestoreProgress

log = logging.getLogger("yoban.agent.restorer")
tracer = trace.get_tracer("yoban.agent")
CATALOGUE_DEADLINE = 300.0
CARE_DEADLINE = 120.0
LOOK_EVERY = 0.5
FINISH_DEADLINE = 1800.0
STOP_DEADLINE = 1800.0
"""To leave recovery, or to stop cleanly, a server writes to disk what replay changed: gigabytes, on a slow volume for many
minutes. Cut short the restore would begin again from the base backup, and come to the same end."""
HOLD_FOR = timedelta(hours=1)


def wanted(target: TargetDocument) -> RecoveryTarget:
    """Return a target as engines know it. Raises InvalidInput for an unknown type."""
    try:
        kind = TargetType(target.type)
    except ValueError:
        raise Unsupported("there is no such type of target", object=f"target {target.type}") from None
    return RecoveryTarget(kind, target.value, target.exclusive, target.line, target.backup, tuple(target.skip))


class Restorer:
    """Restores; and answers what a server asks of the stored log, in a restore or as a replica that fell behind."""

    def __init__(self, instance: Instance, fencing: Fencing) -> None:
        self._instance = instance
        self._fencing = fencing
        self._prefetch: Prefetch | None = None

    # -- requests of the server --------------------------------------------------------------------------------------

    async def answer(self, request: LogRequest) -> None:
        """Put a segment where the server wants it. Raises NotFound only for what is proven absent."""
        if self._prefetch is not None:
            await self._prefetch.answer(request)
            return
        server = self._instance.supervision.server
        if server is not None and server.note.get("role") == Role.RECOVERY.value:
            raise Unavailable("the restore is being taken up again", object=request.segment)
        source = self._instance.engine.log_source
        repository = await self._instance.storage.archive(self._instance.configuration)
        if repository is None or source is None:
            raise NotFound("no log is stored", object=request.segment)
        await repository.log.fetch(source.classify(request.segment).line, request.segment, request.path)

    # -- the restore -------------------------------------------------------------------------------------------------

    async def restore(self, term: int) -> None:
        """Restore as the document asks. Called by the founder, with the Lease. Raises what made it impossible."""
        instance = self._instance
        recovery = instance.engine.recovery
        document = instance.document
        if recovery is None:
            raise Unsupported("the engine cannot restore", object=f"engine {instance.engine.name}")
        assert document.restore is not None
        if instance.supervision.server is not None:
            # Left by an agent before us; its requests have nobody to answer them.
            await instance.supervision.stop(StopMode.IMMEDIATE, 15.0)
        await bootstrap.check_versions(instance)
        await bootstrap.claim(instance)
        source = await instance.storage.source(instance.configuration)
        if source is None:
            raise NotReady("the store to restore from is not configured yet", object=document.restore.path)
        instance.board.set(restore=RestoreState(state="planning"))
        context = instance.context
        try:
            async with instance.storage.using(source), _held(source, context.incarnation):
                chosen = await self._plan(source, wanted(document.restore.target))
                await bootstrap.begin(context, instance, "restore")
                reached = await self._carry_out(source, recovery, chosen, context)
        except (YobanError, OSError) as error:
            state = instance.board.status.restore
            backup = state.backup if state is not None else ""
            instance.board.set(progress=None, restore=RestoreState(backup=backup, state="failed"))
            # These two are no word of a volume: an answer that did not come, and a server that is away.
            if not isinstance(error, OSError) or isinstance(error, TimeoutError | ConnectionError):
                log.error("the restore failed: %s", error or "it was not done in time")
                raise
            told = volume.refused(context, error)
            log.error("the restore failed: %s", told)
            raise told from error
        finally:
            instance.board.set(progress=None)
        await bootstrap.complete(context, instance, "restore", term=term, reigned=True)
        instance.board.set(
            restore=RestoreState(
                backup=chosen.backup.facts.id,
                line=reached.line,
                state="done",
                reached_position=reached.position,
                reached_time=reached.last_commit,
            )
        )
        log.info("restored to %s (last commit %s)", reached.position, reached.last_commit)

    async def _plan(self, source: Repository, target: RecoveryTarget) -> Plan:
        engine = self._instance.engine
        with tracer.start_as_current_span("restore plan"):
            async with asyncio.timeout(CATALOGUE_DEADLINE):
                catalogue = await source.catalog()
            if catalogue.identity is None:
                raise NotFound(
                    "there is no repository to restore from",
                    object=source.root,
                    fix="correct bootstrap.restore",
                    reason="NoRepository",
                )
            chosen = plan(history(catalogue, engine.log_source), target, engine)
        log.info(
            "restoring backup %s, target %s on line %s", chosen.backup.facts.id, target.type.value, chosen.recovery.line
        )
        return chosen

    async def _carry_out(
        self, source: Repository, recovery: Recovery, chosen: Plan, context: InstanceContext
    ) -> RecoveryReached:
        instance = self._instance
        backup = chosen.backup.facts.id
        manifest = await source.backups.manifest(backup)
        instance.board.set(restore=RestoreState(backup=backup, line=chosen.recovery.line, state="copying"))
        with tracer.start_as_current_span("restore copy"):
            await self._copy(source, recovery, manifest, context)
        with tracer.start_as_current_span("restore replay"):
            async with self._fencing.lifted():
                return await self._replay(source, recovery, chosen, manifest, context)

    async def _copy(self, source: Repository, recovery: Recovery, manifest: Manifest, context: InstanceContext) -> None:
        board, rate = self._instance.board, Rate(self._instance.clock)

        def tell(progress: RestoreProgress) -> None:
            board.set(
                progress=Progress(
                    what="copying the base backup",
                    done=progress.done,
                    total=progress.total,
                    rate=rate.at(progress.done),
                )
            )

        def place(path: str) -> Path:
            return recovery.place(context, path)

        await asyncio.to_thread(volume.check_room, context, manifest, place)
        await source.reader(manifest, progress=tell).restore(place)
        await recovery.placed(context)

    async def _replay(
        self, source: Repository, recovery: Recovery, chosen: Plan, manifest: Manifest, context: InstanceContext
    ) -> RecoveryReached:
        instance = self._instance
        log_source = instance.engine.log_source
        await self._prepare(recovery, chosen, context)
        if log_source is not None and chosen.recovery.has_log:
            folder = (context.log if context.log is not None else context.data).parent / "prefetch"
            self._prefetch = Prefetch(source, log_source, chosen, manifest.segment_bytes, folder, instance.clock)
        feeding: Feeding | None = None
        try:
            if self._prefetch is not None:
                await self._prefetch.start()
            instance.board.set(
                phase="replaying",
                progress=Progress(what="replaying the log"),
                restore=RestoreState(backup=manifest.id, line=chosen.recovery.line, state="replaying"),
            )
            if recovery.feeds and self._prefetch is not None:
                feeding = Feeding(recovery, chosen.recovery, self._prefetch, instance.board)
                await feeding.on(context)
            await self._start(context)
            await self._reach(recovery, chosen, context, feeding)
            async with asyncio.timeout(FINISH_DEADLINE):
                reached = await recovery.finish(context, chosen.recovery)
            await self._stop(context)
            return reached
        finally:
            if instance.supervision.server is not None:
                with contextlib.suppress(YobanError):
                    await instance.supervision.stop(StopMode.IMMEDIATE, 15.0)
            if feeding is not None:
                await feeding.close()
            if self._prefetch is not None:
                await self._prefetch.close()
                self._prefetch = None

    async def _prepare(self, recovery: Recovery, chosen: Plan, context: InstanceContext) -> None:
        """Make the next start a recovery, with settings as the data demands them now."""
        async with asyncio.timeout(CARE_DEADLINE):
            await self._instance.engine.server.configure(context, Role.RECOVERY, None, running=False)
            await recovery.prepare(context, chosen.recovery)

    async def _start(self, context: InstanceContext) -> None:
        instance = self._instance
        await instance.supervision.start(instance.engine.server.command(context), {"role": Role.RECOVERY.value})

    async def _stop(self, context: InstanceContext) -> None:
        await self._instance.engine.server.close(context)
        if not await self._instance.supervision.stop(StopMode.CLEAN, STOP_DEADLINE):
            raise Unavailable("the restored server did not stop", object=context.name)

    async def _reach(self, recovery: Recovery, chosen: Plan, context: InstanceContext, feeding: Feeding | None) -> None:
        """Wait until the target is reached, and hand over the log as it is taken. Raises what made it impossible."""
        instance = self._instance
        restarted = ""
        while True:
            seen = instance.supervision.changed.serial
            ended = instance.supervision.gone()
            progress = await self._look(recovery, chosen, context)
            if self._prefetch is not None and self._prefetch.failure is not None:
                raise self._prefetch.failure
            if progress is not None and progress.state is RecoveryState.REACHED:
                return
            if progress is not None and progress.state is RecoveryState.WAITING and feeding is not None:
                await feeding.on(context)
                continue
            restart = progress is not None and progress.state is RecoveryState.RESTART
            if progress is not None and restart and progress.message != restarted:
                log.info("the server is started anew to replay on: %s", progress.message)
                restarted = progress.message
                await self._stop(context)
                await self._prepare(recovery, chosen, context)
                await self._start(context)
                continue
            failed = progress is not None and progress.state is RecoveryState.FAILED
            if failed or restart or ended:
                message = progress.message if progress is not None and progress.message else "the server ended"
                raise Terminal(
                    "the target was not reached",
                    object=f"backup {chosen.backup.facts.id}",
                    cause=message,
                    fix="choose another target or backup",
                    reason="RestoreFailed",
                )
            await instance.supervision.changed.wait(seen, LOOK_EVERY)

    async def _look(self, recovery: Recovery, chosen: Plan, context: InstanceContext) -> RecoveryProgress | None:
        try:
            async with asyncio.timeout(30):
                progress = await recovery.progress(context, chosen.recovery)
        except TimeoutError:
            return None
        except YobanError as error:
            if isinstance(error, Terminal):
                raise
            return None
        board = self._instance.board
        state = board.status.restore
        if state is not None and progress.position is not None:
            board.set(
                restore=RestoreState(
                    backup=state.backup,
                    line=state.line,
                    state="replaying",
                    reached_position=progress.position,
                    reached_time=progress.last_commit,
                )
            )
        return progress


@contextlib.asynccontextmanager
async def _held(source: Repository, name: str) -> AsyncIterator[None]:
    """Ask retention to spare everything from before the catalogue is read; where we may not write, it is restored all the
    same."""
    async with contextlib.AsyncExitStack() as stack:
        try:
            await stack.enter_async_context(source.restores.hold(name, ttl=HOLD_FOR))
        except YobanError as error:
            log.warning("what is restored cannot be kept from retention meanwhile: %s", error)
        yield
