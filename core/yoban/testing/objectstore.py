"""`ObjectStoreContract`: what every object store must do, as tests.

A plugin's author subclasses it and gives two or three fixtures::

    class TestMyStore(ObjectStoreContract):
        @pytest.fixture
        def provider(self):
            return MyProvider()

        @pytest.fixture
        def config(self, tmp_path):
            return StoreConfig(bucket=str(tmp_path))

        @pytest.fixture
        def outage(self, ...):          # when the store can be made unreachable
            return Outage(stop=..., start=...)

Guarantees: a store that passes loses nothing, tells absent from unreachable, and lists completely and in order. Does not
measure speed, and does not try what only a provider knows (credentials, certificates).
"""

from __future__ import annotations

import asyncio
import os
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import pytest_asyncio

from yoban.errors import InvalidInput, NotFound, NotReady, Retryable, Unsupported, YobanError
from yoban.plugins import (
    AlreadyExists,
    BucketAdmin,
    ObjectInfo,
    ObjectStore,
    ObjectStoreProvider,
    StoreCapability,
    StoreConfig,
)

MIB = 1 << 20
PART = 5 * MIB


@dataclass(frozen=True, slots=True)
class Outage:
    """How to make the store unreachable and reachable again."""

    stop: Callable[[], object]
    start: Callable[[], object]


async def content(store: ObjectStore, key: str, start: int = 0, end: int | None = None) -> bytes:
    """Read an object (or bytes [start, end) of it) whole, and check the size of chunks."""
    chunks = [chunk async for chunk in store.get(key, start=start, end=end)]
    assert all(0 < len(chunk) <= MIB for chunk in chunks), "chunks have 1 byte to 1 MiB"
    return b"".join(chunks)


async def keys(store: ObjectStore, prefix: str = "", after: str = "") -> list[str]:
    """List keys."""
    return [info.key async for info in store.list(prefix, after=after)]


def noise(size: int) -> bytes:
    """Bytes that differ everywhere, so that a part in the wrong place shows."""
    return os.urandom(min(size, MIB)) * (size // MIB) + os.urandom(size % MIB)


async def _many(calls: list[Callable[[], Awaitable[Any]]], at_once: int = 32) -> None:
    gate = asyncio.Semaphore(at_once)

    async def one(call: Callable[[], Awaitable[Any]]) -> None:
        async with gate:
            await call()

    await asyncio.gather(*(one(call) for call in calls))


@pytest.mark.asyncio
class ObjectStoreContract:
    """Subclass it as `Test…` and give the fixtures `provider` and `config`; `outage` where it can be had."""

    @pytest.fixture
    def provider(self) -> ObjectStoreProvider:
        """The provider under test."""
        raise NotImplementedError("give a fixture `provider`")

    @pytest.fixture
    def config(self) -> StoreConfig:
        """Configuration of a bucket (or whatever it is called) that exists and is empty."""
        raise NotImplementedError("give a fixture `config`")

    @pytest.fixture
    def outage(self) -> Outage:
        """How to stop and start the store; must start it again at teardown by itself."""
        pytest.skip("this store cannot be made unreachable")

    @pytest_asyncio.fixture
    async def store(self, provider: ObjectStoreProvider, config: StoreConfig) -> AsyncIterator[ObjectStore]:
        """The store under test, opened."""
        async with provider.open(config) as store:
            yield store

    # The provider

    async def test_provider_declares_itself(self, provider: ObjectStoreProvider) -> None:
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", provider.name)
        assert provider.title
        assert all(name and text for name, text in provider.secret_keys.items())

    async def test_provider_checks_without_io(self, provider: ObjectStoreProvider, config: StoreConfig) -> None:
        provider.check(config)
        with pytest.raises(InvalidInput) as error:
            provider.check(replace(config, bucket=""))
        assert error.value.fix, "the error says what to do"

    async def test_store_has_the_capabilities_of_its_provider(
        self, provider: ObjectStoreProvider, store: ObjectStore
    ) -> None:
        assert store.capabilities == provider.capabilities
        assert (store.bucket is not None) == (StoreCapability.BUCKET_ADMIN in store.capabilities)

    async def test_prefixes_do_not_see_each_other(self, provider: ObjectStoreProvider, config: StoreConfig) -> None:
        async with (
            provider.open(replace(config, prefix="one")) as one,
            provider.open(replace(config, prefix="on")) as other,
            provider.open(replace(config, prefix="one/deep")) as deep,
        ):
            await one.put("k", b"1")
            await deep.put("k", b"3")
            assert await keys(other) == []
            with pytest.raises(NotFound):
                await other.head("k")
            assert await keys(one) == ["deep/k", "k"]
            assert await content(one, "deep/k") == b"3"

    # Put and get

    async def test_put_then_get(self, store: ObjectStore) -> None:
        info = await store.put("a/b", b"hello")
        assert (info.key, info.size) == ("a/b", 5)
        assert await content(store, "a/b") == b"hello"

    async def test_head_tells_size_and_time(self, store: ObjectStore) -> None:
        await store.put("k", b"12345")
        info = await store.head("k")
        assert (info.key, info.size) == ("k", 5)
        assert info.modified.tzinfo is not None
        assert abs(info.modified - datetime.now(UTC)) < timedelta(minutes=10)

    async def test_put_replaces(self, store: ObjectStore) -> None:
        await store.put("k", b"a longer first content")
        await store.put("k", b"second")
        assert await content(store, "k") == b"second"
        assert (await store.head("k")).size == 6

    async def test_empty_object_is_an_object(self, store: ObjectStore) -> None:
        await store.put("empty", b"")
        assert await content(store, "empty") == b""
        assert (await store.head("empty")).size == 0
        assert await keys(store, "empty") == ["empty"]

    @pytest.mark.parametrize("make", [bytes, bytearray, memoryview, lambda data: memoryview(b"x" + data)[1:]])
    async def test_put_takes_any_buffer(self, store: ObjectStore, make: Callable[[bytes], Any]) -> None:
        await store.put("k", make(b"some bytes"))
        assert await content(store, "k") == b"some bytes"

    async def test_large_object_is_streamed(self, store: ObjectStore) -> None:
        data = noise(20 * MIB + 17)
        await store.put("big", data)
        assert await content(store, "big") == data

    async def test_stream_may_be_left(self, store: ObjectStore) -> None:
        await store.put("big", noise(5 * MIB))
        for _ in range(5):
            async with aclosing(store.get("big")) as chunks:  # type: ignore[type-var]
                async for _chunk in chunks:
                    break
        assert (await store.head("big")).size == 5 * MIB

    @pytest.mark.parametrize(
        ("start", "end"), [(0, 10), (3, 7), (5, None), (0, 1), (9, 10), (4, 4), (10, None), (8, 100), (20, 30)]
    )
    async def test_ranges_are_half_open_and_clipped(self, store: ObjectStore, start: int, end: int | None) -> None:
        await store.put("k", b"0123456789")
        assert await content(store, "k", start, end) == b"0123456789"[start:end]

    async def test_range_in_a_large_object(self, store: ObjectStore) -> None:
        data = noise(4 * MIB)
        await store.put("k", data)
        assert await content(store, "k", MIB - 3, 3 * MIB + 3) == data[MIB - 3 : 3 * MIB + 3]

    async def test_absent_is_not_found(self, store: ObjectStore) -> None:
        await store.put("a/b", b"x")
        for key in ("nothing", "a", "a/b/c", "a/"):
            with pytest.raises(NotFound):
                await content(store, key)
            with pytest.raises(NotFound):
                await content(store, key, 2, 4)
            with pytest.raises(NotFound):
                await store.head(key)

    async def test_many_tasks_at_once(self, store: ObjectStore) -> None:
        async def one(number: int) -> None:
            data = f"content {number}".encode() * 1000
            await store.put(f"k{number}", data)
            assert await content(store, f"k{number}") == data

        await asyncio.gather(*(one(number) for number in range(60)))
        assert len(await keys(store)) == 60

    @pytest.mark.parametrize(
        "key",
        [
            "with space",
            "plus+and&=",
            "percent%41",
            "%2F",
            "hash#question?",
            "quote'\"",
            "tilde~-_.",
            "...",
            ".hidden",
            "é",
            "夜番/一",
            "semi;colon:at@",
            "(brackets)*!$,",
            "x" * 200,
        ],
    )
    async def test_key_is_taken_literally(self, store: ObjectStore, key: str) -> None:
        await store.put(f"p/{key}", key.encode())
        assert await content(store, f"p/{key}") == key.encode()
        assert await keys(store, "p/") == [f"p/{key}"]
        assert await keys(store, f"p/{key[:1]}") == [f"p/{key}"]
        await store.delete([f"p/{key}"])
        assert await keys(store) == []

    # Conditional put

    def _needs(self, store: ObjectStore, capability: StoreCapability) -> bool:
        return capability in store.capabilities

    async def test_conditional_put(self, store: ObjectStore) -> None:
        if not self._needs(store, StoreCapability.CONDITIONAL_PUT):
            with pytest.raises(Unsupported):
                await store.put("k", b"x", if_absent=True)
            assert await keys(store) == []
            return
        await store.put("k", b"first", if_absent=True)
        with pytest.raises(AlreadyExists):
            await store.put("k", b"second", if_absent=True)
        assert await content(store, "k") == b"first"
        await store.delete(["k"])
        await store.put("k", b"third", if_absent=True)
        assert await content(store, "k") == b"third"

    async def test_conditional_put_has_one_winner(self, store: ObjectStore) -> None:
        if not self._needs(store, StoreCapability.CONDITIONAL_PUT):
            return

        async def claim(key: str, number: int) -> int | None:
            try:
                await store.put(key, str(number).encode() * 5000, if_absent=True)
            except AlreadyExists:
                return None
            return number

        for round in range(5):
            key = f"claim/{round}"
            results = await asyncio.gather(*(claim(key, number) for number in range(20)))
            winners = [number for number in results if number is not None]
            assert len(winners) == 1
            assert await content(store, key) == str(winners[0]).encode() * 5000

    # List

    async def test_list_of_nothing_is_empty(self, store: ObjectStore) -> None:
        assert await keys(store) == []
        assert await keys(store, "no/such/folder/") == []

    async def test_list_is_by_prefix_of_text(self, store: ObjectStore) -> None:
        for key in ("a/b", "a/bc", "a/b2/c", "ab", "b"):
            await store.put(key, b"x")
        assert await keys(store, "a/b") == ["a/b", "a/b2/c", "a/bc"]
        assert await keys(store, "a/") == ["a/b", "a/b2/c", "a/bc"]
        assert await keys(store, "a") == ["a/b", "a/b2/c", "a/bc", "ab"]
        assert await keys(store) == ["a/b", "a/b2/c", "a/bc", "ab", "b"]

    async def test_list_is_in_byte_order(self, store: ObjectStore) -> None:
        # No key here is also a folder of another: that is beyond what stores on file systems can do.
        names = ["B", "a-b", "a.b", "a/b/c", "a0", "aa", "a_b", "é", "z", "10", "9", "a/b.c", "a/b-c", "a/b0"]
        for name in names:
            await store.put(name, b"x")
        assert await keys(store) == sorted(names, key=str.encode)

    async def test_list_after(self, store: ObjectStore) -> None:
        for name in ("a", "b/1", "b/2", "b/3", "c"):
            await store.put(name, b"x")
        assert await keys(store, after="b/2") == ["b/3", "c"]
        assert await keys(store, "b/", after="b/1") == ["b/2", "b/3"]
        assert await keys(store, "b/", after="a") == ["b/1", "b/2", "b/3"]
        assert await keys(store, "b/", after="b/1x") == ["b/2", "b/3"]
        assert await keys(store, "b/", after="b/3") == []
        assert await keys(store, "b/", after="c") == []
        assert await keys(store, after="b/\U0010ffff") == ["c"]

    async def test_list_tells_sizes(self, store: ObjectStore) -> None:
        await store.put("k", b"12345")
        infos: list[ObjectInfo] = [info async for info in store.list("k")]
        assert [info.size for info in infos] == [5]
        assert infos[0].modified.tzinfo is not None
        assert infos[0].etag == (await store.head("k")).etag

    async def test_list_and_delete_beyond_a_page(self, store: ObjectStore) -> None:
        names = [f"n/{number:05d}" for number in range(1_100)]
        await _many([lambda name=name: store.put(name, b"x") for name in names])  # type: ignore[misc]
        assert await keys(store, "n/") == names
        assert await keys(store, "n/", after=names[1_049]) == names[1_050:]
        await store.delete([*names[1:], "n/missing"])
        assert await keys(store) == names[:1]

    # Delete

    async def test_delete_of_nothing(self, store: ObjectStore) -> None:
        await store.delete([])
        await store.delete(["never/was"])

    async def test_delete_removes_what_is_named_only(self, store: ObjectStore) -> None:
        for name in ("a", "ab", "b/c", "b/d"):
            await store.put(name, b"x")
        await store.delete(["a", "b/c", "zz"])
        assert await keys(store) == ["ab", "b/d"]
        await store.delete(["a", "b/c"])
        with pytest.raises(NotFound):
            await store.head("a")

    # Multipart

    async def test_without_multipart_it_says_so(self, store: ObjectStore) -> None:
        if self._needs(store, StoreCapability.MULTIPART):
            return
        with pytest.raises(Unsupported):
            await store.start_upload("k")
        with pytest.raises(Unsupported):
            [upload async for upload in store.list_uploads()]

    async def test_multipart_in_any_order(self, store: ObjectStore) -> None:
        if not self._needs(store, StoreCapability.MULTIPART):
            return
        first, second, third = noise(PART), noise(PART), b"the end"
        upload = await store.start_upload("m/k")
        parts = {
            3: await store.put_part(upload, 3, memoryview(third)),
            1: await store.put_part(upload, 1, noise(PART)),
            2: await store.put_part(upload, 2, bytearray(second)),
        }
        parts[1] = await store.put_part(upload, 1, first)  # again: replaces
        with pytest.raises(NotFound):
            await store.head("m/k")
        assert await keys(store) == []
        info = await store.complete_upload(upload, [parts[1], parts[2], parts[3]])
        assert info.key == "m/k"
        assert (await store.head("m/k")).size == 2 * PART + 7
        assert await content(store, "m/k") == first + second + third
        assert [found.key async for found in store.list_uploads()] == []

    async def test_multipart_abort_leaves_nothing(self, store: ObjectStore) -> None:
        if not self._needs(store, StoreCapability.MULTIPART):
            return
        upload = await store.start_upload("m/gone")
        await store.put_part(upload, 1, noise(PART))
        await store.abort_upload(upload)
        await store.abort_upload(upload)
        assert [found async for found in store.list_uploads()] == []
        assert await keys(store) == []
        with pytest.raises(YobanError):
            await store.put_part(upload, 2, b"late")

    async def test_multipart_uploads_are_listed(self, store: ObjectStore) -> None:
        if not self._needs(store, StoreCapability.MULTIPART):
            return
        opened = [await store.start_upload(key) for key in ("u/a", "u/a", "u/b", "v/c")]
        found = [upload async for upload in store.list_uploads("u/")]
        assert sorted((upload.key, upload.id) for upload in found) == sorted((u.key, u.id) for u in opened[:3])
        for upload in found:
            assert upload.started is None or abs(upload.started - datetime.now(UTC)) < timedelta(minutes=10)
            await store.abort_upload(upload)
        assert [upload.key async for upload in store.list_uploads()] == ["v/c"]
        await store.abort_upload(opened[3])

    async def test_multipart_with_a_part_missing_makes_nothing(self, store: ObjectStore) -> None:
        if not self._needs(store, StoreCapability.MULTIPART):
            return
        upload = await store.start_upload("m/k")
        part = await store.put_part(upload, 1, noise(PART))
        with pytest.raises(YobanError):
            await store.complete_upload(upload, [part, replace(part, number=2)])
        assert await keys(store) == []
        await store.abort_upload(upload)

    # Absent is not unreachable

    async def test_unreachable_is_never_absent(self, store: ObjectStore, outage: Outage) -> None:
        await store.put("k", b"x")
        outage.stop()

        async def listing() -> None:
            await keys(store)

        calls: list[Callable[[], Awaitable[object]]] = [
            lambda: content(store, "k"),
            lambda: content(store, "absent"),
            lambda: store.head("k"),
            lambda: store.head("absent"),
            listing,
            lambda: store.put("new", b"x"),
            lambda: store.delete(["k"]),
        ]
        if self._needs(store, StoreCapability.CONDITIONAL_PUT):
            calls.append(lambda: store.put("k", b"y", if_absent=True))
        if self._needs(store, StoreCapability.MULTIPART):
            calls.append(lambda: store.start_upload("m"))
        for call in calls:
            with pytest.raises(Retryable):
                await call()
        outage.start()
        assert await content(store, "k") == b"x"
        assert await keys(store) == ["k"]

    async def test_opening_needs_no_answer(
        self, provider: ObjectStoreProvider, config: StoreConfig, outage: Outage
    ) -> None:
        outage.stop()
        async with provider.open(config) as store:
            with pytest.raises(Retryable):
                await store.head("k")
            outage.start()
            await store.put("k", b"x")

    # The bucket itself

    @pytest_asyncio.fixture
    async def fresh(
        self, provider: ObjectStoreProvider, config: StoreConfig
    ) -> AsyncIterator[tuple[ObjectStore, BucketAdmin] | None]:
        """A store whose bucket does not exist, and its administration; None without the capability."""
        async with provider.open(replace(config, bucket=f"{config.bucket}-{secrets.token_hex(4)}", prefix="")) as store:
            admin = store.bucket
            if admin is None:
                yield None
                return
            yield store, admin
            if await admin.exists():
                async for _ in admin.purge():
                    pass
                await admin.delete()

    async def test_bucket_lives_and_dies(self, fresh: tuple[ObjectStore, BucketAdmin] | None) -> None:
        if fresh is None:
            return
        store, admin = fresh
        assert await admin.exists() is False
        assert await admin.create() is True
        assert await admin.create() is False
        assert await admin.exists() is True
        await store.put("a/b", b"x")
        await store.put("c", b"x")
        with pytest.raises(NotReady):
            await admin.delete()
        if self._needs(store, StoreCapability.MULTIPART):
            upload = await store.start_upload("m")
            await store.put_part(upload, 1, noise(PART))
        counts = [count async for count in admin.purge()]
        assert counts == sorted(counts)
        assert counts[-1] >= 2
        assert await keys(store) == []
        assert [count async for count in admin.purge()] in ([], [0])
        await admin.delete()
        await admin.delete()
        assert await admin.exists() is False

    async def test_missing_bucket_is_not_a_missing_object(self, fresh: tuple[ObjectStore, BucketAdmin] | None) -> None:
        if fresh is None:
            return
        store, _ = fresh
        for call in (
            lambda: content(store, "k"),
            lambda: store.head("k"),
            lambda: keys(store),
            lambda: store.put("k", b"x"),
        ):
            with pytest.raises(NotReady):
                await call()
