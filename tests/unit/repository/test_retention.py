from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from yoban.errors import Unavailable
from yoban.plugins import BackupBegin, BytesItem, Fork, Position
from yoban.repository import (
    BackupUse,
    Catalog,
    Hold,
    Repository,
    RetentionPlan,
    RetentionPolicy,
    Survey,
    plan_retention,
    survey,
)
from yoban.repository.retention import wanted
from yoban.testing.faulty_store import Fail, FaultyStore
from yoban.testing.memory_store import MemoryStore

from tests.unit.repository.parts import (
    META,
    ROOT,
    SEGMENT,
    NumberLog,
    NumberPositions,
    Session,
    at,
    end,
    segment,
    summary,
)
from tests.unit.repository.test_survey import FIRST, catalog, forked, mark, names, tails

LOG, POSITIONS = NumberLog(), NumberPositions()
GRACE = timedelta(minutes=60)
NOW = at(1000)


def daily(*ids: str) -> tuple[Any, ...]:
    """One backup each 100 minutes, oldest first, with segments of its own."""
    return tuple(
        summary(id, end_minute=100 * (number + 1), first=10 * number + 1, last=10 * number + 2)
        for number, id in enumerate(ids)
    )


def full(*ids: str, **changes: Any) -> Catalog:
    backups = daily(*ids)
    last = 10 * len(backups)
    values: dict[str, Any] = {
        "backups": backups,
        "lines": {"1": names("1", 0, last)},
        "mark": mark("1", last + 1, minute=990),
        "tails": tails("1", last + 1, 50),
    }
    return catalog(**(values | changes))


def plan(found: Catalog, policy: RetentionPolicy, **changes: Any) -> RetentionPlan:
    view = survey(found, LOG, POSITIONS)
    return plan_retention(found, view, policy, changes.pop("now", NOW), log=LOG, **changes)


def test_without_a_rule_everything_stays() -> None:
    assert not plan(full("a", "b", "c"), RetentionPolicy())
    assert plan(full("a", "b", expired={"a": at(1)}), RetentionPolicy()) == RetentionPlan(unmark=("a",))


def test_by_count() -> None:
    result = plan(full("a", "b", "c", "d"), RetentionPolicy(keep_count=2, grace=GRACE))
    assert (result.mark, result.remove) == (("a", "b"), ())
    assert result.log == {"1": (segment("1", 0),)}  # nothing that a marked backup needs


def test_by_age_keeps_the_one_that_reaches_back_to_the_edge() -> None:
    result = plan(full("a", "b", "c", "d"), RetentionPolicy(keep_for=timedelta(minutes=650)))  # edge at minute 350
    assert result.mark == ("a", "b")


def test_both_rules_hold() -> None:
    policy = RetentionPolicy(keep_count=3, keep_for=timedelta(minutes=650))
    assert plan(full("a", "b", "c", "d"), policy).mark == ("a",)


def test_two_steps() -> None:
    policy = RetentionPolicy(keep_count=1, grace=GRACE)
    marked = full("a", "b", "c", expired={"a": NOW - timedelta(minutes=61), "b": NOW - timedelta(minutes=59)})
    result = plan(marked, policy)
    assert (result.mark, result.remove) == ((), ("a",))
    assert "grace" in result.why["b"]
    assert result.log["1"] == names("1", 0, 10)  # up to b's first segment


def test_what_is_wanted_again_is_unmarked() -> None:
    assert plan(full("a", "b", expired={"b": at(1)}), RetentionPolicy(keep_count=2)).unmark == ("b",)


def hold(minutes: float = 30, backup: str = "") -> Hold:
    return Hold(id="r1", backup=backup, started=NOW, expires=NOW + timedelta(minutes=minutes))


def test_failure_19_a_restore_under_way_is_spared() -> None:
    policy = RetentionPolicy(keep_count=1, grace=GRACE)
    old = {"expired": {"a": at(1), "b": at(1)}}
    for note in (hold(), hold(backup="a"), hold(minutes=-3)):
        result = plan(full("a", "b", "c", **old, restores=(note,)), policy)
        assert "a" not in result.remove
        assert result.log == {}
    named = plan(full("a", "b", "c", **old, restores=(hold(backup="a"),)), policy)
    assert named.remove == ("b",)
    over = plan(full("a", "b", "c", **old, restores=(hold(minutes=-6),)), policy)
    assert over.remove == ("a", "b")
    assert over.notes == ()
    assert plan(full("a", restores=(hold(minutes=-1500),)), policy).notes == ("r1",)


def test_failure_19_log_that_a_running_backup_needs_is_spared() -> None:
    policy = RetentionPolicy(keep_count=1, grace=GRACE)
    early = Hold(id="x", started=at(50), expires=NOW + timedelta(minutes=1))
    assert plan(full("a", "b", running={"x": early}), policy).log == {}
    late = Hold(id="x", started=at(500), expires=NOW + timedelta(minutes=1))
    assert plan(full("a", "b", running={"x": late}), policy).log
    dead = Hold(id="x", started=at(50), expires=NOW - timedelta(minutes=6))
    assert plan(full("a", "b", running={"x": dead}), policy).log
    assert plan(full("a", "b"), policy, running=frozenset({"unknown"})).log == {}
    assert plan(full("a", "b", running={"x": late}), policy, running=frozenset({"x"})).log


def test_without_a_usable_backup_nothing_goes() -> None:
    gone = full("a", "b", lines={"1": ()}, tails=(), expired={"a": at(1)})
    assert not plan(gone, RetentionPolicy(keep_count=1))


def test_an_unusable_backup_does_not_count() -> None:
    gap = full("a", "b", "c", lines={"1": names("1", 0, 30, without=(22,))})  # c lacks its last segment
    result = plan(gap, RetentionPolicy(keep_count=1))
    assert result.mark == ()
    two = full("a", "b", "c", "d", lines={"1": names("1", 0, 40, without=(12,))})  # b lacks its last segment
    assert plan(two, RetentionPolicy(keep_count=1)).mark == ("a", "b", "c")


def test_bug_one_missing_segment_cost_every_older_backup_that_could_still_be_restored() -> None:
    gap = {"lines": {"1": names("1", 0, 40, without=(25,))}}  # only d leads to the window's end
    view = survey(full("a", "b", "c", "d", **gap), LOG, POSITIONS)
    assert [(use.restorable, use.usable) for use in view.backups] == [(True, False)] * 3 + [(True, True)]
    by_age = RetentionPolicy(keep_for=timedelta(minutes=650), grace=GRACE)  # edge at minute 350
    assert plan(full("a", "b", "c", "d", **gap), by_age).mark == ("a", "b"), "as without the gap"
    everything = RetentionPolicy(keep_count=4)
    assert plan(full("a", "b", "c", "d", **gap), everything) == plan(full("a", "b", "c", "d"), everything), (
        "its log, too"
    )
    assert plan(full("a", "b", "c", "d", **gap), RetentionPolicy(keep_count=2)).mark == ("a", "b")


def test_bug_backups_before_a_reign_without_a_record_went_at_once() -> None:
    values = forked()  # the reign on line 2 could never write its record: the store was down
    values["terms"] = tuple(record for record in values["terms"] if record.line != "2")
    result = plan(catalog(**values), RetentionPolicy(keep_count=10))
    assert (result.mark, result.remove, result.log) == ((), (), {})


def test_log_of_a_reign_without_a_record_goes_as_others_tell_of_it() -> None:
    values = forked(backups=(summary("b3", end_minute=50, first=7, last=7, line="3"),))
    terms = tuple(record for record in values["terms"] if record.line != "2")
    told = (Fork("2", "1", Position("350")),)
    knowing = (*terms[:-1], msgspec.structs.replace(terms[-1], ancestors=told))
    policy = RetentionPolicy(keep_count=1)
    assert "2" not in plan(catalog(**(values | {"terms": terms})), policy, now=at(61)).log
    found = plan(catalog(**(values | {"terms": knowing})), policy, now=at(61))
    assert found.log == plan(catalog(**values), policy, now=at(61)).log and "2" in found.log


def test_log_before_every_backup_goes_line_by_line() -> None:
    values = forked(backups=(summary("b3", end_minute=50, first=7, last=7, line="3"),))
    values["lines"] = {
        "1": (*names("1", 0, 2),),
        "2": (*names("2", 3, 5), "2.history", "odd name"),
        "3": (*names("3", 6, 8), segment("3", 6) + ".note", "3.history"),
        "9": names("9", 0, 1),
    }
    result = plan(catalog(**values), RetentionPolicy(keep_count=1), now=at(61))
    assert result.log == {
        "1": names("1", 0, 2),
        "2": (*names("2", 3, 5), "odd name"),
        "3": (segment("3", 6), segment("3", 6) + ".note"),
    }


def test_bug_a_clock_that_was_ahead_cost_a_kept_backup_its_log() -> None:
    # The instance that made `a` has a clock that is ahead: by the times noted `b` began first.
    a, b = daily("a", "b")
    ahead = msgspec.structs.replace(a, begin_time=b.begin_time + timedelta(minutes=1))
    result = plan(full("a", "b", backups=(ahead, b)), RetentionPolicy(keep_count=2))
    assert result.log == {"1": (segment("1", 0),)}  # `a` is kept, and needs segment 1


def test_lines_of_kept_backups_stay() -> None:
    result = plan(catalog(**forked()), RetentionPolicy(keep_count=3), now=at(61))
    assert result.log == {"1": (segment("1", 0),)}


def test_bug_backups_of_older_lines_went_when_the_record_of_a_reign_could_not_be_read() -> None:
    # Restoring from them says to bring the record back; by then they were gone.
    values = forked()
    ids = [backup.id for backup in values["backups"]]
    policy = RetentionPolicy(keep_count=1, grace=GRACE)
    marked = {"expired": dict.fromkeys(ids, at(1)), "terms": values["terms"][:-1]}
    for more in ({"damaged": {f"{ROOT}/terms/0000000003": "damaged"}}, {}):
        result = plan(catalog(**(values | marked | more)), policy)
        assert (result.mark, result.remove, result.log) == ((), (), {})
        assert set(result.why) == set(ids)
    unread = {"damaged": {f"{ROOT}/backups/x/manifest": "damaged"}}
    assert not plan(full("a", "b", "c", **unread), RetentionPolicy(keep_count=1)).log, "it may need the oldest log"


def test_an_engine_without_a_log_loses_no_log() -> None:
    backups = (summary("a", end_minute=10, first=0, last=0, first_segment="", last_segment=""),)
    found = catalog(backups=backups, mark=None)
    view = survey(found, None, POSITIONS)
    assert plan_retention(found, view, RetentionPolicy(keep_count=1), NOW).log == {}
    assert plan_retention(found, view, RetentionPolicy(keep_count=1), NOW, log=LOG).log == {}


def test_failure_19_log_behind_a_backup_that_names_no_segments_stays() -> None:
    backups = tuple(msgspec.structs.replace(one, first_segment="", last_segment="") for one in daily("a", "b"))
    result = plan(full("a", "b", backups=backups), RetentionPolicy(keep_count=2))
    assert result.log == {"1": (segment("1", 0), segment("1", 1))}  # a ended within segment 2


@given(
    st.lists(st.tuples(st.integers(1, 900), st.sampled_from(("usable", "restorable", "lost"))), max_size=8),
    st.none() | st.integers(1, 5),
    st.none() | st.integers(1, 900),
)
def test_retention_keeps_what_it_promises(shape: list[tuple[int, str]], count: int | None, minutes: int | None) -> None:
    backups = tuple(
        BackupUse(summary(f"b{number}", end_minute=minute, first=1, last=2), state != "lost", state == "usable")
        for number, (minute, state) in enumerate(sorted(shape))
    )
    policy = RetentionPolicy(keep_count=count, keep_for=None if minutes is None else timedelta(minutes=minutes))
    kept = wanted(backups, policy, NOW)
    usable = [use.summary for use in backups if use.usable]
    if not usable:
        assert kept == set()
        return
    assert usable[-1].end_time in [use.end_time for use in usable if use.id in kept]  # the newest always
    for pool in (usable, [use.summary for use in backups if use.restorable]):
        alive = [use for use in pool if use.id in kept]
        if count is not None:
            assert len(alive) >= min(count, len(pool))
        if minutes is not None:
            edge = NOW - timedelta(minutes=minutes)
            assert all(use.id in kept for use in pool if use.end_time > edge)
            if any(use.end_time <= edge for use in pool):
                assert any(use.end_time <= edge for use in alive)  # the window reaches back to the edge


# Carrying it out, on a store


async def filled(repo: Repository, folder: Path) -> None:
    await repo.terms.write(FIRST)
    for number in range(12):
        path = folder / "segment"
        path.write_bytes(f"{number}".encode() * 50)
        await repo.log.put_segment("1", segment("1", number), path)
    for number, id in enumerate(("a", "b", "c")):
        first = 4 * number
        times = end(
            items=(),
            position=Position(str(first * SEGMENT + 150)),
            time=at(number + 1),
            first_segment=segment("1", first),
            last_segment=segment("1", first + 1),
        )
        begin = BackupBegin(Position(str(first * SEGMENT + 10)), "1", at(number + 0.5), "sys", "17.2")
        async with repo.backups.writer(id, META) as writer:
            await writer.store(Session([BytesItem("f", id.encode())]))
            await writer.complete(begin, times, segment_bytes=SEGMENT)
    await repo.marks.write(mark("1", 11, flushed=100, minute=5))


async def step(repo: Repository, policy: RetentionPolicy) -> RetentionPlan:
    found = await repo.catalog()
    view: Survey = survey(found, LOG, POSITIONS)
    result = plan_retention(found, view, policy, repo._access.clock.now(), log=LOG)
    await repo.apply_retention(result)
    return result


async def test_marked_then_removed_then_quiet(repo: Repository, tmp_path: Path, store: FaultyStore) -> None:
    await filled(repo, tmp_path)
    policy = RetentionPolicy(keep_count=1, grace=GRACE)
    assert (await step(repo, policy)).mark == ("a", "b")
    assert not await step(repo, policy)
    await asyncio.sleep(3700)
    assert (await step(repo, policy)).remove == ("a", "b")
    found = await repo.catalog()
    assert [summary.id for summary in found.backups] == ["c"]
    assert (found.expired, found.lines["1"]) == ({}, names("1", 8, 11))
    view = survey(found, LOG, POSITIONS)
    assert view.window is not None
    assert view.window.start == at(3)
    assert not await step(repo, policy)
    store.calls.clear()
    await step(repo, policy)
    assert not [call for call in store.calls if call[0] in ("put", "create", "delete")]


async def test_applying_a_plan_twice_is_applying_it_once(repo: Repository, tmp_path: Path, memory: MemoryStore) -> None:
    await filled(repo, tmp_path)
    result = RetentionPlan(mark=("b",), remove=("a",), log={"1": names("1", 0, 3)}, notes=("r0",))
    first = await repo.apply_retention(result)
    before = list(memory.keys(""))
    second = await repo.apply_retention(result)
    assert (first.backups, first.segments, second.backups) == (("a",), 4, ("a",))
    assert memory.keys("") == before
    await repo.apply_retention(RetentionPlan(unmark=("b",)))
    assert (await repo.catalog()).expired == {}


async def test_failure_19_a_restore_that_began_after_the_plan_stops_it(repo: Repository, tmp_path: Path) -> None:
    await filled(repo, tmp_path)
    result = RetentionPlan(remove=("a",), log={"1": names("1", 0, 3)})
    async with repo.restores.hold("r1"):
        done = await repo.apply_retention(result)
        assert (done.backups, done.segments) == ((), 0)
        assert len((await repo.catalog()).backups) == 3


async def test_failure_19_an_interrupted_removal_leaves_no_half_backup(
    repo: Repository, tmp_path: Path, store: FaultyStore
) -> None:
    await filled(repo, tmp_path)
    store.inject("delete", Fail(), key="*/data/*", times=None)
    with pytest.raises(Unavailable):
        await repo.apply_retention(RetentionPlan(remove=("a",), log={"1": names("1", 0, 3)}))
    found = await repo.catalog()
    assert [summary.id for summary in found.backups] == ["b", "c"]
    assert segment("1", 0) in found.lines["1"]  # log goes only after backups
    store.heal()
    await asyncio.sleep(7200)
    assert await repo.backups.sweep(timedelta(hours=1)) == ["a"]


async def test_the_note_of_a_dead_restore_is_removed(repo: Repository, store: FaultyStore, tmp_path: Path) -> None:
    await filled(repo, tmp_path)
    store.inject("delete", Fail(), key="*/restores/*", times=4)
    async with repo.restores.hold("r1"):
        pass
    policy = RetentionPolicy(keep_count=3)
    assert (await step(repo, policy)).notes == ()
    await asyncio.sleep(2 * 86400)
    assert (await step(repo, policy)).notes == ("r1",)
    assert await repo.restores.all() == []


def test_root_is_told() -> None:
    assert full("a").root == ROOT
