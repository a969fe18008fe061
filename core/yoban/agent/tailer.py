"""Stores the growing end of the log, and the moment M up to which everything acknowledged is stored.

Guarantees: only flushed bytes are stored, each once (as append-only chunks), none when nothing was written; a mark is written
only after everything before it is stored: earlier segments, the tail, and the term's record. While the server idles M
moves on. Only the reigning primary does this; the others read how far it is. The engine is told, so that it may recycle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from opentelemetry import metrics

from yoban.agent.instance import Instance
from yoban.agent.reserve import Reserve
from yoban.agent.room import Level, Watch
from yoban.agent.shipper import Shipper
from yoban.domain.summary import size, span
from yoban.errors import IntegrityError, Retryable, YobanError
from yoban.model.control import ArchiveState, Problem
from yoban.plugins import LogSource, LogTail, Position, Promotion
from yoban.repository import Mark, Repository, TermRecord

log = logging.getLogger("yoban.agent.tailer")
meter = metrics.get_meter("yoban.agent")

IDLE_MARK_EVERY = 10.0
FOLLOW_EVERY = 30.0
RECORD_EVERY = 300.0
"""Seconds between looks whether the record of our reign is still there."""
FORKS_TOLD = 16
"""Forks of earlier lines that a record tells, the last ones; what lies further back earlier records tell."""
LONGEST_CHUNK = 8 << 20
COMPACT_ABOVE = 64
"""Chunks of one segment; then they are joined into one."""
FIGURES_EVERY = 5.0
SHORTEST_PAUSE = 0.25
FAILING_AFTER = 3
"""Failures in a row before it is told: a server that restarts is no store that is down."""
ROUND_DEADLINE = 120.0


class _ReignOver(Exception):
    """We do not reign any more, or in another term: what a round began is not carried on."""


@dataclass(slots=True)
class _Sent:
    """What was sent of the segment being written."""

    line: str
    segment: str
    term: int
    end: int
    chunks: int = 0


class Tailer:
    """`run` keeps the tail stored while `reigns` says that we reign; `drain` does it once, now."""

    def __init__(self, instance: Instance, shipper: Shipper) -> None:
        self._instance = instance
        self._shipper = shipper
        self._term = 0
        self._behind = ""
        self._promotion: Promotion | None = None
        self._began: datetime | None = None
        self._recorded: TermRecord | None = None
        self._record_seen_at = 0.0
        self._sent: _Sent | None = None
        self._chunked: list[tuple[str, str]] = []
        self._mark: Mark | None = None
        self._marked_at = 0.0
        self._unmarked = 0.0
        """When this term began for us; none of its marks has been seen by then."""
        self._followed_at = float("-inf")
        self._busy = asyncio.Lock()
        self._failing_since: datetime | None = None
        self._failures = 0
        self._figures_at = float("-inf")
        self._watch = Watch()
        self._unread = ""
        self._described: Mapping[str, Any] = {}
        self._segment_bytes = 0
        self._unforeseen: set[type[Exception]] = set()
        meter.create_observable_gauge(
            "yoban.archive.lag", callbacks=[self._observe_lag], unit="s", description="Age of what is not stored yet"
        )

    # -- what the life says -----------------------------------------------------------------------------------------

    def reigns(self, term: int, promotion: Promotion | None, began: datetime | None = None) -> None:
        """We reign in `term` (by this promotion, before which, at `began`, nothing was written on its line) from now on;
        term 0: we do not."""
        if promotion is not None or term != self._term:
            # That of another reign would make a wrong record of this one, which stays.
            self._promotion, self._began = promotion, began
        if term != self._term:
            self._term = term
            self._sent = None
            self._unmarked = time.monotonic()
            # Whoever reigns next tells how it fares; nothing here would ever take it back.
            self._failing_since, self._failures = None, 0
            if term:
                self._shipper.kick.ring()
        self._shipper.reigning = term > 0

    def follows(self, follows: bool) -> None:
        """Another instance reigns, and stores the log first."""
        self._shipper.follows = follows

    async def drain(self, seconds: float) -> bool:
        """Store everything that the log has now, within so many seconds; False when something is left."""
        until = time.monotonic() + seconds
        done = await self._shipper.drained(seconds)
        if self._stores():
            try:
                async with asyncio.timeout(max(0.1, until - time.monotonic())):
                    await self._round()
            except Exception as error:
                # Also what no plugin may raise: who drains is about to stop the server, and must come to it.
                log.debug("the tail could not be stored: %s", self._words(error))
                return False
        return done

    # -- the loop ----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Store the tail for ever, about three times in the recovery point objective."""
        while True:
            if self._stores():
                try:
                    async with asyncio.timeout(ROUND_DEADLINE):
                        await self._round()
                    self._failing_since = None
                    self._failures = 0
                except Exception as error:
                    # A plugin that breaks its contract must not end the agent: it would fail again in the next one.
                    self._failed(error)
            await self._follow()
            await self._tell()
            archive = self._instance.document.archive if self._instance.configurations.current is not None else None
            rpo = archive.rpo_seconds if archive is not None else 5.0
            await self._pause(min(2.0, max(0.5, rpo / 3)))

    async def _pause(self, seconds: float) -> None:
        """Wait until the next round is due: sooner when what the mark waited for is stored."""
        shipper, until = self._shipper, time.monotonic() + seconds
        await asyncio.sleep(min(seconds, SHORTEST_PAUSE))
        while (left := until - time.monotonic()) > 0:
            seen = shipper.progress.serial
            if self._behind and shipper.is_stored(self._behind):
                return
            await shipper.progress.wait(seen, left)

    def _stores(self) -> bool:
        """There is a tail, and it is ours to store: we reign, the engine keeps a log, and there is a place for it."""
        there = self._shipper.configured() and self._shipper.source is not None
        return bool(self._term) and there and self._instance.supervision.serving

    def _failed(self, error: Exception) -> None:
        if not self._instance.supervision.serving:
            return
        self._failures += 1
        if self._failing_since is None and self._failures >= FAILING_AFTER:
            self._failing_since = self._instance.clock.now()
            log.warning("storing the tail of the log fails: %s", self._words(error))
        self._shipper.error = self._words(error)
        if isinstance(error, IntegrityError):
            # Somebody else's bytes, or ours from before: begin with what is stored.
            self._sent = None

    def _words(self, error: Exception) -> str:
        """Return what is told of a failure. One that nobody foresaw is logged with where it came from, once a kind."""
        if isinstance(error, Retryable | TimeoutError):
            return str(error) or "the object store does not answer in time"
        if isinstance(error, YobanError | OSError):
            return str(error)
        if type(error) not in self._unforeseen:
            self._unforeseen.add(type(error))
            log.error("a plugin failed in a way that it may not", exc_info=error)
        return f"{type(error).__name__}: {error}"

    async def _round(self) -> None:
        """Store the tail once, then the mark. What was begun for a reign that is over is left undone."""
        with contextlib.suppress(_ReignOver):
            await self._store(self._term)

    def _still(self, term: int) -> None:
        """Before each write: a round may outlive its reign. Raises _ReignOver."""
        if not term or self._term != term:
            raise _ReignOver

    async def _store(self, term: int) -> None:
        async with self._busy:
            source = self._shipper.source
            assert source is not None
            context = self._instance.context
            tail = await source.tail(context)
            self._still(term)
            if tail is None:
                return
            repository = await self._shipper.repository()
            await self._describe(repository, term)
            await self._record(repository, tail, term)
            if not self._segment_bytes:
                self._segment_bytes = await source.segment_bytes(context)
            whole = await self._send(repository, tail, term)
            await self._clear(repository, term)
            if not whole:
                # The file went while it was read: the shipper has it as a segment, and the next tail tells more.
                self._shipper.kick.ring()
                return
            missing = [name for name in tail.earlier if not self._shipper.is_stored(name)]
            self._behind = missing[-1] if missing else ""
            if missing:
                # The shipper is at it; without it the mark would promise what is not there.
                self._shipper.kick.ring()
                return
            await self._note(repository, tail, term)

    async def _record(self, repository: Repository, tail: LogTail, term: int) -> None:
        """Write the term's record, once a term, and again when it is lost while we reign."""
        if self._recorded is not None and self._recorded.term == term:
            await self._keep_record(repository, self._recorded)
            return
        self._record_seen_at = time.monotonic()
        for record in await repository.terms.all():
            if record.term == term and record.instance == self._instance.environment.instance:
                self._recorded = record
                return
        promotion = self._promotion
        replication = self._instance.engine.replication
        if promotion is None and term > 1 and replication is not None:
            self._still(term)
            async with asyncio.timeout(30):
                promotion = await replication.promote(self._instance.context, deadline=20)
        left = promotion if term > 1 else None
        self._still(term)
        self._recorded = await repository.terms.write(
            TermRecord(
                term=term,
                instance=self._instance.environment.instance,
                line=left.line if left is not None else tail.line,
                parent=left.parent if left is not None else "",
                position=left.fork if left is not None else "",
                time=self._instance.clock.now(),
                incarnation=self._instance.document.incarnation,
                began=self._began,
                ancestors=left.ancestors[-FORKS_TOLD:] if left is not None else (),
            )
        )
        log.info("term %s recorded", term)

    async def _keep_record(self, repository: Repository, record: TermRecord) -> None:
        """Look now and then whether the record is there: once nobody knows it any more, what we store cannot be restored."""
        now = time.monotonic()
        if now - self._record_seen_at < RECORD_EVERY:
            return
        self._record_seen_at = now
        try:
            if await repository.terms.read(record.term) is None:
                self._still(record.term)
                await repository.terms.write(record)
                log.warning("the record of term %s was gone and is written again", record.term)
        except IntegrityError as error:
            # Damaged, but nobody's to overwrite. Storing the log goes on; the operator tells what cannot be restored.
            log.warning("the record of term %s cannot be read: %s", record.term, error)

    async def _send(self, repository: Repository, tail: LogTail, term: int) -> bool:
        """Store the tail up to its flushed place; False when it could not be read up to there."""
        sent = self._sent
        if sent is None or (sent.line, sent.segment, sent.term) != (tail.line, tail.segment, term):
            end = count = 0
            self._still(term)
            if sent is None:
                # A new agent, or a new reign: go on where the stored chunks end.
                for chunk in await repository.tail.chunks(tail.line, tail.segment):
                    if chunk.term == term and chunk.start <= end:
                        end, count = max(end, chunk.end), count + 1
                if not tail.earlier:
                    self._still(term)
                    await repository.tail.clear_before(tail.line, tail.segment)
                self._still(term)
            sent = self._sent = _Sent(tail.line, tail.segment, term, end, count)
        while sent.end < tail.flushed:
            size = min(LONGEST_CHUNK, tail.flushed - sent.end)
            data = await asyncio.to_thread(_read, tail.path, sent.end, size)
            if len(data) < size:
                # Renamed or recycled under us: the whole segment follows.
                return False
            self._still(term)
            await repository.tail.put(tail.line, term, tail.segment, sent.end, data)
            sent.end += size
            sent.chunks += 1
            if (tail.line, tail.segment) not in self._chunked:
                self._chunked.append((tail.line, tail.segment))
        if sent.chunks > COMPACT_ABOVE and sent.end <= LONGEST_CHUNK * 4:
            data = await asyncio.to_thread(_read, tail.path, 0, sent.end)
            if len(data) == sent.end:
                self._still(term)
                await repository.tail.compact(tail.line, term, tail.segment, data)
                sent.chunks = 1
        return True

    async def _clear(self, repository: Repository, term: int) -> None:
        """Remove the chunks of segments that are stored whole by now."""
        for line, segment in list(self._chunked):
            current = self._sent is not None and self._sent.segment == segment
            if not current and await self._shipper.ensure_stored(line, segment):
                self._still(term)
                await repository.tail.clear(line, segment)
                self._chunked.remove((line, segment))

    async def _note(self, repository: Repository, tail: LogTail, term: int) -> None:
        last = self._mark
        moved = last is None or (last.position, last.line, last.term) != (tail.position, tail.line, term)
        now = time.monotonic()
        if not moved and now - self._marked_at < IDLE_MARK_EVERY:
            return
        mark = Mark(
            term=term,
            instance=self._instance.environment.instance,
            time=tail.observed_at,
            position=tail.position,
            last_commit=tail.last_commit,
            line=tail.line,
            segment=tail.segment,
            flushed=tail.flushed,
            segment_bytes=self._segment_bytes,
            written=self._instance.clock.now(),
        )
        self._still(term)
        await repository.marks.write(mark)
        self._mark, self._marked_at = mark, now
        await self._told_stored(Position(mark.position))

    async def _follow(self) -> None:
        """Tell the engine now and then what it may recycle, where no mark of ours does.

        On an instance that does not reign: how far the primary has stored the log. Where nothing is to be stored: all of it.
        """
        source, now = self._shipper.source, time.monotonic()
        there = source is not None and self._instance.supervision.serving
        if not there or now - self._followed_at < FOLLOW_EVERY or (self._term and self._shipper.configured()):
            return
        if not self._shipper.configured():
            server = self._instance.board.status.server
            if self._instance.configurations.current is not None and server is not None and server.position:
                self._followed_at = now
                await self._told_stored(Position(server.position))
            return
        self._followed_at = now
        try:
            async with asyncio.timeout(30):
                mark = await (await self._shipper.repository()).marks.newest()
        except Exception as error:
            # As in a round: no store may end the agent.
            self._unread = self._words(error)
            log.debug("the newest mark cannot be read: %s", self._unread)
            return
        self._unread = ""
        if mark is not None:
            await self._told_stored(Position(mark.position))

    async def _told_stored(self, position: Position) -> None:
        source = self._shipper.source
        assert source is not None
        try:
            async with asyncio.timeout(10):
                await source.stored(self._instance.context, position)
        except Exception as error:
            # It is told again; until then the server keeps more than it needs.
            log.warning("the engine could not be told that the log is stored up to %.200s: %s", position, error)

    async def _describe(self, repository: Repository, term: int) -> None:
        """Keep the repository's note of what this Database is, for a rebuild without its cluster."""
        document = self._instance.document
        spec: dict[str, Any] = {
            "engine": document.engine,
            "version": document.version,
            "instances": len(document.members),
            "settings": dict(document.settings),
            "engineConfig": dict(document.engine_config),
            "durability": {"mode": document.durability_mode, "replicas": document.durability_replicas},
        }
        if spec != self._described:
            self._still(term)
            await repository.identity.update_spec(document.incarnation, spec)
            self._described = spec

    # -- telling -----------------------------------------------------------------------------------------------------

    def _observe_lag(self, _: object) -> list[metrics.Observation]:
        lag = self._instance.board.status.archive.lag_seconds
        return [] if lag is None else [metrics.Observation(lag)]

    async def _tell(self) -> None:
        instance = self._instance
        if instance.configurations.current is None or not self._shipper.configured():
            instance.board.set(archive=ArchiveState())
            self._withdraw()
            return
        if self._shipper.source is None:
            instance.board.set(archive=ArchiveState(has_log=False))
            self._withdraw()
            return
        await self._figures(self._shipper.source)
        shipper = self._shipper
        mark = self._mark if self._mark is not None and self._mark.term == self._term else None
        failing = min((at for at in (self._failing_since, shipper.failing_since) if at is not None), default=None)
        waiting = sum(1 for segment in shipper.pending if not shipper.is_stored(segment.name.name))
        lag = self._lag(mark, waiting, failing) if self._term else None
        room, level = self._watch.room, self._watch.level
        instance.board.set(
            archive=ArchiveState(
                active=self._term > 0,
                window_end=mark.time if mark is not None else None,
                last_commit=mark.last_commit if mark is not None else None,
                position=mark.position if mark is not None else "",
                line=mark.line if mark is not None else "",
                segment=shipper.last_segment,
                backlog=waiting,
                backlog_bytes=room.kept,
                lag_seconds=lag,
                failing_since=failing,
                error=shipper.error if failing is not None else "",
                free_bytes=room.free,
                limit_bytes=room.limit,
                full_in_seconds=room.full_in,
                room=level.value,
            )
        )
        instance.board.problem("archive", None if failing is None else self._failure(waiting))
        instance.board.problem("room", self._filling(level, failing is not None))

    def _withdraw(self) -> None:
        self._watch = Watch()
        for key in ("archive", "room"):
            self._instance.board.problem(key, None)

    def _failure(self, waiting: int) -> Problem:
        room = self._watch.room
        lasts = f" for about {span(room.full_in)} at the present rate" if room.full_in is not None else ""
        return Problem(
            reason="ArchiveFailing",
            message=(
                f"the log cannot be stored: {self._shipper.error}; {waiting} files ({size(room.kept)}) are kept on the "
                f"volume, {size(room.free)} are free{lasts and ', enough'}{lasts}; writes stop when it is full"
            ),
            fix="make the object store reachable, or give the volume more room",
        )

    def _filling(self, level: Level, failing: bool) -> Problem | None:
        """What is told of the room; None while there is enough."""
        if level is Level.ENOUGH:
            return None
        room = self._watch.room
        full = f"at the present rate it is full in about {span(room.full_in)}" if room.full_in is not None else ""
        field = "spec.storage.log.size" if self._instance.context.log is not None else "spec.storage.size"
        if failing or self._unread:
            fix = f"make the object store reachable; a larger {field} gains time"
        else:
            fix = f"enlarge {field}, or write less until what waits is stored"
        message = (
            f"{size(room.kept)} of log are not stored yet, of {size(room.limit)} that the volume can hold; "
            f"{full or 'it does not grow at present'}; writes stop when it is full"
        )
        if level is Level.NEARLY_FULL:
            return Problem(reason="LogNearlyFull", message=message, fix=fix)
        return Problem(reason="LogFilling", message=message, fix=fix)

    def _lag(self, mark: Mark | None, waiting: int, failing: datetime | None) -> float:
        if mark is None:
            # Nothing of this reign is known to be proven, whatever holds the mark up; what came before may wait for longer.
            return time.monotonic() - self._unmarked
        if failing is None and not waiting and time.monotonic() - self._marked_at < IDLE_MARK_EVERY * 2:
            server = self._instance.board.status.server
            if server is not None and server.position == mark.position:
                return 0.0
        return max(0.0, (self._instance.clock.now() - mark.time).total_seconds())

    async def _figures(self, source: LogSource) -> None:
        """Look at the room, now and then."""
        now, context = time.monotonic(), self._instance.context
        if now - self._figures_at < FIGURES_EVERY:
            return
        self._figures_at = now
        try:
            async with asyncio.timeout(10):
                kept = await source.retained_bytes(context)
                segment = await source.segment_bytes(context)
                volume = await asyncio.to_thread(os.statvfs, context.log if context.log is not None else context.data)
        except Exception as error:
            log.debug("the room for log cannot be looked at: %s", self._words(error))
            return
        free = volume.f_bavail * volume.f_frsize
        self._watch.look(now, kept, free)
        folder = (context.log if context.log is not None else context.data).parent
        waiting = [one for one in self._shipper.pending if not self._shipper.is_stored(one.name.name)]
        # What waits is not known before the first look at it.
        known = bool(self._shipper.pending) or not kept
        stored = known and not waiting and self._shipper.failing_since is None
        await self._relieve(source, Reserve(folder, volume.f_blocks * volume.f_frsize, segment), free, stored)

    async def _relieve(self, source: LogSource, reserve: Reserve, free: int, stored: bool) -> None:
        """Help a server whose volume is full, once everything is stored; it may not be able to help itself."""
        if not stored or not reserve.short(free):
            await asyncio.to_thread(reserve.make, free)
            return
        try:
            if await asyncio.to_thread(reserve.give):
                log.warning("the volume is full and its log is stored: %s of reserve are given", size(reserve.size))
            async with asyncio.timeout(30):
                await source.relieve(self._instance.context)
        except Exception as error:
            log.warning("the server's volume is full, and it cannot be helped: %s", self._words(error))


def _read(path: Path, start: int, size: int) -> bytes:
    try:
        with path.open("rb", buffering=0) as file:
            return os.pread(file.fileno(), size, start)
    except FileNotFoundError:
        return b""
