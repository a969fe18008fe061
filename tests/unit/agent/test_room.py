"""How near the limit of kept log is, by looks at made-up moments."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from yoban.agent.room import Level, Room, Watch, level

MIB, GIB = 1 << 20, 1 << 30


def seen(watch: Watch, looks: Iterable[tuple[float, int, int]]) -> list[Level]:
    return [watch.look(*look) for look in looks]


def filling(rate: int, seconds: int, *, volume: int = 10 * GIB, begin: int = 0) -> list[tuple[float, int, int]]:
    """Log that is kept from a moment on, on a volume that has nothing else."""
    kept = [rate * max(0, at - begin) for at in range(0, seconds, 5)]
    return [(float(at), bytes, volume - bytes) for at, bytes in zip(range(0, seconds, 5), kept, strict=True)]


def test_an_empty_backlog_is_nothing_to_tell() -> None:
    watch = Watch()
    assert set(seen(watch, [(float(at), 0, GIB) for at in range(0, 1200, 5)])) == {Level.ENOUGH}
    assert (watch.room.limit, watch.room.rate, watch.room.full_in) == (GIB, 0.0, None)


def test_the_time_left_is_that_of_the_present_rate() -> None:
    watch = Watch()
    seen(watch, filling(MIB, 301))
    assert watch.room.rate == MIB
    assert watch.room.kept + watch.room.free == watch.room.limit == 10 * GIB
    assert watch.room.full_in == watch.room.free / MIB


def test_a_store_that_goes_down_is_not_thought_slow_for_the_quiet_before() -> None:
    watch = Watch()
    seen(watch, filling(MIB, 700, begin=640))
    assert watch.room.rate == pytest.approx(MIB, rel=0.1)


def test_a_rate_is_not_known_at_once() -> None:
    watch = Watch()
    seen(watch, filling(100 * MIB, 16))
    assert watch.room.kept > GIB
    assert watch.room.full_in is None


def test_it_is_told_before_the_limit_and_again_when_it_is_near() -> None:
    watch = Watch()
    told = seen(watch, filling(MIB, 10240))
    first, second = told.index(Level.FILLING), told.index(Level.NEARLY_FULL)
    # A tenth is kept after 1024 s, and fills the rest within four hours; half an hour is left after 8440 s.
    assert 1024 <= first * 5 <= 1024 + 60
    assert 8440 <= second * 5 <= 8440 + 60
    assert told == [Level.ENOUGH] * first + [Level.FILLING] * (second - first) + [Level.NEARLY_FULL] * (
        len(told) - second
    )


def test_what_fills_slowly_is_told_by_its_share() -> None:
    watch = Watch()
    slow = [(at * 60.0, at * MIB, 1000 * MIB - at * MIB) for at in range(1000)]
    told = seen(watch, slow)
    assert 500 <= told.index(Level.FILLING) <= 502
    assert Level.NEARLY_FULL in told[760:902]


def test_a_store_that_is_slower_than_what_is_written_is_told_without_a_failure() -> None:
    """Sawteeth: each file that is stored takes its bytes away, and more come."""
    watch = Watch()
    looks = [(at * 5.0, at * 4 * MIB + (at % 4) * 16 * MIB, 4 * GIB - at * 4 * MIB) for at in range(250)]
    told = seen(watch, looks)
    assert told[0] is Level.ENOUGH
    assert told[-1] is Level.FILLING
    assert watch.room.rate == pytest.approx(4 * MIB / 5, rel=0.2)


def test_what_comes_and_goes_is_not_told() -> None:
    """A volume with little room, on which each file takes a moment to be stored."""
    watch = Watch()
    looks = [(at * 5.0, (90 if at % 3 else 0) * MIB, 10 * MIB) for at in range(200)]
    assert set(seen(watch, looks)) == {Level.ENOUGH}


def test_a_burst_on_a_large_volume_is_no_trend() -> None:
    watch = Watch()
    assert set(seen(watch, filling(200 * MIB, 100, volume=500 * GIB))) == {Level.ENOUGH}
    assert watch.room.full_in is not None
    assert watch.room.full_in < 4 * 3600


def test_a_burst_that_is_over_is_no_rate() -> None:
    watch = Watch()
    looks = filling(20 * MIB, 100) + [(100.0 + at, 1900 * MIB, 10 * GIB - 1900 * MIB) for at in range(0, 150, 5)]
    told = seen(watch, looks)
    assert Level.NEARLY_FULL in told
    assert told[-1] is Level.ENOUGH
    assert watch.room.full_in is None


def test_a_shared_volume_fills_by_data_too() -> None:
    watch = Watch()
    seen(watch, [(float(at), at * MIB, 10 * GIB - 3 * at * MIB) for at in range(0, 300, 5)])
    assert watch.room.rate == 3 * MIB


@pytest.mark.parametrize(
    ("kept", "last", "expected"),
    [
        (49, Level.ENOUGH, Level.ENOUGH),
        (50, Level.ENOUGH, Level.FILLING),
        (41, Level.FILLING, Level.FILLING),
        (39, Level.FILLING, Level.ENOUGH),
        (90, Level.FILLING, Level.NEARLY_FULL),
        (80, Level.NEARLY_FULL, Level.NEARLY_FULL),
        (80, Level.FILLING, Level.FILLING),
        (71, Level.NEARLY_FULL, Level.FILLING),
        (39, Level.NEARLY_FULL, Level.ENOUGH),
    ],
)
def test_what_was_told_is_withdrawn_only_when_it_is_clearly_over(kept: int, last: Level, expected: Level) -> None:
    assert level(Room(kept, 100 - kept, 0.0, kept), last) is expected


def test_nothing_is_divided_by_nothing() -> None:
    assert level(Room()) is Level.ENOUGH
    assert Watch().look(0.0, 0, 0) is Level.ENOUGH
