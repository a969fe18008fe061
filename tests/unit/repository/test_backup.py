"""Making a base backup and putting it back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from yoban.errors import DeadlineExceeded, IntegrityError, InvalidInput, NotFound, Unavailable
from yoban.plugins import (
    AlreadyExists,
    BackupItem,
    BytesItem,
    FileItem,
    StoreCapability,
)
from yoban.repository import (
    BackupProgress,
    ReaderOptions,
    Repository,
    RestoreProgress,
    RetryPolicy,
    WriterOptions,
)
from yoban.repository import writer as writer_module
from yoban.testing.clock import LoopClock
from yoban.testing.faulty_store import Cut, Drop, Fail, FaultyStore, Flip, Hang, LoseAnswer, Truncate
from yoban.testing.memory_store import MemoryStore

from tests.unit.repository.parts import META, ROOT, SEGMENT, SMALL, Session, back_up, end, file_item, mixed, noise, tree

MIB = 1 << 20
BACKUP = f"{ROOT}/backups/b1"


async def restored(repo: Repository, target: Path, id: str = "b1", **options: bool) -> RestoreProgress:
    reader = repo.reader(await repo.backups.manifest(id), options=ReaderOptions(**options))
    return await reader.restore(lambda path: target / path)


async def test_a_backup_comes_back_as_it_was(
    repo: Repository, items: list[BackupItem], data: Path, target: Path, memory: MemoryStore
) -> None:
    manifest = await back_up(repo, items)
    done = await restored(repo, target)
    found = tree(target)
    assert {name: found[name] for name in tree(data)} == tree(data)
    assert (found["made"], found["label"], found["very-last"]) == (b"made up", b"the label", b"z")
    assert (found["base/empty"], found["base/link"]) == ("", "big")
    assert set(found) == set(tree(data)) | {"made", "label", "very-last", "base/empty", "base/link", "late"}
    assert (target / "base").stat().st_mode & 0o777 == 0o750
    assert (target / "late").stat().st_mode & 0o777 == 0o500
    assert (target / "base/big").stat().st_mode & 0o777 == 0o640
    assert (target / "base/big").stat().st_mtime == 1_700_000_000.0
    assert done.done == done.total == manifest.bytes == sum(len(v) for v in found.values() if isinstance(v, bytes))
    assert done.stored == manifest.stored_bytes < manifest.bytes
    assert memory.open_uploads == 0
    assert f"{BACKUP}/running" not in memory.keys("")


async def test_sparse_restore_makes_holes(repo: Repository, data: Path, target: Path) -> None:
    await back_up(repo, [file_item(data, "holes", bytes(8 * MIB) + b"end")])
    await restored(repo, target, sparse=True)
    assert (target / "holes").read_bytes() == bytes(8 * MIB) + b"end"
    assert (target / "holes").stat().st_blocks * 512 < MIB


async def test_the_manifest_tells_everything(repo: Repository, items: list[BackupItem]) -> None:
    manifest = await back_up(repo, items)
    assert manifest == await repo.backups.manifest("b1")
    summary = await repo.backups.summary("b1")
    assert (summary.engine, summary.version, summary.system_id) == ("numbers", "17.2", "sys")
    assert (summary.incarnation, summary.instance, summary.term, summary.trace) == ("0123456789ab", "orders-1", 1, "t1")
    assert (summary.first_segment, summary.last_segment, summary.segment_bytes) == ("1-00000001", "1-00000002", SEGMENT)
    assert summary.facts == {"next": "777"}
    facts = summary.matching()
    assert (facts.id, facts.line, facts.begin, facts.end, facts.facts) == ("b1", "1", "150", "250", {"next": "777"})
    assert facts.begin_time < facts.end_time
    assert await repo.backups.ids() == ["b1"]


async def test_large_files_are_split_and_small_ones_share(repo: Repository, items: list[BackupItem]) -> None:
    manifest = await back_up(repo, items)
    files = {file.path: file for file in manifest.files}
    assert len(files["base/big"].pieces) == 3
    smalls = {files[f"base/small{number}"].pieces[0].object for number in range(1, 50)}
    assert len(smalls) == 1
    assert all(entry.plain <= SMALL.object_bytes for entry in manifest.objects)


async def test_what_does_not_compress_goes_in_parts(repo: Repository, data: Path, store: FaultyStore) -> None:
    await back_up(repo, [file_item(data, "noise", noise(6 * MIB))])
    assert [call for call in store.calls if call[0] == "put_part"]
    assert [call for call in store.calls if call[0] == "complete_upload"]


async def test_last_items_are_stored_after_all_others_in_order(
    repo: Repository, items: list[BackupItem], data: Path, store: FaultyStore
) -> None:
    async with repo.backups.writer("b1", META, options=SMALL) as writer:
        await writer.store(Session([file_item(data, "big-last", mixed(7 * MIB), last=True), *items]))
        names = list(dict.fromkeys(key for operation, key in store.calls if operation in ("put", "complete_upload")))
        finished = await Session([]).finish()
        await writer.add(finished.items)
        manifest = await writer.complete(Session([]).begin, finished)
    by_object = {file.path: [manifest.objects[piece.object].number for piece in file.pieces] for file in manifest.files}
    last = [by_object["big-last"][0], by_object["control"][0], by_object["very-last"][0]]
    others = [
        n
        for path, numbers in by_object.items()
        for n in numbers
        if path not in ("big-last", "control", "very-last", "label")
    ]
    order = [int(name.rsplit("/", 1)[1]) for name in names if "/data/" in name]
    assert max(order.index(number) for number in others) < min(order.index(number) for number in last)
    assert last == sorted(last)


async def test_a_file_that_may_vanish_is_left_out(repo: Repository, data: Path, target: Path) -> None:
    gone = file_item(data, "gone", b"x", may_vanish=True)
    big = file_item(data, "big-gone", b"x", may_vanish=True, size=9 * MIB)
    gone.source.unlink()
    big.source.unlink()
    manifest = await back_up(repo, [gone, big, file_item(data, "stays", b"y")])
    assert {file.path for file in manifest.files} == {"stays", "label"}
    await restored(repo, target)
    assert set(tree(target)) == {"stays", "label"}


async def test_a_file_that_must_be_there_fails_the_backup(repo: Repository, data: Path, memory: MemoryStore) -> None:
    gone = file_item(data, "gone", b"x")
    gone.source.unlink()
    with pytest.raises(NotFound) as error:
        await back_up(repo, [gone])
    assert error.value.object == "gone"
    assert memory.keys() == []


async def test_files_that_grew_and_shrank(repo: Repository, data: Path, target: Path) -> None:
    grew = file_item(data, "grew", mixed(9 * MIB), size=7 * MIB)
    shrank = file_item(data, "shrank", mixed(3 * MIB), size=20 * MIB)
    small = file_item(data, "small", b"0123456789", size=100)
    await back_up(repo, [grew, shrank, small])
    await restored(repo, target)
    assert (target / "grew").read_bytes() == grew.source.read_bytes()[: 7 * MIB]
    assert (target / "shrank").read_bytes() == shrank.source.read_bytes()
    assert (target / "small").read_bytes() == b"0123456789"


async def test_content_is_inspected_in_aligned_blocks(repo: Repository, data: Path) -> None:
    items = [
        file_item(data, "pages", mixed(7 * MIB + 8192 + 17), inspect=True),
        file_item(data, "few", mixed(3 * 8192), inspect=True),
        file_item(data, "not", mixed(8192)),
    ]
    session = Session(items, block=8192)
    async with repo.backups.writer("b1", META, options=SMALL) as writer:
        await writer.store(session)
    for path, size in (("pages", 7 * MIB + 8192 + 17), ("few", 3 * 8192)):
        seen = sorted((offset, length) for name, offset, length in session.inspected if name == path)
        assert [offset for offset, _ in seen] == [sum(length for _, length in seen[:n]) for n in range(len(seen))]
        assert sum(length for _, length in seen) == size
        assert all(length % 8192 == 0 for _, length in seen[:-1])
    assert not [name for name, *_ in session.inspected if name == "not"]


async def test_failure_17_a_damaged_page_fails_the_backup(repo: Repository, data: Path, memory: MemoryStore) -> None:
    class Damaged(Session):
        def inspect(self, item: FileItem, offset: int, data: memoryview) -> None:
            raise IntegrityError("page 7 is damaged", object=item.path)

    with pytest.raises(IntegrityError, match="page 7"):
        async with repo.backups.writer("b1", META, options=SMALL) as writer:
            await writer.store(Damaged([file_item(data, "pages", mixed(MIB), inspect=True)]))
    assert memory.keys() == []


async def test_progress_is_told(repo: Repository, items: list[BackupItem]) -> None:
    told: list[BackupProgress] = []
    async with repo.backups.writer("b1", META, options=SMALL, progress=told.append) as writer:
        await writer.store(Session(items, total=22 * MIB))
    assert told
    assert told[-1].done > 21 * MIB
    assert told[-1].total == 22 * MIB
    assert 0 < told[-1].stored < told[-1].done
    assert told[-1].files == 56
    assert [step.done for step in told] == sorted(step.done for step in told)


async def test_failure_32_leaving_without_completion_removes_everything(
    repo: Repository, items: list[BackupItem], memory: MemoryStore
) -> None:
    async with repo.backups.writer("b1", META, options=SMALL) as writer:
        await writer.store(Session(items))
        assert memory.keys()
    assert memory.keys() == []


async def test_a_cancelled_backup_cleans_up(
    repo: Repository, items: list[BackupItem], memory: MemoryStore, store: FaultyStore
) -> None:
    store.inject("put_part", Hang(), skip=1)

    async def run() -> None:
        await back_up(repo, items)

    task = asyncio.create_task(run())
    await asyncio.sleep(5)
    assert not task.done()
    assert memory.open_uploads
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert memory.keys() == []
    assert memory.open_uploads == 0


@pytest.mark.parametrize("operation", ["put", "put_part", "start_upload", "complete_upload", "create"])
async def test_a_store_that_fails_fails_the_backup_and_nothing_is_left(
    repo: Repository, items: list[BackupItem], memory: MemoryStore, store: FaultyStore, operation: str
) -> None:
    rule = store.inject(operation, Fail(), key="*/b1/[dm]a*", times=None)
    with pytest.raises(Unavailable) as error:
        await back_up(repo, items)
    assert rule.struck
    assert error.value.object.startswith(BACKUP)
    assert memory.keys() == []
    assert memory.open_uploads == 0
    assert await repo.backups.ids() == []


async def test_a_store_that_stumbles_does_no_harm(
    repo: Repository, items: list[BackupItem], data: Path, target: Path, store: FaultyStore
) -> None:
    for operation in ("put", "put_part", "start_upload", "complete_upload", "create", "list"):
        store.inject(operation, Fail(), key="*/b1/*")
        store.inject(operation, LoseAnswer(), key="*/b1/*") if operation not in ("start_upload", "list") else None
    await back_up(repo, items)
    await restored(repo, target)
    assert (target / "base/big").read_bytes() == (data / "base/big").read_bytes()


async def test_a_store_that_is_gone_leaves_the_rest_to_the_sweep(
    repo: Repository, items: list[BackupItem], memory: MemoryStore, store: FaultyStore
) -> None:
    store.inject("put", Fail(), skip=3, times=None, key="*/data/*")
    store.inject("delete", Fail(), times=None)
    with pytest.raises(Unavailable):
        await back_up(repo, items)
    assert f"{BACKUP}/running" in memory.keys("")
    store.heal()
    assert await repo.backups.sweep(timedelta(minutes=5)) == []  # still held by its note
    await asyncio.sleep(2 * 3600)
    assert await repo.backups.sweep(timedelta(minutes=5)) == ["b1"]
    assert memory.keys() == []


@pytest.mark.parametrize("fault", [Drop(), Truncate(1000)])
async def test_failure_01_a_put_that_never_happened_fails_the_backup(
    repo: Repository, items: list[BackupItem], store: FaultyStore, memory: MemoryStore, fault: Drop | Truncate
) -> None:
    store.inject("put", fault, key="*/data/*", skip=1)
    with pytest.raises(IntegrityError) as error:
        await back_up(repo, items)
    assert "/data/" in error.value.object
    assert memory.keys() == []


async def test_failure_12_a_missing_part_fails_the_backup(
    repo: Repository, data: Path, store: FaultyStore, memory: MemoryStore
) -> None:
    store.inject("put_part", Drop(), skip=1)
    with pytest.raises(IntegrityError) as error:
        await back_up(repo, [file_item(data, "noise", noise(12 * MIB))])
    assert "/data/" in error.value.object
    assert memory.keys() == []


@pytest.mark.parametrize("fault", [Flip(400_000), Truncate(400_000), Cut(0)])
async def test_failure_12_a_corrupt_object_stops_the_restore_by_name(
    repo: Repository, items: list[BackupItem], store: FaultyStore, target: Path, fault: Flip | Truncate | Cut
) -> None:
    manifest = await back_up(repo, items)
    victim = next(entry for entry in manifest.objects if entry.size > MIB)
    store.inject("get", fault, key=f"*/data/{victim.number:08d}", times=None)
    with pytest.raises(IntegrityError) as error:
        await restored(repo, target)
    assert error.value.object == f"{BACKUP}/data/{victim.number:08d}"


async def test_failure_12_a_flipped_byte_in_the_store_stops_the_restore_by_name(
    repo: Repository, items: list[BackupItem], memory: MemoryStore, target: Path
) -> None:
    await back_up(repo, items)
    for key in list(memory.keys(BACKUP + "/data/")):
        whole = memory.raw(key)
        memory.damage(key, lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:])
        with pytest.raises(IntegrityError) as error:
            await restored(repo, target / key.rsplit("/", 1)[1])
        assert error.value.object == key
        memory.damage(key, lambda _, whole=whole: whole)  # type: ignore[misc]


async def test_failure_12_a_missing_object_stops_the_restore_by_name(
    repo: Repository, items: list[BackupItem], memory: MemoryStore, target: Path
) -> None:
    await back_up(repo, items)
    victim = memory.keys(BACKUP + "/data/")[1]
    memory.lose(victim)
    with pytest.raises(IntegrityError) as error:
        await restored(repo, target)
    assert (error.value.object, error.value.reason) == (victim, "ObjectMissing")


async def test_failure_11_an_unreachable_store_stops_the_restore_by_name(
    repo: Repository, items: list[BackupItem], store: FaultyStore, target: Path
) -> None:
    manifest = await back_up(repo, items)
    reader = repo.reader(manifest)
    store.inject("get", Hang(), key="*/data/00000002", times=None)
    with pytest.raises(DeadlineExceeded) as error:
        await reader.restore(lambda path: target / path)
    assert error.value.object == f"{BACKUP}/data/00000002"


async def test_failure_14_a_label_that_was_not_stored_is_no_backup(
    repo: Repository, data: Path, memory: MemoryStore
) -> None:
    with pytest.raises(InvalidInput, match="label"):
        async with repo.backups.writer("b1", META, options=SMALL) as writer:
            session = Session([file_item(data, "f", b"x")])
            await writer.store(session)
            await writer.complete(session.begin, end())
    assert memory.keys() == []


async def test_failure_28_a_restore_into_a_used_folder_overwrites_nothing(
    repo: Repository, items: list[BackupItem], target: Path
) -> None:
    await back_up(repo, items)
    (target / "base").mkdir()
    (target / "base/small7").write_bytes(b"precious")
    with pytest.raises(InvalidInput) as error:
        await restored(repo, target)
    assert error.value.reason == "NotEmpty"
    assert (target / "base/small7").read_bytes() == b"precious"
    assert not (target / "base/big").exists()


async def test_failure_28_a_link_in_the_way_is_not_followed(
    repo: Repository, data: Path, target: Path, tmp_path: Path
) -> None:
    await back_up(repo, [file_item(data, "f", b"x")])
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (target / "f").symlink_to(outside)
    with pytest.raises(InvalidInput):
        await restored(repo, target)
    assert outside.read_bytes() == b"precious"


async def test_a_place_that_refuses_ends_the_restore(repo: Repository, data: Path, target: Path) -> None:
    await back_up(repo, [file_item(data, "f", b"x")])

    def place(path: str) -> Path:
        raise IntegrityError("outside", object=path)

    with pytest.raises(IntegrityError):
        await repo.reader(await repo.backups.manifest("b1")).restore(place)
    assert tree(target) == {}


async def test_failure_32_a_second_attempt_clears_what_the_first_left(
    repo: Repository, items: list[BackupItem], memory: MemoryStore, target: Path
) -> None:
    await memory.put(f"{BACKUP}/data/00000001", b"left over")
    await memory.put(f"{BACKUP}/data/00009999", b"left over")
    await memory.start_upload(f"{BACKUP}/data/00000007")
    manifest = await back_up(repo, items)
    assert len(memory.keys(BACKUP + "/data/")) == len(manifest.objects)
    assert memory.open_uploads == 0
    await restored(repo, target)


async def test_a_completed_backup_is_not_made_again(
    repo: Repository, items: list[BackupItem], memory: MemoryStore
) -> None:
    await back_up(repo, items)
    before = {key: memory.raw(key) for key in memory.keys("")}
    with pytest.raises(AlreadyExists):
        await back_up(repo, items)
    assert {key: memory.raw(key) for key in memory.keys("")} == before


async def test_a_manifest_of_somebody_else_is_not_overwritten(
    repo: Repository, data: Path, memory: MemoryStore
) -> None:
    session = Session([file_item(data, "f", b"x")])
    with pytest.raises(AlreadyExists):
        async with repo.backups.writer("b1", META, options=SMALL) as writer:
            await writer.store(session)
            await memory.put(f"{BACKUP}/manifest", b"theirs")
            await writer.complete(session.begin, end(items=()))


async def test_a_manifest_whose_answer_was_lost_is_complete(
    repo: Repository, items: list[BackupItem], store: FaultyStore
) -> None:
    store.inject("create", LoseAnswer(), key="*/manifest")
    await back_up(repo, items)
    assert await repo.backups.ids() == ["b1"]


async def test_paths_of_the_engine_are_checked(repo: Repository, data: Path) -> None:
    for path in ("../up", "/abs", "a//b", "", "a/./b"):
        with pytest.raises(IntegrityError):
            await back_up(repo, [BytesItem(path, b"x")])
    with pytest.raises(InvalidInput, match="twice"):
        await back_up(repo, [BytesItem("a", b"x"), BytesItem("a", b"y")])


async def test_an_engine_that_fails_while_listing_fails_the_backup(
    repo: Repository, data: Path, memory: MemoryStore
) -> None:
    class Broken(Session):
        async def items(self) -> AsyncIterator[BackupItem]:
            yield file_item(data, "f", mixed(9 * MIB))
            raise Unavailable("the server went away")

    with pytest.raises(Unavailable, match="went away"):
        async with repo.backups.writer("b1", META, options=SMALL) as writer:
            await writer.store(Broken([]))
    assert memory.keys() == []


async def test_without_multipart_every_object_fits_one_put(clock: LoopClock, data: Path, target: Path) -> None:
    store = MemoryStore(capabilities=frozenset({StoreCapability.CONDITIONAL_PUT}))
    repo = Repository(store, ROOT, clock=clock)
    await back_up(repo, [file_item(data, "noise", noise(33 * MIB))], options=WriterOptions())
    await restored(repo, target)
    assert (target / "noise").read_bytes() == (data / "noise").read_bytes()
    with pytest.raises(InvalidInput):
        repo.backups.writer("b2", META, options=WriterOptions(put_bytes=MIB))


async def test_no_descriptor_is_left_open(
    repo: Repository, items: list[BackupItem], store: FaultyStore, target: Path
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    store.inject("put", Fail(), skip=2, times=None, key="*/data/*")
    with pytest.raises(Unavailable):
        await back_up(repo, items)
    store.heal()
    await back_up(repo, items)
    store.inject("get", Flip(90), key="*/data/00000003", times=None)
    with pytest.raises(IntegrityError):
        await restored(repo, target)
    assert len(os.listdir("/proc/self/fd")) <= before


async def test_restore_tells_progress(repo: Repository, items: list[BackupItem], target: Path) -> None:
    manifest = await back_up(repo, items)
    told: list[RestoreProgress] = []
    await repo.reader(manifest, progress=told.append).restore(lambda path: target / path)
    assert told[-1].done == told[-1].total == manifest.bytes
    assert told[-1].files == len([file for file in manifest.files if file.size])


async def test_a_backup_of_nothing_but_a_label(repo: Repository, target: Path) -> None:
    await back_up(repo, [])
    await restored(repo, target)
    assert tree(target) == {"label": b"the label"}


async def test_a_store_down_at_the_start_leaves_no_task(store: FaultyStore, clock: LoopClock) -> None:
    repo = Repository(store, ROOT, clock=clock, retry=RetryPolicy(attempts=1))
    store.inject("list", Fail(), key="*/b1/*", times=None)
    with pytest.raises(Unavailable):
        async with repo.backups.writer("b1", META, options=SMALL):
            raise AssertionError("never entered")
    assert [task for task in asyncio.all_tasks() if "hold" in task.get_name()] == []


async def test_a_failed_cleanup_does_not_hide_the_cause(repo: Repository, store: FaultyStore) -> None:
    with pytest.raises(RuntimeError, match="the cause"):
        async with repo.backups.writer("b1", META, options=SMALL):
            store.inject("*", Hang(), times=None)
            raise RuntimeError("the cause")


async def test_adding_labels_alone(repo: Repository, target: Path) -> None:
    async with repo.backups.writer("b1", META, options=SMALL) as writer:
        await writer.add([BytesItem("label", b"the label"), BytesItem("other", b"")])
        await writer.complete(Session([]).begin, end())
    await restored(repo, target)
    assert tree(target) == {"label": b"the label", "other": b""}


async def test_each_upload_is_a_span_of_the_backup_s_trace(
    repo: Repository, items: list[BackupItem], monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("test")
    monkeypatch.setattr(writer_module, "_tracer", tracer)
    with tracer.start_as_current_span("backup") as root:
        manifest = await back_up(repo, items)
    spans = exporter.get_finished_spans()
    assert {span.context.trace_id for span in spans} == {root.get_span_context().trace_id}
    names = [span.name for span in spans]
    assert names.count("backup object") == len(manifest.objects)
    assert {"upload object", "upload part", "upload manifest"} <= set(names)


async def test_long_names_that_begin_alike_do_not_mix(repo: Repository, data: Path, target: Path) -> None:
    names = ["n" * 240 + str(number) for number in range(5)]
    await back_up(repo, [file_item(data, name, mixed(100_000 + number)) for number, name in enumerate(names)])
    await restored(repo, target)
    for name in names:
        assert (target / name).read_bytes() == (data / name).read_bytes()


async def test_cancelling_the_cleanup_is_not_swallowed(repo: Repository, store: FaultyStore) -> None:
    async def run() -> None:
        async with repo.backups.writer("b1", META, options=SMALL):
            store.inject("list", Hang(), times=None)
            raise RuntimeError("the cause")

    task = asyncio.create_task(run())
    await asyncio.sleep(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [other for other in asyncio.all_tasks() if "hold" in other.get_name()] == []


async def test_bug_a_backup_that_failed_at_its_manifest_was_left_as_a_backup_without_data(
    repo: Repository, items: list[BackupItem], store: FaultyStore
) -> None:
    with pytest.raises(Unavailable):
        async with repo.backups.writer("b1", META, options=SMALL) as writer:
            await writer.store(Session(items))
            await writer.add(end().items)
            # The manifest is stored, but its writer never hears of it; then the store takes one more deletion.
            store.inject("create", LoseAnswer(), key=f"{BACKUP}/manifest")
            store.inject("create", Fail(), key=f"{BACKUP}/manifest", times=None)
            store.inject("delete", Fail(), skip=1, times=None)
            await writer.complete(Session([]).begin, end())
    store.heal()
    assert await repo.backups.ids() == []
    assert (await repo.catalog()).backups == ()
