from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yoban.errors import InvalidInput
from yoban.repository.layout import Layout, TailKey, decode, encode, number, parse_number, parse_tail

LAYOUT = Layout("ns/db/0123456789ab")


@given(st.text(min_size=1, max_size=30))
def test_a_name_comes_back_and_stays_one_safe_component(name: str) -> None:
    try:
        component = encode(name)
    except InvalidInput:
        assert len(name.encode("utf-8", "surrogatepass")) > 100
        return
    except UnicodeEncodeError:
        assert any("\ud800" <= char <= "\udfff" for char in name)
        return
    assert decode(component) == name
    assert "/" not in component
    assert component not in (".", "..")
    assert component.isascii()


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_dots_alone_are_encoded(name: str) -> None:
    assert set(encode(name)) != {"."}


def test_names_that_cannot_be_stored() -> None:
    for name in ("", "x" * 500):
        with pytest.raises(InvalidInput):
            encode(name)


@pytest.mark.parametrize("root", ["", "/a", "a//b", "a/../b", "a/", "x" * 400])
def test_roots_that_are_no_paths(root: str) -> None:
    with pytest.raises(InvalidInput):
        Layout(root)


def test_keys() -> None:
    assert LAYOUT.identity == "ns/db/0123456789ab/identity"
    assert LAYOUT.term(3) == "ns/db/0123456789ab/terms/0000000003"
    assert LAYOUT.mark(3).startswith(LAYOUT.marks)
    assert LAYOUT.segment("1", "0/1") == "ns/db/0123456789ab/log/1/0%2F1"
    assert LAYOUT.segment("1", "a").startswith(LAYOUT.log("1"))
    assert LAYOUT.log("1").startswith(LAYOUT.log())
    assert LAYOUT.chunk(TailKey("1", 2, "s", 0, 9)).startswith(LAYOUT.tail("1"))
    for key in (LAYOUT.manifest("b"), LAYOUT.running("b"), LAYOUT.data("b", 1)):
        assert key.startswith(LAYOUT.backup("b"))
    assert LAYOUT.restore("r").startswith(LAYOUT.restores)


def test_line_is_no_prefix_of_another() -> None:
    assert not LAYOUT.segment("12", "a").startswith(LAYOUT.log("1"))


def test_a_key_that_would_be_too_long_is_refused() -> None:
    with pytest.raises(InvalidInput):
        Layout("a" * 250 + "/b/c").chunk(TailKey("l" * 200, 1, "s" * 400, 0, 1))


def test_tail_key_round_trip() -> None:
    tail = TailKey("li/ne", 7, "seg%41", 10, 20)
    assert parse_tail(LAYOUT.below(LAYOUT.chunk(tail))) == tail


@pytest.mark.parametrize(
    "parts",
    [
        ("log", "1", "1", "s", "0-1"),
        ("tail", "1", "1", "s"),
        ("tail", "1", "x", "s", "0-1"),
        ("tail", "1", "1", "s", "5"),
        ("tail", "1", "1", "s", "5-5"),
        ("tail", "1", "1", "s", "a-b"),
    ],
)
def test_what_is_no_chunk(parts: tuple[str, ...]) -> None:
    assert parse_tail(parts) is None


def test_below_knows_its_root() -> None:
    assert LAYOUT.below("ns/db/0123456789ab/log/1/a") == ("log", "1", "a")
    assert LAYOUT.below("ns/db/0123456789abc/log/1/a") == ()


def test_numbers_sort_as_text() -> None:
    assert number(9) < number(10)
    assert parse_number(number(10)) == 10
    assert parse_number("x") is None
    with pytest.raises(InvalidInput):
        number(-1)


def test_the_documentation_names_every_folder() -> None:
    page = (Path(__file__).parents[3] / "docs/repository.md").read_text()
    for key in (
        LAYOUT.identity,
        LAYOUT.terms,
        LAYOUT.marks,
        LAYOUT.log(),
        LAYOUT.tail(),
        LAYOUT.manifest("b"),
        LAYOUT.running("b"),
        LAYOUT.expired("b"),
        LAYOUT.restores,
    ):
        first, *rest = LAYOUT.below(key)
        assert first in page
        assert not rest or rest[-1] == "b" or rest[-1] in page
