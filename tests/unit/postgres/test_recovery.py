from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from yoban.errors import IntegrityError
from yoban.plugins import RecoveryPlan, RecoveryTarget, TargetType
from yoban.testing.context import make_context
from yoban_postgres import history
from yoban_postgres.follow import Own, Upstream, Way, choose
from yoban_postgres.positions import make
from yoban_postgres.recovery import PostgresRecovery, damage_at, last_words, recovery_settings, to_target
from yoban_postgres.session import Kept
from yoban_postgres.walrecord import end_of, nothing_complete_after

SEGMENT = 16 << 20
LINE = "00000001"


def plan(
    type: TargetType, value: str = "", *, exclusive: bool = False, end: int = 1000, has_log: bool = True
) -> RecoveryPlan:
    target = RecoveryTarget(type, value, exclusive)
    return RecoveryPlan(target, "0000000A", make("0000000A", end), make("0000000A", 10), has_log=has_log)


def test_settings_of_each_target() -> None:
    assert not to_target(plan(TargetType.LATEST))
    latest = recovery_settings(plan(TargetType.LATEST))
    assert latest["recovery_target_timeline"] == "10"
    assert "recovery_target_action" not in latest
    time = recovery_settings(plan(TargetType.TIME, "2026-03-01T12:00:00.500000Z", exclusive=True))
    assert time["recovery_target_time"] == "2026-03-01 12:00:00.500000+00"
    assert time["recovery_target_inclusive"] == "off"
    assert time["recovery_target_action"] == "pause"
    assert recovery_settings(plan(TargetType.TRANSACTION, str((5 << 32) + 7)))["recovery_target_xid"] == "7"
    assert recovery_settings(plan(TargetType.NAME, "it's"))["recovery_target_name"] == "it's"
    assert recovery_settings(plan(TargetType.POSITION, "0/10"))["recovery_target_lsn"] == "0/10"
    assert recovery_settings(plan(TargetType.IMMEDIATE))["recovery_target"] == "immediate"
    assert recovery_settings(plan(TargetType.LATEST, has_log=False))["recovery_target"] == "immediate"


def test_a_position_at_the_proven_end_is_everything() -> None:
    assert to_target(plan(TargetType.POSITION, "0/3E7"))
    assert not to_target(plan(TargetType.POSITION, "0/3E8"))
    assert not to_target(plan(TargetType.POSITION, "0000000A:0/3E8"))


def test_failure_15_places_never_lead_outside(tmp_path: Path) -> None:
    recovery, ctx = PostgresRecovery(Kept()), make_context(tmp_path)
    assert recovery.place(ctx, "base/5/1") == ctx.data / "base/5/1"
    assert recovery.place(ctx, "pg_tblspc/16385/PG_15_1/5/9") == ctx.data / "tablespaces/16385/PG_15_1/5/9"
    assert recovery.place(ctx, "pg_tblspc") == ctx.data / "pg_tblspc"
    own = dataclasses.replace(ctx, log=tmp_path / "log")
    assert recovery.place(own, "pg_wal/archive_status") == tmp_path / "log/pg_wal/archive_status"
    for path in ("", "/etc/passwd", "../x", "base/../../x", "a/./b", "pg_tblspc/../x", "pg_tblspc/x/y", "a\0b"):
        with pytest.raises(IntegrityError):
            recovery.place(ctx, path)


def test_last_words_and_damage(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert last_words(log) == "" and damage_at(log, 0, SEGMENT, line=LINE, end=0x4000000) == ""
    log.write_text(
        "1 FATAL:  the database system is starting up\n"
        "2 FATAL:  could not restore file \"x\" from archive: child process exited with exit code 255\n"
        "3 FATAL:  the database system is shutting down\n"
        "4 LOG:  incorrect resource manager data checksum in record at 0/1000148\n"
        "5 DEBUG:  archive file \"000000010000000000000002\" has wrong size: 5 instead of 16777216\n"
    )  # fmt: skip
    assert last_words(log).startswith("could not restore file")
    assert "incorrect" in damage_at(log, 0x1000148, SEGMENT, line=LINE, end=0x4000000) or "wrong size" in damage_at(
        log, 0x1000148, SEGMENT, line=LINE, end=0x4000000
    )
    assert damage_at(log, 0x3000000, SEGMENT, line=LINE, end=0x4000000) == ""


def test_histories() -> None:
    text = "1\t0/3000100\tno recovery target specified\n\n2\t0/5000000\tbefore 2026-01-01 00:00:00+00 # x\n"
    forks = history.parse(text, "00000003")
    assert [(fork.line, fork.parent, fork.position) for fork in forks] == [
        ("00000002", "00000001", "00000001:0/3000100"),
        ("00000003", "00000002", "00000002:0/5000000"),
    ]
    assert history.parse("", "00000001") == []
    with pytest.raises(ValueError, match=r".*"):
        history.parse("x y\n", "00000002")


def test_whether_data_can_follow() -> None:
    forks = history.parse("1\t0/100\tx\n2\t0/200\tx\n", "00000003")
    up = Upstream("7", "00000003", forks, 0x300)

    def way(line: str, end: int | None, system: str = "7") -> Way:
        return choose(Own(system, line, end, primary=True), up)[0]

    assert way("00000003", 0x300) is Way.FOLLOW
    assert way("00000003", 0x301) is Way.REWIND
    assert way("00000003", None) is Way.FOLLOW
    assert way("00000001", 0x100) is Way.FOLLOW
    assert way("00000001", 0x101) is Way.REWIND
    assert way("00000002", 0x200) is Way.FOLLOW
    assert way("00000002", None) is Way.REWIND
    assert way("00000009", 0x10) is Way.REWIND
    assert way("00000003", 0x10, "8") is Way.REBUILD


def test_what_counts_as_the_end_of_the_log(tmp_path: Path) -> None:
    (tmp_path / "pg_wal").mkdir()
    file = tmp_path / "pg_wal" / "000000010000000000000001"

    def write(offset: int, length: int) -> None:
        data = bytearray(SEGMENT)
        data[offset : offset + 4] = length.to_bytes(4, "little")
        file.write_bytes(data)

    start = SEGMENT + 1000
    done = lambda replayed, end: nothing_complete_after(tmp_path, "00000001", replayed, end, SEGMENT)  # noqa: E731
    assert not done(start, start + 100), "no file yet: it may still come"
    write(1000, 96)
    assert done(start, start), "replayed to the end"
    assert done(start, start + 95), "the last record is cut in two"
    assert not done(start, start + 96), "a whole record is left"
    assert end_of(tmp_path, "00000001", start, SEGMENT) == start + 96
    write(1000, 0)
    assert not done(start, start + 96), "something should be there and is not"
    assert end_of(tmp_path, "00000001", start, SEGMENT) is None
    assert done(SEGMENT, SEGMENT + 40), "only a page's header is left"
