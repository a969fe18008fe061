from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from yoban.errors import Unavailable
from yoban.plugins import BytesItem
from yoban.repository import Identity, Mark, Repository, TermRecord, survey
from yoban.testing.faulty_store import Fail, FaultyStore
from yoban.testing.memory_store import MemoryStore

from tests.unit.repository.parts import EPOCH, META, ROOT, SEGMENT, NumberLog, NumberPositions, at, back_up, segment

ITEMS = [BytesItem("f", b"x")]


async def put_segments(repo: Repository, folder: Path, line: str, *numbers: int) -> None:
    for number in numbers:
        path = folder / "segment"
        path.write_bytes(f"{line}/{number}".encode() * 10)
        await repo.log.put_segment(line, segment(line, number), path)


def mark(number: int, flushed: int) -> Mark:
    return Mark(
        term=1,
        instance="orders-1",
        time=at(60),
        position=str(number * SEGMENT + flushed),
        line="1",
        segment=segment("1", number),
        flushed=flushed,
        segment_bytes=SEGMENT,
        written=at(60),
    )


@pytest.fixture
async def filled(repo: Repository, tmp_path: Path) -> Repository:
    identity = Identity(
        incarnation="0123456789ab", uid="u", namespace="shop", name="orders", engine="numbers", created=EPOCH
    )
    await repo.identity.claim(identity)
    await repo.terms.write(TermRecord(term=1, instance="orders-1", line="1", time=EPOCH))
    await put_segments(repo, tmp_path, "1", 0, 1, 2, 3)
    await back_up(repo, ITEMS, "b1")
    await back_up(repo, ITEMS, "b2", time=at(4), first_segment=segment("1", 2), last_segment=segment("1", 3))
    await repo.tail.put("1", 1, segment("1", 4), 0, b"x" * 40)
    await repo.marks.write(mark(4, 40))
    return repo


async def test_an_empty_repository(repo: Repository) -> None:
    catalog = await repo.catalog()
    assert (catalog.identity, catalog.mark, catalog.backups, catalog.objects, catalog.bytes) == (None, None, (), 0, 0)


async def test_everything_is_seen(filled: Repository, memory: MemoryStore) -> None:
    async with (
        filled.restores.hold("r1", backup="b1", by="orders-copy"),
        filled.backups.writer("b3", META),
    ):
        catalog = await filled.catalog()
    assert catalog.identity is not None
    assert catalog.identity.name == "orders"
    assert [record.term for record in catalog.terms] == [1]
    assert catalog.mark == mark(4, 40)
    assert [summary.id for summary in catalog.backups] == ["b1", "b2"]
    assert catalog.lines == {"1": tuple(segment("1", number) for number in range(4))}
    assert [(chunk.segment, chunk.end) for chunk in catalog.tails] == [(segment("1", 4), 40)]
    assert (catalog.incomplete, set(catalog.running)) == (("b3",), {"b3"})
    assert [(hold.id, hold.backup, hold.by) for hold in catalog.restores] == [("r1", "b1", "orders-copy")]
    assert (catalog.expired, catalog.damaged) == ({}, {})
    assert catalog.objects == len(memory.keys("")) + 2  # both notes went with their blocks
    view = survey(catalog, NumberLog(), NumberPositions())
    assert view.window is not None
    assert (view.window.start, view.window.end) == (at(2), at(60))


async def test_manifests_and_terms_are_read_once(filled: Repository, store: FaultyStore) -> None:
    await filled.catalog()
    store.calls.clear()
    await filled.catalog()
    assert not [key for operation, key in store.calls if operation == "get" and ("manifest" in key or "/terms/" in key)]
    assert len([key for operation, key in store.calls if operation == "list"]) == 2


async def test_a_manifest_that_was_replaced_is_read_again(filled: Repository, memory: MemoryStore) -> None:
    await filled.catalog()
    await filled.backups.delete("b1")
    await back_up(filled, ITEMS, "b1", time=at(3), facts={"other": "1"})
    assert (await filled.catalog()).backups[0].facts == {"other": "1"}


async def test_damage_is_told_and_hides_nothing_else(filled: Repository, memory: MemoryStore) -> None:
    for name in ("identity", "terms/0000000001", "marks/0000000001", "backups/b1/manifest"):
        memory.damage(f"{ROOT}/{name}", lambda data: data[:-3])
    await memory.put(f"{ROOT}/restores/r9", b"nonsense")
    catalog = await filled.catalog()
    assert set(catalog.damaged) == {
        f"{ROOT}/{name}"
        for name in ("identity", "terms/0000000001", "marks/0000000001", "backups/b1/manifest", "restores/r9")
    }
    assert [summary.id for summary in catalog.backups] == ["b2"]
    assert catalog.incomplete == ()


async def test_an_object_of_a_newer_release_is_told(filled: Repository, memory: MemoryStore) -> None:
    memory.damage(f"{ROOT}/backups/b1/manifest", lambda data: data.replace(b'"yoban":1', b'"yoban":2'))
    catalog = await filled.catalog()
    assert "format" in catalog.damaged[f"{ROOT}/backups/b1/manifest"]


async def test_what_goes_while_it_is_read_is_not_there(
    filled: Repository, store: FaultyStore, memory: MemoryStore
) -> None:
    real = memory.list

    async def then_gone(prefix: str = "", *, after: str = ""):  # type: ignore[no-untyped-def]
        async for info in real(prefix, after=after):
            yield info
        if prefix == f"{ROOT}/":
            for name in ("backups/b1/manifest", "terms/0000000001"):
                await memory.delete([f"{ROOT}/{name}"])

    memory.list = then_gone  # type: ignore[method-assign]
    catalog = await filled.catalog()
    assert [summary.id for summary in catalog.backups] == ["b2"]
    assert (catalog.terms, catalog.damaged) == ((), {})


async def test_failure_11_an_unreachable_store_gives_no_catalogue(filled: Repository, store: FaultyStore) -> None:
    store.inject("list", Fail(), times=None)
    with pytest.raises(Unavailable):
        await filled.catalog()
    store.heal()
    store.inject("get", Fail(), key="*/manifest", times=None)
    with pytest.raises(Unavailable):
        await filled.catalog()


async def test_a_segment_stored_between_two_pages_is_no_gap(
    filled: Repository, memory: MemoryStore, tmp_path: Path
) -> None:
    """The listing passed log/ before the segment came, and tail/ after its chunks had gone."""
    real = memory.list
    done: list[bool] = []

    async def meanwhile(prefix: str = "", *, after: str = ""):  # type: ignore[no-untyped-def]
        async for info in real(prefix, after=after):
            if "/tail/" in info.key and not done:
                done.append(True)
                memory.list = real  # type: ignore[method-assign]
                await put_segments(filled, tmp_path, "1", 4)
                await filled.tail.clear("1", segment("1", 4))
                continue
            yield info

    memory.list = meanwhile  # type: ignore[method-assign]
    view = survey(await filled.catalog(), NumberLog(), NumberPositions())
    assert done
    assert view.gaps == ()


async def test_a_mark_without_a_segment(filled: Repository) -> None:
    await filled.marks.write(msgspec.structs.replace(mark(4, 0), segment=""))
    assert (await filled.catalog()).mark is not None


async def test_a_restore_is_held_as_long_as_it_takes(repo: Repository, memory: MemoryStore) -> None:
    async with repo.restores.hold("r/1"):
        for _ in range(4):
            await asyncio.sleep(3000)
            (hold,) = await repo.restores.all()
            assert hold.expires > repo._access.clock.now()
    assert await repo.restores.all() == []


async def test_a_note_that_cannot_be_removed_is_no_failure(repo: Repository, store: FaultyStore) -> None:
    async with repo.restores.hold("r1"):
        store.inject("delete", Fail(), times=None)
    assert len(await repo.restores.all()) == 1
