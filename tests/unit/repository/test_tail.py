from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yoban.errors import IntegrityError, InvalidInput, NotFound, Unavailable
from yoban.repository import Cover, Repository, TailChunk, cover
from yoban.testing.faulty_store import Fail, FaultyStore, LoseAnswer
from yoban.testing.memory_store import MemoryStore

from tests.unit.repository.parts import ROOT, noise


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "joined"


async def test_chunks_become_a_segment_again(repo: Repository, target: Path) -> None:
    data = noise(3 << 20)
    for start, stop in ((0, 10), (10, 2000), (2000, len(data))):
        await repo.tail.put("1", 1, "s", start, memoryview(data)[start:stop])
    assert await repo.tail.join("1", "s", target, pad_to=4 << 20) == len(data)
    assert target.read_bytes() == data + bytes((4 << 20) - len(data))
    assert os.listdir(target.parent) == ["joined"]
    assert await repo.tail.join("1", "s", target) == len(data)
    assert target.read_bytes() == data


async def test_overlap_is_fine_when_equal(repo: Repository, target: Path) -> None:
    for start, stop in ((0, 10), (5, 20), (0, 8), (12, 14)):
        await repo.tail.put("1", 1, "s", start, bytes(range(start, stop)))
    assert await repo.tail.join("1", "s", target) == 20
    assert target.read_bytes() == bytes(range(20))


async def test_overlap_that_differs_is_an_error(repo: Repository, target: Path) -> None:
    await repo.tail.put("1", 1, "s", 0, b"0123456789")
    await repo.tail.put("1", 2, "s", 5, b"5X789abc")
    with pytest.raises(IntegrityError) as error:
        await repo.tail.join("1", "s", target)
    assert error.value.reason == "TailConflict"
    assert os.listdir(target.parent) == []
    assert await repo.tail.join("1", "s", target, term=1) == 10


@pytest.mark.parametrize("lost", [0, 1, 2])
async def test_failure_01_a_lost_chunk_is_a_gap(repo: Repository, memory: MemoryStore, target: Path, lost: int) -> None:
    chunks = [await repo.tail.put("1", 1, "s", start, b"x" * 10) for start in (0, 10, 20)]
    gone = chunks[lost]
    memory.lose(next(key for key in list(memory.keys()) if key.endswith(f"{gone.start:014d}-{gone.end:014d}")))
    if lost == 2:  # the last one: what is left is shorter, and only the mark can tell
        assert await repo.tail.join("1", "s", target) == 20
        return
    with pytest.raises(IntegrityError) as error:
        await repo.tail.join("1", "s", target)
    assert error.value.reason == "LogGap"
    assert not target.exists()


async def test_failure_12_a_damaged_chunk_is_named(repo: Repository, memory: MemoryStore, target: Path) -> None:
    await repo.tail.put("1", 1, "s", 0, noise(3 << 20))
    key = memory.keys()[0]
    memory.damage(key, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(IntegrityError) as error:
        await repo.tail.join("1", "s", target)
    assert error.value.object == key


async def test_the_same_chunk_again_changes_nothing(repo: Repository, store: FaultyStore) -> None:
    store.inject("create", LoseAnswer())
    first = await repo.tail.put("1", 1, "s", 0, b"data" * 500)
    assert await repo.tail.put("1", 1, "s", 0, b"data" * 500) == first
    with pytest.raises(IntegrityError) as error:
        await repo.tail.put("1", 1, "s", 0, b"othr" * 500)
    assert error.value.reason == "TailConflict"


async def test_a_chunk_has_bytes_but_not_too_many(repo: Repository) -> None:
    for data in (b"", bytes((32 << 20) + 1)):
        with pytest.raises(InvalidInput):
            await repo.tail.put("1", 1, "s", 0, data)


async def test_nothing_to_join(repo: Repository, target: Path, store: FaultyStore) -> None:
    with pytest.raises(NotFound):
        await repo.tail.join("1", "s", target)
    store.inject("list", Fail(), times=None)
    with pytest.raises(Unavailable):
        await repo.tail.join("1", "s", target)


async def test_a_tail_longer_than_its_segment_is_refused(repo: Repository, target: Path) -> None:
    await repo.tail.put("1", 1, "s", 0, b"x" * 20)
    with pytest.raises(IntegrityError):
        await repo.tail.join("1", "s", target, pad_to=16)


async def test_a_chunk_that_goes_while_it_is_read(
    repo: Repository, store: FaultyStore, memory: MemoryStore, target: Path
) -> None:
    await repo.tail.put("1", 1, "s", 0, b"x" * 20)
    real = repo.tail.chunks

    async def then_gone(*args: str) -> list[TailChunk]:
        chunks = await real(*args)
        memory.lose(memory.keys()[0])
        return chunks

    repo.tail.chunks = then_gone  # type: ignore[method-assign,assignment]
    with pytest.raises(IntegrityError):
        await repo.tail.join("1", "s", target)


async def test_a_chunk_whose_name_lies(repo: Repository, memory: MemoryStore, target: Path) -> None:
    await repo.tail.put("1", 1, "s", 0, b"x" * 20)
    key = memory.keys()[0]
    await memory.put(key[:-2] + "30", memory.raw(key))
    memory.lose(key)
    with pytest.raises(IntegrityError):
        await repo.tail.join("1", "s", target)


async def test_clearing(repo: Repository) -> None:
    for segment in ("a", "b", "c"):
        for start in (0, 10):
            await repo.tail.put("1", 1, segment, start, b"x" * 10)
    await repo.tail.put("2", 2, "a", 0, b"x")
    assert await repo.tail.clear("1", "b") == 2
    assert await repo.tail.clear("1", "b") == 0
    assert await repo.tail.clear_before("1", "c") == 2
    assert [(chunk.line, chunk.segment) for chunk in await repo.tail.chunks()] == [("1", "c"), ("1", "c"), ("2", "a")]
    assert [chunk.line for chunk in await repo.tail.chunks("2")] == ["2"]


async def test_compacting(repo: Repository, target: Path) -> None:
    data = bytes(range(50))
    for start in range(0, 50, 10):
        await repo.tail.put("1", 1, "s", start, data[start : start + 10])
    await repo.tail.put("1", 2, "s", 0, data[:5])
    whole = await repo.tail.compact("1", 1, "s", data[:40])
    assert await repo.tail.chunks("1") == [whole, TailChunk("1", 1, "s", 40, 50), TailChunk("1", 2, "s", 0, 5)]
    assert await repo.tail.compact("1", 1, "s", data[:40]) == whole
    assert await repo.tail.join("1", "s", target) == 50
    assert target.read_bytes() == data


async def test_foreign_objects_among_the_chunks_are_passed_over(repo: Repository, memory: MemoryStore) -> None:
    await memory.put(f"{ROOT}/tail/1/note", b"x")
    assert await repo.tail.chunks() == []


spans = st.tuples(st.integers(0, 30), st.integers(1, 10)).map(lambda pair: TailChunk("1", 1, "s", pair[0], sum(pair)))


@given(st.lists(spans, max_size=8))
def test_cover_agrees_with_counting_bytes(chunks: list[TailChunk]) -> None:
    have = {offset for chunk in chunks for offset in range(chunk.start, chunk.end)}
    end = next(offset for offset in range(100) if offset not in have)
    reach = cover(chunks)
    assert reach.end == end
    assert (reach.gap is None) == all(offset < end for offset in have)


def test_cover_of_nothing() -> None:
    assert cover([]) == Cover(0)
