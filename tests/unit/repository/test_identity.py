from __future__ import annotations

import asyncio

import msgspec
import pytest
from yoban.errors import IntegrityError, NotFound, OwnedByAnother, Retryable, Unavailable
from yoban.repository import Identity, Repository, discover
from yoban.testing.faulty_store import Fail, FaultyStore, LoseAnswer
from yoban.testing.memory_store import MemoryStore

from tests.unit.repository.parts import EPOCH, ROOT

OURS = Identity(
    incarnation="0123456789ab",
    uid="u1",
    namespace="shop",
    name="orders",
    engine="numbers",
    created=EPOCH,
    spec={"a": 1},
)


async def test_claim_then_read(repo: Repository) -> None:
    assert await repo.identity.read() is None
    assert await repo.identity.claim(OURS) == OURS
    assert await repo.identity.read() == OURS


async def test_claim_again_gives_the_first(repo: Repository) -> None:
    await repo.identity.claim(OURS)
    again = msgspec.structs.replace(OURS, spec={"a": 2})
    assert await repo.identity.claim(again) == OURS


async def test_claim_whose_answer_was_lost_is_ours(repo: Repository, store: FaultyStore) -> None:
    store.inject("create", LoseAnswer())
    assert await repo.identity.claim(OURS) == OURS


@pytest.mark.parametrize("other", [{"incarnation": "ba9876543210"}, {"uid": "u2"}])
async def test_failure_28_a_prefix_of_another_is_refused(
    repo: Repository, memory: MemoryStore, other: dict[str, str]
) -> None:
    theirs = msgspec.structs.replace(OURS, **other)
    await repo.identity.claim(theirs)
    before = memory.raw(f"{ROOT}/identity")
    with pytest.raises(OwnedByAnother) as error:
        await repo.identity.claim(OURS)
    assert "shop/orders" in str(error.value)
    assert memory.raw(f"{ROOT}/identity") == before


async def test_failure_05_of_twenty_claimants_one_wins(repo: Repository) -> None:
    async def claim(number: int) -> bool:
        try:
            await repo.identity.claim(msgspec.structs.replace(OURS, uid=f"u{number}"))
        except OwnedByAnother:
            return False
        return True

    assert sum(await asyncio.gather(*(claim(number) for number in range(20)))) == 1


async def test_marking_initialized(repo: Repository, store: FaultyStore) -> None:
    with pytest.raises(NotFound):
        await repo.identity.mark_initialized("0123456789ab")
    await repo.identity.claim(OURS)
    done = await repo.identity.mark_initialized("0123456789ab", system_id="s", origin="restore x", spec={"b": 1})
    assert (done.initialized, done.system_id, done.origin, done.spec) == (True, "s", "restore x", {"b": 1})
    store.calls.clear()
    assert await repo.identity.mark_initialized("0123456789ab") == done
    assert not [call for call in store.calls if call[0] in ("put", "create")]
    with pytest.raises(OwnedByAnother):
        await repo.identity.mark_initialized("ba9876543210")


async def test_updating_the_spec(repo: Repository) -> None:
    await repo.identity.claim(OURS)
    assert await repo.identity.update_spec("0123456789ab", {"a": 1}) is False
    assert await repo.identity.update_spec("0123456789ab", {"a": 2}) is True
    found = await repo.identity.read()
    assert found is not None
    assert found.spec == {"a": 2}


async def test_an_unreachable_store_says_nothing_about_the_owner(repo: Repository, store: FaultyStore) -> None:
    store.inject("*", Fail(), times=None)
    with pytest.raises(Unavailable):
        await repo.identity.read()
    with pytest.raises(Unavailable):
        await repo.identity.claim(OURS)


async def test_a_damaged_identity_is_no_missing_one(repo: Repository, memory: MemoryStore) -> None:
    await repo.identity.claim(OURS)
    memory.damage(f"{ROOT}/identity", lambda data: data[:-2])
    with pytest.raises(IntegrityError):
        await repo.identity.read()
    with pytest.raises(IntegrityError):
        await repo.identity.claim(OURS)


async def test_an_identity_that_comes_and_goes_is_tried_again_later(repo: Repository, store: FaultyStore) -> None:
    from yoban.plugins import AlreadyExists

    store.inject("create", Fail(lambda: AlreadyExists("there")), times=None)
    with pytest.raises(Retryable):
        await repo.identity.claim(OURS)


async def test_discover(store: FaultyStore, memory: MemoryStore) -> None:
    for name in ("a", "ab", "b"):
        repo = Repository(store, f"shop/{name}/0123456789ab")
        await repo.identity.claim(msgspec.structs.replace(OURS, name=name))
        for number in range(20):
            await memory.put(f"shop/{name}/0123456789ab/log/1/{number}", b"x")
    await memory.put("shop/orphan/0123456789ab/log/1/1", b"x")
    await memory.put("stray", b"x")
    await memory.put("shop/broken/0123456789ab/identity", b"nonsense")
    store.calls.clear()
    found = await discover(store)
    assert [(ref.root.split("/")[1], ref.identity is not None, bool(ref.problem)) for ref in found] == [
        ("a", True, False),
        ("ab", True, False),
        ("b", True, False),
        ("broken", False, True),
        ("orphan", False, False),
    ]
    assert len(store.calls) < 20
    assert [ref.root for ref in await discover(store, "shop/ab/")] == ["shop/ab/0123456789ab"]
