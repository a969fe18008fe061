"""What becomes of base backups that nobody wants any more: sweeping, deletion, and the note of a running one."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest
from yoban.errors import Unavailable
from yoban.plugins import (
    BackupItem,
)
from yoban.repository import (
    Repository,
)
from yoban.testing.clock import LoopClock
from yoban.testing.faulty_store import Fail, FaultyStore
from yoban.testing.memory_store import MemoryStore

from tests.unit.repository.parts import META, ROOT, SMALL, back_up

BACKUP = f"{ROOT}/backups/b1"


async def test_sweep_takes_only_what_is_dead_and_old(
    repo: Repository, items: list[BackupItem], memory: MemoryStore, store: FaultyStore, clock: LoopClock
) -> None:
    await back_up(repo, items, "done")
    for id in ("old", "spared", "damaged-note"):
        await memory.put(f"{ROOT}/backups/{id}/data/00000001", b"x")
    await memory.start_upload(f"{ROOT}/backups/old/data/00000002")
    await memory.start_upload(f"{ROOT}/log/1/large-segment")
    await memory.put(f"{ROOT}/backups/damaged-note/running", b"nonsense")
    await asyncio.sleep(7200)
    await memory.put(f"{ROOT}/backups/young/data/00000001", b"x")
    live = await memory.start_upload(f"{ROOT}/backups/young/data/00000002")
    async with repo.backups.writer("live", META, options=SMALL):
        assert await repo.backups.sweep(timedelta(hours=1), spare=frozenset({"spared"})) == ["old"]
        left = {key.split("/")[4] for key in memory.keys(f"{ROOT}/backups/")}
        assert left == {"done", "spared", "damaged-note", "young", "live"}
        assert [upload.key async for upload in memory.list_uploads()] == [live.key]


async def test_sweep_leaves_a_backup_that_completes_meanwhile(
    repo: Repository, memory: MemoryStore, store: FaultyStore, items: list[BackupItem]
) -> None:
    await back_up(repo, items)
    manifest = memory.raw(f"{BACKUP}/manifest")
    memory.lose(f"{BACKUP}/manifest")
    await asyncio.sleep(7200)

    async def live(backup: str) -> bool:
        await memory.put(f"{BACKUP}/manifest", manifest)
        return False

    repo.backups.live = live  # type: ignore[method-assign]
    assert await repo.backups.sweep(timedelta(hours=1)) == []


async def test_sweep_of_a_store_without_uploads(clock: LoopClock) -> None:
    store = MemoryStore(capabilities=frozenset())
    repo = Repository(store, ROOT, clock=clock)
    await store.put(f"{BACKUP}/data/00000001", b"x")
    await asyncio.sleep(10)
    assert (await repo.backups.sweep(timedelta(days=-3650))) == ["b1"]


async def test_delete_removes_the_manifest_first(
    repo: Repository, items: list[BackupItem], store: FaultyStore, memory: MemoryStore
) -> None:
    await back_up(repo, items)
    store.inject("delete", Fail(), skip=3, times=None)
    with pytest.raises(Unavailable):
        await repo.backups.delete("b1")
    assert await repo.backups.ids() == []
    store.heal()
    await repo.backups.delete("b1")
    await repo.backups.delete("b1")
    assert memory.keys() == []


async def test_a_running_backup_renews_its_note(repo: Repository, memory: MemoryStore, store: FaultyStore) -> None:
    async with repo.backups.writer("b1", META, options=SMALL):
        for _ in range(5):
            await asyncio.sleep(3600)
            assert await repo.backups.live("b1")
        store.inject("put", Fail(), times=None)
        await asyncio.sleep(1800)
        store.heal()
        await asyncio.sleep(1800)
        assert await repo.backups.live("b1")
    assert not await repo.backups.live("b1")


async def test_failure_32_a_killed_runner_s_note_runs_out(
    repo: Repository, store: FaultyStore, memory: MemoryStore
) -> None:
    writer = repo.backups.writer("b1", META, options=SMALL)
    await writer.__aenter__()
    assert writer._keeper is not None
    await writer._keeper.close(remove=False)  # what a kill leaves
    assert await repo.backups.live("b1")
    await asyncio.sleep(3601)
    assert not await repo.backups.live("b1")
    assert await repo.backups.sweep(timedelta(minutes=30)) == ["b1"]
    assert memory.keys() == []


async def test_bug_the_sweep_gave_up_an_upload_under_way(repo: Repository, memory: MemoryStore) -> None:
    """With what a killed agent left of a segment went the upload of the agent that was at it anew."""
    key = f"{ROOT}/log/1/a"
    await memory.start_upload(key)
    await asyncio.sleep(3600)
    fresh = await memory.start_upload(key)
    await asyncio.sleep(60)
    await repo.backups.sweep(timedelta(minutes=30))
    assert [upload.id async for upload in memory.list_uploads()] == [fresh.id]
