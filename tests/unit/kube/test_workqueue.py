"""Rules 3.4 and 3.5: the workqueue and its priorities."""

from __future__ import annotations

import asyncio
import random
from collections import Counter

import pytest
from yoban.kube.ratelimit import RateLimiter, TokenBucket
from yoban.kube.workqueue import INITIAL, SLACK, URGENT, QueueShutDown, WorkQueue, adds_total, retries_total


@pytest.fixture
async def queue() -> WorkQueue[str]:
    return WorkQueue("test", RateLimiter(jitter=0.0))


async def take(queue: WorkQueue[str]) -> str:
    async with asyncio.timeout(1):
        return (await queue.get()).key


async def test_3_4_a_burst_is_one_item(queue: WorkQueue[str]) -> None:
    before = adds_total.value("test")
    for _ in range(100):
        queue.add("a")
    assert len(queue) == 1
    assert await take(queue) == "a"
    queue.done("a")
    assert len(queue) == 0
    assert adds_total.value("test") == before + 1


async def test_3_4_a_key_is_never_worked_twice_at_once_and_no_update_is_lost(queue: WorkQueue[str]) -> None:
    queue.add("a")
    assert await take(queue) == "a"
    queue.add("a")
    queue.add("a")
    assert len(queue) == 0, "not ready while it is in hand"
    with pytest.raises(TimeoutError):
        await take(queue)
    queue.done("a")
    assert await take(queue) == "a"
    queue.done("a")
    assert len(queue) == 0


async def test_3_4_done_needs_a_get(queue: WorkQueue[str]) -> None:
    with pytest.raises(KeyError):
        queue.done("a")


async def test_3_4_equal_priorities_come_in_order(queue: WorkQueue[str]) -> None:
    for key in "dacb":
        queue.add(key)
    assert [await take(queue) for _ in range(4)] == list("dacb")


async def test_3_4_add_after_keeps_the_earlier_time(queue: WorkQueue[str]) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    queue.add("a", after=10)
    queue.add("a", after=5)
    queue.add("a", after=20)
    assert queue.waiting == 1
    assert len(queue) == 0, "depth counts ready items only"
    item = await queue.get()
    assert (item.key, loop.time() - start) == ("a", pytest.approx(5))
    queue.done("a")
    await asyncio.sleep(30)
    assert len(queue) == 0


@pytest.mark.parametrize("after", [0.0, -1.0])
async def test_3_4_due_now_is_an_add(queue: WorkQueue[str], after: float) -> None:
    queue.add("a", after=after)
    assert len(queue) == 1


async def test_3_4_an_add_takes_the_waiting_item_along(queue: WorkQueue[str]) -> None:
    queue.add("a", after=10, priority=URGENT)
    queue.add("a")
    item = await queue.get()
    assert item == ("a", URGENT)
    queue.done("a")
    await asyncio.sleep(20)
    assert len(queue) == 0


async def test_3_4_what_becomes_due_while_in_hand_is_worked_after(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await take(queue)
    queue.add("a", after=1)
    await asyncio.sleep(2)
    assert len(queue) == 0
    queue.done("a")
    assert len(queue) == 1


def test_3_4_rate_limit_is_the_longer_of_item_and_bucket() -> None:
    limiter: RateLimiter[str] = RateLimiter(jitter=0.0)
    assert [limiter.when("a", 0.0) for _ in range(4)] == [0.005, 0.01, 0.02, 0.04]
    for _ in range(30):
        last = limiter.when("a", 0.0)
    assert last == 1000.0
    assert limiter.when("b", 0.0) == 0.005
    limiter.forget("a")
    limiter.forget("nobody")
    assert limiter.when("a", 0.0) == 0.005
    bucket: RateLimiter[int] = RateLimiter(jitter=0.0, bucket=TokenBucket(rate=10, burst=100))
    delays = [bucket.when(number, 0.0) for number in range(150)]
    assert max(delays[:100]) == 0.005
    assert delays[100] == pytest.approx(0.1)
    assert delays[149] == pytest.approx(5.0)
    assert bucket.when(999, 1000.0) == 0.005, "the bucket fills again"


async def test_3_4_forget_empties_the_counter_map(queue: WorkQueue[str]) -> None:
    before = retries_total.value("test")
    for number in range(100):
        queue.add_rate_limited(str(number))
        queue.forget(str(number))
    assert len(queue.limiter) == 0
    assert retries_total.value("test") == before + 100


async def test_3_4_rate_limited_honours_what_the_server_asked_for(queue: WorkQueue[str]) -> None:
    assert queue.add_rate_limited("a", at_least=7.0) == 7.0


async def test_3_4_shut_down_drains_what_is_queued_and_drops_what_waits(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("b")
    queue.add("later", after=100)
    await queue.shut_down()
    queue.add("c")
    assert queue.shutting_down
    assert [await take(queue), await take(queue)] == ["a", "b"]
    with pytest.raises(QueueShutDown):
        await queue.get()
    await asyncio.sleep(200)
    with pytest.raises(QueueShutDown):
        await queue.get()


async def test_3_4_shut_down_wakes_those_who_wait(queue: WorkQueue[str]) -> None:
    getters = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    await queue.shut_down()
    for outcome in await asyncio.gather(*getters, return_exceptions=True):
        assert isinstance(outcome, QueueShutDown)


async def test_3_4_drain_waits_until_nothing_is_in_hand(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("b")
    await take(queue)
    draining = asyncio.create_task(queue.shut_down(drain=True))
    await asyncio.sleep(1)
    await take(queue)
    queue.done("b")
    await asyncio.sleep(1)
    assert not draining.done()
    queue.done("a")
    await draining
    await queue.shut_down(drain=True)


async def test_3_4_a_cancelled_waiter_passes_its_wake_up_on(queue: WorkQueue[str]) -> None:
    """asyncio.Condition loses it on 3.11.7: the item lies there with a second waiter asleep."""
    first = asyncio.create_task(queue.get())
    second = asyncio.create_task(queue.get())
    await asyncio.sleep(0)
    queue.add("a")
    first.cancel()
    async with asyncio.timeout(1):
        assert (await second).key == "a"
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_3_4_a_waiter_cancelled_before_any_wake_up_leaves_nothing(queue: WorkQueue[str]) -> None:
    waiters = [asyncio.create_task(queue.get()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[1].cancel()
    await asyncio.gather(waiters[1], return_exceptions=True)
    assert len(queue._getters) == 2
    queue.add("a")
    queue.add("b")
    assert {(await waiters[0]).key, (await waiters[2]).key} == {"a", "b"}


async def test_3_4_metrics_of_what_is_in_hand(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("b")
    await take(queue)
    await asyncio.sleep(3)
    await take(queue)
    await asyncio.sleep(2)
    assert queue.unfinished_seconds() == pytest.approx(7)
    assert queue.longest_running() == pytest.approx(5)
    assert queue.processing == 2
    queue.done("a")
    queue.done("b")
    assert queue.longest_running() == 0


async def test_3_5_higher_priority_first_then_arrival(queue: WorkQueue[str]) -> None:
    queue.add("old1", priority=INITIAL)
    queue.add("old2", priority=INITIAL)
    queue.add("change")
    queue.add("loss", priority=URGENT)
    assert [await take(queue) for _ in range(4)] == ["loss", "change", "old1", "old2"]


async def test_3_5_a_real_change_is_not_behind_the_first_list(queue: WorkQueue[str]) -> None:
    for number in range(5000):
        queue.add(f"n{number}", priority=INITIAL)
    queue.add("n4000")
    assert await take(queue) == "n4000"
    assert len(queue) == 4999


async def test_3_5_raising_the_priority_puts_it_last_among_its_peers(queue: WorkQueue[str]) -> None:
    queue.add("a")
    queue.add("b", priority=URGENT)
    queue.add("a", priority=URGENT)
    queue.add("a")
    assert len(queue) == 2
    assert await take(queue) == "b"
    item = await queue.get()
    assert item == ("a", URGENT)
    queue.done("a")
    queue.done("b")
    with pytest.raises(TimeoutError):
        await take(queue)


async def test_3_5_re_add_while_waiting_takes_the_highest_priority(queue: WorkQueue[str]) -> None:
    queue.add("a", after=10, priority=URGENT)
    queue.add("a", after=5, priority=INITIAL)
    item = await queue.get()
    assert item == ("a", URGENT)


async def test_3_5_priority_raised_while_in_hand_counts_for_the_next(queue: WorkQueue[str]) -> None:
    queue.add("a")
    await take(queue)
    queue.add("a", priority=INITIAL)
    queue.add("a", priority=URGENT)
    queue.done("a")
    assert await queue.get() == ("a", URGENT)


async def test_3_5_what_becomes_due_arrives_then(queue: WorkQueue[str]) -> None:
    queue.add("early", after=1)
    await asyncio.sleep(0.5)
    queue.add("ready")
    await asyncio.sleep(1)
    assert [await take(queue), await take(queue)] == ["ready", "early"]


async def test_3_4_invariants_hold_under_random_use() -> None:
    """Eight workers, random adds and cancellations: never two at once, nothing lost, nothing left."""
    draw = random.Random(7)
    queue: WorkQueue[int] = WorkQueue("random", RateLimiter(jitter=0.0))
    wanted: Counter[int] = Counter()
    seen: Counter[int] = Counter()
    in_hand: set[int] = set()

    async def work() -> None:
        while True:
            try:
                item = await queue.get()
            except QueueShutDown:
                return
            try:
                assert item.key not in in_hand
                in_hand.add(item.key)
                seen[item.key] = wanted[item.key]
                await asyncio.sleep(draw.random() * 0.01)
            finally:
                in_hand.discard(item.key)
                queue.done(item.key)

    workers = [asyncio.create_task(work()) for _ in range(8)]
    for step in range(5000):
        key = draw.randrange(50)
        wanted[key] += 1
        queue.add(key, priority=draw.choice([INITIAL, 0, URGENT]), after=draw.choice([0, 0, draw.random()]))
        if step % 100 == 0:
            victim = draw.randrange(8)
            workers[victim].cancel()
            outcome = (await asyncio.gather(workers[victim], return_exceptions=True))[0]
            assert isinstance(outcome, asyncio.CancelledError)
            for lost in range(50):
                queue.add(lost)
            workers[victim] = asyncio.create_task(work())
        if step % 7 == 0:
            await asyncio.sleep(0.002)
    await asyncio.sleep(5)
    assert seen == wanted
    assert (len(queue), queue.waiting, queue.processing) == (0, 0, 0)
    await queue.shut_down(drain=True)
    await asyncio.gather(*workers)
    assert queue._dirty == {}


async def test_bug_each_re_add_of_a_waiting_key_left_an_entry_until_its_time(queue: WorkQueue[str]) -> None:
    for _ in range(10_000):  # looked at again in an hour, and changed each second until then
        queue.add("a", after=3600)
        queue.add("a")
        queue.done((await queue.get()).key)
    queue.add("a", after=3600)
    assert queue.waiting == 1
    assert len(queue._waiting) <= 2 * queue.waiting + SLACK + 1
    queue.add("b", after=10)
    await asyncio.sleep(11)
    assert (await queue.get()).key == "b"
    await asyncio.sleep(3600)
    assert (await queue.get()).key == "a"


async def test_bug_each_raised_priority_left_an_entry(queue: WorkQueue[str]) -> None:
    queue.add("b", priority=-1)
    for priority in range(1000):
        queue.add("a", priority=priority)
    assert len(queue._ready) <= 2 * len(queue) + SLACK + 1
    assert [(await queue.get()).key for _ in range(2)] == ["a", "b"]
    assert len(queue) == 0
