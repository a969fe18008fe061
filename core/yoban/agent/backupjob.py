"""Makes one base backup: copy, end position, proof that the log up to it is stored, manifest last.

Guarantees: it counts only when everything between its first and last log segment is stored (one that names no segments is
consistent by itself); one that fails or is cancelled
leaves nothing in the store and releases the server. Progress is told at most every 5 s.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from opentelemetry import trace

from yoban.agent.instance import Instance
from yoban.agent.jobs import Report
from yoban.agent.rate import Rate
from yoban.agent.shipper import Shipper
from yoban.agent.shipping import Shipping
from yoban.errors import Retryable, Unavailable, Unsupported
from yoban.model.control import BackupResult, JobRequest, Progress, ShipRequest
from yoban.plugins import BackupEnd, BackupRequest
from yoban.plugins.lines import absent
from yoban.repository import BackupMeta, BackupProgress, Repository
from yoban.telemetry import continued, trace_id

log = logging.getLogger("yoban.agent.backup")
tracer = trace.get_tracer("yoban.agent")
PROGRESS_EVERY = 5.0
SHIP_DEADLINE = 120.0
SHIP_TRIES = 5


class BackupJob:
    """What a job of kind `backup` does."""

    def __init__(self, instance: Instance, shipper: Shipper, shipping: Shipping, term: Callable[[], int]) -> None:
        self._instance = instance
        self._shipper = shipper
        self._shipping = shipping
        self._term = term

    async def run(self, request: JobRequest, report: Report) -> BackupResult:
        """Make the backup `request.id` and return what its manifest says.

        Raises what engine and store say; Retryable means that another try may succeed.
        """
        instance = self._instance
        facet = instance.engine.base_backup
        if facet is None:
            raise Unsupported("the engine has no base backups", object=f"engine {instance.engine.name}")
        with continued(request.traceparent), tracer.start_as_current_span("backup") as span:
            span.set_attribute("yoban.backup", request.id)
            repository = await self._shipper.repository()
            context = instance.context
            meta = BackupMeta(
                engine=instance.engine.name,
                incarnation=context.incarnation,
                instance=context.name,
                term=self._term(),
                trace=trace_id(request.traceparent),
            )
            # To the end with the credentials that it began with, also where others are given meanwhile.
            async with (
                instance.storage.using(repository),
                repository.backups.writer(request.id, meta, progress=Teller(instance, report)) as writer,
            ):
                async with facet.backup(context, BackupRequest(request.id)) as session:
                    with tracer.start_as_current_span("backup copy"):
                        await writer.store(session)
                    with tracer.start_as_current_span("backup finish"):
                        end = await session.finish()
                await writer.add(end.items)
                segment_bytes = 0
                if instance.engine.log_source is not None and end.last_segment:
                    report(Progress(what="waiting for the log to be stored", done=session.total_bytes))
                    with tracer.start_as_current_span("backup log"):
                        segment_bytes = await instance.engine.log_source.segment_bytes(context)
                        await self._log_stored(repository, request, end, segment_bytes)
                manifest = await writer.complete(session.begin, end, segment_bytes=segment_bytes)
            log.info("backup %s is complete: %d bytes, %d stored", request.id, manifest.bytes, manifest.stored_bytes)
            return BackupResult(
                id=manifest.id,
                line=manifest.line,
                begin_position=manifest.begin_position,
                end_position=manifest.end_position,
                begin_time=manifest.begin_time,
                end_time=manifest.end_time,
                bytes=manifest.bytes,
                stored_bytes=manifest.stored_bytes,
                frozen_seconds=manifest.frozen_seconds,
            )

    async def abandon(self) -> None:
        """Release what a lost agent's backup may still hold on the server."""
        facet = self._instance.engine.base_backup
        if facet is not None:
            async with asyncio.timeout(30):
                await facet.abandon(self._instance.context)

    async def _log_stored(
        self, repository: Repository, request: JobRequest, end: BackupEnd, segment_bytes: int
    ) -> None:
        source = self._instance.engine.log_source
        assert source is not None
        ship = ShipRequest(
            line=source.classify(end.last_segment).line, segment=end.last_segment, deadline_seconds=SHIP_DEADLINE
        )
        await self._ship(request.shipper, ship)
        stored = [segment.name for segment in await repository.log.stored(ship.line)]
        missing = absent(stored, end.first_segment, end.last_segment, source, segment_bytes)
        if missing:
            raise Unavailable(
                f"{len(missing)} segments that the backup needs are not stored, the first is {missing[0]}",
                object=f"backup {request.id}",
                fix="see why storing the log fails; the backup is made again",
                reason="LogGap",
            )

    async def _ship(self, shipper: str, ship: ShipRequest) -> None:
        for attempt in range(SHIP_TRIES):
            try:
                if shipper:
                    await self._shipping.at(shipper, ship)
                else:
                    async with asyncio.timeout(SHIP_DEADLINE):
                        await self._shipping.here(ship)
                return
            except TimeoutError:
                raise Unavailable(
                    "the log up to the backup's end was not stored in time",
                    object=ship.segment,
                    cause=self._shipper.error,
                    reason="LogGap",
                ) from None
            except Retryable as error:
                if attempt == SHIP_TRIES - 1:
                    raise
                log.warning("asking for the log again: %s", error)
                await self._instance.clock.sleep(2.0 * (attempt + 1))


class Teller:
    """Turns the writer's progress into reports, at most one every 5 s."""

    def __init__(self, instance: Instance, report: Report) -> None:
        self._clock = instance.clock
        self._rate = Rate(instance.clock)
        self._report = report
        self._told = float("-inf")

    def __call__(self, progress: BackupProgress) -> None:
        """Take note."""
        rate = self._rate.at(progress.done)
        now = self._clock.monotonic()
        if now - self._told >= PROGRESS_EVERY:
            self._told = now
            self._report(Progress(what="copying", done=progress.done, total=progress.total, rate=rate))
