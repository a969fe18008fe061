"""What ends a pass is told in the status, whatever it is: what the API server refuses, and what nobody thought of."""

from __future__ import annotations

from typing import Any

import pytest
from yoban.domain.compliance import Verdict
from yoban.kube.errors import ApiError, Forbidden, Invalid, Rejected, ServerError
from yoban.kube.resource import PERSISTENT_VOLUME_CLAIM, STATEFUL_SET
from yoban.kube.transport import Answer
from yoban.model.database import Database
from yoban.reconcilers.database.gather import Gatherer
from yoban.reconcilers.database.instances import Instances
from yoban.reconcilers.database.ports import Catalogued
from yoban.testing.apirequest import Request
from yoban.testing.apistatus import status_answer

from tests.unit.reconcilers.database.keeper import Keeper
from tests.unit.reconcilers.database.world import KEY, World

LIMIT = (
    'StatefulSet.apps "orders-1" is invalid: spec.template.spec.containers[0].resources.requests: Invalid value: "4Gi": '
    "must be less than or equal to memory limit of 2Gi"
)
QUOTA = 'persistentvolumeclaims "orders-1" is forbidden: exceeded quota: small, requested: requests.storage=1Gi'


def greater_resources(obj: dict[str, Any]) -> None:
    obj["spec"]["resources"] = {"requests": {"memory": "4Gi"}, "limits": {"memory": "2Gi"}}


@pytest.mark.parametrize(
    ("kind", "code", "reason", "says", "error", "phase"),
    [
        ("statefulsets", 422, "Invalid", LIMIT, Invalid, "Failed"),
        ("statefulsets", 400, "BadRequest", "unable to parse quantity's suffix", Rejected, "Failed"),
        ("persistentvolumeclaims", 403, "Forbidden", QUOTA, Forbidden, "Creating"),
        ("networkpolicies", 403, "Forbidden", "cannot patch resource", Forbidden, "Pending"),
    ],
)
async def test_bug_what_the_api_server_refused_was_never_told(
    world: World, kind: str, code: int, reason: str, says: str, error: type[ApiError], phase: str
) -> None:
    world.make()
    await world.once()
    world.server.fail(status_answer(code, reason, says), verb="patch", resource=kind, times=99)
    for _ in range(2):
        with pytest.raises(error):
            await world.once()
    told = world.condition()
    assert (told["status"], told["reason"]) == ("False", "Refused")
    assert says in told["message"]
    assert world.status["phase"] == phase
    world.server.faults.clear()
    await world.settle()
    assert world.condition()["status"] == "True"
    assert world.status["phase"] == "Running"


async def test_bug_a_change_that_the_api_server_refused_left_a_running_database_ready_without_a_word(
    archiving: World,
) -> None:
    world = archiving
    world.make_policy()
    world.make(backup={"policy": "nightly"})
    world.catalogues.found = Catalogued(looked_at=world.time.now())
    world.verdict = Verdict(True, None, "Satisfied", "")
    await world.settle()
    before = world.status
    world.change(greater_resources)
    world.server.fail(status_answer(422, "Invalid", LIMIT), verb="patch", resource="statefulsets", times=99)
    with pytest.raises(Invalid):
        await world.once()
    told = world.condition()
    assert (told["status"], told["reason"]) == ("True", "Degraded"), "its primary serves"
    assert LIMIT in told["message"] and "StatefulSet shop/orders-1" in told["message"]
    assert world.status["observedGeneration"] == 2
    for field in ("phase", "primary", "ready", "instances", "version", "image", "path", "plugin", "policySatisfied"):
        assert world.status[field] == before[field], field
    assert world.condition("Recoverable")["reason"] == "NoBackup", (
        "what is known of the repository is told all the same"
    )
    written = len(world.server.writes())
    with pytest.raises(Invalid):
        await world.once()
    assert [one.resource for one in world.server.writes()[written:]] == ["statefulsets"] * 3, "nothing is told twice"


@pytest.mark.parametrize("kind", ["persistentvolumeclaims", "secrets", "statefulsets"])
async def test_bug_what_was_refused_one_instance_held_up_all_others_and_the_looks_at_their_agents(
    world: World, kind: str
) -> None:
    def refuse(request: Request) -> Answer | None:
        its = request.is_write and request.resource == kind and request.name.startswith("orders-1")
        return status_answer(403, "Forbidden", QUOTA) if its else None

    world.make()
    await world.once()
    world.server.faults.append(refuse)
    for _ in range(3):
        with pytest.raises(Forbidden):
            await world.once()
        world.work()
    assert world.names(STATEFUL_SET) == ["orders-2", "orders-3"]
    claims = [name[: len("orders-1")] for name in world.names(PERSISTENT_VOLUME_CLAIM)]
    assert claims == ["orders-1", "orders-2", "orders-3"][kind == "persistentvolumeclaims" :]
    assert world.agents.observed[KEY] == ["orders-1", "orders-2", "orders-3"]
    assert QUOTA in world.condition()["message"]
    world.server.faults.clear()
    await world.settle()
    assert world.condition()["reason"] == "AllReady"


async def test_bug_a_removal_that_the_api_server_refused_was_never_told(world: World) -> None:
    world.make()
    await world.settle()
    await world.delete()
    world.server.fail(status_answer(403, "Forbidden", "cannot delete resource"), verb="delete", times=99)
    with pytest.raises(Forbidden):
        await world.once()
    assert world.status["phase"] == "Deleting"
    told = world.condition()
    assert (told["status"], told["reason"]) == ("False", "Refused")
    assert told["message"].startswith("its deletion waits: ")
    assert "cannot delete resource" in told["message"]


async def test_what_passes_by_itself_is_not_told(world: World) -> None:
    world.make()
    await world.settle()
    before = world.status
    world.change(lambda obj: obj["spec"].update(settings={"free": "1"}))
    world.server.fail(status_answer(500, "InternalError"), verb="patch", resource="configmaps", times=99)
    with pytest.raises(ServerError):
        await world.once()
    assert world.status == before


async def test_a_status_that_is_refused_itself_hides_nothing(world: World) -> None:
    world.make()
    await world.once()
    world.server.fail(status_answer(403, "Forbidden", "first"), verb="patch", resource="networkpolicies")
    world.server.fail(status_answer(422, "Invalid", "second"), verb="patch", resource="databases*", times=99)
    with pytest.raises(Forbidden, match="first"):
        await world.once()


def broken(*_: Any, **__: Any) -> Any:
    raise KeyError("hidden")


@pytest.mark.parametrize(
    ("place", "name"),
    [(Instances, "outdated"), (Instances, "volumes"), (Keeper, "layout"), (Gatherer, "gather")],
    ids=lambda value: value if isinstance(value, str) else None,
)
async def test_bug_a_pass_that_ended_unexpectedly_left_a_database_unmanaged_without_a_word(
    world: World, monkeypatch: pytest.MonkeyPatch, place: type, name: str
) -> None:
    world.make()
    await world.settle()
    with monkeypatch.context() as patch:
        patch.setattr(place, name, broken)
        with pytest.raises(KeyError):
            await world.once()
    told = world.condition()
    assert "unexpected KeyError; see the operator's log" in told["message"]
    assert "hidden" not in told["message"]
    if name == "gather":
        assert (told["status"], told["reason"]) == ("False", "InternalError"), "nobody knows whether it serves"
    else:
        assert (told["status"], told["reason"]) == ("True", "Degraded"), "its primary serves"
        assert world.status["ready"] == "3/3"
    await world.settle()
    assert world.condition()["reason"] == "AllReady"


async def test_bug_agents_of_a_database_whose_spec_is_wrong_were_watched_by_nobody(world: World) -> None:
    world.make()
    await world.settle()
    world.change(lambda obj: obj["spec"].update(settings={"refused": "2"}))
    world.start()
    await world.settle(cluster=False)
    assert world.agents.observed[KEY] == ["orders-1", "orders-2", "orders-3"]
    assert (world.status["ready"], world.condition()["reason"]) == ("3/3", "SettingRefused")


async def test_a_database_that_never_served_says_what_ended_the_pass(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.make()
    await world.once()
    monkeypatch.setattr(Instances, "volumes", broken)
    with pytest.raises(KeyError):
        await world.once()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "InternalError")
    assert not world.names(PERSISTENT_VOLUME_CLAIM) and not world.names(STATEFUL_SET)


async def test_what_cannot_be_read_does_not_even_begin(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.make()
    monkeypatch.setattr(Database, "parse", broken)
    with pytest.raises(KeyError):
        await world.once()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", "InternalError")
