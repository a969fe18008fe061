"""The in-memory fake against the contract of engines."""

from __future__ import annotations

import pytest
from yoban.testing.engine import EngineContract
from yoban.testing.memory_engine import MemoryDriver, MemoryEngine, MemoryRunner


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
