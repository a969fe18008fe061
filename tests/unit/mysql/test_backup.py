"""How long a copy will take, told before it is made; and the room that it leaves."""

from __future__ import annotations

import asyncio
import shutil
from collections import namedtuple
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from yoban.errors import Terminal, Unavailable
from yoban.plugins import BackupBegin, BackupRequest, Finished, InstanceContext, Processes
from yoban.testing.clock import VirtualClockLoop
from yoban.testing.context import make_context
from yoban_mysql import backup, binaries
from yoban_mysql.backup import ASSUMED, LOOK, TELLING, Found, MySqlBackup, copy_folder, reserve, speed
from yoban_mysql.gtid import GtidSet

usage = namedtuple("usage", "total used free")
VOLUME = 100 << 30
UUID = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
GTIDS = GtidSet.parse(f"{UUID}:1-9")
MOMENT = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("copied", "seconds", "expected"),
    [
        (0, 0.0, ASSUMED),  # none was made yet
        (TELLING - 1, 0.001, ASSUMED),  # too small to tell
        (TELLING, 0.0, ASSUMED),
        (100 << 30, 100.0, float(1 << 30)),
        (1 << 30, 16.0, float(64 << 20)),
    ],
)
def test_the_last_copy_tells_where_it_can(copied: int, seconds: float, expected: float) -> None:
    assert speed(copied, seconds) == expected


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that are free on the volume."""
    left = [VOLUME]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(VOLUME, VOLUME - left[0], left[0]))
    return left


def on_virtual_time(work: Callable[[], Any]) -> None:
    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(work())


class Copied(MySqlBackup):
    """Backups whose copy is there at once, without a server."""

    async def _look(self, ctx: InstanceContext) -> Any:
        return BackupBegin(str(GTIDS), "a.1", MOMENT, "", "9.7.0"), []

    async def _clone(self, ctx: InstanceContext, folder: Path, tables: object) -> Any:
        folder.mkdir()
        return {"uuid": UUID, "ended": MOMENT, "file": "", "position": ""}

    async def _read(self, ctx: InstanceContext, folder: Path) -> Found:
        return Found(GTIDS, "a.1")


def test_bug_a_backup_filled_the_volume_while_it_was_uploaded(
    tmp_path: Path, free: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backup, "newest_commit", lambda data: None)
    ctx = make_context(tmp_path)

    async def work() -> None:
        loop = asyncio.get_running_loop()
        begun = loop.time()
        loop.call_later(1000, free.__setitem__, 0, reserve(VOLUME) - 1)
        with pytest.raises(Terminal) as caught:
            async with Copied(None).backup(ctx, BackupRequest("b")):  # type: ignore[arg-type]
                assert copy_folder(ctx).is_dir()
                await asyncio.sleep(86400)  # the store is slow, or down
        assert caught.value.reason == "NoSpace" and str(reserve(VOLUME) - 1) in caught.value.cause
        assert loop.time() - begun <= 1000 + LOOK
        assert not copy_folder(ctx).exists()
        assert len(asyncio.all_tasks()) == 1, "who watched is gone"

    on_virtual_time(work)


def test_a_backup_with_room_is_left_alone(tmp_path: Path, free: list[int]) -> None:
    ctx = make_context(tmp_path)
    free[0] = reserve(VOLUME)

    async def work() -> None:
        async with backup.roomy(ctx):
            await asyncio.sleep(3600)
        for error in (TimeoutError("the store's"), Unavailable("its own")):
            with pytest.raises(type(error)) as caught:
                async with backup.roomy(ctx):
                    await asyncio.sleep(60)
                    raise error
            assert caught.value is error
        cancelled = asyncio.ensure_future(_sleep_within(ctx))
        await asyncio.sleep(60)
        cancelled.cancel()
        await asyncio.wait({cancelled})
        assert cancelled.cancelled()
        assert len(asyncio.all_tasks()) == 1

    on_virtual_time(work)


async def _sleep_within(ctx: InstanceContext) -> None:
    async with backup.roomy(ctx):
        await asyncio.sleep(86400)


def test_the_reserve_is_a_part_of_the_volume_and_bounded() -> None:
    assert reserve(20 << 30) == 1 << 30
    assert reserve(10 << 40) == backup.MOST_RESERVE


class Reading(Processes):
    """A copy that tells what it holds when it is started."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def run(self, argv: Sequence[str], **more: Any) -> Finished:
        self.asked += argv
        (script,) = (Path(word.partition("=")[2]) for word in argv if word.startswith("--init-file="))
        (script.parent / "executed").write_text(str(GTIDS))
        (script.parent / "line").write_text("a.1\n")
        return Finished(0, b"", b"")


async def test_bug_the_server_that_reads_a_copy_took_the_memory_of_the_one_that_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binaries, "server", lambda: "mysqld")
    reading = Reading()
    ctx = make_context(tmp_path, processes=reading)
    found = await MySqlBackup(None)._read(ctx, copy_folder(ctx))  # type: ignore[arg-type]
    assert found == Found(GTIDS, "a.1")
    assert {"--performance-schema=OFF", "--table-open-cache=64", "--table-definition-cache=400"} <= set(reading.asked)
