"""The primary's Lease: deadlines, lives, and what others write."""

from __future__ import annotations

from typing import Any

import pytest
from rig import LosesAnswer
from yoban.agent.lease import MARGIN, PrimaryLease
from yoban.kube.client import Client
from yoban.kube.clock import SystemClock
from yoban.kube.errors import Conflict, Timeout, Unreachable
from yoban.kube.resource import LEASE
from yoban.model.instance import LeaseDocument
from yoban.testing.apiserver import FakeApiServer

NAME = "orders-primary"
DOCUMENT = LeaseDocument(name=NAME)


class Clock(SystemClock):
    """Both clocks of the test's."""

    def __init__(self) -> None:
        self.time = 1000.0

    def monotonic(self) -> float:
        return self.time

    def boottime(self) -> float:
        return self.time


class Bench:
    def __init__(self) -> None:
        self.api = FakeApiServer()
        self.client = Client(self.api)
        self.clock = Clock()
        self.told: list[float | None] = []
        self.api.put(LEASE, {"metadata": {"namespace": "shop", "name": NAME}, "spec": {}})

    def lease(self, instance: str = "orders-1", life: str = "a") -> PrimaryLease:
        async def told(fence_at: float | None) -> None:
            self.told.append(fence_at)

        return PrimaryLease(self.client, "shop", DOCUMENT, instance, life, on_fence=told, clock=self.clock)

    def edit(self, change: Any) -> None:
        self.api.edit(LEASE, "shop", NAME, change)


@pytest.fixture
def bench() -> Bench:
    return Bench()


async def test_the_deadline_counts_from_the_sending(bench: Bench) -> None:
    lease = bench.lease()
    await lease.refresh()
    assert lease.view().known
    assert not lease.view().held
    sent = bench.clock.time
    assert await lease.take(1)
    view = lease.view()
    assert view.held
    assert view.fence_at == sent + DOCUMENT.duration - MARGIN
    assert bench.told[-1] == view.fence_at
    bench.clock.time += 2
    await lease.refresh()
    assert lease.fence_at() == sent + 2 + DOCUMENT.duration - MARGIN
    bench.clock.time += DOCUMENT.duration - MARGIN + 0.1
    assert not lease.view().held


async def test_an_api_server_that_is_gone_does_not_move_the_deadline(bench: Bench) -> None:
    lease = bench.lease()
    await lease.refresh()
    await lease.take(1)
    fence_at = lease.fence_at()
    bench.api.fail(Unreachable("cut", sent=False), times=100)
    bench.clock.time += 5
    await lease.refresh()
    assert lease.error
    assert lease.fence_at() == fence_at
    assert lease.view().held


async def test_another_life_of_our_name_waits(bench: Bench) -> None:
    first = bench.lease(life="a")
    await first.refresh()
    await first.take(1)
    second = bench.lease(life="b")
    await second.refresh()
    view = second.view()
    assert (view.holder, view.mine, view.held, view.takeable) == ("orders-1", False, False, False)
    assert not await second.take(1)
    bench.clock.time += DOCUMENT.duration
    assert second.view().takeable
    assert await second.take(1)
    await first.refresh()
    assert not first.view().held


async def test_a_new_agent_of_the_same_life_goes_on(bench: Bench) -> None:
    first = bench.lease()
    await first.refresh()
    await first.take(3)
    bench.clock.time += 4
    second = bench.lease()
    await second.refresh()
    assert second.view().held
    assert second.view().term == 3
    assert second.fence_at() == bench.clock.time + DOCUMENT.duration - MARGIN


async def test_an_annotation_of_the_operators_costs_nothing(bench: Bench) -> None:
    lease = bench.lease()
    await lease.refresh()
    await lease.take(1)
    bench.edit(lambda obj: obj["metadata"].setdefault("annotations", {}).update({"yoban.dev/last-number": "3"}))
    await lease.refresh()
    assert lease.view().held
    await lease.note({"yoban.dev/initialized": "x"})
    stored = await bench.client.get(LEASE, NAME, "shop")
    notes = stored["metadata"]["annotations"]
    assert notes["yoban.dev/last-number"] == "3"
    assert notes["yoban.dev/initialized"] == "x"


async def test_who_is_quicker_has_it(bench: Bench) -> None:
    first, second = bench.lease("orders-1"), bench.lease("orders-2")
    await first.refresh()
    await second.refresh()
    assert await first.take(1)
    assert not await second.take(1)
    assert second.view().holder == "orders-1"


async def test_giving_up_names_the_successor(bench: Bench) -> None:
    lease = bench.lease()
    await lease.refresh()
    await lease.take(2)
    assert await lease.give_up({"yoban.dev/successor": "orders-2", "yoban.dev/position": "9"})
    assert lease.fence_at() is None
    other = bench.lease("orders-2")
    await other.refresh()
    view = other.view()
    assert (view.holder, view.takeable, view.successor, view.position) == ("", True, "orders-2", "9")
    assert (view.last_holder, view.term) == ("orders-1", 2)
    assert await other.take(3)
    assert other.view().successor == ""


async def test_a_lost_lease_keeps_its_deadline_until_the_server_has_ended(bench: Bench) -> None:
    lease = bench.lease()
    await lease.refresh()
    await lease.take(1)
    fence_at = lease.fence_at()
    bench.edit(lambda obj: obj["spec"].update(holderIdentity="orders-2"))
    await lease.refresh()
    assert not lease.view().held
    assert lease.fence_at() == fence_at
    await lease.settled()
    assert lease.fence_at() is None
    assert bench.told[-1] is None


async def test_a_deadline_that_an_agent_before_us_left_is_lifted_once_no_server_of_ours_needs_it(bench: Bench) -> None:
    lease = bench.lease()
    await lease.refresh()
    bench.told.clear()
    await lease.settled()
    assert bench.told == [None]
    assert await lease.take(1)
    bench.told.clear()
    await lease.settled()
    assert bench.told == []


async def test_a_lease_that_is_gone_is_told_from_one_that_cannot_be_read(bench: Bench) -> None:
    lease = bench.lease()
    bench.api.remove(LEASE, "shop", NAME)
    await lease.refresh()
    assert lease.view().absent
    assert not lease.view().known


async def _taken_by_another(bench: Bench) -> tuple[PrimaryLease, PrimaryLease]:
    """One that stood still for longer than its Lease lasts and has not looked since, and who took it meanwhile."""
    first, second = bench.lease("orders-1"), bench.lease("orders-2")
    await first.refresh()
    assert await first.take(1)
    await second.refresh()
    bench.clock.time += DOCUMENT.duration
    assert await second.take(2)
    return first, second


async def _holder(bench: Bench) -> str:
    return str((await bench.client.get(LEASE, NAME, "shop"))["spec"]["holderIdentity"])


async def test_bug_a_renewal_took_the_lease_from_who_had_taken_it(bench: Bench) -> None:
    # The refusal of `take` was read, and the next renewal written over what it had read.
    first, second = await _taken_by_another(bench)
    assert not await first.take(1)
    await first.refresh()
    assert await _holder(bench) == "orders-2"
    assert not first.view().held
    await second.refresh()
    assert second.view().held


async def test_bug_a_note_took_the_lease_from_who_had_taken_it(bench: Bench) -> None:
    first, second = await _taken_by_another(bench)
    with pytest.raises(Conflict):
        await first.note({"yoban.dev/switchover": "a"})
    with pytest.raises(Conflict):
        await first.note({"yoban.dev/switchover": "a"})
    assert await _holder(bench) == "orders-2"
    await second.refresh()
    assert (second.view().held, second.view().switchover) == (True, "")


async def test_bug_an_older_life_gave_up_the_lease_of_a_newer_one(bench: Bench) -> None:
    old, new = bench.lease(life="a"), bench.lease(life="b")
    await old.refresh()
    assert await old.take(1)
    await new.refresh()
    bench.clock.time += DOCUMENT.duration
    assert await new.take(1)
    assert not await old.give_up({"yoban.dev/successor": "orders-2", "yoban.dev/position": "1"})
    assert await _holder(bench) == "orders-1"
    await new.refresh()
    assert (new.view().held, new.view().successor) == (True, "")


HAND_OVER = {"yoban.dev/successor": "orders-2", "yoban.dev/position": "9"}


async def test_bug_a_lease_was_still_held_after_a_hand_over_whose_answer_was_lost(bench: Bench) -> None:
    way = LosesAnswer(bench.api)
    bench.client = Client(way)
    lease = bench.lease()
    await lease.refresh()
    await lease.take(2)
    fence_at = lease.fence_at()
    with pytest.raises(Timeout):
        await lease.give_up(HAND_OVER)
    assert not lease.view().held
    assert lease.fence_at() == fence_at
    await lease.refresh()
    assert not lease.view().held, "nothing is known yet"
    with pytest.raises(Unreachable):
        await lease.take(2)
    way.cut = False
    assert not await lease.take(2), "it was read before it was given up"
    await lease.refresh()
    view = lease.view()
    assert (view.holder, view.held, view.successor) == ("", False, "orders-2")


async def test_a_lease_whose_giving_up_did_not_arrive_is_held_again_by_a_write(bench: Bench) -> None:
    way = LosesAnswer(bench.api, forwards=False)
    bench.client = Client(way)
    lease = bench.lease()
    await lease.refresh()
    await lease.take(2)
    before = await Client(bench.api).get(LEASE, NAME, "shop")
    with pytest.raises(Timeout):
        await lease.give_up(HAND_OVER)
    way.cut = False
    await lease.refresh()
    view = lease.view()
    assert (view.held, view.term, view.successor) == (True, 2, "")
    late = {**before, "spec": {**before["spec"], "holderIdentity": ""}}
    with pytest.raises(Conflict):
        await Client(bench.api).update(LEASE, late)
