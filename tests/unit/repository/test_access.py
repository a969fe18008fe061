from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from yoban.errors import AccessDenied, DeadlineExceeded, IntegrityError, NotFound, Unavailable
from yoban.plugins import AlreadyExists, ObjectInfo, StoreCapability
from yoban.repository.access import Access, RetryPolicy
from yoban.testing.clock import LoopClock
from yoban.testing.faulty_store import Cut, Delay, Fail, FaultyStore, Hang, LoseAnswer, Truncate
from yoban.testing.memory_store import MemoryStore


@pytest.fixture
def access(store: FaultyStore, clock: LoopClock) -> Access:
    return Access(store, clock=clock, retry=RetryPolicy(attempts=4, call_seconds=20), random=lambda: 0.0)


async def collected(access: Access, key: str) -> bytes:
    async with aclosing(access.stream(key)) as chunks:
        return b"".join([chunk async for chunk in chunks])


async def test_a_failure_that_passes_is_not_heard(access: Access, store: FaultyStore) -> None:
    store.inject("put", Fail(), times=3)
    await access.put("k", b"x")
    assert store.inner.raw("k") == b"x"  # type: ignore[attr-defined]


async def test_a_failure_that_stays_is_raised_with_the_key(access: Access, store: FaultyStore) -> None:
    rule = store.inject("put", Fail(), times=None)
    with pytest.raises(Unavailable) as error:
        await access.put("the/key", b"x")
    assert error.value.object == "the/key"
    assert rule.struck == 4


async def test_delays_grow_and_respect_what_the_store_asks_for(access: Access, store: FaultyStore) -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    store.inject("head", Fail(lambda: Unavailable("busy", retry_after=7.0)), times=1)
    store.inject("head", Fail(), times=1)
    await access.head("k")
    assert loop.time() - start == pytest.approx(7.0 + 0.5)


async def test_a_terminal_failure_is_raised_at_once(access: Access, store: FaultyStore) -> None:
    rule = store.inject("put", Fail(lambda: AccessDenied("no")), times=None)
    with pytest.raises(AccessDenied):
        await access.put("k", b"x")
    assert rule.struck == 1


async def test_silence_ends_at_the_deadline(access: Access, store: FaultyStore) -> None:
    store.inject("get", Hang(), times=None)
    start = asyncio.get_running_loop().time()
    with pytest.raises(DeadlineExceeded) as error:
        await access.read("the/key")
    assert error.value.object == "the/key"
    assert asyncio.get_running_loop().time() - start == pytest.approx(4 * 20 + 0.25 + 0.5 + 1.0)


async def test_slow_is_not_silent(access: Access, store: FaultyStore) -> None:
    store.inject("put", Delay(19))
    await access.put("k", b"x")


async def test_create_tells_whether_something_was_there(access: Access) -> None:
    assert await access.create("k", b"one") is True
    assert await access.create("k", b"two") is False
    assert await access.read("k") == b"one"


async def test_create_whose_answer_was_lost_says_that_something_is_there(access: Access, store: FaultyStore) -> None:
    store.inject("create", LoseAnswer())
    assert await access.create("k", b"one") is False
    assert await access.read("k") == b"one"


async def test_create_without_conditional_put_looks_first(clock: LoopClock) -> None:
    store = MemoryStore(capabilities=frozenset({StoreCapability.MULTIPART}))
    access = Access(store, clock=clock)
    assert await access.create("k", b"one") is True
    assert await access.create("k", b"two") is False
    assert store.raw("k") == b"one"


async def test_failure_11_absent_needs_a_listing_that_agrees(access: Access, store: FaultyStore) -> None:
    """A 404 for something that a listing shows is a fault of the store, not an absence."""
    await store.put("k", b"x")
    for operation, call in (("get", access.read), ("head", access.head), ("get", lambda key: collected(access, key))):
        store.heal()
        rule = store.inject(operation, Fail(lambda: NotFound("404")), times=None)
        with pytest.raises(Unavailable):
            await call("k")
        assert rule.struck == 4
        store.heal()
        store.inject(operation, Fail(lambda: NotFound("404")), times=1)
        assert await call("k") is not None


async def test_failure_11_absent_is_not_concluded_while_listings_fail(access: Access, store: FaultyStore) -> None:
    store.inject("list", Fail(), times=None)
    for call in (access.read, access.head, access.confirm_absent):
        with pytest.raises(Unavailable):
            await call("nothing")
    with pytest.raises(Unavailable):
        await collected(access, "nothing")


async def test_failure_11_a_503_is_never_absent(access: Access, store: FaultyStore) -> None:
    store.inject("*", Fail(), times=None)
    for call in (access.read, access.head):
        with pytest.raises(Unavailable):
            await call("nothing")


async def test_absent(access: Access, store: FaultyStore) -> None:
    await store.put("key-longer", b"x")
    assert await access.read("key") is None
    assert await access.head("key") is None
    assert await access.confirm_absent("key") is True
    assert await access.confirm_absent("key-longer") is False
    with pytest.raises(NotFound):
        await collected(access, "key")


async def test_a_stream_goes_on_where_it_broke(access: Access, store: FaultyStore) -> None:
    data = bytes(range(256)) * 20_000
    await store.put("k", data)
    store.inject("get", Cut(1_500_000, lambda: Unavailable("reset")), times=1)
    store.inject("get", Cut(100, lambda: IntegrityError("short")), times=1)
    store.inject("get", Cut(5, lambda: NotFound("404")), times=1)
    assert await collected(access, "k") == data


async def test_a_stream_that_is_always_cut_raises(access: Access, store: FaultyStore) -> None:
    await store.put("k", b"0123456789")
    store.inject("get", Cut(0), times=None)
    with pytest.raises(IntegrityError):
        await collected(access, "k")
    with pytest.raises(IntegrityError):
        await access.read("k")


async def test_a_stream_that_stalls_ends_at_the_deadline(access: Access, store: FaultyStore) -> None:
    await store.put("k", b"x")
    store.inject("get", Hang(), times=None)
    with pytest.raises(DeadlineExceeded):
        await collected(access, "k")


async def test_a_cut_read_is_tried_again(access: Access, store: FaultyStore) -> None:
    await store.put("k", b"0123456789")
    store.inject("get", Cut(3), times=1)
    assert await access.read("k") == b"0123456789"
    assert await access.read("k", start=2, end=4) == b"23"


async def test_a_listing_goes_on_where_it_broke(access: Access, store: FaultyStore) -> None:
    for number in range(10):
        await store.put(f"k{number}", b"x")
    store.inject("list", Cut(4, lambda: Unavailable("reset")), times=1)
    store.inject("list", Cut(3, lambda: Unavailable("reset")), times=1)
    assert [info.key for info in await access.listed("k")] == [f"k{number}" for number in range(10)]


async def test_a_listing_that_cannot_be_had_never_just_ends(access: Access, store: FaultyStore) -> None:
    for number in range(10):
        await store.put(f"k{number}", b"x")
    store.inject("list", Cut(0, lambda: Unavailable("reset")), times=None)
    with pytest.raises(Unavailable):
        await access.listed("k")


async def test_folders_are_found_by_leaps(access: Access, store: FaultyStore) -> None:
    for folder in ("a", "b", "b0", "ü"):
        for number in range(50):
            await store.put(f"r/{folder}/{number}", b"x")
    await store.put("r/file", b"x")
    store.calls.clear()
    assert await access.folders("r/") == ["a", "b", "b0", "ü"]
    assert len(store.calls) == 6


async def test_delete_in_batches(access: Access, store: FaultyStore) -> None:
    keys = [f"k{number:04d}" for number in range(1500)]
    for key in keys:
        await store.put(key, b"x")
    store.inject("delete", Fail(), times=2)
    await access.delete(keys)
    await access.delete([])
    assert await access.listed("") == []


async def test_an_upload_whose_completion_s_answer_was_lost_is_complete(access: Access, store: FaultyStore) -> None:
    upload = await access.start_upload("k")
    part = await access.put_part(upload, 1, b"part")
    store.inject("complete_upload", LoseAnswer())
    await access.complete_upload(upload, [part])
    assert await access.read("k") == b"part"


async def test_an_upload_that_is_gone_is_an_error(access: Access, store: FaultyStore) -> None:
    upload = await access.start_upload("k")
    part = await access.put_part(upload, 1, b"part")
    await store.abort_upload(upload)
    with pytest.raises(NotFound):
        await access.complete_upload(upload, [part])


async def test_uploads_are_given_up(access: Access, store: FaultyStore, memory: MemoryStore) -> None:
    for key in ("a/1", "a/2", "b/1"):
        await access.start_upload(key)
    assert await access.abort_uploads("a/") == 2
    assert memory.open_uploads == 1
    upload = await access.start_upload("c")
    store.inject("abort_upload", Fail())
    await access.abort(upload)  # what the store refuses now is left to the sweep
    assert memory.open_uploads == 2
    lesser = MemoryStore(capabilities=frozenset())
    assert await Access(lesser).abort_uploads("") == 0


async def test_a_truncated_stream_is_passed_on_for_its_checksum_to_tell(access: Access, store: FaultyStore) -> None:
    await store.put("k", b"0123456789")
    store.inject("get", Truncate(4))
    assert await collected(access, "k") == b"0123"


async def test_already_there_is_no_reason_to_try_again(access: Access, store: FaultyStore) -> None:
    rule = store.inject("create", Fail(lambda: AlreadyExists("there")), times=None)
    assert await access.create("k", b"x") is False
    assert rule.struck == 1


class Foreign(MemoryStore):
    """Lets errors through that the contract does not name."""

    async def head(self, key: str) -> ObjectInfo:
        raise ValueError("Invalid endpoint")

    async def list(self, prefix: str = "", *, after: str = "") -> AsyncIterator[ObjectInfo]:
        for content in dict[str, list[ObjectInfo]]()["Contents"]:
            yield content


async def test_bug_what_a_store_s_plugin_lets_through_ended_the_caller(clock: LoopClock) -> None:
    access = Access(Foreign(), clock=clock)
    with pytest.raises(Unavailable, match=r"k: .*plugin failed \(ValueError: Invalid endpoint\)"):
        await access.head("k")
    with pytest.raises(Unavailable, match="KeyError"):
        await access.listed("k")
