"""A small engine, and a Database's blueprint, for tests of the Database reconciler."""

from __future__ import annotations

import pytest
from yoban.plugins import Capability
from yoban.reconcilers.database.builders.blueprint import Blueprint, Resources, Runtime, VolumeSpec
from yoban.reconcilers.database.builders.names import Names

from tests.unit.reconcilers.database.keeper import LAYOUT, Keeper
from tests.unit.reconcilers.database.world import World


@pytest.fixture
def engine() -> Keeper:
    return Keeper()


@pytest.fixture
def names() -> Names:
    return Names("shop", "orders", "0123456789ab")


@pytest.fixture
def blueprint(names: Names) -> Blueprint:
    return Blueprint(
        names=names,
        engine="keeper",
        version="2",
        image="registry.test/keeper:2",
        layout=LAYOUT,
        instances=3,
        data=VolumeSpec("1Gi"),
        resources=Resources({"cpu": "100m"}, {"memory": "1Gi", "cpu": "1500m"}),
        operator_namespace="yoban-system",
    )


@pytest.fixture
def runtime() -> Runtime:
    return Runtime("registry.test/yoban:1", env={"YOBAN_PLUGINS": "keeper"})


@pytest.fixture
def world(engine: Keeper) -> World:
    return World(engine)


@pytest.fixture
def archiving(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(Keeper, "capable", Keeper.capable | {Capability.BACKUP, Capability.RESTORE})
    return world
