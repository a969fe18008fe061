"""The toy engine keeps the contract."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from yoban.plugins import Engine, InstanceContext
from yoban.testing.engine import Driver, EngineContract

TOY = Path(__file__).parents[2] / "toy"


class ToyDriver(Driver):
    """Its database is a file: a line a text."""

    async def write(self, ctx: InstanceContext, text: str) -> None:
        from yoban_toy import read, replace

        replace(ctx.data / "store", read(ctx.data / "store") + text + "\n")

    async def read(self, ctx: InstanceContext) -> set[str]:
        from yoban_toy import read

        return set(read(ctx.data / "store").splitlines())


class TestToy(EngineContract):
    """Positions are numbers; there is no log and no replica."""

    ascending = ("0", "7", "42")
    no_positions = ("", "x", "-1")
    bad_setting = ("shape", "round")

    @pytest.fixture
    def engine(self) -> Iterator[Engine]:
        sys.path.insert(0, str(TOY))
        from yoban_toy import ToyEngine

        yield ToyEngine()
        sys.path.remove(str(TOY))

    @pytest.fixture
    def driver(self) -> Driver:
        return ToyDriver()
