"""What is told of a Database: conditions, phases, figures that move at most once a minute."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from yoban.domain.compliance import Verdict
from yoban.domain.summary import Fault
from yoban.errors import DeadlineExceeded, NotReady, Retryable, Unavailable
from yoban.kube.resource import LEASE, POD
from yoban.model.control import AgentStatus, ArchiveState, Problem, Progress, RestoreState
from yoban.model.databasestatus import DatabaseStatus
from yoban.model.instance import LEASE_LAST_HOLDER, ROLE_LABEL
from yoban.model.schema import structural
from yoban.plugins import Capability, Window
from yoban.plugins.positions import Position
from yoban.reconcilers.database.ports import Catalogued

from tests.unit.reconcilers.database.keeper import Keeper
from tests.unit.reconcilers.database.world import KEY, World

NAMESPACE = "shop"
MOMENT = datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC)


@pytest.fixture
async def archiving(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(Keeper, "capable", Keeper.capable | {Capability.BACKUP, Capability.RESTORE})
    world.make_policy()
    world.make(backup={"policy": "nightly"})
    await world.settle()
    return world


def say(world: World, number: int = 1, **changes: Any) -> None:
    name = f"orders-{number}"
    world.agents.said[name] = msgspec.structs.replace(world.agents.said[name], **changes)


async def test_figures_move_at_most_each_half_minute(archiving: World) -> None:
    world = archiving
    number = len(world.server.writes())
    for lag in (1.0, 2.0, 3.0):
        say(world, archive=ArchiveState(active=True, lag_seconds=lag))
        world.time.time += timedelta(seconds=5)
        await world.once()
    assert len(world.server.writes()) == number
    world.time.time += timedelta(seconds=31)
    await world.once()
    assert world.status["rpo"] == "3.0s"


async def test_where_a_restore_ended_is_told_and_kept(world: World) -> None:
    world.make(instances=1)
    await world.settle()
    replaying = RestoreState(backup="b", line="1", state="replaying", reached_position="7", reached_time=MOMENT)
    say(world, restore=replaying)
    world.time.time += timedelta(seconds=31)
    await world.once()
    assert "restored" not in world.status
    assert world.status["instances"][0]["message"] == "replayed up to the commit of 2026-01-01T00:00:07Z"
    say(world, restore=msgspec.structs.replace(replaying, state="done", reached_position="9"))
    await world.once()
    told = {"backup": "b", "line": "1", "position": "9", "lastCommit": "2026-01-01T00:00:07Z"}
    assert world.status["restored"] == told
    assert "restored from base backup b, up to the commit of 2026-01-01T00:00:07Z" in world.notes
    say(world, restore=None)  # another agent
    await world.once()
    assert world.status["restored"] == told
    assert world.events.count("Restored") == 1


async def test_bug_a_position_longer_than_its_bound_stopped_the_status_for_good(archiving: World) -> None:
    world = archiving
    position = ",".join(f"{number:08x}-1111-2222-3333-444444444444:1-{number}" for number in range(1, 400))
    server = world.agents.said["orders-1"].server
    assert server is not None
    say(world, server=msgspec.structs.replace(server, position=position))
    world.time.time += timedelta(seconds=61)
    await world.once()
    shown = world.status["instances"][0]["position"]
    bound = structural(DatabaseStatus)["properties"]["instances"]["items"]["properties"]["position"]["maxLength"]
    assert len(shown) == 4096 <= bound, "twenty of them fit into one object"
    assert shown.endswith("…") and position.startswith(shown[:-1])
    say(world, server=msgspec.structs.replace(server, position=position[:4096]))
    world.time.time += timedelta(seconds=61)
    await world.once()
    assert world.status["instances"][0]["position"] == position[:4096]


async def test_a_flipped_condition_is_told_at_once(archiving: World) -> None:
    world = archiving
    say(
        world,
        archive=ArchiveState(
            active=True, failing_since=MOMENT, error="refused", backlog=3, backlog_bytes=3 << 20, free_bytes=1 << 30,
            full_in_seconds=7200.0,
        ),
    )  # fmt: skip
    await world.once()
    told = world.condition("Archiving")
    assert told["status"] == "False"
    assert told["reason"] == "ArchiveFailing"
    assert "3 segments (3.0 MiB) are kept" in told["message"]
    assert "1.0 GiB are free, enough for about 2h00m at the present rate, then writes stop" in told["message"]
    say(world, archive=ArchiveState(active=True, failing_since=MOMENT, error="refused"))
    world.time.time += timedelta(seconds=61)
    await world.once()
    assert "at the present rate" not in world.condition("Archiving")["message"]


@pytest.mark.parametrize("reason", ["LogFilling", "LogNearlyFull"])
async def test_log_that_waits_is_told_before_the_volume_is_full(archiving: World, reason: str) -> None:
    world = archiving
    filling = Problem(reason=reason, message="3.0 GiB of 4.0 GiB", fix="enlarge spec.storage.size", since=MOMENT)
    archive = ArchiveState(
        active=True, backlog_bytes=3 << 30, free_bytes=1 << 30, limit_bytes=4 << 30, full_in_seconds=7200.0, room=reason
    )
    say(world, archive=archive, problems=[filling])
    await world.once()
    await world.once()
    told = world.condition("Archiving")
    assert (told["status"], told["reason"]) == ("False", reason)
    assert told["message"] == (
        "3.0 GiB of log wait to be stored, of 4.0 GiB that the volume can hold; at the present rate it is full in about "
        "2h00m; writes stop when it is full; enlarge spec.storage.size"
    )
    ready = world.condition()
    assert (ready["status"], ready["reason"]) == ("True", "Degraded"), "it serves all the same"
    assert world.events.count(reason) == 1
    assert "orders-1: 3.0 GiB of 4.0 GiB; enlarge spec.storage.size" in world.notes
    say(world, archive=msgspec.structs.replace(archive, full_in_seconds=None), problems=[filling])
    world.time.time += timedelta(seconds=61)
    await world.once()
    assert "at the present rate" not in world.condition("Archiving")["message"]
    say(world, archive=ArchiveState(active=True))
    await world.once()
    assert world.condition("Archiving")["status"] == "True"


async def test_the_room_of_a_replica_is_an_event_too(archiving: World) -> None:
    world = archiving
    filling = Problem(reason="LogFilling", message="3.0 GiB of 4.0 GiB", fix="enlarge it", since=MOMENT)
    say(world, 2, problems=[filling])
    await world.once()
    assert world.condition("Archiving")["status"] == "True", "its primary stores the log"
    assert "orders-2: 3.0 GiB of 4.0 GiB" in world.condition()["message"]
    assert "orders-2: 3.0 GiB of 4.0 GiB; enlarge it" in world.notes


async def test_an_engine_without_a_log_is_not_said_to_archive(archiving: World) -> None:
    say(archiving, archive=ArchiveState(has_log=False))
    await archiving.once()
    told = archiving.condition("Archiving")
    assert (told["status"], told["reason"]) == ("False", "NoLog")
    assert archiving.condition()["status"] == "True"


async def test_archiving_that_has_not_begun_is_unknown(archiving: World) -> None:
    say(archiving, archive=ArchiveState(active=False))
    await archiving.once()
    assert archiving.condition("Archiving")["status"] == "Unknown"
    archiving.agents.said.clear()
    await archiving.once()
    assert archiving.condition("Archiving")["reason"] == "NotYetObserved"


def window(end: datetime, last: datetime | None = None) -> Window:
    return Window(MOMENT, end, last, Position("7"), "1")


async def test_the_window_is_the_catalogues_and_its_end_the_agents_if_later(archiving: World) -> None:
    world = archiving
    world.catalogues.found = Catalogued(window(MOMENT + timedelta(seconds=5)), MOMENT, MOMENT)
    world.time.time += timedelta(seconds=61)
    await world.once()
    assert world.status["window"] == {"start": "2026-01-01T00:00:07Z", "end": "2026-01-01T00:00:12Z"}
    assert world.status["lastBackup"] == "2026-01-01T00:00:07Z"
    later = MOMENT + timedelta(seconds=60)
    say(world, archive=ArchiveState(active=True, lag_seconds=0.0, window_end=later, last_commit=MOMENT))
    world.time.time += timedelta(seconds=61)
    await world.once()
    assert world.status["window"]["end"] == "2026-01-01T00:01:07Z"
    assert world.status["window"]["lastCommit"] == "2026-01-01T00:00:07Z"


async def test_what_can_be_restored_is_a_condition(archiving: World) -> None:
    world = archiving

    async def told(found: Catalogued | None) -> tuple[str, str, str]:
        world.catalogues.found = found
        world.time.time += timedelta(seconds=61)
        await world.once()
        condition = world.condition("Recoverable")
        return condition["status"], condition["reason"], condition["message"]

    assert (await told(None))[:2] == ("Unknown", "NotYetObserved")
    assert (await told(Catalogued(looked_at=MOMENT)))[:2] == ("False", "NoBackup")
    proven = window(MOMENT + timedelta(seconds=5))
    state, reason, message = await told(Catalogued(proven, MOMENT, MOMENT))
    assert (state, reason) == ("True", "Recoverable")
    assert message == "what was stored since 2026-01-01T00:00:07Z can be restored; status.window says up to when"
    down = Fault("Unreachable", "it refuses connections", "start it")
    state, reason, message = await told(Catalogued(proven, MOMENT, MOMENT, fault=down))
    assert (state, reason) == ("Unknown", "Unreachable")
    assert "start it" in message and "since 2026-01-01T00:00:07Z" in message
    earlier = Fault("TermMissing", "terms/2: it is missing", "bring it back", blocking=False)
    assert (await told(Catalogued(proven, MOMENT, MOMENT, earlier)))[:2] == ("True", "TermMissing")


async def test_failure_4_a_lost_record_is_told_and_the_primary_does_not_stretch_the_window(archiving: World) -> None:
    world = archiving
    later = MOMENT + timedelta(seconds=60)
    say(world, archive=ArchiveState(active=True, lag_seconds=0.0, window_end=later))
    lost = Fault("TermMissing", "terms/2: the record of the newest reign is missing", "bring the object back")
    world.catalogues.found = Catalogued(window(MOMENT + timedelta(seconds=5)), MOMENT, MOMENT, lost)
    await world.once()
    told = world.condition("Recoverable")
    assert (told["status"], told["reason"]) == ("False", "TermMissing")
    assert told["message"] == "terms/2: the record of the newest reign is missing; bring the object back"
    assert world.status["window"]["end"] == "2026-01-01T00:00:12Z", "a restore gets no further"
    assert world.condition()["status"] == "True", "it serves all the same"


async def test_a_turn_is_told_once_though_the_cache_is_behind(archiving: World) -> None:
    world = archiving
    world.catalogues.found = Catalogued(window(MOMENT), MOMENT, MOMENT)
    await world.once()
    world.fill()
    stale = world.caches.databases.get(KEY)
    assert stale is not None
    world.catalogues.found = Catalogued(window(MOMENT), MOMENT, MOMENT, Fault("TermMissing", "it is missing"))
    await world.once()
    assert world.events.count("NotRecoverable") == 1
    world.caches.databases.replace([stale], None)
    world.verdict = Verdict(False, MOMENT, "Late", "late")  # something else to write
    await world.reconciler.reconcile(KEY)
    assert world.events.count("NotRecoverable") == 1


async def test_a_database_without_a_policy_is_not_recoverable(world: World) -> None:
    world.make()
    await world.settle()
    assert world.condition("Recoverable")["reason"] == "NoPolicy"


async def test_the_verdict_and_since_when(archiving: World) -> None:
    world = archiving
    assert "policySatisfied" not in world.status
    world.verdict = Verdict(True, None, "Satisfied", "")
    await world.once()
    assert world.status.get("policySatisfied") is True
    since = world.status["policySince"]
    world.time.time += timedelta(seconds=61)
    await world.once()
    assert world.status["policySince"] == since
    world.verdict = Verdict(False, MOMENT, "Late", "late")
    await world.once()
    assert world.status.get("policySatisfied") is False
    assert world.status["policySince"] == "2026-01-01T00:00:07Z"


async def test_rejected_settings_have_the_reason_that_people_know(archiving: World) -> None:
    say(archiving, rejected={"cache": "must be a number"})
    await archiving.once()
    assert archiving.condition()["reason"] == "SettingsRejected"
    assert "cache: must be a number" in archiving.condition()["message"]


async def test_an_instances_trouble_degrades_a_database_that_serves(archiving: World) -> None:
    say(archiving, 2, problems=[Problem(reason="ForeignVolume", message="not ours", fix="give another")])
    await archiving.once()
    assert archiving.condition()["status"] == "True"
    assert archiving.condition()["reason"] == "Degraded"
    assert "orders-2: not ours" in archiving.condition()["message"]


async def test_trouble_of_the_only_instance_is_the_reason(world: World) -> None:
    world.make(instances=1)
    await world.settle()
    pod = world.server.find(POD, NAMESPACE, "orders-1-0")
    assert pod is not None
    pod["status"] = {"conditions": [{"type": "Ready", "status": "False"}]}
    world.server.put(POD, pod)
    say(world, ready=False, problems=[Problem(reason="VersionMismatch", message="the image has 3", fix="use 2")])
    await world.once()
    assert world.condition()["status"] == "False"
    assert world.condition()["reason"] == "VersionMismatch"
    assert world.status["phase"] == "Failed"


@pytest.mark.parametrize("kind", [Unavailable, DeadlineExceeded, NotReady])
async def test_bug_what_an_agent_tries_again_was_told_as_failed(world: World, kind: type[Retryable]) -> None:
    world.make(instances=1)
    await world.settle()
    pod = world.server.find(POD, NAMESPACE, "orders-1-0")
    assert pod is not None
    pod["status"] = {"conditions": [{"type": "Ready", "status": "False"}]}
    world.server.put(POD, pod)
    say(world, ready=False, problems=[Problem(reason=kind.reason, message="provision: no account yet")])
    await world.once()
    assert (world.condition()["status"], world.condition()["reason"]) == ("False", kind.reason)
    assert "no account yet" in world.condition()["message"]
    assert world.status["phase"] == "Degraded"


async def test_a_replica_that_is_missing_degrades(world: World) -> None:
    world.make()
    await world.settle()
    world.server.remove(POD, NAMESPACE, "orders-3-0")
    del world.agents.said["orders-3"]
    await world.once()
    assert world.status["phase"] == "Degraded"
    assert world.status["ready"] == "2/3"
    assert world.condition()["reason"] == "Degraded"
    assert [i["phase"] for i in world.status["instances"]] == ["running", "running", ""]


async def test_progress_is_in_the_instances_message(world: World) -> None:
    world.make(instances=1)
    await world.once()
    await world.once()
    world.work()
    world.agents.said = {
        "orders-1": AgentStatus(
            instance="orders-1", phase="restoring", message="from b1", progress=Progress(what="data", done=5, total=10)
        )
    }
    await world.once()
    told = world.status["instances"][0]
    assert told["message"] == "from b1; data 50 % of 10 B"
    assert world.condition()["message"].startswith("orders-1 is restoring")
    said = AgentStatus(instance="orders-1", phase="waiting", progress=Progress(what="data", done=1, total=10))
    world.agents.said = {"orders-1": said}
    await world.once()
    assert world.status["instances"][0]["message"] == "data 10 % of 10 B"


async def test_bug_one_look_that_a_server_did_not_answer_took_its_role_from_the_status(world: World) -> None:
    world.make(instances=2)
    await world.settle()
    roles = {one["name"]: one["role"] for one in world.status["instances"]}
    assert sorted(roles.values()) == ["primary", "replica"]
    for number in (1, 2):
        say(world, number, server=None)
    await world.once()
    assert {one["name"]: one["role"] for one in world.status["instances"]} == roles


async def test_bug_ready_was_told_before_the_service_for_writes_led_to_the_primary(world: World) -> None:
    world.make(instances=1)
    await world.settle()
    for role, truth, reason in (("", "False", "PrimaryNotServed"), ("primary", "True", "AllReady")):
        label = {ROLE_LABEL: role}
        world.server.edit(
            POD, NAMESPACE, "orders-1-0", lambda pod, label=label: pod["metadata"]["labels"].update(label)
        )
        await world.once()
        assert (world.condition()["status"], world.condition()["reason"]) == (truth, reason)


async def test_an_agent_that_is_silent_is_unknown(world: World) -> None:
    world.make(instances=1)
    await world.settle()
    world.agents.said = {}
    await world.once()
    assert world.status["instances"][0]["phase"] == "unknown"
    assert world.status["ready"] == "1/1", "its Pod is ready all the same"


async def test_conditions_name_the_generation_they_are_about(world: World) -> None:
    world.make(instances=1)
    await world.settle()
    world.change(lambda obj: obj["spec"].update(instances=2))
    await world.settle()
    assert world.status["observedGeneration"] == 2
    assert {c["observedGeneration"] for c in world.status["conditions"]} == {2}


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        ({"containerStatuses": [{"name": "server", "state": {"waiting": {"reason": "CrashLoopBackOff"}}}]},
         "CrashLoopBackOff", "container server of Pod orders-1-0"),
        ({"initContainerStatuses": [{"name": "install", "state": {"waiting": {"reason": "ErrImagePull", "message": "no"}}}]},
         "ErrImagePull", "container install of Pod orders-1-0: no"),
        ({"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no node"}]},
         "Unschedulable", "finds no node: no node"),
        ({"containerStatuses": [{"name": "server", "state": {"waiting": {"reason": "ContainerCreating"}}}]},
         "NoPrimary", "no primary"),
    ],
)  # fmt: skip
async def test_a_pod_that_does_not_come_up_says_why(
    world: World, status: dict[str, Any], reason: str, words: str
) -> None:
    world.make(instances=1)
    await world.settle()
    world.server.edit(LEASE, NAMESPACE, "orders-primary", lambda o: o["spec"].update(holderIdentity=""))
    world.server.edit(POD, NAMESPACE, "orders-1-0", lambda o: o.update(status=status))
    world.server.edit(LEASE, NAMESPACE, "orders-primary", lambda o: o["metadata"]["annotations"].pop(LEASE_LAST_HOLDER))
    world.agents.said = {}
    await world.once()
    assert world.condition()["reason"] == reason
    assert words in world.condition()["message"]


async def test_bug_what_a_server_said_was_wrong_with_it_was_not_told(archiving: World) -> None:
    world = archiving
    damaged = Problem(reason="ServerProblem", message="damaged pages were read: 3 in database app", since=MOMENT)
    say(world, 1, problems=[damaged])
    await world.once()
    assert (world.condition()["status"], world.condition()["reason"]) == ("True", "Degraded")
    assert "orders-1: damaged pages were read" in world.condition()["message"]
    assert "orders-1: damaged pages were read: 3 in database app" in world.notes
    world.server.edit(POD, NAMESPACE, "orders-1-0", lambda o: o.update(status={}))
    await world.once()
    assert world.condition()["reason"] == "PrimaryNotReady", "it is not why nobody serves"


async def test_a_replica_that_cannot_follow_is_an_event_that_says_why(archiving: World) -> None:
    world = archiving
    broken = Problem(
        reason="ReplicaBroken", message="it holds what orders-1 lacks: a:7", fix="copied anew", since=MOMENT
    )
    say(world, 2, problems=[broken])
    await world.once()
    await world.once()
    say(world, 2, problems=[msgspec.structs.replace(broken, message="it holds what orders-1 lacks: a:7-8")])
    await world.once()
    assert world.events.count("ReplicaBroken") == 1
    assert "orders-2 cannot follow: it holds what orders-1 lacks: a:7; copied anew" in world.notes
    say(world, 2, problems=[])
    await world.once()
    say(world, 2, problems=[msgspec.structs.replace(broken, since=MOMENT + timedelta(minutes=5))])
    await world.once()
    assert world.events.count("ReplicaBroken") == 2
