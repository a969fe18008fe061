from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yoban.errors import InvalidInput
from yoban.plugins import Position, SegmentKind
from yoban_mysql import segments
from yoban_mysql.log import MySqlLog
from yoban_mysql.session import Kept

UUID, OTHER = "3e11fa47-71ca-11e1-9e33-c80aa9429562", "4e11fa47-71ca-11e1-9e33-c80aa9429562"
LINE = f"{UUID}.0000000003"


def place(count: int) -> Position:
    return Position(f"{UUID}:1-{count}")


@given(st.integers(0, 10**9), st.integers(0, 10**18))
def test_names_say_what_they_were_made_of(number: int, before: int) -> None:
    name = segments.segment_name(LINE, number, before)
    assert segments.parse(name) == segments.Place(LINE, 3, number, before)
    known = segments.classify(name)
    assert (known.line, known.kind) == (LINE, SegmentKind.FULL)


@given(st.integers(0, 10**9), st.integers(0, 10**18), st.integers(0, 10**18))
def test_failure_22_the_next_file_is_known_by_its_number(number: int, before: int, after: int) -> None:
    name = segments.segment_name(LINE, number, before)
    beginning = segments.successor(name)
    following = segments.segment_name(LINE, number + 1, after)
    assert following.startswith(beginning)
    assert name < beginning < following
    assert segments.successor(beginning) == segments.successor(following)
    assert not segments.segment_name(f"{OTHER}.0000000003", number + 1, after).startswith(beginning)


@pytest.mark.parametrize(
    "name",
    ["", "binlog.000001", LINE, f"{LINE}.1.2", f"{LINE}.0000000001.{'0' * 20}.x", f"{LINE}.0000000001.{'0' * 20}\n"],
)
def test_other_names_are_none(name: str) -> None:
    with pytest.raises(InvalidInput):
        segments.classify(name)
    with pytest.raises(InvalidInput):
        segments.successor(name.partition(".0000000001")[0])


def test_a_place_is_found_by_its_count() -> None:
    names = [segments.segment_name(LINE, number, before) for number, before in ((3, 10), (4, 20), (5, 20), (6, 35))]
    found = {count: segments.segment_of(place(count), names) for count in (9, 10, 11, 20, 21, 35, 36, 99)}
    assert found == {
        9: "",
        10: names[0],
        11: names[0],
        20: names[0],
        21: names[2],
        35: names[2],
        36: names[3],
        99: names[3],
    }
    assert segments.segment_of(place(5), []) == ""
    log = MySqlLog(Kept())
    assert log.segment_of(LINE, place(36), names, 0) == names[3]
    assert (log.pads_to(0), log.lines_overlap) == (0, True)
