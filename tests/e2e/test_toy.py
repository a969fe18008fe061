"""A third party's engine on a real cluster: our image with its wheel in it, its own image untouched.

The toy (`tests/toy`) has one file, no log and no replicas, so a restore ends where its base backup ended.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deploy.demo import manifests
from deploy.demo.kubectl import Object, condition
from deploy.lab import images
from tests.e2e.world import POSTGRES, EngineUnderTest, Space, reason

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

ENGINE = "toy"
# What its users do to write: a new file in the place of the old one.
WRITE = "cd /var/lib/toy/* && cat > fresh && mv fresh store"
READ = "cat /var/lib/toy/*/store"


@pytest.fixture(scope="module")
def engine() -> EngineUnderTest:
    """Once is enough: these tests make no Database of an engine that is tested elsewhere."""
    return POSTGRES


@pytest.fixture(scope="module")
def space(make_space: Callable[[str], Space]) -> Space:
    space = make_space("toy")
    if not space.stage.cluster.own:
        pytest.skip("only the lab's operator is known to have the toy engine")
    space.store()
    space.policy()
    return space


@pytest.fixture(scope="module")
def shelf(space: Space) -> str:
    """A Database of the toy engine, Ready, with the base backup that its policy makes at once."""
    space.kubectl.apply(_database("shelf", engineConfig={"greeting": "good evening"}))
    space.ready("shelf", 1)
    space.kubectl.wait("database", "shelf", lambda value: "lastBackup" in value["status"], deadline=120)
    return "shelf"


def _database(name: str, *, instances: int = 1, **more: object) -> Object:
    return manifests.database(name, ENGINE, images.TOY_SERVER, instances=instances, policy="gold", version="1", **more)


def _restored(name: str, kind: str) -> Object:
    return _database(name, bootstrap={"restore": {"source": {"database": "shelf"}, "target": {"type": kind}}})


def _sh(space: Space, database: str, script: str, stdin: str | None = None) -> str:
    return space.kubectl.execute(f"{space.primary(database)}-0", "sh", "-c", script, container="server", stdin=stdin)


def test_it_is_ready_in_its_own_image(space: Space, shelf: str) -> None:
    status = space.kubectl.get("database", shelf)["status"]  # type: ignore[index]
    assert status["plugin"] == {"name": "yoban-toy", "version": "0.1.0"}
    assert status["primary"] == space.primary(shelf)
    pod = space.kubectl.get("pod", f"{space.primary(shelf)}-0")
    assert pod is not None
    server = next(one for one in pod["spec"]["containers"] if one["name"] == "server")
    assert server["image"] == images.TOY_SERVER
    assert pod["spec"]["securityContext"]["runAsUser"] == 1999
    assert _sh(space, shelf, READ) == "good evening"


def test_what_it_cannot_do_is_refused_by_capability(space: Space) -> None:
    space.kubectl.apply(_database("pair", instances=2))
    value = space.kubectl.wait("database", "pair", reason("ReplicasUnsupported"), deadline=120)
    assert "no replicas" in condition(value, "Ready")["message"]
    space.kubectl.delete("database", "pair")


@pytest.mark.parametrize("kind", ["latest", "immediate"])
def test_a_backup_is_restored_into_a_new_database(space: Space, shelf: str, kind: str) -> None:
    _sh(space, shelf, WRITE, f"kept before {kind}")
    space.backup(f"before-{kind}", shelf)
    _sh(space, shelf, WRITE, "written after the backup")
    name = f"to-{kind}"
    space.kubectl.apply(_restored(name, kind))
    space.ready(name, 1)
    assert _sh(space, name, READ) == f"kept before {kind}"
    assert _sh(space, shelf, READ) == "written after the backup"
    assert space.primary(name) == f"{name}-1"
    space.kubectl.delete("database", name)


def test_a_target_that_needs_a_log_is_refused(space: Space, shelf: str) -> None:
    restore = {"source": {"database": shelf}, "target": {"type": "position", "value": "1"}}
    space.kubectl.apply(_database("impossible", bootstrap={"restore": restore}))
    value = space.kubectl.wait("database", "impossible", reason("TargetInvalid"), deadline=120)
    assert "backups only" in condition(value, "Ready")["message"]
    space.kubectl.delete("database", "impossible")
