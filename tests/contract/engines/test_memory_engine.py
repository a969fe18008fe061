"""The in-memory fakes against the contract of engines."""

from __future__ import annotations

import pytest
from yoban.testing.engine import EngineContract
from yoban.testing.memory_engine import MemoryDriver, MemoryEngine, MemoryRunner
from yoban.testing.memory_sets import SetsEngine


class TestMemoryEngine(EngineContract):
    ascending = ("0", "128", "4096", "10000000000")
    bad_setting = ("unheard_of", "1")

    @pytest.fixture
    def engine(self) -> MemoryEngine:
        return MemoryEngine()

    @pytest.fixture
    def driver(self, engine: MemoryEngine) -> MemoryDriver:
        return MemoryDriver(engine)

    @pytest.fixture
    def runner(self, engine: MemoryEngine) -> MemoryRunner:
        return MemoryRunner(engine)


class TestMemorySetsEngine(EngineContract):
    """The same with a log of the other shape: sets as positions, names that do not follow from each other, a fed recovery."""

    ascending = ("1:1-5", "1:1-9", "1:1-9,2:10-12")
    bad_setting = ("unheard_of", "1")

    @pytest.fixture
    def engine(self) -> SetsEngine:
        return SetsEngine()

    @pytest.fixture
    def driver(self, engine: SetsEngine) -> MemoryDriver:
        return MemoryDriver(engine)

    @pytest.fixture
    def runner(self, engine: SetsEngine) -> MemoryRunner:
        return MemoryRunner(engine)
