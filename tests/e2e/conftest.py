"""The operator installed by its chart on the lab cluster, once a session, and a namespace for each test module.

Its image is ours with one more engine in it, as a third party would make it (`tests/toy`): all tests run with it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterator

import pytest

from deploy.demo import manifests
from deploy.demo.installation import Installation
from deploy.demo.kubectl import Kubectl
from deploy.demo.stage import Stage, prepare
from deploy.lab import images
from deploy.lab.cluster import Cluster
from tests.e2e.world import ENGINES, EngineUnderTest, Space


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Take out what is not about an engine: `@pytest.mark.about("mysql")` names those that a test is for."""
    taken, left = [], []
    for item in items:
        mark, spec = item.get_closest_marker("about"), getattr(item, "callspec", None)
        engine = spec.params.get("engine") if spec is not None else None
        away = mark is not None and isinstance(engine, EngineUnderTest) and engine.name not in mark.args
        (taken if away else left).append(item)
    if taken:
        config.hook.pytest_deselected(items=taken)
        items[:] = left


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and "make_space" in getattr(item, "fixturenames", ()):
        for space in _spaces:
            space.describe()
    return report


_spaces: list[Space] = []


@pytest.fixture(scope="session")
def stage(lab: Cluster) -> Stage:
    servers = [one for engine in ENGINES for one in (engine.demo.image, engine.wrong_image) if one is not None]
    return prepare([*servers, images.TOY_SERVER], operator=images.OPERATOR_WITH_TOY)


@pytest.fixture(scope="session")
def installation(stage: Stage) -> Installation:
    values = {**stage.chart_values, **({"plugins": ["postgres", "mysql", "s3", "toy"]} if stage.cluster.own else {})}
    installation = Installation(Kubectl(stage.kubeconfig), stage.operator_image, values)
    installation.install()
    return installation


@pytest.fixture(scope="module", params=ENGINES, ids=lambda engine: engine.name)
def engine(request: pytest.FixtureRequest) -> EngineUnderTest:
    """Each engine in turn; a module's tests run for one of them, then for the next."""
    assert isinstance(request.param, EngineUnderTest)
    return request.param


@pytest.fixture(scope="module")
def make_space(installation: Installation, stage: Stage, engine: EngineUnderTest) -> Iterator[Callable[[str], Space]]:
    def make(topic: str) -> Space:
        name = f"e2e-{topic}-{os.getpid()}-{int(time.time()) % 100000}"
        installation.kubectl.apply(manifests.namespace(name))
        space = Space(installation.kubectl.within(name), stage, engine, f"bucket-{name}")
        _spaces.append(space)
        return space

    try:
        yield make
    finally:
        while _spaces:
            _remove(_spaces.pop())


def _remove(space: Space) -> None:
    """Delete what the module made, Databases before what they need, without waiting for what a failed test left."""
    space.kubectl.run("annotate", "databases,objectstores,backups", "--all", "yoban.dev/skip-cleanup=true", check=False)
    for kind in ("database", "backup", "backuppolicy", "objectstore"):
        space.kubectl.run("delete", kind, "--all", "--wait=true", "--timeout=90s", check=False, deadline=100)
    space.kubectl.run("delete", "namespace", space.kubectl.namespace, "--wait=false", check=False)
