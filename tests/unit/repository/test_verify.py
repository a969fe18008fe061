from __future__ import annotations

from pathlib import Path

import pytest
from yoban.errors import Unavailable
from yoban.plugins import BytesItem
from yoban.repository import FindingKind, Repository
from yoban.testing.faulty_store import Fail, FaultyStore
from yoban.testing.memory_store import MemoryStore

from tests.unit.repository.parts import ROOT, back_up, mixed, segment


@pytest.fixture
async def filled(repo: Repository, tmp_path: Path) -> Repository:
    path = tmp_path / "segment"
    path.write_bytes(mixed(3 << 20))
    for number in (1, 2):
        await repo.log.put_segment("1", segment("1", number), path)
    await repo.tail.put("1", 1, segment("1", 3), 0, b"x" * 2000)
    await back_up(repo, [BytesItem("f", mixed(3 << 20))])
    return repo


async def findings(repo: Repository, *, deep: bool) -> list[tuple[str, FindingKind]]:
    report = await repo.verify(deep=deep)
    return [(finding.key.removeprefix(ROOT + "/"), finding.kind) for finding in report.findings]


async def test_all_is_well(filled: Repository, memory: MemoryStore) -> None:
    report = await filled.verify(deep=True)
    assert report.findings == ()
    assert report.objects == len(memory.keys(""))
    assert report.bytes == sum(len(memory.raw(key)) for key in memory.keys(""))


@pytest.mark.parametrize("name", ["log/1/1-00000001", "tail/1/0000000001/*", "backups/b1/data/00000001"])
async def test_failure_12_a_flipped_byte_is_found_by_reading(
    filled: Repository, memory: MemoryStore, name: str
) -> None:
    key = next(key for key in memory.keys(ROOT) if key.startswith(f"{ROOT}/{name.rstrip('*')}"))
    memory.damage(key, lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    assert await findings(filled, deep=False) == []
    assert await findings(filled, deep=True) == [(key.removeprefix(ROOT + "/"), FindingKind.DAMAGED)]


async def test_failure_08_a_cut_object_is_found_by_listing(filled: Repository, memory: MemoryStore) -> None:
    memory.damage(f"{ROOT}/backups/b1/data/00000001", lambda data: data[:-1])
    assert await findings(filled, deep=False) == [("backups/b1/data/00000001", FindingKind.DAMAGED)]


async def test_missing_and_stray_objects(filled: Repository, memory: MemoryStore) -> None:
    memory.lose(f"{ROOT}/backups/b1/data/00000001")
    await memory.put(f"{ROOT}/backups/b1/data/00000077", b"x")
    await memory.put(f"{ROOT}/backups/b1/running", b"a note that outlived its writer")
    await memory.put(f"{ROOT}/backups/b2/data/00000001", b"no manifest: being made")
    assert await findings(filled, deep=True) == [
        ("backups/b1/data/00000001", FindingKind.MISSING),
        ("backups/b1/data/00000077", FindingKind.STRAY),
    ]


async def test_a_damaged_manifest(filled: Repository, memory: MemoryStore) -> None:
    memory.damage(f"{ROOT}/backups/b1/manifest", lambda data: data[:-1])
    assert await findings(filled, deep=False) == [("backups/b1/manifest", FindingKind.DAMAGED)]


async def test_what_goes_meanwhile_is_no_finding(filled: Repository, memory: MemoryStore) -> None:
    real = memory.list

    async def then_gone(prefix: str = "", *, after: str = ""):  # type: ignore[no-untyped-def]
        async for info in real(prefix, after=after):
            yield info
        memory.list = real  # type: ignore[method-assign]
        await memory.delete([f"{ROOT}/backups/b1/manifest", f"{ROOT}/log/1/1-00000001"])

    memory.list = then_gone  # type: ignore[method-assign]
    assert await findings(filled, deep=True) == []


async def test_an_unreachable_store_is_no_report(filled: Repository, store: FaultyStore) -> None:
    store.inject("get", Fail(), key="*/log/*", times=None)
    with pytest.raises(Unavailable):
        await filled.verify(deep=True)
