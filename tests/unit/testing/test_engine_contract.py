"""The contract of engines notices what is wrong: a contract that cannot fail would prove nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from yoban.plugins import Capability, Endpoint, Fork, Order, Position, RecoveryTarget, ServerFacts, Window
from yoban.testing.context import make_context
from yoban.testing.enginefacts import EngineFactsContract
from yoban.testing.memory_engine import MemoryEngine, MemoryPositions, MemoryRecovery, MemoryTargets


class Facts(EngineFactsContract):
    ascending: Sequence[str] = ("0", "128", "4096")


async def test_positions_that_compare_as_text() -> None:
    class AsText(MemoryPositions):
        def compare(self, a: Position, b: Position, forks: Sequence[Fork] = ()) -> Order:
            return Order.EQUAL if a == b else Order.LESS if a < b else Order.GREATER

    engine = MemoryEngine()
    engine.positions = AsText()
    contract = Facts()
    contract.ascending = ("9", "10", "100")
    with pytest.raises(AssertionError):
        await contract.test_order_of_positions(engine)


async def test_positions_with_two_forms() -> None:
    class Loose(MemoryPositions):
        def parse(self, text: str) -> Position:
            return Position(f" {text}")

    engine = MemoryEngine()
    engine.positions = Loose()
    with pytest.raises(AssertionError):
        await Facts().test_positions_have_one_canonical_form(engine)
    with pytest.raises(pytest.fail.Exception):
        await Facts().test_what_is_no_position_is_rejected(engine)


async def test_a_contract_without_positions_to_try() -> None:
    contract = Facts()
    contract.ascending = ()
    with pytest.raises(AssertionError, match="give `ascending`"):
        await contract.test_positions_have_one_canonical_form(MemoryEngine())


async def test_times_without_an_offset_and_targets_outside() -> None:
    class Lenient(MemoryTargets):
        def parse(self, target: RecoveryTarget) -> RecoveryTarget:
            return target

        def check(self, target: RecoveryTarget, window: Window) -> None:
            return None

    engine = MemoryEngine()
    engine.targets = Lenient()
    for test in (Facts().test_a_time_needs_an_offset, Facts().test_a_target_outside_of_the_window_is_rejected):
        with pytest.raises(pytest.fail.Exception):
            await test(engine)


async def test_a_password_that_breaks_the_uri() -> None:
    class Bare(MemoryEngine):
        def connection(self, endpoint: Endpoint) -> Mapping[str, str]:
            return {"uri": f"memory://{endpoint.user}:{endpoint.password}@{endpoint.host}:{endpoint.port}/"}

    with pytest.raises((AssertionError, ValueError)):
        await Facts().test_connection_strings_survive_any_password(Bare())


async def test_a_default_setting_that_users_may_not_set() -> None:
    class Odd(MemoryEngine):
        def default_settings(self, facts: ServerFacts) -> Mapping[str, str]:
            return {"known": 3}  # type: ignore[dict-item]

    with pytest.raises(AssertionError):
        await Facts().test_settings(Odd())


async def test_files_that_lead_outside(tmp_path: Path) -> None:
    class Trusting(MemoryRecovery):
        def place(self, ctx: Any, path: str) -> Path:
            return Path(ctx.data / path)

    engine = MemoryEngine()
    engine.recovery = Trusting(engine.world)
    with pytest.raises(pytest.fail.Exception):
        await Facts().test_nothing_is_placed_outside(engine, make_context(tmp_path))


async def test_a_capability_without_its_facet() -> None:
    class Boasting(MemoryEngine):
        @property
        def capabilities(self) -> frozenset[Capability]:
            return frozenset(Capability)

    engine = Boasting()
    engine.log_source = None
    with pytest.raises(AssertionError):
        await Facts().test_names_of_the_log(engine)


async def test_a_schema_that_lets_misspelt_fields_pass() -> None:
    class Open(MemoryEngine):
        def config_schema(self) -> Mapping[str, object]:
            return {**super().config_schema(), "additionalProperties": True}

    with pytest.raises(AssertionError, match="misspelt"):
        await Facts().test_schema_of_engine_config(Open())


async def test_a_layout_that_runs_as_root() -> None:
    class Root(MemoryEngine):
        def layout(self, version: str) -> Any:
            return replace(super().layout(version), uid=0)

    with pytest.raises(AssertionError, match="root"):
        await Facts().test_layout(Root())
