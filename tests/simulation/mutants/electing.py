"""Broken electors and managers."""

from __future__ import annotations

import asyncio
import contextlib
from datetime import datetime, timedelta
from typing import Any

from yoban.kube import clock as clock_module
from yoban.kube import lease as lease_module
from yoban.kube.clock import parse_rfc3339
from yoban.kube.election import Elector
from yoban.kube.lease import LeaseLock, LeaseLost, LeaseRecord
from yoban.runtime.manager import Group, Manager

from tests.simulation.mutants.mutant import Mutant, replaced
from tests.simulation.weather import Weather

CUTS: dict[str, object] = {
    "replicas": 2,
    "watchdog": False,
    "force": ("cut", "cut_out", "cut_in", "freeze") * 3,
    "user_every": 1.0,
    "duration": 120.0,
}


def work_goes_on() -> Any:
    original = Elector.hold

    async def hold(self: Elector) -> None:
        try:
            await original(self)
        except LeaseLost:
            await asyncio.Event().wait()

    return replaced(Elector, "hold", hold)


def no_deadline() -> Any:
    async def hold(self: Elector) -> None:
        self.lock._timeout = 60.0
        while True:
            await self._clock.sleep(self.timings.retry)
            while not await self._renewed():
                await self._clock.sleep(self.timings.retry)

    return replaced(Elector, "hold", hold)


def stop_leaves_the_work() -> Any:
    original = Manager._stop_group

    async def stop_group(self: Manager, group: Group, end: float) -> bool:
        return True if group is Group.LEADER else await original(self, group, end)

    async def release(self: Elector) -> bool:
        return False

    stack = contextlib.ExitStack()
    stack.enter_context(replaced(Manager, "_stop_group", stop_group))
    stack.enter_context(replaced(Elector, "release", release))
    return stack


def never_released() -> Any:
    async def release(self: Elector) -> bool:
        return False

    return replaced(Elector, "release", release)


def released_too_early() -> Any:
    original = Manager._stop_group

    async def stop_group(self: Manager, group: Group, end: float) -> bool:
        if group is Group.LEADER and self.elector is not None and self._hold is not None:
            self._hold.cancel()
            await self.elector.release()
        return await original(self, group, end)

    return replaced(Manager, "_stop_group", stop_group)


def failed_work_is_ignored() -> Any:
    return replaced(Manager, "_ended", lambda self, task: None if task.cancelled() else task.exception())


def wall_clock() -> Any:
    def try_wall(self: LeaseLock) -> bool:
        record = self.record
        if record is None or not record.holder or record.holder == self.identity:
            return record is not None
        return self._clock.now() >= parse_rfc3339(record.renew_time) + timedelta(seconds=record.duration)

    return replaced(LeaseLock, "may_take", try_wall)


def transitions_uncounted() -> Any:
    original = lease_module.held_spec

    def held_spec(record: LeaseRecord | None, identity: str, duration: int, now: datetime) -> dict[str, Any]:
        return {**original(record, identity, duration, now), "leaseTransitions": 0}

    return replaced(lease_module, "held_spec", held_spec)


def local_time() -> Any:
    def micro(moment: datetime) -> str:
        return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    return replaced(clock_module, "rfc3339_micro", micro)


def answer_too_late() -> Any:
    return replaced(Elector, "_left", lambda self: max(0.001, _left(self)))


def deadline_from_the_answer() -> Any:
    original = LeaseLock.take

    async def take(self: LeaseLock, *args: Any, **options: Any) -> LeaseRecord:
        record = await original(self, *args, **options)
        self._sent_at = self._clock.boottime()
        return record

    return replaced(LeaseLock, "take", take)


def _left(elector: Elector) -> float:
    return (elector.lock.sent_at or 0.0) + elector.timings.renew_deadline - elector._clock.boottime()


MUTANTS = (
    Mutant(
        "the work goes on when the elector gives up",
        "8: the leading coroutine keeps running when the server refuses",
        work_goes_on,
        ("leader",),
        CUTS,
    ),
    Mutant(
        "no deadline around the renewal",
        "9: still leading after a call that outlived the Lease",
        no_deadline,
        ("leader",),
        CUTS,
    ),
    Mutant(
        "a stop ends the elector and not the work",
        "10: on SIGTERM the leading coroutine is not cancelled",
        stop_leaves_the_work,
        ("ended", "leader", "leaks"),
        {"force": ("term",) * 5},
    ),
    Mutant(
        "a stop does not release the Lease",
        "10: on SIGTERM the Lease is not released",
        never_released,
        ("leaks",),
    ),
    Mutant(
        "the Lease is released before the work ended",
        "10: on SIGTERM the Lease is not released",
        released_too_early,
        ("leader",),
        {"force": ("term",) * 10, "user_every": 0.5, "weather": Weather(slow=0.3)},
    ),
    Mutant(
        "failed leader work leaves the elector renewing",
        "11: the leading coroutine raises, the elector goes on",
        failed_work_is_ignored,
        test=("tests.unit.runtime.test_manager", "test_3_8_a_member_that_fails_ends_the_process_in_order"),
    ),
    Mutant(
        "the record's time is compared with the wall clock",
        "read: its elector uses time.time()",
        wall_clock,
        ("leader",),
        {"replicas": 2, "user_every": 1.0},
    ),
    Mutant(
        "local time is written with a Z",
        "read: writes local time with a Z",
        local_time,
        test=("tests.simulation.mutants.scenarios", "times_of_another_zone_are_written_in_utc"),
    ),
    Mutant(
        "a change of holder is not counted",
        "read: never writes leaseTransitions",
        transitions_uncounted,
        ("leader",),
        {"replicas": 2, "force": ("kill", "term"), "user_every": 1.0},
    ),
    Mutant(
        "the deadline counts from the answer",
        "ours: rule 3.7, counted from the sending",
        deadline_from_the_answer,
        test=("tests.simulation.mutants.scenarios", "the_deadline_counts_from_the_sending"),
    ),
    Mutant(
        "a renewal that was answered too late counts",
        "ours, fixed: led on after a standstill",
        answer_too_late,
        test=(
            "tests.unit.kube.test_lease",
            "test_bug_a_leader_that_stood_still_while_its_renewal_was_answered_went_on_leading",
        ),
    ),
)
