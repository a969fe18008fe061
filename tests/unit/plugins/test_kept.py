"""The connection that an agent keeps to its server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from yoban.errors import Unavailable
from yoban.plugins import InstanceContext, KeptConnection
from yoban.testing.context import make_context


class Line:
    """A connection: a number, and whether it is open."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.open = True
        self.left = False


class Kept(KeptConnection[Line]):
    def __init__(self) -> None:
        super().__init__()
        self.made: list[Line] = []
        self.down = False

    async def connect(self, ctx: InstanceContext) -> Line:
        await asyncio.sleep(0)
        if self.down:
            raise Unavailable("it does not answer", object=ctx.name)
        self.made.append(Line(len(self.made) + 1))
        return self.made[-1]

    def usable(self, connection: Line) -> bool:
        return connection.open

    def drop(self, connection: Line) -> None:
        connection.open = False

    async def leave(self, connection: Line) -> None:
        connection.left, connection.open = True, False

    def translated(self, ctx: InstanceContext) -> AbstractContextManager[None]:
        @contextlib.contextmanager
        def translated() -> Iterator[None]:
            try:
                yield
            except ConnectionError as error:
                raise Unavailable("it refused a statement", object=ctx.name) from error

        return translated()


@pytest.fixture
def ctx(tmp_path: Path) -> InstanceContext:
    return make_context(tmp_path)


async def number(kept: Kept, ctx: InstanceContext) -> int:
    async with kept.use(ctx) as line:
        assert line.open
        return line.number


async def test_it_is_kept_and_given_up_with_an_error(ctx: InstanceContext) -> None:
    kept = Kept()
    assert [await number(kept, ctx) for _ in range(3)] == [1, 1, 1]
    with pytest.raises(Unavailable, match="refused"):
        async with kept.use(ctx):
            raise ConnectionResetError
    assert not kept.made[0].open
    assert await number(kept, ctx) == 2
    kept.made[1].open = False  # ended while nobody used it
    assert await number(kept, ctx) == 3
    kept.down = True
    kept.made[2].open = False
    with pytest.raises(Unavailable, match="does not answer"):
        await number(kept, ctx)
    kept.down = False
    assert await number(kept, ctx) == 4


async def test_a_user_who_is_cancelled_gives_it_up(ctx: InstanceContext) -> None:
    kept = Kept()

    async def hangs() -> None:
        async with kept.use(ctx):
            await asyncio.Event().wait()

    task = asyncio.create_task(hangs())
    while not kept.made:
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not kept.made[0].open
    assert await number(kept, ctx) == 2


async def test_users_take_turns(ctx: InstanceContext) -> None:
    kept = Kept()
    inside = 0

    async def uses() -> None:
        nonlocal inside
        async with kept.use(ctx):
            inside += 1
            assert inside == 1
            await asyncio.sleep(0)
            inside -= 1

    await asyncio.gather(*(uses() for _ in range(10)))
    assert len(kept.made) == 1


async def test_each_server_has_its_own(tmp_path: Path) -> None:
    kept, one, two = Kept(), make_context(tmp_path / "1"), make_context(tmp_path / "2")
    async with kept.use(one) as first, kept.use(two) as second:
        assert first is not second
    await kept.close(one)
    assert first.left and not second.left
    await kept.close(one)
    assert await number(kept, two) == second.number


def test_another_loop_gets_another(ctx: InstanceContext) -> None:
    kept = Kept()
    assert asyncio.run(number(kept, ctx)) == 1
    assert asyncio.run(number(kept, ctx)) == 2
