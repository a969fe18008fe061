"""What is told of a recovery that runs, and how it is left: the server's answers are scripted, the clock is ours."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from yoban.errors import Unavailable
from yoban.plugins import (
    Finished,
    Fork,
    InstanceContext,
    Position,
    Processes,
    RecoveryPlan,
    RecoveryState,
    RecoveryTarget,
    SegmentKind,
    TargetType,
)
from yoban.testing.context import make_context
from yoban_postgres import binaries, history
from yoban_postgres.log import PostgresLog
from yoban_postgres.positions import make
from yoban_postgres.recovery import PostgresRecovery, damage_at, recovery_settings
from yoban_postgres.session import Kept
from yoban_postgres.settings import SERVER_DEFAULTS

SEGMENT = 16 << 20
LINE = "00000001"
FIRST, SECOND = (f"{LINE}{0:08X}{number:08X}" for number in (1, 2))
CONTROL = """Database system identifier:           7300000000000000001
Database cluster state:               in archive recovery
Latest checkpoint location:           0/1000148
Latest checkpoint's REDO location:    0/1000110
Latest checkpoint's TimeLineID:       1
Minimum recovery ending location:     0/1000200
Min recovery ending loc's timeline:   1
max_connections setting:              300
max_worker_processes setting:         8
Bytes per WAL segment:                16777216
Data page checksum version:           1
"""


class Control(Processes):
    """`pg_controldata` of a log that was written with 300 connections."""

    async def run(self, argv: Any, **more: Any) -> Finished:
        return Finished(0, CONTROL.encode(), b"")


class Scripted(Kept):
    """A server in recovery; None for `row`: it lets nobody in."""

    def __init__(self, **row: Any) -> None:
        super().__init__()
        self.row: dict[str, Any] | None = {
            "recovering": True,
            "paused": "not paused",
            "replayed": "0/1000200",
            "last_commit": None,
            "segment_bytes": SEGMENT,
            "retrying": False,
            **row,
        }
        self.settings = dict(SERVER_DEFAULTS)
        self.asked: list[str] = []

    @asynccontextmanager
    async def use(self, ctx: InstanceContext) -> AsyncIterator[Any]:
        if self.row is None:
            raise Unavailable("it does not answer", object="server orders-1")
        yield self

    async def fetchrow(self, query: str) -> dict[str, Any] | None:
        return self.row

    async def fetch(self, query: str, *arguments: Any) -> list[dict[str, Any]]:
        return [{"name": name, "value": value} for name, value in self.settings.items()]

    async def fetchval(self, query: str) -> Any:
        assert self.row is not None
        self.asked.append(query)
        if "pg_promote" in query:
            self.row["recovering"] = False
        if "pg_walfile_name" in query:
            return LINE
        return self.row["recovering"] if "pg_is_in_recovery" in query else "0/1000200"

    async def execute(self, query: str) -> None:
        assert self.row is not None
        self.asked.append(query)
        if "resume" in query:
            self.row["recovering"] = False


@pytest.fixture
def ctx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> InstanceContext:
    monkeypatch.setattr(binaries, "folder", lambda version: Path("/usr/lib/postgresql") / version / "bin")
    made = make_context(tmp_path, version="17", processes=Control())
    (made.data / "pg_wal" / "archive_status").mkdir(parents=True)
    return made


def plan(type: TargetType = TargetType.LATEST, value: str = "", *, end: int = 0x2000500, **more: Any) -> RecoveryPlan:
    return RecoveryPlan(RecoveryTarget(type, value), LINE, make(LINE, end), make(LINE, 0x1000100), **more)


TARGETS = [
    plan(TargetType.TIME, "2026-03-01T12:00:00Z"),
    plan(TargetType.TRANSACTION, "1000"),
    plan(TargetType.NAME, "before the accident"),
    plan(TargetType.POSITION, "0/1000300"),
    plan(TargetType.IMMEDIATE),
]


@pytest.mark.parametrize("chosen", [plan(), *TARGETS], ids=lambda chosen: chosen.target.type.value)
async def test_bug_a_limit_raised_after_the_backup_was_the_end_of_a_restore(
    ctx: InstanceContext, chosen: RecoveryPlan
) -> None:
    """The server pauses when the log was written with more than it has. LATEST waited for ever, others called it reached."""
    server = Scripted(paused="paused")
    recovery = PostgresRecovery(server)
    found = await recovery.progress(ctx, chosen)
    assert found.state is RecoveryState.RESTART
    assert found.message == "max_connections is 100, the log was written with 300"
    server.settings["max_connections"] = 300
    reached = RecoveryState.REPLAYING if chosen.target.type is TargetType.LATEST else RecoveryState.REACHED
    assert (await recovery.progress(ctx, chosen)).state is reached


async def test_bug_a_limit_raised_within_the_backup_failed_the_restore(ctx: InstanceContext) -> None:
    """Before it lets anybody in the server does not pause, it ends."""
    log = ctx.run / "recovery.log"
    words = "max_connections = 100 is a lower setting than on the primary server, where its value was 300."
    log.write_text(f"1 FATAL:  recovery aborted because of insufficient parameter settings\n1 DETAIL:  {words}\n")
    server = Scripted()
    server.row = None
    found = await PostgresRecovery(server).progress(ctx, plan())
    assert (found.state, found.message) == (RecoveryState.RESTART, words)
    log.write_text(log.read_text() + "1 FATAL:  could not access status of transaction 5\n")
    assert (await PostgresRecovery(server).progress(ctx, plan())).state is RecoveryState.FAILED


@pytest.mark.parametrize("chosen", TARGETS, ids=lambda chosen: chosen.target.type.value)
async def test_bug_leaving_recovery_at_a_target_waited_until_everything_was_flushed(
    ctx: InstanceContext, chosen: RecoveryPlan
) -> None:
    """A resume ends recovery with a whole checkpoint, a promotion by a record: the stop that follows flushes."""
    server = Scripted(paused="paused")
    server.settings["max_connections"] = 300
    reached = await PostgresRecovery(server).finish(ctx, chosen)
    assert any("pg_promote(false)" in query for query in server.asked)
    assert not any("pg_wal_replay_resume" in query for query in server.asked)
    assert reached.position == make(LINE, 0x1000200)


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Replay:
    """A recovery to LATEST, and the log that its server writes."""

    def __init__(self, ctx: InstanceContext, server: Scripted) -> None:
        self.ctx, self.server, self.clock = ctx, server, Clock()
        self.recovery = PostgresRecovery(server, clock=self.clock)
        self.log = ctx.run / "recovery.log"
        (ctx.data / "postmaster.pid").write_text(f"{os.getpid()}\n")

    def says(self, *lines: str) -> None:
        with self.log.open("a") as file:
            file.writelines(f"2026-01-01 00:00:00 UTC [7] {line}\n" for line in lines)

    def restores(self, *segments: str) -> None:
        self.says(*(f'LOG:  restored log file "{segment}" from archive' for segment in segments))

    async def after(self, seconds: float) -> RecoveryState:
        self.clock.now += seconds
        self.found = await self.recovery.progress(self.ctx, plan())
        return self.found.state


async def test_bug_damage_in_words_that_nobody_knew_was_waited_for_for_ever(ctx: InstanceContext) -> None:
    replay = Replay(ctx, Scripted(retrying=True))
    replay.says("LOG:  a complaint of some later version", 'LOG:  restored log file "x" from archive')
    replay.says("LOG:  waiting for WAL to become available at 0/1000218")
    assert await replay.after(0) is RecoveryState.REPLAYING
    assert await replay.after(29) is RecoveryState.REPLAYING
    assert await replay.after(2) is RecoveryState.FAILED
    assert replay.found.message.endswith("0/1000200: a complaint of some later version")


async def test_bug_damage_behind_a_slow_store_was_waited_for_for_ever(ctx: InstanceContext) -> None:
    """When fetching takes longer than the pause between two tries, the server is never seen to rest."""
    replay = Replay(ctx, Scripted())
    assert await replay.after(0) is RecoveryState.REPLAYING
    for _ in range(16):
        replay.restores(FIRST, SECOND)
        assert await replay.after(2) is RecoveryState.REPLAYING
    replay.restores(FIRST, SECOND)
    assert await replay.after(2) is RecoveryState.FAILED


async def test_bug_damage_before_the_server_lets_anybody_in_was_waited_for_for_ever(ctx: InstanceContext) -> None:
    replay = Replay(ctx, Scripted())
    replay.server.row = None
    replay.restores(SECOND, FIRST, SECOND)
    assert await replay.after(0) is RecoveryState.REPLAYING
    assert await replay.after(60) is RecoveryState.REPLAYING
    for _ in range(2):
        replay.restores(FIRST, SECOND)
        assert await replay.after(31) is RecoveryState.REPLAYING
    replay.restores(FIRST, SECOND)
    assert await replay.after(31) is RecoveryState.FAILED


async def test_bug_a_short_segment_before_the_server_lets_anybody_in_was_waited_for_for_ever(
    ctx: InstanceContext,
) -> None:
    replay = Replay(ctx, Scripted())
    replay.server.row = None
    states = []
    for _ in range(4):
        states.append(await replay.after(20))
        replay.says(f'DEBUG:  archive file "{SECOND}" has wrong size: 5 instead of 16777216')
    states.append(await replay.after(20))
    assert states == [RecoveryState.REPLAYING] * 4 + [RecoveryState.FAILED]
    assert "has wrong size" in replay.found.message


async def test_a_server_that_replays_or_waits_for_the_store_never_stands_still(ctx: InstanceContext) -> None:
    replay = Replay(ctx, Scripted())
    assert replay.server.row is not None
    for number in range(40):  # one record that fills many segments
        replay.restores(f"{LINE}{0:08X}{number:08X}")
        assert await replay.after(20) is RecoveryState.REPLAYING
    assert await replay.after(600) is RecoveryState.REPLAYING  # the next segment comes late
    replay.server.row["retrying"] = True
    assert await replay.after(600) is RecoveryState.REPLAYING
    replay.server.row["replayed"] = "0/1000300"
    assert await replay.after(600) is RecoveryState.REPLAYING
    assert await replay.after(20) is RecoveryState.REPLAYING
    await replay.recovery.prepare(ctx, plan())  # begun again
    (ctx.data / "postmaster.pid").write_text(f"{os.getpid()}\n")
    assert await replay.after(600) is RecoveryState.REPLAYING


@pytest.mark.parametrize(
    "words",
    [
        "there is no contrecord flag at 0/1000200",
        "contrecord is requested by 0/1000200",
        "record length 4000000000 at 0/1000200 too long",
        "out-of-order block_id 3 at 0/1000200",
        "invalid magic number 0000 in log segment 000000010000000000000001, offset 8192",
        "invalid info bits 4C4C in WAL segment 000000010000000000000002, LSN 0/2000000, offset 0",
        "unexpected pageaddr 0/3000000 in WAL segment 000000010000000000000001, LSN 0/1002000, offset 8192",
        "out-of-sequence timeline ID 1 (after 2) in log segment 000000010000000000000001, offset 8192",
    ],
)
def test_bug_damage_that_was_not_understood(tmp_path: Path, words: str) -> None:
    log = tmp_path / "log"
    log.write_text(f"1 LOG:  {words}\n")
    assert damage_at(log, 0x1000200, SEGMENT, line=LINE, end=0x2000500) == words
    assert damage_at(log, 0x2004000, SEGMENT, line=LINE, end=0x3000000) == "", "replay has passed it"
    if "segment" in words:
        assert damage_at(log, 0x1000200, SEGMENT, line="00000002", end=0x2000500) == "", "another line's file"


def test_the_end_of_the_log_is_no_damage(tmp_path: Path) -> None:
    """What is padded looks damaged, and is read ahead of replay."""
    log = tmp_path / "log"
    log.write_text("1 LOG:  invalid magic number 0000 in log segment 000000010000000000000001, offset 8192\n")
    assert damage_at(log, 0x1000200, SEGMENT, line=LINE, end=0x1002000) == ""
    assert damage_at(log, 0x1000200, SEGMENT, line=LINE, end=0x1002001) != ""


def test_bug_words_in_another_language_were_not_understood() -> None:
    for chosen in (plan(), *TARGETS):
        found = recovery_settings(chosen)
        assert (found["lc_messages"], found["log_error_verbosity"]) == ("C", "default")


FORKS = (
    Fork("00000002", "00000001", Position("00000001:0/1000100")),
    Fork("0000000B", "00000002", Position("00000002:1/2000300")),
)


async def test_bug_a_line_whose_history_was_not_stored_could_not_be_restored(ctx: InstanceContext) -> None:
    recovery = PostgresRecovery(Kept())
    file = ctx.data / "pg_wal" / "0000000B.history"
    chosen = dataclasses.replace(plan(), line="0000000B", forks=FORKS)
    await recovery.prepare(ctx, chosen)
    assert tuple(history.parse(file.read_text(), "0000000B")) == FORKS
    assert [row.split("\t")[:2] for row in file.read_text().splitlines()] == [["1", "0/1000100"], ["2", "1/2000300"]]
    file.write_text("the server's own")
    await recovery.prepare(ctx, chosen)
    assert file.read_text() == "the server's own"


async def test_a_line_on_which_the_backup_lies_has_a_history_without_forks(ctx: InstanceContext) -> None:
    recovery = PostgresRecovery(Kept())
    own = dataclasses.replace(plan(), line="00000002", backup_end=make("00000002", 0x2000000))
    await recovery.prepare(ctx, own)
    assert history.parse((ctx.data / "pg_wal" / "00000002.history").read_text(), "00000002") == []
    for other in (
        plan(),
        dataclasses.replace(plan(), line="00000003"),
    ):  # the first has none; how that came is not told
        await recovery.prepare(ctx, other)
    assert sorted(path.name for path in (ctx.data / "pg_wal").glob("*.history")) == ["00000002.history"]


async def test_bug_the_mark_did_not_wait_for_the_history_of_its_line(ctx: InstanceContext) -> None:
    wal = ctx.data / "pg_wal"
    names = [
        "00000002.history",
        "00000003.history",
        "00000004.history",
        "000000030000000000000001",
        "000000030000000000000002",
        "000000020000000000000001.partial",
        "000000030000000000000001.00000028.backup",
    ]
    for name in names:
        (wal / name).write_bytes(b"")
        (wal / "archive_status" / f"{name}.ready").touch()

    class Primary:
        async def fetchrow(self, query: str) -> dict[str, Any]:
            return {
                "observed": datetime.now(UTC),
                "last_commit": None,
                "recovering": False,
                "inserted": "0/2000100",
                "flushed": "0/2000100",
                "line": "00000003",
                "segment_bytes": SEGMENT,
            }

    class Lent(Kept):
        @asynccontextmanager
        async def use(self, ctx: InstanceContext) -> AsyncIterator[Any]:
            yield cast(Any, Primary())

    log = PostgresLog(Lent())
    tail = await log.tail(ctx)
    assert tail is not None
    assert tail.segment == "000000030000000000000002"
    assert tail.earlier == ("00000002.history", "00000003.history", "000000030000000000000001")
    assert log.classify(tail.earlier[0]).kind is SegmentKind.HISTORY
