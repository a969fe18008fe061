"""The primary's Lease: seen by every instance, held by one, and the fencing deadline that follows from it.

Guarantees: while `view().held`, no other instance can hold the Lease before `fence_at` (CLOCK_BOOTTIME), which counts from
the sending of the last renewal that succeeded; `on_fence` hears each new deadline at once. A Pod of the same name on
another machine is somebody else: the holder's life is written beside its name. Nothing here decides whether to take the
Lease; `yoban.agent.decisions` does.

The Lease is read every `retry` seconds rather than watched: an instance may `get, update, patch` that one Lease by name
and nothing more.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from yoban.agent.notice import Notice
from yoban.kube.client import Client
from yoban.kube.clock import Clock, SystemClock
from yoban.kube.errors import ApiError, Conflict
from yoban.kube.lease import LeaseLock, LeaseRecord
from yoban.model.instance import (
    LEASE_INITIALIZED,
    LEASE_LAST_HOLDER,
    LEASE_POSITION,
    LEASE_SUCCESSOR,
    LEASE_SWITCHOVER,
    LEASE_TERM,
    LeaseDocument,
)

log = logging.getLogger("yoban.agent.lease")
MARGIN = 3.0
"""Seconds before the Lease can be taken at which the server is ended; the supervisor's KILL comes within them."""
EAGER = 0.3
HOLDER_LIFE = "yoban.dev/holder-life"


@dataclass(frozen=True, slots=True)
class LeaseView:
    """The Lease as seen now.

    Attributes:
        known: it was read at least once; False also when there is none.
        holder: instance that holds it, "" for nobody.
        held: this instance (this life of its Pod) holds it and its time is not over.
        mine: it names this life of ours; with `held` False our time is over, and nobody has taken it yet.
        takeable: we may write ourselves as holder now.
        term, initialized, last_holder, successor, position, switchover: annotations, 0 or "" where missing.
        expires_in: seconds until the holder's time is over, on our clock.
        fence_at: boot time at which our server must have been ended, None when we do not hold it.
        unchanged: seconds since the record last changed, as seen from here.
        absent: the API server says that there is no such Lease.
    """

    known: bool = False
    holder: str = ""
    held: bool = False
    mine: bool = False
    takeable: bool = False
    term: int = 0
    initialized: str = ""
    last_holder: str = ""
    successor: str = ""
    position: str = ""
    switchover: str = ""
    expires_in: float = 0.0
    fence_at: float | None = None
    unchanged: float = 0.0
    absent: bool = False


class PrimaryLease:
    """Keeps an eye on the Lease and renews it while it is ours. `run` must be running; calls may come from any task."""

    def __init__(
        self,
        client: Client,
        namespace: str,
        document: LeaseDocument,
        instance: str,
        life: str,
        *,
        on_fence: Callable[[float | None], Awaitable[None]] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._clock = clock or SystemClock()
        self._document = document
        self._instance = instance
        self._life = life
        self._on_fence = on_fence
        # A call must end before the next renewal is due, or a hanging one costs the Lease.
        self._lock = LeaseLock(
            client,
            namespace,
            document.name,
            instance,
            duration=int(document.duration),
            create=False,
            timeout=max(1.0, document.renew / 3),
            clock=self._clock,
        )
        self._busy = asyncio.Lock()
        self._holding = False
        self._fence: float | None = None
        self._absent = False
        self._since = 0.0
        self._last: tuple[object, ...] = ()
        self._kick = Notice()
        self.changed = Notice()
        self.error = ""
        self.eager = False
        """Look more often: a hand-over is under way, and each look is a part of its length."""

    # -- seeing ------------------------------------------------------------------------------------------------------

    def view(self) -> LeaseView:
        """Return what is known now. Costs nothing."""
        record = self._lock.record
        if record is None:
            return LeaseView(absent=self._absent, fence_at=self._fence)
        notes = record.annotations
        mine = self._ours(record)
        fence_at = self._fence
        expires_in = self._lock.seconds_to_expiry()
        return LeaseView(
            known=True,
            holder=record.holder,
            held=self._holding and mine and fence_at is not None and self._clock.boottime() < fence_at,
            mine=mine,
            takeable=not record.holder or mine or expires_in <= 0,
            term=_number(notes.get(LEASE_TERM, "")),
            initialized=notes.get(LEASE_INITIALIZED, ""),
            last_holder=notes.get(LEASE_LAST_HOLDER, ""),
            successor=notes.get(LEASE_SUCCESSOR, ""),
            position=notes.get(LEASE_POSITION, ""),
            switchover=notes.get(LEASE_SWITCHOVER, ""),
            expires_in=expires_in,
            fence_at=fence_at,
            unchanged=self._clock.monotonic() - self._since,
        )

    def fence_at(self) -> float | None:
        """Boot time at which a server of ours is ended; None when the Lease was never ours, or was `settled`."""
        return self._fence

    async def settled(self) -> None:
        """Lift a deadline that has done its work, an earlier agent's too: the Lease is not ours, our server has ended."""
        if not self._holding:
            self._fence = None
            await self.tell()

    async def tell(self) -> None:
        """Tell the deadline once more: whoever starts a server must know that the supervisor has it."""
        if self._on_fence is not None:
            await self._on_fence(self._fence)

    # -- keeping -----------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Renew the Lease while it is ours, else look at it, for ever. API errors are noted in `error`."""
        while True:
            seen = self._kick.serial
            await self.refresh()
            pause = EAGER if self.eager else self._document.retry * (0.8 + 0.4 * random.random())  # noqa: S311 - jitter
            await self._kick.wait(seen, pause)

    async def refresh(self) -> None:
        """Renew or look once."""
        async with self._busy:
            try:
                if self._holding:
                    if not await self._renew():
                        await self._look()
                else:
                    await self._look()
                self.error = ""
            except ApiError as error:
                if not self.error:
                    log.warning("the Lease cannot be reached: %s", error)
                self.error = str(error)
        await self.tell()

    async def _renew(self) -> bool:
        try:
            await self._write({})
        except ApiError as error:
            # A conflict is a normal answer (the operator wrote an annotation); anything else is told by the reading.
            log.debug("renewal failed: %s", error)
            return False
        return True

    async def _look(self) -> None:
        record = self._noted(await self._lock.fetch())
        if record is not None and self._ours(record):
            # Ours from before (an agent that was replaced, a conflict just now): go on holding it.
            await self._write({})

    async def _write(self, notes: Mapping[str, str | None]) -> None:
        record = await self._lock.take({**notes, HOLDER_LIFE: self._life})
        deadline = self._lock.deadline
        assert deadline is not None
        self._holding = True
        self._fence = deadline - MARGIN
        self._noted(record)

    def _ours(self, record: LeaseRecord) -> bool:
        return record.holder == self._instance and record.annotations.get(HOLDER_LIFE, "") == self._life

    def _noted(self, record: LeaseRecord | None) -> LeaseRecord | None:
        self._absent = record is None
        if self._holding and record is not None and not self._ours(record):
            # Whoever read it: the next renewal would be written over what was read, and take it from its holder.
            # Our deadline goes on running; an empty Lease (made anew by the operator) may be taken again before it.
            log.warning("the Lease is not ours any more; its holder is %r", record.holder)
            self._holding = False
        state: tuple[object, ...] = () if record is None else (record.holder, sorted(record.annotations.items()))
        if state != self._last:
            self._last = state
            self._since = self._clock.monotonic()
            self.changed.ring()
        return record

    # -- changing ----------------------------------------------------------------------------------------------------

    async def take(self, term: int, *, clear: bool = True) -> bool:
        """Write ourselves as holder, reigning in `term`; False when somebody was quicker.

        The caller has seen `takeable`. Raises ApiError when the server does not say.
        """
        notes: dict[str, str | None] = {LEASE_TERM: str(term), LEASE_LAST_HOLDER: self._instance}
        if clear:
            notes |= {LEASE_SUCCESSOR: None, LEASE_POSITION: None}
        async with self._busy:
            if not self.view().takeable:
                return False
            try:
                await self._write(notes)
            except ApiError as error:
                if error.status == 409:
                    self._noted(await self._lock.fetch())
                    return False
                raise
        log.info("the Lease is ours", extra={"term": term})
        await self.tell()
        self._kick.ring()
        return True

    async def note(self, notes: Mapping[str, str | None]) -> None:
        """Set annotations of the Lease that we hold. Raises ApiError; Conflict after a few tries, or when it is not ours."""
        async with self._busy:
            for attempt in range(3):
                if not self._holding:
                    raise Conflict("the Lease is not ours any more", object=f"Lease {self._document.name}", status=409)
                try:
                    await self._write(notes)
                    break
                except ApiError as error:
                    if error.status != 409 or attempt == 2:
                        raise
                    self._noted(await self._lock.fetch())
        await self.tell()

    async def give_up(self, notes: Mapping[str, str | None] | None = None) -> bool:
        """Give the Lease up; only after our server has ended. `notes` are set with it. False when it was not ours.

        Raises ApiError when the server does not say: the Lease may be another one's by then. So it is not held from here
        on, and held again only by a write, which an answer that is still on its way cannot outlive.
        """
        async with self._busy:
            self._holding = False
            try:
                given = await self._lock.release({**(notes or {}), HOLDER_LIFE: None}, ours=self._ours)
            except BaseException:
                # The reading tells who holds it; also for a call that was broken off with its request on the way.
                self._kick.ring()
                raise
            if not given:
                self._kick.ring()
            self._fence = None
            self._noted(self._lock.record)
        await self.tell()
        return given


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 0
