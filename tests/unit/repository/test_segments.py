from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from yoban.errors import DeadlineExceeded, IntegrityError, NotFound, Unavailable, Unsupported
from yoban.plugins import AlreadyExists, StoreCapability
from yoban.repository import Repository, codec, segments
from yoban.repository.segments import sealers
from yoban.testing.clock import LoopClock
from yoban.testing.faulty_store import Cut, Drop, Fail, FaultyStore, Flip, Hang, LoseAnswer, Truncate
from yoban.testing.memory_store import MemoryStore

from tests.unit.repository.parts import ROOT, mixed, noise

KEY = f"{ROOT}/log/1/a"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "segment"
    path.write_bytes(mixed(3 << 20))
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    folder = tmp_path / "target"
    folder.mkdir()
    return folder / "fetched"


async def test_put_then_fetch(repo: Repository, path: Path, target: Path) -> None:
    result = await repo.log.put_segment("1", "a", path)
    assert (result.uploaded, result.size) == (True, 3 << 20)
    assert result.stored_size < 2 << 20
    assert await repo.log.fetch("1", "a", target) == 3 << 20
    assert target.read_bytes() == path.read_bytes()
    assert os.listdir(target.parent) == ["fetched"]


async def test_fetch_of_an_empty_segment(repo: Repository, tmp_path: Path, target: Path) -> None:
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    await repo.log.put_segment("1", "a", empty)
    assert await repo.log.fetch("1", "a", target) == 0
    assert target.read_bytes() == b""


async def test_the_same_again_is_a_yes(repo: Repository, path: Path, store: FaultyStore) -> None:
    first = await repo.log.put_segment("1", "a", path)
    second = await repo.log.put_segment("1", "a", path)
    assert (second.uploaded, second.sha256, second.stored_size) == (False, first.sha256, first.stored_size)
    store.calls.clear()
    third = await repo.log.put_segment("1", "a", path, probe=True)
    assert third == second
    assert not [call for call in store.calls if call[0] == "create"]


async def test_probing_stores_what_is_missing(repo: Repository, path: Path) -> None:
    assert (await repo.log.put_segment("1", "a", path, probe=True)).uploaded is True


async def test_a_lost_answer_is_no_conflict(repo: Repository, path: Path, store: FaultyStore) -> None:
    store.inject("create", LoseAnswer())
    result = await repo.log.put_segment("1", "a", path)
    assert result.uploaded is False
    assert await repo.log.is_stored("1", "a")


@pytest.mark.parametrize("probe", [False, True])
async def test_failure_06_same_name_other_content_is_never_overwritten(
    repo: Repository, path: Path, memory: MemoryStore, probe: bool
) -> None:
    await repo.log.put_segment("1", "a", path)
    before = memory.raw(KEY)
    path.write_bytes(mixed(3 << 20))
    with pytest.raises(IntegrityError) as error:
        await repo.log.put_segment("1", "a", path, probe=probe)
    assert error.value.reason == "SegmentConflict"
    assert error.value.object == KEY
    assert memory.raw(KEY) == before


async def test_failure_06_twin_primaries_race(repo: Repository, tmp_path: Path) -> None:
    async def push(number: int) -> bool:
        path = tmp_path / str(number)
        path.write_bytes(mixed(100_000))
        try:
            await repo.log.put_segment("1", "a", path)
        except IntegrityError:
            return False
        return True

    assert sum(await asyncio.gather(*(push(number) for number in range(8)))) == 1


async def test_a_file_that_cannot_be_read(repo: Repository, tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        await repo.log.put_segment("1", "a", tmp_path / "nothing")


async def test_describe_reads_only_the_beginning(repo: Repository, path: Path, memory: MemoryStore) -> None:
    result = await repo.log.put_segment("1", "a", path)
    info = await repo.log.describe("1", "a")
    assert (info.size, info.sha256, info.stored_size) == (result.size, result.sha256, result.stored_size)
    with pytest.raises(NotFound):
        await repo.log.describe("1", "b")
    memory.damage(KEY, lambda data: data[:20])
    with pytest.raises(IntegrityError):
        await repo.log.describe("1", "a")


async def test_failure_07_a_segment_under_a_wrong_name_is_noticed(
    repo: Repository, path: Path, memory: MemoryStore, target: Path
) -> None:
    await repo.log.put_segment("2", "a", path)
    await memory.put(KEY, memory.raw(f"{ROOT}/log/2/a"))
    with pytest.raises(IntegrityError):
        await repo.log.describe("1", "a")
    with pytest.raises(IntegrityError):
        await repo.log.fetch("1", "a", target)


async def test_failure_08_a_cut_object_never_becomes_a_segment(
    repo: Repository, path: Path, memory: MemoryStore, target: Path
) -> None:
    await repo.log.put_segment("1", "a", path)
    whole = memory.raw(KEY)
    for keep in (0, 5, 200, len(whole) // 2, len(whole) - 1):
        memory.damage(KEY, lambda _, keep=keep: whole[:keep])  # type: ignore[misc]
        with pytest.raises(IntegrityError) as error:
            await repo.log.fetch("1", "a", target)
        assert error.value.object == KEY
        assert os.listdir(target.parent) == []


async def test_failure_09_a_broken_fetch_leaves_nothing_under_the_name(
    repo: Repository, path: Path, store: FaultyStore, target: Path
) -> None:
    await repo.log.put_segment("1", "a", path)
    for fault in (Cut(0), Flip(700_000), Truncate(700_000)):
        store.heal()
        store.inject("get", fault, times=None)
        with pytest.raises(IntegrityError):
            await repo.log.fetch("1", "a", target)
        assert os.listdir(target.parent) == []


async def test_failure_09_a_fetch_that_is_killed_leaves_nothing_under_the_name(
    repo: Repository, path: Path, store: FaultyStore, target: Path
) -> None:
    await repo.log.put_segment("1", "a", path)
    store.inject("get", Hang(), times=None)
    task = asyncio.create_task(repo.log.fetch("1", "a", target))
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(target.parent) == []


async def test_failure_10_and_11_unreachable_is_not_absent(
    repo: Repository, path: Path, store: FaultyStore, target: Path
) -> None:
    await repo.log.put_segment("1", "a", path)
    store.inject("*", Fail(), times=None)
    with pytest.raises(Unavailable) as error:
        await repo.log.fetch("1", "a", target)
    assert error.value.object == KEY
    for call in (repo.log.is_stored, repo.log.confirm_absent):
        with pytest.raises(Unavailable):
            await call("1", "a")
    store.heal()
    store.inject("get", Hang(), times=None)
    with pytest.raises(DeadlineExceeded):
        await repo.log.fetch("1", "a", target)


async def test_failure_11_a_503_in_the_middle_is_survived(
    repo: Repository, path: Path, store: FaultyStore, target: Path
) -> None:
    await repo.log.put_segment("1", "a", path)
    store.inject("get", Cut(1 << 20, lambda: Unavailable("503")), times=1)
    store.inject("get", Fail(), times=2)
    assert await repo.log.fetch("1", "a", target) == 3 << 20
    assert target.read_bytes() == path.read_bytes()


async def test_absent(repo: Repository, target: Path) -> None:
    with pytest.raises(NotFound):
        await repo.log.fetch("1", "a", target)
    assert await repo.log.is_stored("1", "a") is False
    assert await repo.log.confirm_absent("1", "a") is True
    assert os.listdir(target.parent) == []


async def test_listing(repo: Repository, path: Path) -> None:
    for line, name in (("1", "b"), ("1", "a/x"), ("1", "a%41"), ("2", "c"), ("12", "d")):
        await repo.log.put_segment(line, name, path)
    assert [found.name for found in await repo.log.stored("1")] == ["a%41", "a/x", "b"]
    assert [found.name for found in await repo.log.stored("1", after="a/x")] == ["b"]
    assert await repo.log.stored("3") == []
    assert await repo.log.lines() == ["1", "12", "2"]
    assert (await repo.log.stored("2"))[0].stored_size == (await repo.log.describe("2", "c")).stored_size
    await repo.log.delete("1", ["b", "never"])
    assert await repo.log.is_stored("1", "b") is False


async def test_failure_01_a_dropped_put_shows_in_the_listing(repo: Repository, path: Path, store: FaultyStore) -> None:
    store.inject("create", Drop(), key="*/log/1/b")
    for name in ("a", "b", "c"):
        await repo.log.put_segment("1", name, path)
    assert [segment.name for segment in await repo.log.stored("1")] == ["a", "c"]


async def test_a_segment_beyond_one_put_goes_in_parts(
    repo: Repository,
    tmp_path: Path,
    store: FaultyStore,
    memory: MemoryStore,
    target: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(segments, "MAX_PUT", 1 << 20)
    monkeypatch.setattr(segments, "_PART", 1 << 20)
    path = tmp_path / "large"
    path.write_bytes(noise(3 << 20))
    assert (await repo.log.put_segment("1", "a", path)).uploaded is True
    assert [call for call in store.calls if call[0] == "put_part"]
    assert await repo.log.fetch("1", "a", target) == 3 << 20
    assert target.read_bytes() == path.read_bytes()
    assert (await repo.log.put_segment("1", "a", path)).uploaded is False
    store.inject("put_part", Fail(), times=None)
    with pytest.raises(Unavailable):
        await repo.log.put_segment("1", "b", path)
    assert memory.open_uploads == 0
    assert await repo.log.is_stored("1", "b") is False


async def test_a_segment_beyond_one_put_needs_multipart(
    path: Path, clock: LoopClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "MAX_PUT", 1000)
    lesser = MemoryStore(capabilities=frozenset({StoreCapability.CONDITIONAL_PUT}))
    with pytest.raises(Unsupported):
        await Repository(lesser, ROOT, clock=clock).log.put_segment("1", "a", path)


async def test_a_store_that_contradicts_itself_is_told(repo: Repository, path: Path, store: FaultyStore) -> None:
    store.inject("create", Fail(lambda: AlreadyExists("there")))
    with pytest.raises(Unsupported):
        await repo.log.put_segment("1", "a", path)


@pytest.mark.parametrize(("cores", "count"), [(1, 2), (2, 2), (4, 2), (6, 3), (64, 4)])
def test_how_many_segments_are_in_memory_at_once(cores: int, count: int) -> None:
    assert sealers(cores) == count


def test_a_large_file_is_made_an_object_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "segment"
    path.write_bytes(bytes(range(256)) * 20_000)
    at_once = codec.seal_file("segment", "1/a", path)
    monkeypatch.setattr(codec, "AT_ONCE", path.stat().st_size - 1)
    pieces = codec.seal_file("segment", "1/a", path)
    assert codec.unseal(pieces.blob, "k", "segment", "1/a") == codec.unseal(at_once.blob, "k", "segment", "1/a")
    assert pieces.header.plain_sha256 == at_once.header.plain_sha256
