"""Each finding about the form of an engine or a store, with its fix."""

# mypy: disable-error-code="override,assignment,arg-type,method-assign,empty-body,misc"
# ruff: noqa: RUF012

from __future__ import annotations

import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from yoban.plugins import BackupSession, BucketAdmin, Capability, ObjectStore, StoreCapability, StoreConfig
from yoban.plugins.checks import check_engine, check_provider, check_session, check_store
from yoban.testing.memory_data import World
from yoban.testing.memory_engine import (
    MemoryBackup,
    MemoryEngine,
    MemoryLog,
    MemoryPositions,
    MemoryRecovery,
    MemoryReplication,
    MemoryServer,
    MemoryTargets,
)
from yoban.testing.memory_store import MemoryProvider, MemoryStore


def facts(engine: MemoryEngine) -> list[str]:
    return [finding.fact for finding in check_engine(engine)]


def engine(**attributes: Any) -> MemoryEngine:
    made = MemoryEngine()
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


def test_a_right_one_has_no_findings() -> None:
    assert check_engine(MemoryEngine()) == []
    assert check_provider(MemoryProvider()) == []


@pytest.mark.parametrize("name", ["", "Upper", "-a", "a-", "1a", "a" * 31, "a_b", None, 3])
def test_a_name_that_cannot_be(name: object) -> None:
    assert facts(engine(name=name)) == [f"MemoryEngine.name is {name!r}"]


@pytest.mark.parametrize("name", ["a", "a1", "post-box", "a" * 30])
def test_a_name_that_can_be(name: str) -> None:
    assert facts(engine(name=name)) == []


def test_an_engine_without_a_title_or_a_replication_user() -> None:
    assert facts(engine(title="", replication_user="")) == [
        "MemoryEngine.title is ''",
        "MemoryEngine.replication_user is ''",
    ]


def test_a_needed_facet_is_missing() -> None:
    (finding,) = check_engine(engine(server=None))
    assert finding.fact == "MemoryEngine has no 'server'"
    assert finding.fix == "set it to an instance of a Server"


def test_a_facet_of_the_wrong_type() -> None:
    (finding,) = check_engine(engine(positions=object()))
    assert finding.fact == "MemoryEngine.positions is a object, not a Positions"
    assert finding.fix == "derive object from yoban.plugins.Positions"


def test_a_facet_that_is_a_class() -> None:
    (finding,) = check_engine(engine(replication=MemoryReplication))
    assert finding.fact == "MemoryEngine.replication is the class MemoryReplication"
    assert finding.fix == "make an instance: MemoryReplication()"


@pytest.mark.parametrize(
    ("without", "expected"),
    [
        ({"base_backup": None}, "MemoryEngine has 'recovery' but no 'base_backup'"),
        ({"targets": None}, "MemoryEngine has 'recovery' but no 'targets'"),
        ({"recovery": None}, "MemoryEngine has 'log_source' but no 'recovery'"),
    ],
)
def test_facets_that_need_another(without: dict[str, None], expected: str) -> None:
    assert facts(engine(**without)) == [expected]


def test_a_coroutine_that_is_none() -> None:
    class Sync(MemoryServer):
        def status(self, ctx: Any) -> Any: ...

    (finding,) = check_engine(engine(server=Sync(World())))
    assert finding.fact == "Sync.status must be 'async def'"
    assert finding.fix == "write 'async def' (without 'yield')"


def test_a_coroutine_where_none_is_wanted() -> None:
    class Late(MemoryPositions):
        async def compare(self, a: Any, b: Any, forks: Any = ()) -> Any: ...

    (finding,) = check_engine(engine(positions=Late()))
    assert (finding.fact, finding.fix) == ("Late.compare must not be 'async def'", "write 'def': it is pure")


def test_a_generator_where_none_is_wanted() -> None:
    class Many(MemoryPositions):
        async def parse(self, text: str) -> Any:
            yield text

    assert facts(engine(positions=Many())) == ["Many.parse must not be an async generator"]


def test_a_backup_that_is_not_a_context_manager() -> None:
    class Bare(MemoryBackup):
        async def backup(self, ctx: Any, request: Any) -> Any:
            yield ctx

    (finding,) = check_engine(engine(base_backup=Bare(World())))
    assert finding.fact == "Bare.backup must not be an async generator"
    assert finding.fix == "decorate an async generator with contextlib.asynccontextmanager"


@pytest.mark.parametrize("parameters", ["self, ctx", "self, ctx, *, more", "self"])
def test_arguments_that_are_not_taken(parameters: str) -> None:
    space: dict[str, Any] = {}
    exec(f"async def promote({parameters}): ...", space)
    kind = type("Odd", (MemoryReplication,), {"promote": space["promote"]})
    (finding,) = check_engine(engine(replication=kind(World())))
    assert finding.fact.startswith("Odd.promote does not take the arguments (ctx, *, deadline): ")
    assert finding.fix == "take them as the contract does"


def test_arguments_may_be_called_otherwise_and_be_more() -> None:
    class Other(MemoryReplication):
        async def promote(self, instance: Any, *, deadline: float, hurry: bool = False) -> Any: ...

    assert facts(engine(replication=Other(World()))) == []


def test_a_method_that_is_hidden_by_a_value() -> None:
    class Hidden(MemoryServer):
        command = None

    (finding,) = check_engine(engine(server=Hidden(World())))
    assert (finding.fact, finding.fix) == ("Hidden.command is None", "make it a method")


def test_static_methods_and_partials_are_methods() -> None:
    class Static(MemoryRecovery):
        @staticmethod
        def place(ctx: Any, path: str) -> Any: ...

    assert facts(engine(recovery=Static(World()))) == []
    log = MemoryLog(World())
    log.classify = functools.partial(MemoryLog.classify, log)
    assert facts(engine(log_source=log)) == []


def test_capabilities_of_the_wrong_form() -> None:
    class Raising(MemoryEngine):
        @property
        def capabilities(self) -> frozenset[Capability]:
            raise RuntimeError("no")

    class Text(MemoryEngine):
        capabilities = frozenset({"backup"})

    class Listed(MemoryTargets):
        supported = ["latest"]

    (raising,) = check_engine(Raising())
    assert (raising.fact, raising.fix) == ("Raising.capabilities raised RuntimeError: no", "make it plain data")
    (text,) = check_engine(Text())
    assert text.fact == "Text.capabilities is frozenset({'backup'})"
    assert text.fix == "make it a frozenset of Capability members"
    assert facts(engine(targets=Listed())) == ["Listed.supported is ['latest']"]


def test_an_election_that_there_is_not() -> None:
    class Dice(MemoryReplication):
        election = "dice"

    assert facts(engine(replication=Dice(World()))) == ["Dice.election is 'dice'"]


def test_secret_keys_without_a_description() -> None:
    class Bare(MemoryProvider):
        secret_keys = ["key"]

    (finding,) = check_provider(Bare())
    assert finding.fact == "Bare.secret_keys is ['key']"


async def test_stores() -> None:
    provider = MemoryProvider()
    async with provider.open(StoreConfig(bucket="b")) as store:
        assert check_store(store) == []

    class NoBucket(MemoryStore):
        @property
        def bucket(self) -> BucketAdmin | None:
            return None

    (finding,) = check_store(NoBucket(provider.cloud))
    assert finding.fact == "NoBucket.bucket and the capability bucket-admin disagree"

    class Late(MemoryStore):
        capabilities = frozenset(StoreCapability)

        async def get(self, key: str, *, start: int = 0, end: int | None = None) -> Any: ...

    (finding,) = check_store(Late(provider.cloud))
    assert (finding.fact, finding.fix) == (
        "Late.get must not be 'async def'",
        "write an async generator ('async def' with 'yield')",
    )


def test_sessions() -> None:
    class Session(BackupSession):
        def items(self) -> AsyncIterator[Any]: ...
        def finish(self) -> Any: ...

    assert [finding.fact for finding in check_session(Session())] == ["Session.finish must be 'async def'"]


def test_a_decorated_backup_is_fine() -> None:
    class Fine(MemoryBackup):
        @asynccontextmanager
        async def backup(self, ctx: Any, request: Any) -> AsyncIterator[Any]:
            yield ctx

    assert facts(engine(base_backup=Fine(World()))) == []
    assert issubclass(MemoryStore, ObjectStore)
