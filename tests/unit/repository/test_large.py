"""Files too large to be held in memory: a binary log that ends with one huge transaction, large segments."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest
from yoban.errors import AccessDenied, IntegrityError, Unavailable, Unsupported
from yoban.plugins import Buffer, ObjectInfo, Part, StoreCapability, Upload
from yoban.repository import Repository, RetryPolicy, large, segments
from yoban.testing.clock import LoopClock
from yoban.testing.faulty_store import Delay, Drop, Fail, FaultyStore, Hang
from yoban.testing.memory_store import CHUNK, MemoryCloud, MemoryStore

from tests.unit.repository.parts import EPOCH, ROOT, mixed, noise

MIB = 1 << 20
KEY = f"{ROOT}/log/1/a"


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is large begins at about 4 MiB, so that tests are quick."""
    monkeypatch.setattr(segments, "MAX_PUT", 4 * MIB)
    monkeypatch.setattr(segments, "_PART", 2 * MIB)
    monkeypatch.setattr(large, "STEP", 3 * MIB)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "segment"
    path.write_bytes(noise(11 * MIB + 17))
    return path


def operations(store: FaultyStore) -> list[str]:
    return [operation for operation, key in store.calls if key == KEY]


class DiskStore(MemoryStore):
    """Keeps what comes in parts on disk, so that the memory that is used is the caller's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(MemoryCloud(LoopClock(EPOCH).now))
        self._folder = folder
        self._whole: dict[str, Path] = {}
        self.parts: list[int] = []

    async def put_part(self, upload: Upload, number: int, data: Buffer) -> Part:
        with (self._folder / upload.id).open("ab") as file:
            file.write(data)
        self.parts.append(memoryview(data).nbytes)
        return Part(number, str(number))

    async def complete_upload(self, upload: Upload, parts: Sequence[Part]) -> ObjectInfo:
        assert [part.number for part in parts] == list(range(1, len(self.parts) + 1))
        self._whole[upload.key] = self._folder / upload.id
        await self.abort_upload(upload)
        return await self.head(upload.key)

    async def head(self, key: str) -> ObjectInfo:
        if key in self._whole:
            return ObjectInfo(key, self._whole[key].stat().st_size, EPOCH)
        return await super().head(key)

    async def get(self, key: str, *, start: int = 0, end: int | None = None) -> AsyncIterator[bytes]:
        with self._whole[key].open("rb") as file:
            file.seek(start)
            while chunk := file.read(CHUNK if end is None else min(CHUNK, end - file.tell())):
                yield chunk


async def test_bug_a_large_file_was_held_in_memory_twice(tmp_path: Path, clock: LoopClock, target: Path) -> None:
    path, digest = tmp_path / "segment", hashlib.sha256()
    with path.open("wb") as file:
        for _ in range(48):
            block = os.urandom(MIB)
            digest.update(block)
            file.write(block)
    del block
    store = DiskStore(tmp_path)
    repo = Repository(store, ROOT, clock=clock)
    tracemalloc.start()
    try:
        result = await repo.log.put_segment("1", "a", path)
        fetched = target / "fetched"
        assert await repo.log.fetch("1", "a", fetched) == 48 * MIB
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6 * segments._PART
    assert result.uploaded is True
    assert (result.size, result.sha256) == (48 * MIB, digest.hexdigest())
    assert result.stored_size == sum(store.parts)
    with fetched.open("rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == digest.hexdigest()
    assert set(store.parts[:-1]) == {segments._PART}
    assert store.open_uploads == 0


async def test_one_that_fits_one_put_is_created_only_where_nothing_is(
    repo: Repository, path: Path, store: FaultyStore, target: Path
) -> None:
    path.write_bytes(mixed(9 * MIB))
    assert (await repo.log.put_segment("1", "a", path)).uploaded is True
    assert "create" in operations(store)
    assert "start_upload" not in operations(store)
    assert await repo.log.fetch("1", "a", target / "fetched") == 9 * MIB
    assert (target / "fetched").read_bytes() == path.read_bytes()


async def test_its_header_has_the_plain_checksum_which_every_reader_checks(
    repo: Repository, path: Path, memory: MemoryStore, target: Path
) -> None:
    result = await repo.log.put_segment("1", "a", path)
    info = await repo.log.describe("1", "a")
    assert (info.size, info.sha256, info.stored_size) == (result.size, result.sha256, result.stored_size)
    assert info.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert b'"sha256":""' in memory.raw(KEY).split(b"\n", 1)[0]
    assert (await repo.verify(deep=True)).findings == ()
    whole = memory.raw(KEY)
    for at in (len(whole) // 2, len(whole) - 2):
        memory.damage(KEY, lambda _, at=at: whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])  # type: ignore[misc]
        assert [finding.key for finding in (await repo.verify(deep=True)).findings] == [KEY]
        with pytest.raises(IntegrityError):
            await repo.log.fetch("1", "a", target / "fetched")
    memory.damage(KEY, lambda _: whole[:-1])
    assert [finding.key for finding in (await repo.verify(deep=True)).findings] == [KEY]


@pytest.mark.parametrize("probe", [False, True])
async def test_the_same_again_is_a_yes_and_sends_nothing(
    repo: Repository, path: Path, store: FaultyStore, probe: bool
) -> None:
    first = await repo.log.put_segment("1", "a", path)
    store.calls.clear()
    second = await repo.log.put_segment("1", "a", path, probe=probe)
    assert (second.uploaded, second.sha256, second.stored_size) == (False, first.sha256, first.stored_size)
    assert not {"create", "start_upload", "put_part"} & set(operations(store))


@pytest.mark.parametrize("probe", [False, True])
async def test_failure_06_other_content_is_never_overwritten(
    repo: Repository, path: Path, memory: MemoryStore, probe: bool
) -> None:
    await repo.log.put_segment("1", "a", path)
    before = memory.raw(KEY)
    path.write_bytes(noise(11 * MIB + 17))
    with pytest.raises(IntegrityError) as error:
        await repo.log.put_segment("1", "a", path, probe=probe)
    assert (error.value.reason, error.value.object) == ("SegmentConflict", KEY)
    assert memory.raw(KEY) == before


@pytest.mark.parametrize("same", [True, False])
async def test_bug_what_another_stored_during_a_long_upload_was_overwritten(
    repo: Repository, path: Path, store: FaultyStore, memory: MemoryStore, tmp_path: Path, same: bool
) -> None:
    other = tmp_path / "other"
    other.write_bytes(path.read_bytes() if same else noise(11 * MIB + 17))
    store.inject("put_part", Delay(30 / 4), times=None)
    slow = asyncio.create_task(repo.log.put_segment("1", "a", path))
    await asyncio.sleep(10)
    twin = Repository(memory, ROOT, clock=LoopClock(EPOCH))
    assert (await twin.log.put_segment("1", "a", other)).uploaded is True
    before = memory.raw(KEY)
    if same:
        assert (await slow).uploaded is False
    else:
        with pytest.raises(IntegrityError):
            await slow
    assert memory.raw(KEY) == before
    assert memory.open_uploads == 0


@pytest.mark.parametrize("change", ["content", "longer", "shorter"])
async def test_a_file_that_changes_meanwhile_is_not_stored(
    repo: Repository, path: Path, store: FaultyStore, memory: MemoryStore, change: str
) -> None:
    store.inject("put_part", Delay(10), times=1)
    task = asyncio.create_task(repo.log.put_segment("1", "a", path))
    await asyncio.sleep(1)
    if change == "shorter":
        os.truncate(path, 10 * MIB)
    else:
        with path.open("r+b") as file:
            file.seek(10 * MIB if change == "content" else 0, os.SEEK_SET if change == "content" else os.SEEK_END)
            file.write(b"else")
    with pytest.raises(Unavailable) as error:
        await task
    assert error.value.reason == "FileChanged"
    assert str(path) in str(error.value)
    assert memory.open_uploads == 0
    assert memory.keys() == []
    assert (await repo.log.put_segment("1", "a", path)).uploaded is True  # what it is now is what counts


async def test_a_file_that_is_removed_meanwhile_is_stored(
    repo: Repository, path: Path, store: FaultyStore, target: Path
) -> None:
    data = path.read_bytes()
    store.inject("put_part", Delay(10), times=1)
    task = asyncio.create_task(repo.log.put_segment("1", "a", path))
    await asyncio.sleep(1)
    path.unlink()
    assert (await task).uploaded is True
    await repo.log.fetch("1", "a", target / "fetched")
    assert (target / "fetched").read_bytes() == data


async def test_an_upload_that_is_cancelled_or_fails_is_given_up(
    repo: Repository, path: Path, store: FaultyStore, memory: MemoryStore
) -> None:
    rule = store.inject("put_part", Hang(), skip=3, times=None)
    task = asyncio.create_task(repo.log.put_segment("1", "a", path))
    await asyncio.sleep(5)
    assert rule.struck
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert memory.open_uploads == 0
    store.heal()
    store.inject("put_part", Drop(), skip=1)  # the store cannot make an object of what it has
    with pytest.raises(IntegrityError):
        await repo.log.put_segment("1", "a", path)
        await repo.log.fetch("1", "a", path.with_name("fetched"))
    assert memory.open_uploads == 0


async def test_bug_an_upload_that_cannot_be_given_up_hid_why(
    repo: Repository, path: Path, store: FaultyStore, memory: MemoryStore
) -> None:
    store.inject("put_part", Fail(), times=None)
    store.inject("abort_upload", Fail(lambda: AccessDenied("may not abort")), times=None)
    with pytest.raises(Unavailable):
        await repo.log.put_segment("1", "a", path)


async def test_without_multipart_what_fits_one_put_is_stored_and_what_does_not_is_told(
    path: Path, clock: LoopClock, target: Path
) -> None:
    lesser = MemoryStore(capabilities=frozenset({StoreCapability.CONDITIONAL_PUT}))
    repo = Repository(lesser, ROOT, clock=clock)
    with pytest.raises(Unsupported) as error:
        await repo.log.put_segment("1", "a", path)
    assert error.value.fix
    path.write_bytes(mixed(9 * MIB))
    assert (await repo.log.put_segment("1", "a", path)).uploaded is True
    assert await repo.log.fetch("1", "a", target / "fetched") == 9 * MIB


async def test_bug_a_slow_store_never_took_a_part(path: Path, store: FaultyStore, clock: LoopClock) -> None:
    """Each part had the same few seconds, however large it was."""
    repo = Repository(store, ROOT, clock=clock, retry=RetryPolicy(attempts=1, call_seconds=1.0))
    store.inject("put_part", Delay(2.5), times=5)
    assert (await repo.log.put_segment("1", "a", path)).uploaded is True
    store.heal()
    store.inject("put_part", Delay(3.5), times=None)
    with pytest.raises(Exception, match=r"within 3 s"):
        await repo.log.put_segment("1", "b", path)
