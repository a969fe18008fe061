"""GTID sets against sets of plain transactions, and the forms that the server writes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yoban.errors import InvalidInput
from yoban.plugins import Order
from yoban_mysql.gtid import LARGEST, Gtid, GtidSet, Source
from yoban_mysql.positions import MySqlPositions, position_of

A = "3e11fa47-71ca-11e1-9e33-c80aa9429562"
B = "4350f323-7565-4e59-8763-4b1b83a0ce0e"

plain = st.frozensets(
    st.builds(
        Gtid, st.builds(Source, st.sampled_from([A, B]), st.sampled_from(["", "blue", "_a1"])), st.integers(1, 12)
    ),
    max_size=40,
)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        (f" {A.upper()}:1-5 ", f"{A}:1-5"),
        (f"{A}:1-3:4-5:7", f"{A}:1-5:7"),
        (f"{A}:7:1-3", f"{A}:1-3:7"),
        (f"{B}:1,\n{A}:2", f"{A}:2,{B}:1"),
        (f"{A}:1,{A}:2", f"{A}:1-2"),
        (f"{A}:1:Red:2-3:blue:1", f"{A}:1:blue:1:red:2-3"),
        (f"{A}:red:1:red:2", f"{A}:red:1-2"),
        (f"{A}:red:5,{A}:9", f"{A}:9:red:5"),
        (f",{A}:1,,", f"{A}:1"),
        (f"{A}:1-{LARGEST}", f"{A}:1-{LARGEST}"),
    ],
)
def test_a_set_has_one_text(text: str, canonical: str) -> None:
    found = GtidSet.parse(text)
    assert str(found) == canonical
    assert GtidSet.parse(canonical) == found


@pytest.mark.parametrize(
    "text",
    [
        "1-5",
        A,
        f"{A}:",
        f"{A}:0",
        f"{A}:5-3",
        f"{A}:1-{LARGEST + 1}",
        f"{A}:tag",
        f"{A}:1:tag",
        f"{A}:tag:other:1",
        f"{A}:1:{'t' * 33}:1",
        f"{A}:1:9tag:1",
        f"{A[:-1]}:1",
        f"{A}:-5",
        f"{A}:1-",
        f"{A}:1--2",
    ],
)
def test_other_text_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidInput, match=f"{A}:1-5|2\\^63 - 2"):
        GtidSet.parse(text)


@given(plain, plain)
def test_operations_are_those_of_sets(one: frozenset[Gtid], other: frozenset[Gtid]) -> None:
    a, b = GtidSet.of(one), GtidSet.of(other)
    assert a | b == GtidSet.of(one | other)
    assert a - b == GtidSet.of(one - other)
    assert a & b == GtidSet.of(one & other)
    assert (a <= b) is (one <= other)
    assert (a == b) is (one == other)
    assert bool(a) is bool(one)
    assert a.count == len(one)
    assert all((gtid in a) is (gtid in one) for gtid in one | other)
    assert GtidSet.parse(str(a)) == a
    assert a.sources == tuple(sorted({gtid.source for gtid in one}))
    assert hash(a) == hash(GtidSet.parse(str(a)))


def test_a_set_of_many_transactions_is_small_and_quick() -> None:
    # Every second of 200,000 is missing: the worst case for intervals.
    holes = GtidSet({Source(A): [(n, n) for n in range(1, 200_000, 2)]})
    whole = GtidSet({Source(A): [(1, 10**15)]})
    assert (whole - holes).count == 10**15 - 100_000
    assert (whole - holes) | holes == whole
    assert holes <= whole


def test_one_transaction_of_a_set() -> None:
    assert GtidSet.parse(f"{A}:blue:7").single() == Gtid(Source(A, "blue"), 7)
    assert str(Gtid(Source(A, "blue"), 7)) == f"{A}:blue:7"
    assert str(Gtid(Source(A), 7)) == f"{A}:7"
    for text in ("", f"{A}:1-2", f"{A}:1,{B}:1"):
        with pytest.raises(InvalidInput, match="not one transaction"):
            GtidSet.parse(text).single()


@given(plain.filter(bool), plain.filter(bool))
def test_four_results_of_a_comparison(one: frozenset[Gtid], other: frozenset[Gtid]) -> None:
    positions = MySqlPositions()
    a, b = position_of(GtidSet.of(one)), position_of(GtidSet.of(other))
    assert a is not None
    assert b is not None
    expected = (
        Order.EQUAL
        if one == other
        else Order.LESS
        if one < other
        else Order.GREATER
        if one > other
        else Order.INCOMPARABLE
    )
    assert positions.compare(a, b) is expected
    assert positions.covers(a, b) is (one >= other)
    assert positions.parse(a) == a


def test_nothing_executed_is_no_position() -> None:
    assert position_of(GtidSet()) is None
    for text in ("", " , "):
        with pytest.raises(InvalidInput, match="is no position"):
            MySqlPositions().parse(text)
