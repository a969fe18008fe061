from __future__ import annotations

import asyncio

import msgspec
import pytest
from yoban.errors import IntegrityError, OwnedByAnother
from yoban.plugins import Fork, Position
from yoban.repository import Mark, Repository, TermRecord, forks_of
from yoban.repository.terms import ages
from yoban.testing.faulty_store import FaultyStore, LoseAnswer
from yoban.testing.memory_store import MemoryStore

from tests.unit.repository.parts import EPOCH, ROOT, at

FIRST = TermRecord(term=1, instance="orders-1", line="1", time=EPOCH)
SECOND = TermRecord(term=2, instance="orders-2", line="2", parent="1", position="250", time=at(1))


async def test_a_term_is_written_once(repo: Repository) -> None:
    assert await repo.terms.write(SECOND) == SECOND
    again = msgspec.structs.replace(SECOND, time=at(9))
    assert await repo.terms.write(again) == SECOND
    assert await repo.terms.read(2) == SECOND
    assert await repo.terms.read(3) is None


@pytest.mark.parametrize("other", [{"instance": "orders-3"}, {"line": "3"}, {"position": "260"}, {"parent": "0"}])
async def test_a_term_of_somebody_else_is_refused(repo: Repository, other: dict[str, str]) -> None:
    await repo.terms.write(SECOND)
    with pytest.raises(OwnedByAnother) as error:
        await repo.terms.write(msgspec.structs.replace(SECOND, **other))
    assert error.value.reason == "TermTaken"
    assert await repo.terms.read(2) == SECOND


async def test_two_instances_cannot_both_have_a_term(repo: Repository) -> None:
    async def write(number: int) -> bool:
        try:
            await repo.terms.write(msgspec.structs.replace(SECOND, instance=f"orders-{number}"))
        except OwnedByAnother:
            return False
        return True

    assert sum(await asyncio.gather(*(write(number) for number in range(10)))) == 1


async def test_a_lost_answer_is_no_conflict(repo: Repository, store: FaultyStore) -> None:
    store.inject("create", LoseAnswer())
    assert await repo.terms.write(SECOND) == SECOND


async def test_all_terms_in_order(repo: Repository) -> None:
    for term in (10, 2, 1):
        await repo.terms.write(msgspec.structs.replace(FIRST, term=term))
    assert [record.term for record in await repo.terms.all()] == [1, 2, 10]


async def test_failure_04_a_damaged_term_is_told(repo: Repository, memory: MemoryStore) -> None:
    await repo.terms.write(SECOND)
    memory.damage(f"{ROOT}/terms/0000000002", lambda data: data[:40])
    with pytest.raises(IntegrityError):
        await repo.terms.all()


def test_forks_lead_to_a_line() -> None:
    records = [
        FIRST,
        SECOND,
        msgspec.structs.replace(SECOND, term=3, instance="orders-1"),  # the same line again: the first counts
        TermRecord(term=4, instance="orders-3", line="3", parent="1", position="100", time=at(3)),
        TermRecord(term=5, instance="orders-1", line="5", parent="2", position="400", time=at(4)),
    ]
    assert forks_of(records, "5") == (Fork("2", "1", Position("250")), Fork("5", "2", Position("400")))
    assert forks_of(records, "3") == (Fork("3", "1", Position("100")),)
    assert forks_of(records, "1") == ()
    assert forks_of(records, "unknown") == ()


def test_bug_the_fork_of_a_reign_without_a_record_was_not_known() -> None:
    told = (Fork("2", "1", Position("250")),)
    third = TermRecord(term=4, instance="c", line="3", parent="2", position="400", time=at(3), ancestors=told)
    fork = Fork("2", "1", Position("250"))
    assert forks_of([FIRST, third], "3") == (fork, Fork("3", "2", Position("400")))
    assert forks_of([FIRST, third], "2") == (fork,)
    other = msgspec.structs.replace(SECOND, position="260")
    assert forks_of([FIRST, other, third], "2")[0].position == "260", "a record of its own says it better"
    # A restore begins with a line that others lead to, none of them in this repository.
    begun = TermRecord(term=1, instance="a", line="2", time=EPOCH)
    assert forks_of([begun, third], "3") == (Fork("3", "2", Position("400")),)


def test_lines_sort_as_they_began() -> None:
    told = tuple(Fork(line, parent, Position("1")) for line, parent in (("2", "1"), ("9", "2"), ("7", "9")))
    last = TermRecord(term=6, instance="c", line="3", parent="7", position="400", time=at(3), ancestors=told)
    found = ages([last, SECOND, FIRST])
    assert sorted(found, key=found.__getitem__) == ["1", "2", "9", "7", "3"]


async def test_what_others_tell_is_stored_and_no_part_of_whose_the_term_is(repo: Repository) -> None:
    told = (Fork("2", "1", Position("250")),)
    await repo.terms.write(msgspec.structs.replace(SECOND, ancestors=told))
    again = await repo.terms.write(SECOND)
    assert again.ancestors == told
    # A fork is stored as the plugin API has it: what is added to it needs a default.
    assert b'"ancestors":[{"line":"2","parent":"1","position":"250"}]' in msgspec.json.encode(again)


def test_forks_that_go_in_circles_end() -> None:
    circle = [
        TermRecord(term=1, instance="a", line="1", parent="2", position="1", time=EPOCH),
        TermRecord(term=2, instance="a", line="2", parent="1", position="1", time=EPOCH),
        TermRecord(term=3, instance="a", line="3", parent="3", position="1", time=EPOCH),
    ]
    assert len(forks_of(circle, "1")) == 2
    assert forks_of(circle, "3") == ()


async def test_marks(repo: Repository) -> None:
    assert await repo.marks.newest() is None
    mark = Mark(
        term=1, instance="orders-1", time=at(1), position="250", line="1", segment="1-2", flushed=50, written=at(1)
    )
    await repo.marks.write(mark)
    await repo.marks.write(msgspec.structs.replace(mark, time=at(2)))
    assert await repo.marks.newest() == msgspec.structs.replace(mark, time=at(2))
    await repo.marks.write(msgspec.structs.replace(mark, term=12))
    await repo.marks.write(msgspec.structs.replace(mark, term=3))
    newest = await repo.marks.newest()
    assert newest is not None
    assert newest.term == 12
    assert await repo.marks.read(99) is None
