from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yoban.errors import InvalidInput
from yoban.plugins import Fork, Order, Position
from yoban_postgres.positions import PostgresPositions, line_name, make

positions = PostgresPositions()


def p(line: int, lsn: int) -> Position:
    return make(line, lsn)


def test_one_canonical_form() -> None:
    assert positions.parse(" 0000000a:0/0003000148 ".replace("0003000148", "3000148")) == "0000000A:0/3000148"
    assert positions.parse("00000001:00000010/00FF") == "00000001:10/FF"
    assert positions.parse(positions.parse("00000001:1/a")) == "00000001:1/A"


@pytest.mark.parametrize(
    "text", ["", "0/1", "1:0/1", "00000001:0", "00000001:0/1/2", "0000000g:0/1", "00000001:0/123456789"]
)
def test_other_text_is_refused_with_the_form(text: str) -> None:
    with pytest.raises(InvalidInput, match="00000001:0/3000148"):
        positions.parse(text)


def test_order_across_forks() -> None:
    # 1 -100-> 2 -200-> 3, and 1 -150-> 4 (a fork that was left behind)
    forks = [
        Fork("00000002", "00000001", p(1, 100)),
        Fork("00000003", "00000002", p(2, 200)),
        Fork("00000004", "00000001", p(1, 150)),
    ]
    cases = [
        (p(1, 50), p(3, 300), Order.LESS),
        (p(1, 100), p(2, 100), Order.EQUAL),
        (p(1, 101), p(2, 150), Order.INCOMPARABLE),
        (p(2, 200), p(3, 201), Order.LESS),
        (p(3, 150), p(2, 150), Order.EQUAL),
        (p(3, 300), p(2, 150), Order.GREATER),
        (p(3, 300), p(1, 120), Order.INCOMPARABLE),
        (p(4, 160), p(2, 150), Order.INCOMPARABLE),
        (p(4, 160), p(1, 140), Order.GREATER),
        (p(4, 90), p(3, 90), Order.EQUAL),
    ]  # fmt: skip
    for a, b, expected in cases:
        assert positions.compare(a, b, forks) is expected, (a, b)
    assert positions.compare(p(1, 5), p(2, 500)) is Order.INCOMPARABLE, "unknown lines are not compared"
    assert positions.covers(p(3, 300), p(1, 100), forks)
    assert not positions.covers(p(3, 300), p(1, 101), forks)


def test_a_line_that_left_before_its_parent_began_left_the_grandparent() -> None:
    forks = [Fork("00000002", "00000001", p(1, 200)), Fork("00000003", "00000002", p(2, 100))]
    assert positions.compare(p(1, 100), p(3, 150), forks) is Order.LESS
    assert positions.compare(p(1, 150), p(3, 150), forks) is Order.INCOMPARABLE


@st.composite
def trees(draw: st.DrawFn) -> list[Fork]:
    count = draw(st.integers(1, 5))
    return [
        Fork(line_name(line), line_name(draw(st.integers(1, line - 1))), p(1, draw(st.integers(0, 12))))
        for line in range(2, count + 2)
    ]


places = st.builds(p, st.integers(1, 7), st.integers(0, 14))


@given(trees(), places, places, places)
def test_laws(forks: list[Fork], a: Position, b: Position, c: Position) -> None:
    flip = {Order.LESS: Order.GREATER, Order.GREATER: Order.LESS}
    ab, bc, ac = positions.compare(a, b, forks), positions.compare(b, c, forks), positions.compare(a, c, forks)
    assert positions.compare(a, a, forks) is Order.EQUAL
    assert positions.compare(b, a, forks) is flip.get(ab, ab)
    if ab is Order.LESS and bc in (Order.LESS, Order.EQUAL):
        assert ac is Order.LESS
    if ab is Order.EQUAL and bc is Order.EQUAL:
        assert ac is Order.EQUAL


@given(places)
def test_parse_keeps_what_it_made(place: Position) -> None:
    assert positions.parse(place) == place
