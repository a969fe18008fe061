"""Rules 3.7: the Lease, leader election, the watchdog."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from yoban.errors import InvalidInput
from yoban.kube.client import Client
from yoban.kube.clock import parse_rfc3339, rfc3339, rfc3339_micro
from yoban.kube.election import Elector, LeaseTimings, process_identity
from yoban.kube.errors import ApiError, Conflict, NotFound, Unreachable
from yoban.kube.lease import LeaseLock, LeaseLost, LeaseRecord, may_take, observe, parse_lease
from yoban.kube.resource import LEASE
from yoban.kube.watchdog import EXIT_CODE, Watchdog
from yoban.testing.apirequest import Request
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.apistatus import status_answer
from yoban.testing.clock import LoopClock

Make = Callable[..., LeaseLock]


@pytest.fixture
def make(client: Client, clock: LoopClock) -> Make:
    def lock(identity: str, **options: Any) -> LeaseLock:
        return LeaseLock(client, "ns", "l", identity, clock=clock, **options)

    return lock


def spec(server: FakeApiServer) -> dict[str, Any]:
    obj = server.find(LEASE, "ns", "l")
    assert obj is not None
    found: dict[str, Any] = obj["spec"]
    return found


def elector(lock: LeaseLock, clock: LoopClock, **options: Any) -> Elector:
    return Elector(lock, clock=clock, random=lambda: 0.5, **options)


# -- the record ----------------------------------------------------------------------------------------------------


async def test_3_7_the_record_of_a_new_lease(server: FakeApiServer, make: Make, clock: LoopClock) -> None:
    assert await make("a").try_take()
    assert spec(server) == {
        "holderIdentity": "a",
        "leaseDurationSeconds": 15,
        "acquireTime": rfc3339_micro(clock.now()),
        "renewTime": rfc3339_micro(clock.now()),
        "leaseTransitions": 0,
    }


async def test_3_7_acquire_time_is_kept_and_renew_time_moves(server: FakeApiServer, make: Make) -> None:
    lock = make("a")
    await lock.try_take()
    first = spec(server)
    await asyncio.sleep(5)
    await lock.renew()
    second = spec(server)
    assert second["acquireTime"] == first["acquireTime"]
    assert parse_rfc3339(second["renewTime"]) - parse_rfc3339(first["renewTime"]) == (
        datetime(2026, 1, 1, 0, 0, 5) - datetime(2026, 1, 1)
    )
    assert second["leaseTransitions"] == 0


async def test_3_7_a_change_of_holder_counts(server: FakeApiServer, make: Make) -> None:
    a, b = make("a"), make("b")
    await a.try_take()
    await a.release()
    assert await b.try_take()
    assert spec(server)["leaseTransitions"] == 1
    assert spec(server)["holderIdentity"] == "b"


def test_3_7_times_are_utc_micro_time() -> None:
    moment = datetime.fromisoformat("2026-03-01T12:00:00.000005+02:00")
    assert rfc3339_micro(moment) == "2026-03-01T10:00:00.000005Z"
    assert rfc3339(moment) == "2026-03-01T10:00:00Z"
    assert parse_rfc3339("2026-03-01T10:00:00.000005Z") == moment.astimezone(UTC)
    for function in (rfc3339, rfc3339_micro):
        with pytest.raises(ValueError, match="naive"):
            function(datetime(2026, 1, 1))
    with pytest.raises(ValueError, match="no offset"):
        parse_rfc3339("2026-03-01T10:00:00")


def test_3_7_a_lease_with_nothing_in_it_is_nobodys() -> None:
    record = parse_lease({"metadata": {"name": "l"}})
    assert (record.holder, record.transitions, record.annotations) == ("", 0, {})


# -- the clock rule -------------------------------------------------------------------------------------------------


def test_3_7_expiry_counts_from_the_last_change_seen_on_our_clock() -> None:
    """Wall times of the record are centuries off: they play no part."""
    record = LeaseRecord("a", 15, "1999-01-01T00:00:00Z", "1999-01-01T00:00:00Z")
    seen = observe(None, record, 100.0)
    assert not may_take(seen, "b", 114.9)
    assert may_take(seen, "b", 115.0)
    assert may_take(seen, "a", 100.0)
    again = observe(seen, record, 110.0)
    assert again.since == 100.0
    renewed = observe(again, LeaseRecord("a", 15, "1999-01-01T00:00:00Z", "1998-01-01T00:00:00Z"), 112.0)
    assert not may_take(renewed, "b", 126.9)


def test_3_7_expiry_goes_by_the_records_duration() -> None:
    seen = observe(None, LeaseRecord("a", 60), 0.0)
    assert not may_take(seen, "b", 59.0)
    assert may_take(seen, "b", 60.0)


def test_3_7_an_annotation_is_no_sign_of_life() -> None:
    record = LeaseRecord("a", 15, renew_time="t")
    seen = observe(None, record, 0.0)
    touched = observe(seen, LeaseRecord("a", 15, renew_time="t", annotations={"x": "y"}), 10.0)
    assert touched.since == 0.0
    assert touched.record.annotations == {"x": "y"}


def test_3_7_an_empty_holder_may_be_taken_at_once() -> None:
    assert may_take(observe(None, LeaseRecord("", 15), 0.0), "b", 0.0)


# -- the lock -------------------------------------------------------------------------------------------------------


async def test_3_7_the_deadline_counts_from_the_sending(server: FakeApiServer, make: Make) -> None:
    lock = make("a")
    assert lock.deadline is None
    server.latency = 4.0
    loop = asyncio.get_running_loop()
    await lock.fetch()
    sent = loop.time()
    await lock.take()
    assert loop.time() == sent + 4
    assert lock.sent_at == sent
    assert lock.deadline == sent + 15
    await asyncio.sleep(3)
    sent = loop.time()
    await lock.renew()
    assert lock.deadline == sent + 15


async def test_3_7_a_renewal_without_an_answer_does_not_move_the_deadline(server: FakeApiServer, make: Make) -> None:
    lock = make("a")
    await lock.try_take()
    deadline = lock.deadline
    await asyncio.sleep(3)
    server.fail(Unreachable("lost"), verb="update")
    with pytest.raises(Unreachable):
        await lock.renew()
    assert lock.deadline == deadline
    assert await lock.try_take()
    assert lock.deadline == (deadline or 0) + 3


async def test_3_7_the_renewal_is_optimistic_and_a_409_is_a_normal_answer(server: FakeApiServer, make: Make) -> None:
    lock = make("a")
    await lock.try_take()
    server.requests.clear()
    assert await lock.try_take()
    assert [r.verb for r in server.requests] == ["update"]
    server.edit(LEASE, "ns", "l", lambda o: o["metadata"].setdefault("annotations", {}).update(x="y"))
    server.requests.clear()
    assert await lock.try_take()
    assert [r.verb for r in server.requests] == ["update", "get", "update"]
    obj = server.find(LEASE, "ns", "l")
    assert obj is not None
    assert obj["metadata"]["annotations"] == {"x": "y"}


async def test_3_7_of_two_takers_one_wins(make: Make) -> None:
    a, b = make("a"), make("b")
    await a.fetch()
    await b.fetch()
    assert sorted(await asyncio.gather(a.try_take(), b.try_take())) == [False, True]
    assert a.holds != b.holds


async def test_3_7_who_is_held_off_waits_for_the_records_duration(server: FakeApiServer, make: Make) -> None:
    a, b = make("a", duration=60), make("b")
    await a.try_take()
    assert not await b.try_take()
    assert not b.may_take()
    assert b.seconds_to_expiry() == pytest.approx(60)
    await asyncio.sleep(59)
    assert not await b.try_take()
    await asyncio.sleep(1)
    assert await b.try_take()
    assert b.record is not None
    assert b.record.transitions == 1
    with pytest.raises(Conflict):
        await a.renew()
    await a.fetch()
    assert not a.holds
    assert a.deadline is None
    with pytest.raises(LeaseLost):
        await a.renew()


async def test_annotations_travel_with_every_write(server: FakeApiServer, make: Make) -> None:
    server.put(
        LEASE,
        {
            "metadata": {
                "namespace": "ns",
                "name": "l",
                "annotations": {"keep": "1", "drop": "1"},
                "labels": {"a": "b"},
            },
            "spec": {"preferredHolder": "z"},
        },
    )
    lock = make("a", create=False)
    await lock.fetch()
    assert lock.seconds_to_expiry() == 0.0
    record = await lock.take({"term": "7", "drop": None})
    assert record.annotations == {"keep": "1", "term": "7"}
    await lock.renew({"position": "42"})
    assert await lock.release({"successor": "b"})
    stored = server.find(LEASE, "ns", "l")
    assert stored is not None
    assert stored["metadata"]["annotations"] == {"keep": "1", "term": "7", "position": "42", "successor": "b"}
    assert stored["metadata"]["labels"] == {"a": "b"}
    assert stored["spec"]["preferredHolder"] == "z"


async def test_an_agent_never_makes_the_lease(server: FakeApiServer, make: Make) -> None:
    lock = make("a", create=False)
    assert await lock.fetch() is None
    with pytest.raises(NotFound):
        await lock.take()
    assert not lock.may_take()
    assert not await lock.release()
    assert server.writes() == []


async def test_a_watched_lease_may_be_fed(server: FakeApiServer, make: Make) -> None:
    a, b = make("a"), make("b")
    await a.try_take()
    stored = server.find(LEASE, "ns", "l")
    assert stored is not None
    assert b.see(stored).holder == "a"
    assert not b.may_take()


async def test_3_7_release_writes_an_empty_holder_and_duration_one(server: FakeApiServer, make: Make) -> None:
    lock = make("a")
    await lock.try_take()
    server.edit(LEASE, "ns", "l", lambda o: o["metadata"].update(labels={"touched": "1"}))
    assert await lock.release(), "a conflict is retried"
    assert spec(server)["holderIdentity"] == ""
    assert spec(server)["leaseDurationSeconds"] == 1
    assert spec(server)["leaseTransitions"] == 0
    assert lock.deadline is None
    assert not await lock.release(), "not ours any more"


async def test_3_7_release_gives_up_after_a_few_conflicts(server: FakeApiServer, make: Make) -> None:
    lock = make("a")
    await lock.try_take()
    server.fail(status_answer(409, "Conflict"), verb="update", times=100)
    assert not await lock.release()
    assert len(server.writes()) == 1 + 5


# -- election -------------------------------------------------------------------------------------------------------


def test_3_7_times_must_fit() -> None:
    LeaseTimings()
    assert LeaseTimings().request == 5.0
    assert LeaseTimings(2, 1.5, 1, 0.1).request == 1.0
    for wrong in ((10, 10, 2, 0), (15, 2.4, 2, 1), (15, 10, 0, 1), (15, 10, 2, 5), (15, 10, 2, -1)):
        with pytest.raises(InvalidInput):
            LeaseTimings(*wrong)


def test_3_7_identity_is_host_and_random() -> None:
    assert process_identity() != process_identity()
    assert process_identity().partition("_")[0]


async def test_3_7_a_candidate_waits_with_jitter_and_takes_over(
    server: FakeApiServer, make: Make, clock: LoopClock
) -> None:
    await make("a").try_take()
    b = elector(make("b"), clock)
    loop = asyncio.get_running_loop()
    start = loop.time()
    await b.acquire()
    assert 15 <= loop.time() - start <= 15 + 2 * 2.2
    assert b.leading
    waits = [r for r in server.requests if r.verb == "get"]
    assert len(waits) <= 8, "every 2 s plus jitter"
    assert b.check() is None


async def test_3_7_a_candidate_outlives_any_failure(server: FakeApiServer, make: Make, clock: LoopClock) -> None:
    for failure in (Unreachable("x"), status_answer(403), status_answer(500), status_answer(429)):
        server.fail(failure, resource="leases", times=2)

    async def hang(_: Request) -> None:
        server.faults.remove(fault)
        await asyncio.sleep(1e6)

    def fault(request: Request) -> Any:
        return hang(request)

    server.faults.append(fault)
    a = elector(make("a"), clock)
    async with asyncio.timeout(120):
        await a.acquire()


async def test_3_7_renewals_come_every_retry_period(server: FakeApiServer, make: Make, clock: LoopClock) -> None:
    a = elector(make("a"), clock)
    await a.acquire()
    hold = asyncio.create_task(a.hold())
    server.requests.clear()
    await asyncio.sleep(100.5)
    assert 48 <= len(server.requests) <= 50
    assert not hold.done()
    hold.cancel()
    with pytest.raises(asyncio.CancelledError):
        await hold
    assert await a.release()
    assert spec(server)["holderIdentity"] == ""


@pytest.mark.parametrize("how", ["refused", "hangs", "errors"])
async def test_3_7_lost_when_not_renewed_in_time_counted_from_the_sending(
    server: FakeApiServer, make: Make, clock: LoopClock, how: str
) -> None:
    """Elsewhere the leading coroutine keeps running when the API server refuses, and a request may outlive the lease."""
    a = elector(make("a"), clock)
    await a.acquire()
    hold = asyncio.create_task(a.hold())
    await asyncio.sleep(7)
    sent = a.lock.sent_at
    assert sent is not None

    def fault(request: Request) -> Any:
        if how == "refused":
            return Unreachable("refused", sent=False)
        if how == "errors":
            return status_answer(500)
        return asyncio.sleep(1e6)

    server.faults.append(fault)
    loop = asyncio.get_running_loop()
    with pytest.raises(LeaseLost, match="in time"):
        await hold
    assert loop.time() == pytest.approx(sent + 10, abs=0.1)
    assert loop.time() < sent + 15
    assert not a.leading


async def test_3_7_lost_at_once_when_somebody_else_holds_it(
    server: FakeApiServer, make: Make, clock: LoopClock
) -> None:
    a = elector(make("a"), clock)
    await a.acquire()
    server.edit(LEASE, "ns", "l", lambda o: o["spec"].update(holderIdentity="b", leaseTransitions=1))
    loop = asyncio.get_running_loop()
    start = loop.time()
    with pytest.raises(LeaseLost, match="b holds it"):
        await a.hold()
    assert loop.time() - start < 3


async def test_3_7_lost_when_it_was_free_in_between(server: FakeApiServer, make: Make, clock: LoopClock) -> None:
    a = elector(make("a"), clock)
    await a.acquire()
    server.edit(LEASE, "ns", "l", lambda o: o["spec"].update(holderIdentity="", leaseTransitions=1))
    with pytest.raises(LeaseLost, match="meanwhile"):
        await a.hold()


async def test_3_7_a_short_failure_is_survived(server: FakeApiServer, make: Make, clock: LoopClock) -> None:
    a = elector(make("a"), clock)
    await a.acquire()
    hold = asyncio.create_task(a.hold())
    await asyncio.sleep(5)
    server.fail(Unreachable("x"), times=6)
    await asyncio.sleep(60)
    assert not hold.done()
    assert a.leading
    hold.cancel()
    await asyncio.gather(hold, return_exceptions=True)


class Standstill(LoopClock):
    """A clock by which the process stood still for a while, with an answer waiting for it."""

    stood = 0.0

    def monotonic(self) -> float:
        return super().monotonic() + self.stood


async def test_bug_a_leader_that_stood_still_while_its_renewal_was_answered_went_on_leading(
    server: FakeApiServer, client: Client
) -> None:
    """Without a watchdog it led for one more retry period, whoever had the Lease by then."""
    clock = Standstill()
    a = elector(LeaseLock(client, "ns", "l", "a", clock=clock), clock)
    await a.acquire()
    hold = asyncio.create_task(a.hold())
    await asyncio.sleep(5)

    def stand_still(request: Request) -> None:
        server.faults.remove(stand_still)
        clock.stood = 60.0

    server.faults.append(stand_still)
    loop = asyncio.get_running_loop()
    with pytest.raises(LeaseLost, match="too late"):
        await hold
    assert loop.time() <= 1000 + 6.5
    assert not a.leading


async def test_bug_a_candidate_that_stood_still_while_it_was_answered_led_without_a_lease(
    server: FakeApiServer, client: Client
) -> None:
    clock = Standstill()
    a = elector(LeaseLock(client, "ns", "l", "a", clock=clock), clock)

    def stand_still(request: Request) -> None:
        if request.is_write:
            server.faults.remove(stand_still)
            clock.stood = 60.0

    server.faults.append(stand_still)
    acquire = asyncio.create_task(a.acquire())
    await asyncio.sleep(0.1)
    assert not a.leading, "the Lease may be somebody else's by now"
    await acquire
    assert a.leading
    assert a.lock.deadline == clock.monotonic() + 15, "it was renewed first"


async def test_3_7_only_one_leads_whatever_happens(server: FakeApiServer, make: Make, clock: LoopClock) -> None:
    electors = [elector(make(name), clock) for name in "abc"]
    leading: list[str] = []
    terms: list[tuple[str, int]] = []

    async def candidate(e: Elector) -> None:
        while True:
            await e.acquire()
            leading.append(e.lock.identity)
            assert len(leading) == 1
            assert e.lock.record is not None
            terms.append((e.lock.identity, e.lock.record.transitions))
            with contextlib.suppress(LeaseLost):
                try:
                    await e.hold()
                finally:
                    leading.remove(e.lock.identity)

    tasks = [asyncio.create_task(candidate(e)) for e in electors]
    for _ in range(10):
        await asyncio.sleep(20)
        server.fail(Unreachable("x"), resource="leases", times=14)
    for task in tasks:
        assert not task.done()
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert len({term for _, term in terms}) == len(terms), "no term has two leaders"


async def test_3_7_release_that_cannot_reach_the_server_lets_it_expire(
    server: FakeApiServer, make: Make, clock: LoopClock
) -> None:
    a = elector(make("a"), clock)
    await a.acquire()
    server.fail(Unreachable("x"), times=100)
    assert not await a.release()


async def test_3_7_health_fails_when_the_lease_held_is_too_old(make: Make, clock: LoopClock) -> None:
    a = elector(make("a"), clock)
    assert a.check() is None
    await a.acquire()
    await asyncio.sleep(15 + 20)
    assert a.check() is None
    await asyncio.sleep(1)
    assert "ended 21 s ago" in str(a.check())


# -- the watchdog ---------------------------------------------------------------------------------------------------


class Time:
    def __init__(self) -> None:
        self.now = 0.0


async def test_3_7_the_watchdog_is_armed_to_lease_minus_margin(make: Make, clock: LoopClock) -> None:
    deadlines: list[float | None] = []

    class Recording(Watchdog):
        def arm(self, deadline: float) -> None:
            deadlines.append(deadline)

        def close(self) -> None:
            deadlines.append(None)

    a = elector(make("a"), clock, watchdog=Recording())
    await a.acquire()
    sent = a.lock.sent_at or 0.0
    hold = asyncio.create_task(a.hold())
    await asyncio.sleep(2.5)
    assert deadlines == [sent + 13, sent + 2 + 13]
    hold.cancel()
    await asyncio.gather(hold, return_exceptions=True)
    await a.release()
    assert deadlines[-1] is None


def test_3_7_the_watchdog_thread_ends_a_process_whose_loop_is_blocked() -> None:
    time, exits, called = Time(), [], threading.Event()

    def leave(code: int) -> None:
        exits.append(code)
        called.set()

    watchdog = Watchdog(exit=leave, boottime=lambda: time.now)
    watchdog.arm(0.05)
    watchdog.arm(0.02)
    time.now = 0.02  # the loop does nothing: the thread has to see it by itself
    assert called.wait(5)
    assert exits == [EXIT_CODE]
    watchdog.close()
    watchdog.close()


def test_3_7_a_watchdog_that_is_fed_or_called_off_does_nothing() -> None:
    time, exits = Time(), []
    watchdog = Watchdog(exit=exits.append, boottime=lambda: time.now)
    watchdog.arm(0.01)
    watchdog.disarm()
    time.now = 100.0
    watchdog.arm(200.0)
    watchdog.close()
    assert exits == []
    Watchdog().close()


async def test_an_api_error_is_not_taken_for_an_answer(server: FakeApiServer, make: Make) -> None:
    server.fail(status_answer(500), times=10)
    with pytest.raises(ApiError):
        await make("a").try_take()
