"""Segments of a restored log, fetched ahead of replay: for a server that asks for each, or handed over in order.

Guarantees: a file handed over is complete and verified (fetched beside, renamed), and ends where the plan does; `missing` is
said only for what is proven absent and lies before or after what is stored of its line, or behind the plan's end; a hole in
the middle, a damaged object or a store that does not answer within the deadline is a failure that names the object, and
stays one. Room used ahead is bounded.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import shutil
from bisect import bisect_right
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

from opentelemetry import metrics

from yoban.domain.recoverability import Plan
from yoban.errors import IntegrityError, NotFound, Retryable, Unavailable, YobanError
from yoban.kube.clock import Clock, SystemClock
from yoban.plugins import LogRequest, LogSource, SegmentKind
from yoban.repository import Repository
from yoban.repository.threads import yielding

log = logging.getLogger("yoban.agent.prefetch")
meter = metrics.get_meter("yoban.agent")
fetched = meter.create_counter("yoban.restore.segments", description="Log segments fetched for replay")
AHEAD_BYTES = 256 << 20
MOST_AHEAD = 16
LEAST_AHEAD = 2
PARALLEL = 4
WORKERS = 2
STORE_DEADLINE = 300.0
JOIN_TRIES = 3


class Prefetch:
    """Serves one recovery's requests.

    Args:
        repository: where the log is.
        source: the engine's log facet; only its pure methods are used.
        plan: what is restored.
        segment_bytes: size of a full segment; 0 when they have no fixed size, then few are fetched ahead.
        folder: where files wait, on the file system of the server's log; emptied first.
        clock: for deadlines and pauses.
    """

    def __init__(
        self,
        repository: Repository,
        source: LogSource,
        plan: Plan,
        segment_bytes: int,
        folder: Path,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._repository = repository
        self._source = source
        self._plan = plan
        self._segment_bytes = segment_bytes
        self._folder = folder
        self._stored: dict[str, list[str]] = {}
        self._whole: set[str] = set()
        chunks = {plan.last_segment} if plan.tail_bytes > 0 else set()
        self._chunked = frozenset({*chunks, *plan.partial})
        self._tasks: dict[str, asyncio.Task[Path]] = {}
        self._slots = asyncio.Semaphore(PARALLEL)
        # Replay is bound by one core: what runs ahead of it takes only what it leaves.
        self._pool = yielding(WORKERS)
        fit = AHEAD_BYTES // segment_bytes if segment_bytes else PARALLEL
        self._ahead = max(LEAST_AHEAD, min(MOST_AHEAD, fit))
        self.failure: YobanError | None = None

    async def start(self) -> None:
        """Make the folder, learn what is stored, and begin to fetch what replay asks for first. Raises Retryable."""
        await asyncio.to_thread(_fresh, self._folder)
        for line in self._plan.lines:
            names = [segment.name for segment in await self._repository.log.stored(line)]
            self._stored[line] = [name for name in names if self._kind(name) is SegmentKind.FULL]
            self._whole.update(self._stored[line])
        first = self._plan.backup.first_segment
        if first in self._whole and not self._plan.recovery.segments:
            # The server asks for it first; until it has started much can be there.
            line = self._source.classify(first).line
            self._task(line, first)
            self._look_ahead(line, first)

    async def close(self) -> None:
        """End all fetching and remove the folder."""
        for task in self._tasks.values():
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks.values())
        self._tasks.clear()
        self._pool.shutdown(wait=False)  # nothing runs in it any more
        await asyncio.to_thread(shutil.rmtree, self._folder, ignore_errors=True)

    async def answer(self, request: LogRequest) -> None:
        """Put a segment where it is wanted.

        Raises NotFound when it is proven absent and nothing that must be there is missing; anything else stops the restore.
        """
        try:
            await self._answer(request)
        except NotFound:
            raise
        except YobanError as error:
            if self.failure is None:
                self.failure = error
                log.error("the restore cannot go on: %s", error)
            raise

    async def _answer(self, request: LogRequest) -> None:
        name = self._source.classify(request.segment)
        if name.line not in self._plan.lines:
            raise NotFound("not on the way to the target", object=name.name)
        if name.kind is not SegmentKind.FULL:
            await self._fetch(name.line, name.name, request.path)
            return
        if name.line == self._plan.lines[-1] and self._past(name.name):
            raise NotFound("past the end of what is restored", object=name.name)
        if name.name not in self._tasks and not self._is_tail(name.name) and name.name not in self._whole:
            await self._absent(name.line, name.name)
        ready = await asyncio.shield(self._task(name.line, name.name))
        self._look_ahead(name.line, name.name)
        await asyncio.to_thread(_hand_over, ready, request.path)
        # Asked for again (the server restarted), it is fetched again.
        self._tasks.pop(name.name, None)

    def _past(self, name: str) -> bool:
        last = self._plan.last_segment
        return bool(last) and (name > last or (name == last and self._plan.most == 0))

    def _is_tail(self, name: str) -> bool:
        return name in self._chunked

    def _kind(self, name: str) -> SegmentKind | None:
        try:
            return self._source.classify(name).kind
        except YobanError:
            return None

    async def _absent(self, line: str, name: str) -> None:
        """Say NotFound for what may be absent, and LogGap for what must not. Returns when it appeared meanwhile."""
        if not await self._repository.log.confirm_absent(line, name):
            return
        names: Sequence[str] = self._stored.get(line, ())
        last = max(names[-1] if names else "", self._plan.last_segment if line == self._plan.lines[-1] else "")
        if (names and names[0] < name < last) or name == last:
            raise IntegrityError(
                "a segment of the log is missing, later ones are there",
                object=f"log/{line}/{name}",
                fix="restore to a time before it, or bring the object back",
                reason="LogGap",
            )
        raise NotFound("not stored", object=f"log/{line}/{name}")

    def _task(self, line: str, name: str) -> asyncio.Task[Path]:
        task = self._tasks.get(name)
        if task is not None and task.done() and (task.cancelled() or task.exception() is not None):
            task = None
        if task is None:
            task = self._tasks[name] = asyncio.create_task(self._bring(line, name))
            task.add_done_callback(_seen)
        return task

    def _look_ahead(self, line: str, name: str) -> None:
        """Begin to fetch what replay will ask for next, and drop what it has passed."""
        stored = self._stored.get(line, [])
        at = bisect_right(stored, name)
        following = stored[at : at + self._ahead]
        if len(following) < self._ahead:
            following += sorted(other for other in self._chunked if self._source.classify(other).line == line)
        for other in following:
            if line == self._plan.lines[-1] and self._past(other):
                break
            if other > name and other not in self._tasks:
                self._task(line, other)
        for old in [other for other in self._tasks if other < name and self._tasks[other].done()]:
            task = self._tasks.pop(old)
            if not task.cancelled() and task.exception() is None:
                task.result().unlink(missing_ok=True)

    async def in_order(self, names: Sequence[str]) -> AsyncGenerator[tuple[str, Path], None]:
        """Go through segments of the plan: name and a verified copy, removed when the next one is asked for.

        What comes next is fetched ahead, within the same bounds. Raises what makes the restore impossible.
        """
        for at, name in enumerate(names):
            for other in names[at : at + 1 + self._ahead]:
                self._task(self._source.classify(other).line, other)
            try:
                ready = await asyncio.shield(self._tasks[name])
            except NotFound as error:
                raise IntegrityError(
                    "a segment of the log is missing, what lies behind it cannot be replayed",
                    object=f"log/{self._source.classify(name).line}/{name}",
                    fix="restore to a time before it, or bring the object back",
                    reason="LogGap",
                ) from error
            yield name, ready
            await asyncio.to_thread(ready.unlink, missing_ok=True)
            self._tasks.pop(name, None)

    async def _bring(self, line: str, name: str) -> Path:
        destination = self._folder / name
        async with self._slots:
            if not self._is_tail(name) or not await self._joined(line, name, destination):
                await self._fetch(line, name, destination)
            if name == self._plan.last_segment and self._plan.most is not None:
                pad_to = self._source.pads_to(self._segment_bytes)
                await asyncio.to_thread(_cut, destination, self._plan.most, pad_to)
        fetched.add(1)
        return destination

    async def _joined(self, line: str, name: str, destination: Path) -> bool:
        """Put a segment's chunks together; False when it is stored whole by now. Raises IntegrityError for a gap."""
        pad_to = self._source.pads_to(self._segment_bytes)
        for left in reversed(range(JOIN_TRIES)):
            if await self._repository.log.is_stored(line, name):
                return False
            try:
                await self._repository.tail.join(line, name, destination, pad_to=pad_to)
                return True
            except NotFound as error:
                if not left:
                    raise _gone(line, name) from error
            except IntegrityError as error:
                if not left or error.reason != "LogGap":
                    raise
            # Its server may live on: chunks become one, and go when the whole segment is stored.
        raise AssertionError("the last try returns or raises")

    async def _fetch(self, line: str, name: str, destination: Path) -> None:
        until = self._clock.monotonic() + STORE_DEADLINE
        while True:
            try:
                # The name need not last: until the recovery has ended, a server that lost power asks for each again.
                await self._repository.log.fetch(line, name, destination, durable=False, pool=self._pool)
                return
            except Retryable as error:
                if self._clock.monotonic() >= until:
                    raise Unavailable(
                        f"the object store did not give it within {STORE_DEADLINE:g} s",
                        object=f"log/{line}/{name}",
                        cause=str(error),
                        fix="make the object store reachable",
                        reason="StoreUnavailable",
                    ) from error
                log.warning("fetching %s again: %s", name, error)
                await self._clock.sleep(1.0)  # between two tries: a store tells nobody when it is back
            except NotFound:
                if name in self._whole:
                    raise _gone(line, name) from None
                raise


def _gone(line: str, name: str) -> IntegrityError:
    return IntegrityError(
        "a segment of the log went while it was restored", object=f"log/{line}/{name}", reason="LogGap"
    )


def _seen(task: asyncio.Task[Path]) -> None:
    # The error is raised to who asks for the segment; without this a look-ahead that fails would be logged as lost.
    if not task.cancelled():
        task.exception()


def _fresh(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True, mode=0o700)


def _cut(path: Path, most: int, pad_to: int) -> None:
    """Leave the first `most` bytes of a file, with zeros behind them up to `pad_to`."""
    if path.stat().st_size > most:
        os.truncate(path, most)
    if pad_to > most:
        os.truncate(path, pad_to)


def _hand_over(ready: Path, wanted: Path) -> None:
    try:
        ready.replace(wanted)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        temporary = wanted.with_name(f".{wanted.name}.part")
        shutil.copyfile(ready, temporary)
        temporary.replace(wanted)
        ready.unlink()
