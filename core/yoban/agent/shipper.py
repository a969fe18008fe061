"""Stores the log's complete segments: looks ahead, in parallel, and says yes only for what is stored.

Guarantees: `archive` returns only when the file is stored with the same content; a file that is another server's or damaged
is never stored; what cannot be stored now is tried again with back-off, and told. Histories go first. On a replica the
primary is given some time to store a segment; what it did not store is stored from here, so that a dead primary's last
segments are not lost with it. The growing tail is `yoban.agent.tailer`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections import OrderedDict
from datetime import datetime

from opentelemetry import metrics

from yoban.agent.instance import Instance
from yoban.agent.notice import Notice
from yoban.errors import IntegrityError, NotReady, Terminal, Unavailable, YobanError
from yoban.kube.backoff import Backoff, BackoffPolicy
from yoban.model.control import Problem
from yoban.plugins import LogRequest, LogSource, Segment, SegmentKind
from yoban.repository import Identity, Repository
from yoban.repository.segments import large

log = logging.getLogger("yoban.agent.shipper")
meter = metrics.get_meter("yoban.agent")
shipped = meter.create_counter("yoban.archive.segments", description="Log files stored by this agent")
shipped_bytes = meter.create_counter("yoban.archive.stored", unit="By", description="Bytes sent for them")
answered = meter.create_histogram("yoban.archive.answer", unit="s", description="Time to answer an archive command")

PARALLEL = 4
LOOK_EVERY = 1.0
ANSWER_DEADLINE = 50.0
LARGE_AT_ONCE = 2
"""Files stored piece by piece at a time: each holds a piece of dozens of MiB until it is sent."""
SEGMENT_DEADLINE = 300.0
SLOWEST = 1 << 20
"""Bytes a second at which a file is stored at least: it has so much time beside `SEGMENT_DEADLINE`."""
GRACE = 15.0
"""Seconds that a replica leaves a segment to the primary."""
REMEMBERED = 20000
REFUSED_AGAIN = 60.0
"""Seconds after which a file that was refused is looked at again: somebody may have cleared it up."""
BACKOFF = BackoffPolicy(initial=0.5, cap=15.0, jitter=0.5)


class Shipper:
    """Stores segments. `run` looks ahead; `archive` answers one request of the server."""

    def __init__(self, instance: Instance) -> None:
        self._instance = instance
        self._stored: OrderedDict[str, None] = OrderedDict()
        self._uploads: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._first_seen: dict[str, float] = {}
        self._slots = asyncio.Semaphore(PARALLEL)
        self._large = asyncio.Semaphore(LARGE_AT_ONCE)
        self._backoff = Backoff(BACKOFF)
        self._not_before = 0.0
        self._ours: Repository | None = None
        self._conflicts: dict[str, str] = {}
        self._refused: dict[str, float] = {}
        self.kick = Notice()
        self.progress = Notice()
        self.reigning = False
        self.follows = False
        self.last_segment = ""
        self.pending: tuple[Segment, ...] = ()
        self.failing_since: datetime | None = None
        self.error = ""
        self._blind = False
        self._failing_blind = False

    @property
    def source(self) -> LogSource | None:
        """The engine's log, None when it has none."""
        return self._instance.engine.log_source

    def configured(self) -> bool:
        """Whether the log is to be stored at all."""
        current = self._instance.configurations.current
        return current is not None and current.document.archive is not None

    async def repository(self) -> Repository:
        """Return the repository to write to, proven to be ours.

        Raises OwnedByAnother, NotReady before the store is configured or the primary has claimed it, or what it says.
        """
        configuration = self._instance.configuration
        document = configuration.document
        repository = await self._instance.storage.archive(configuration)
        if repository is None:
            raise NotReady("the archive's store is not configured yet", object=document.database)
        if repository is self._ours:
            return repository
        if self.reigning:
            await repository.identity.claim(
                Identity(
                    incarnation=document.incarnation,
                    uid=document.uid,
                    namespace=document.namespace,
                    name=document.database,
                    engine=document.engine,
                    created=self._instance.clock.now(),
                )
            )
            await repository.identity.mark_initialized(document.incarnation)
        else:
            found = await repository.identity.read()
            if found is None:
                raise NotReady("the primary has not claimed the repository yet", object=document.database)
            if found.incarnation != document.incarnation:
                raise Terminal(
                    "another incarnation writes to this place in the object store",
                    object=f"{document.archive.path if document.archive else ''}/identity",
                    fix="use another prefix",
                    reason="OwnedByAnother",
                )
        self._ours = repository
        self._stored.clear()
        return repository

    # -- looking ahead -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Store what the server wants stored, for ever."""
        async with asyncio.TaskGroup() as self._group:
            while True:
                seen = self.kick.serial
                if self.source is not None and self.configured():
                    await self._look(self.source)
                await self.kick.wait(seen, LOOK_EVERY)

    async def _look(self, source: LogSource) -> None:
        try:
            async with asyncio.timeout(20):
                self.pending = tuple(await source.pending(self._instance.context))
        except (YobanError, OSError, TimeoutError) as error:
            log.debug("the log cannot be looked at: %s", error)
            return
        except Exception as error:
            # As in `_upload`. It is told: nothing would be stored, and nobody would hear of it.
            if not self._blind:
                log.exception("the log cannot be looked at")
                self._blind = True
            if self.failing_since is None:
                self._failing_blind = True
                self._failed(Unavailable("the log cannot be looked at", cause=f"{type(error).__name__}: {error}"))
            return
        self._blind = False
        if self._failing_blind:
            # Nothing else failed before that; what fails from now on tells itself.
            self._worked()
        names = {segment.name.name for segment in self.pending}
        self._reconsider(names)
        for name in [name for name in self._first_seen if name not in names]:
            del self._first_seen[name]
        for segment in self.pending:
            self._first_seen.setdefault(segment.name.name, time.monotonic())
        if time.monotonic() < self._not_before:
            return
        for segment in self.pending[: PARALLEL * 4]:
            self._begin(segment)

    def _reconsider(self, pending: set[str]) -> None:
        """Look at what was refused again now and then; forget what is no longer to be stored."""
        now = time.monotonic()
        for name, since in list(self._refused.items()):
            if name not in pending:
                self._conflicts.pop(name, None)
                self._cleared(name)
            elif now - since >= REFUSED_AGAIN:
                self._conflicts.pop(name, None)
                self._refused[name] = now

    def _cleared(self, name: str) -> None:
        if self._refused.pop(name, None) is not None and not self._refused:
            self._instance.board.problem("segment", None)

    def _begin(self, segment: Segment) -> None:
        name = segment.name.name
        if name not in self._stored and name not in self._conflicts and name not in self._uploads:
            assert self._group is not None
            self._uploads[name] = self._group.create_task(self._upload(segment))

    async def _upload(self, segment: Segment) -> None:
        """Store one segment; failures are noted, never raised."""
        name = segment.name.name
        try:
            size = (await asyncio.to_thread(os.stat, segment.path)).st_size
            room = self._large if large(size) else contextlib.nullcontext()
            async with room, self._slots, asyncio.timeout(SEGMENT_DEADLINE + size / SLOWEST):
                await self._store(segment)
        except TimeoutError:
            self._failed(Unavailable("it was not stored in time", object=name))
        except IntegrityError as error:
            self._conflicts[name] = str(error)
            self._refused.setdefault(name, time.monotonic())
            reason = error.reason if error.reason != "IntegrityError" else "SegmentConflict"
            log.error("%s is not stored: %s", name, error)
            self._instance.board.problem("segment", Problem(reason=reason, message=str(error), fix=error.fix))
        except YobanError as error:
            self._failed(error)
        except FileNotFoundError:
            # Recycled meanwhile: the server had its yes from another call.
            log.debug("%s went while it was looked at", name)
        except OSError as error:
            self._failed(Unavailable("the segment cannot be read", object=name, cause=str(error)))
        except Exception as error:
            # A fault of a plugin's must not end the agent, which does more than this.
            log.exception("storing %s failed in a way that nobody foresaw", name)
            cause = f"{type(error).__name__}: {error}"
            fix = "see the traceback in the agent's log, and report it"
            self._failed(Unavailable("it cannot be stored", object=name, cause=cause, fix=fix))
        finally:
            self._uploads.pop(name, None)
            self.progress.ring()

    async def _store(self, segment: Segment) -> None:
        source = self.source
        assert source is not None
        context = self._instance.context
        name = segment.name
        repository = await self.repository()
        waits = time.monotonic() - self._first_seen.get(name.name, 0.0) < GRACE
        if self.follows and waits and not await repository.log.is_stored(name.line, name.name):
            return
        await source.inspect(context, segment)
        async with self._instance.storage.using(repository):
            result = await repository.log.put_segment(name.line, name.name, segment.path, probe=self.follows)
        await source.settled(context, segment)
        self._stored[name.name] = None
        self._cleared(name.name)
        while len(self._stored) > REMEMBERED:
            self._stored.popitem(last=False)
        if name.kind is SegmentKind.FULL:
            self.last_segment = name.name
        if result.uploaded:
            shipped.add(1)
            shipped_bytes.add(result.stored_size)
        self._worked()

    def _worked(self) -> None:
        self._backoff = Backoff(BACKOFF)
        self._not_before = 0.0
        if self.failing_since is not None:
            log.info("storing the log works again")
        self.failing_since = None
        self._failing_blind = False
        self.error = ""

    def _failed(self, error: YobanError) -> None:
        now = time.monotonic()
        if self.failing_since is None:
            self.failing_since = self._instance.clock.now()
            log.warning("storing the log fails: %s", error)
        self.error = str(error)
        self._not_before = now + self._backoff.next(now)

    # -- answers -----------------------------------------------------------------------------------------------------

    def is_stored(self, name: str) -> bool:
        """Whether we know that the file is stored. Costs nothing."""
        return name in self._stored

    async def ensure_stored(self, line: str, name: str) -> bool:
        """Whether the segment is stored, asking the store when we do not know. Raises what it says.

        The store's yes is not remembered: it says nothing about the content, which our own file is still compared with.
        """
        if name in self._stored:
            return True
        if name in self._conflicts:
            return False
        return await (await self.repository()).log.is_stored(line, name)

    async def archive(self, request: LogRequest) -> None:
        """Return when the file is stored. Raises Retryable when it is not yet, IntegrityError when it never will be."""
        source = self.source
        started = time.monotonic()
        if source is None or not self.configured():
            # Nothing is to be stored: the server may recycle its log.
            return
        # What was looked ahead at is answered without another look.
        if request.segment not in self._stored and await source.superseded(self._instance.context, request.segment):
            return
        self._first_seen.setdefault(request.segment, started)
        while request.segment not in self._stored:
            if conflict := self._conflicts.get(request.segment):
                # Looked at again at the next request: somebody may have cleared it up.
                del self._conflicts[request.segment]
                raise Terminal(conflict, object=request.segment, reason="SegmentConflict")
            left = ANSWER_DEADLINE - (time.monotonic() - started)
            server = self._instance.supervision.server
            # A server that is stopping must not wait for a store that is down.
            ending = self.failing_since is not None and (server is None or bool(server.mode))
            if left <= 0 or ending:
                raise Unavailable("not stored yet", object=request.segment, cause=self.error)
            seen = self.progress.serial
            if time.monotonic() >= self._not_before and self._group is not None:
                self._begin(Segment(source.classify(request.segment), request.path, 0))
            await self.progress.wait(seen, min(left, LOOK_EVERY))
        answered.record(time.monotonic() - started)
        if len(self._uploads) < PARALLEL:  # else there is enough to do, and looking costs
            self.kick.ring()

    async def drained(self, seconds: float) -> bool:
        """Store what is pending, within so many seconds; False when something is left."""
        if self.source is None or not self.configured():
            return True
        until = time.monotonic() + seconds
        while True:
            try:
                async with asyncio.timeout(max(0.1, until - time.monotonic())):
                    pending = await self.source.pending(self._instance.context)
            except Exception as error:
                log.debug("what is left to store is not known: %s", error)
                return False
            left = until - time.monotonic()
            if all(segment.name.name in self._stored for segment in pending):
                return True
            if left <= 0:
                return False
            seen = self.progress.serial
            self.kick.ring()
            await self.progress.wait(seen, min(left, LOOK_EVERY))
