from __future__ import annotations

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import pytest
from yoban.domain.identity import backup_id
from yoban.errors import AccessDenied, Unavailable
from yoban.kube.errors import Unreachable
from yoban.model.control import BackupResult, LeaseState, Problem, Progress
from yoban.reconcilers.catalogues import Catalogues
from yoban.reconcilers.kinds import BACKUP, BACKUP_POLICY, DATABASE, OBJECT_STORE

from tests.unit.reconcilers.watch.world import FakeAgent, World, primary, replica


@pytest.fixture
async def shop(world: World) -> World:
    """A Database with a primary and two replicas, all observed; its policy asks for nothing by itself for a year."""
    world.store()
    world.database()
    await world.stored("20251231T000000Z-abcdef", minutes_ago=60)
    world.policy(maximumAge="365d", retention=None)
    world.observe(n1=primary(("orders-2", "orders-3")), n2=replica(), n3=replica())
    return world


def uid(world: World, name: str = "b") -> str:
    obj = world.find(BACKUP, name)
    assert obj is not None
    return str(obj["metadata"]["uid"])


def phase(world: World, name: str = "b") -> str:
    return str(world.status(BACKUP, name).get("phase"))


def reason(world: World, name: str = "b") -> str:
    return world.condition(BACKUP, name, "Completed")[1]


def journal(world: World, name: str = "b") -> dict[str, object]:
    obj = world.find(BACKUP, name)
    assert obj is not None
    return dict(json.loads(obj["metadata"].get("annotations", {}).get("yoban.dev/run", "{}")))


def donor(world: World, job: str) -> FakeAgent | None:
    return next((agent for agent in world.agents.all.values() if job in agent.requests), None)


async def begun(world: World, name: str = "b", attempt: int = 1) -> tuple[FakeAgent, str]:
    """The agent that was asked, and the job's uid."""
    job = uid(world, name) if attempt == 1 else f"{uid(world, name)}-{attempt}"
    agent = await world.until(lambda: donor(world, job))
    return agent, job


def result(world: World, name: str = "b") -> BackupResult:
    now = world.clock.now()
    return BackupResult(
        id=str(journal(world, name)["id"]),
        line="",
        begin_position="50",
        end_position="120",
        begin_time=now - timedelta(seconds=20),
        end_time=now,
        bytes=5 << 30,
        stored_bytes=1 << 30,
        frozen_seconds=0.0125,
    )


async def finish(world: World, name: str = "b", attempt: int = 1) -> None:
    agent, job = await begun(world, name, attempt)
    await world.stored(str(journal(world, name)["id"]))
    agent.job(job, state="completed", backup=result(world, name))
    await world.until(lambda: phase(world, name) == "Completed")


async def test_a_backup_is_made_on_a_replica_and_told(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    assert agent is shop.agent("orders-3")
    request = agent.requests[job]
    created = datetime.fromisoformat(shop.find(BACKUP, "b")["metadata"]["creationTimestamp"])
    assert (request.kind, request.id) == ("backup", backup_id(created, job))
    assert request.shipper == "orders-1.peers:8443"
    assert 86390 < request.deadline_seconds <= 86400
    await shop.until(lambda: phase(shop) == "Running")
    agent.job(job, progress=Progress(what="backup", done=5 << 20, total=10 << 20, rate=2 << 20))
    await shop.until(lambda: (shop.status(BACKUP, "b").get("progress") or {}).get("percent") == 50)
    assert shop.status(BACKUP, "b")["progress"]["text"] == "50% 2.0 MiB/s"
    assert shop.status(BACKUP, "b")["instance"] == "orders-3"
    await finish(shop)
    status = shop.status(BACKUP, "b")
    assert shop.condition(BACKUP, "b", "Completed")[:2] == ("True", "Completed")
    assert (status["size"], status["attempts"], status["objectStore"]) == ("1.0 GiB", 1, "s3")
    assert status["incarnation"] == shop.path().rpartition("/")[2]
    assert status["endPosition"] == "120" and status["progress"]["percent"] == 100
    await shop.until(lambda: not shop.find(BACKUP, "b")["metadata"].get("finalizers"))
    assert agent.starts == 1


async def test_the_result_is_told_before_the_repository_was_looked_at_again(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    agent.job(job, state="completed", backup=result(shop))
    await shop.until(lambda: phase(shop) == "Completed", 10)
    assert shop.status(BACKUP, "b")["size"] == "5.0 GiB"


async def test_progress_is_written_at_most_every_five_seconds(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    await shop.until(lambda: phase(shop) == "Running")
    before = len([one for one in shop.server.writes() if one.resource == "backups" and one.subresource == "status"])
    for step in range(100):
        agent.job(job, progress=Progress(what="backup", done=step, total=100, rate=1.0))
        await shop.rest(0.3)
    after = len([one for one in shop.server.writes() if one.resource == "backups" and one.subresource == "status"])
    assert 4 <= after - before <= 8


async def test_without_replicas_the_primary_serves_and_ships_itself(shop: World):
    shop.observe(n1=primary())
    shop.backup()
    agent, job = await begun(shop)
    assert agent is shop.agent("orders-1") and agent.requests[job].shipper == ""


async def test_the_trace_goes_from_the_backup_to_the_agent(shop: World):
    parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
    shop.put(BACKUP, "b", {"database": "orders"}, annotations={"yoban.dev/traceparent": parent})
    agent, job = await begun(shop)
    assert agent.requests[job].traceparent.split("-")[1] == "a" * 32
    await shop.until(lambda: shop.status(BACKUP, "b").get("traceId") == "a" * 32)


async def test_an_operator_that_restarts_finds_its_job_again(shop: World):
    shop.backup()
    agent, _ = await begun(shop)
    await shop.until(lambda: phase(shop) == "Running")
    await shop.restart()
    assert phase(shop) == "Running"
    shop.observe(n1=primary(("orders-2", "orders-3")), n2=replica(), n3=replica())
    await shop.rest(30)
    assert agent.starts == 1
    await finish(shop)
    assert sum(one.starts for one in shop.agents.all.values()) == 1


async def test_a_backup_that_ended_while_the_operator_was_away_is_completed(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    await shop.stop()
    await shop.stored(str(journal(shop)["id"]))
    del agent.jobs[job]
    await shop.start()
    await shop.until(lambda: phase(shop) == "Completed")
    assert sum(one.starts for one in shop.agents.all.values()) == 1


async def test_an_agent_that_was_restarted_has_lost_it_and_another_is_asked(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    await shop.until(lambda: phase(shop) == "Running")
    del agent.jobs[job]
    agent.say()
    second, again = await begun(shop, attempt=2)
    assert second is shop.agent("orders-2")
    assert second.requests[again].id != agent.requests[job].id
    await finish(shop, attempt=2)
    assert shop.status(BACKUP, "b")["attempts"] == 2


async def test_a_job_that_was_lost_but_is_stored_is_completed(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    await shop.until(lambda: phase(shop) == "Running")
    await shop.stored(str(journal(shop)["id"]))
    del agent.jobs[job]
    agent.say()
    await shop.until(lambda: phase(shop) == "Completed")
    assert sum(one.starts for one in shop.agents.all.values()) == 1


async def test_a_failure_that_will_not_go_away_is_final(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    agent.job(job, state="failed", problem=Problem(reason="PageDamaged", message="block 7 is bad", fix="restore it"))
    await shop.until(lambda: phase(shop) == "Failed")
    assert shop.condition(BACKUP, "b", "Completed") == ("False", "PageDamaged", "block 7 is bad; restore it")
    await shop.rest(3600)
    assert sum(one.starts for one in shop.agents.all.values()) == 1
    assert not shop.find(BACKUP, "b")["metadata"].get("finalizers")


async def test_retries_have_growing_pauses_and_an_end(shop: World):
    shop.backup(retries=2)
    times = []
    for attempt in (1, 2, 3):
        agent, job = await begun(shop, attempt=attempt)
        times.append(shop.clock.monotonic())
        agent.job(job, state="failed", retryable=True, problem=Problem(reason="Promoted", message="a promotion"))
    await shop.until(lambda: phase(shop) == "Failed")
    assert times[2] - times[1] > times[1] - times[0] > 29
    assert reason(shop) == "Promoted" and shop.status(BACKUP, "b")["attempts"] == 3


async def test_between_attempts_it_says_what_went_wrong(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    agent.job(job, state="cancelled")
    await shop.until(lambda: phase(shop) == "Pending")
    assert "attempt 1 failed: the agent broke the backup off" in shop.condition(BACKUP, "b", "Completed")[2]


async def test_a_refusal_of_the_agent_is_final(shop: World):
    shop.observe(n1=primary())
    shop.agent("orders-1").errors = [AccessDenied("not you")]
    shop.backup()
    await shop.until(lambda: phase(shop) == "Failed")
    assert reason(shop) == "AccessDenied"


async def test_failure_32_a_backup_that_hangs_has_a_deadline(shop: World):
    shop.backup(deadline="10m", retries=0)
    agent, job = await begun(shop)
    await shop.until(lambda: phase(shop) == "Failed", 700)
    assert reason(shop) == "DeadlineExceeded"
    assert agent.cancelled == [job]
    shop.backup("next")
    await begun(shop, "next")


async def test_failure_32_an_agent_that_is_gone_does_not_block_for_ever(shop: World):
    shop.backup(deadline="10m", retries=0)
    agent, _ = await begun(shop)
    agent.up = False
    await shop.until(lambda: "cannot be reached" in str(shop.status(BACKUP, "b").get("message")))
    await shop.until(lambda: phase(shop) == "Failed", 1500)


async def test_an_instance_that_was_removed_took_its_backup_along(shop: World):
    shop.backup()
    await begun(shop)
    shop.observe(n1=primary(("orders-2",)), n2=replica())
    agent, _ = await begun(shop, attempt=2)
    assert agent is shop.agent("orders-2")


async def test_one_at_a_time(shop: World):
    shop.backup("b")
    await begun(shop, "b")
    shop.backup("c")
    await shop.until(lambda: reason(shop, "c") == "Waiting")
    assert "Backup b is under way" in shop.condition(BACKUP, "c", "Completed")[2]
    await finish(shop, "b")
    await begun(shop, "c")


async def test_bug_a_backup_waited_for_half_a_minute_for_one_that_had_ended(shop: World):
    shop.backup("b")
    await begun(shop, "b")
    await finish(shop, "b")
    shop.backup("c")
    await shop.until(lambda: journal(shop, "c"), 3)


async def test_a_backup_that_waits_begins_when_the_other_has_ended(shop: World):
    shop.backup("b")
    await begun(shop, "b")
    shop.backup("c")
    await shop.until(lambda: reason(shop, "c") == "Waiting")
    await shop.rest(12)
    await finish(shop, "b")
    await shop.until(lambda: journal(shop, "c"), 3)


async def test_two_at_the_same_moment_are_made_one_after_the_other(shop: World):
    for name in ("b", "c", "d"):
        shop.backup(name)
    await shop.until(lambda: any(journal(shop, name) for name in ("b", "c", "d")))
    await shop.rest(3)
    assert sum(one.starts for one in shop.agents.all.values()) == 1
    for count in (1, 2, 3):
        name = await shop.until(lambda: next((one for one in ("b", "c", "d") if phase(shop, one) == "Running"), ""))
        assert sum(one.starts for one in shop.agents.all.values()) == count
        await finish(shop, name)


@pytest.mark.parametrize(
    "change, expected, words",
    [
        (lambda world: world.server.remove(DATABASE, "shop", "orders"), "DatabaseMissing", "no Database shop/orders"),
        (lambda world: world.server.remove(BACKUP_POLICY, "shop", "nightly"), "PolicyMissing", "nightly"),
        (lambda world: world.server.remove(OBJECT_STORE, "shop", "s3"), "StoreMissing", "s3"),
        (lambda world: world.database(backup=None), "NoPolicy", "spec.backup.policy"),
        (lambda world: world.database(engine="abacus"), "EngineUnknown", "abacus"),
        (lambda world: world.shared.observatory.forget(("shop", "orders")), "NoFitInstance", "no instance answers"),
    ],
)
async def test_what_is_missing_is_named(shop: World, change, expected, words):
    await shop.until(lambda: shop.condition(OBJECT_STORE, "s3")[0] == "True")
    shop.server.edit(OBJECT_STORE, "shop", "s3", lambda obj: obj["metadata"].pop("finalizers", None))
    change(shop)
    await shop.rest(2)
    shop.backup()
    await shop.until(lambda: reason(shop) == expected)
    assert words in shop.condition(BACKUP, "b", "Completed")[2]
    assert phase(shop) == "Pending"


async def test_it_begins_when_an_instance_can(shop: World):
    shop.observe(n1=primary())
    shop.agent("orders-1").say(ready=False, lease=LeaseState(held=True))
    await shop.rest(1)
    shop.backup()
    await shop.until(lambda: reason(shop) == "NoFitInstance")
    assert "orders-1: not ready" in shop.condition(BACKUP, "b", "Completed")[2]
    shop.agent("orders-1").say(ready=True)
    await begun(shop)


async def test_what_can_never_begin_fails_at_last(shop: World):
    shop.server.remove(DATABASE, "shop", "orders")
    shop.backup(deadline="1m", retries=0)
    await shop.until(lambda: phase(shop) == "Failed")
    assert reason(shop) == "DatabaseMissing"


async def test_an_engine_without_base_backups_says_so(shop: World):
    engine = shop.registry.extra["logless"]
    engine.base_backup = None
    shop.backup()
    await shop.until(lambda: phase(shop) == "Failed")
    assert reason(shop) == "Unsupported"


async def test_deleting_cancels_and_cleans_up(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    await shop.until(lambda: phase(shop) == "Running")
    await shop.delete(BACKUP, "b")
    await shop.until(lambda: shop.find(BACKUP, "b") is None)
    assert agent.cancelled == [job]


async def test_deletion_waits_for_an_agent_and_says_so(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    agent.up = False
    await shop.delete(BACKUP, "b")
    await shop.until(lambda: "skip-cleanup" in str(shop.status(BACKUP, "b").get("message")))
    agent.up = True
    await shop.until(lambda: shop.find(BACKUP, "b") is None)
    assert agent.cancelled == [job]


async def test_skip_cleanup_lets_a_backup_go(shop: World):
    shop.backup()
    agent, _ = await begun(shop)
    agent.up = False
    await shop.delete(BACKUP, "b")
    await shop.rest(30)
    shop.annotate(BACKUP, "b", skip_cleanup="true")
    await shop.until(lambda: shop.find(BACKUP, "b") is None)


async def test_deleting_a_backup_never_removes_what_is_stored(shop: World):
    shop.backup()
    await finish(shop)
    stored = shop.bucket().keys()
    await shop.delete(BACKUP, "b")
    await shop.until(lambda: shop.find(BACKUP, "b") is None)
    await shop.rest(120)
    assert shop.bucket().keys() == stored
    # It is found again, under the name of what was found.
    assert any("spec" in one and one["spec"].get("id") for one in shop.backups())


async def test_bug_a_backup_deleted_right_after_a_start_of_the_operator_ran_on(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    await shop.restart()
    await shop.delete(BACKUP, "b")
    await shop.until(lambda: "skip-cleanup" in str(shop.status(BACKUP, "b").get("message")))
    await shop.rest(300)
    assert shop.find(BACKUP, "b") is not None and agent.cancelled == []
    shop.observe(n1=primary(("orders-2", "orders-3")), n2=replica(), n3=replica())
    await shop.until(lambda: shop.find(BACKUP, "b") is None)
    assert agent.cancelled == [job]


@pytest.mark.parametrize("end", ["deadline", "database", "instance"])
async def test_a_deleted_backup_that_nobody_can_end_any_more_goes(shop: World, end: str):
    shop.backup(deadline="30m")
    agent, _ = await begun(shop)
    await shop.restart()
    await shop.delete(BACKUP, "b")
    await shop.rest(300)
    assert shop.find(BACKUP, "b") is not None
    if end == "database":
        shop.server.remove(DATABASE, "shop", "orders")
    elif end == "instance":
        shop.observe(n1=primary(("orders-2",)), n2=replica())
    await shop.until(lambda: shop.find(BACKUP, "b") is None, 1600 if end == "deadline" else 60)
    assert agent.cancelled == []


async def test_bug_a_backup_that_cannot_be_read_had_no_condition(shop: World):
    shop.backup(deadline="40000d")
    await shop.until(lambda: phase(shop) == "Failed")
    assert reason(shop) == "InvalidSpec"
    message = shop.condition(BACKUP, "b", "Completed")[2]
    assert "spec.deadline" in message and "100 years" in message and "make another Backup" in message
    before = len([one for one in shop.server.writes() if one.name == "b"])
    await shop.restart()
    await shop.rest(600)
    assert len([one for one in shop.server.writes() if one.name == "b"]) == before
    await shop.delete(BACKUP, "b")
    await shop.until(lambda: shop.find(BACKUP, "b") is None)


async def test_a_backup_that_cannot_be_read_any_more_can_be_deleted(shop: World):
    shop.backup()
    await begun(shop)
    shop.server.edit(BACKUP, "shop", "b", lambda obj: obj["spec"].update(deadline="40000d"))
    await shop.delete(BACKUP, "b")
    await shop.until(lambda: shop.find(BACKUP, "b") is None)


async def test_a_stored_backup_that_cannot_be_read_is_not_told_to_have_failed(shop: World):
    shop.backup()
    await finish(shop)
    shop.server.edit(BACKUP, "shop", "b", lambda obj: obj["spec"].update(deadline="40000d"))
    await shop.rest(600)
    assert phase(shop) == "Completed" and journal(shop)["outcome"] == "completed"


async def test_a_backup_of_a_database_that_cannot_be_read_says_so(shop: World):
    shop.server.edit(DATABASE, "shop", "orders", lambda obj: obj["spec"].update(instances="many"))
    shop.backup()
    await shop.until(lambda: reason(shop) == "InvalidSpec")
    assert "spec.instances" in shop.condition(BACKUP, "b", "Completed")[2]
    assert phase(shop) == "Pending"


async def test_a_backup_whose_data_went_goes_too(shop: World):
    shop.backup()
    await finish(shop)
    shop.lose(str(journal(shop)["id"]))
    await shop.until(lambda: shop.find(BACKUP, "b") is None, 600)


async def test_bug_a_backup_went_when_its_database_was_made_again_under_its_name(shop: World):
    shop.backup()
    await finish(shop)
    shop.server.remove(DATABASE, "shop", "orders")
    shop.database()
    await shop.rest(3600)
    assert phase(shop) == "Completed"
    assert shop.find(BACKUP, "orders-20251231t000000z-abcdef") is not None


async def test_bug_backups_went_when_the_policy_named_another_store(shop: World):
    shop.backup()
    await finish(shop)
    await shop.bucket("elsewhere").bucket.create()
    shop.store("elsewhere", bucket="elsewhere")
    shop.policy(maximumAge="365d", destinations=[{"objectStore": "elsewhere"}])
    await shop.rest(3600)
    assert phase(shop) == "Completed" and shop.status(BACKUP, "b")["objectStore"] == "s3"
    assert shop.find(BACKUP, "orders-20251231t000000z-abcdef") is not None
    # Back in the old store the object is kept in step with it again.
    shop.policy(maximumAge="365d")
    shop.lose(str(journal(shop)["id"]))
    await shop.until(lambda: shop.find(BACKUP, "b") is None, 1200)


async def test_bug_backups_in_a_store_that_was_given_another_name_were_never_taken_away(shop: World):
    shop.backup()
    await finish(shop)
    found = "orders-20251231t000000z-abcdef"
    assert shop.find(BACKUP, found) is not None
    shop.store("renamed")
    shop.policy(maximumAge="365d", destinations=[{"objectStore": "renamed"}])
    await shop.rest(1200)
    assert shop.status(BACKUP, "b")["objectStore"] == shop.status(BACKUP, found)["objectStore"] == "renamed"
    shop.lose(str(journal(shop)["id"]))
    shop.lose("20251231T000000Z-abcdef")
    await shop.until(lambda: shop.find(BACKUP, "b") is None and shop.find(BACKUP, found) is None, 1800)


async def test_bug_a_backup_went_because_a_listing_of_another_store_was_taken_for_its_own(
    shop: World, monkeypatch: pytest.MonkeyPatch
):
    shop.backup()
    await finish(shop)
    await shop.bucket("elsewhere").bucket.create()
    shop.store("elsewhere", bucket="elsewhere")
    shop.policy(maximumAge="365d", destinations=[{"objectStore": "elsewhere"}])
    await shop.rest(600)
    look = Catalogues._look

    async def slowly(self: Catalogues, place: Any) -> Any:
        await asyncio.sleep(20)
        return await look(self, place)

    monkeypatch.setattr(Catalogues, "_look", slowly)
    shop.policy(maximumAge="365d")
    for number in range(10):
        await shop.rest(1)
        shop.annotate(BACKUP, "b", touched=str(number))
    await shop.rest(600)
    assert phase(shop) == "Completed"


async def test_a_backup_that_was_noted_by_an_older_release_is_followed(shop: World):
    shop.backup()
    await finish(shop)
    older = {key: value for key, value in journal(shop).items() if key not in ("store", "incarnation")}
    shop.annotate(BACKUP, "b", run=json.dumps(older))
    await shop.rest(600)
    assert phase(shop) == "Completed" and shop.status(BACKUP, "b")["objectStore"] == "s3"
    shop.lose(str(older["id"]))
    await shop.until(lambda: shop.find(BACKUP, "b") is None, 600)


async def test_a_store_that_is_down_takes_no_backup_away(shop: World):
    shop.backup()
    await finish(shop)
    await shop.rest(60)
    shop.cloud.stop()
    await shop.rest(1200)
    assert phase(shop) == "Completed"


async def test_a_lost_status_is_rebuilt_from_the_repository(shop: World):
    shop.backup()
    await finish(shop)
    await shop.until(lambda: shop.status(BACKUP, "b")["size"] == "1.0 GiB")
    told = shop.status(BACKUP, "b")
    shop.server.edit(BACKUP, "shop", "b", lambda obj: obj.pop("status", None))
    await shop.restart()
    await shop.until(lambda: phase(shop) == "Completed")
    again = shop.status(BACKUP, "b")
    assert {key: again[key] for key in told if key != "conditions"} == {
        key: told[key] for key in told if key != "conditions"
    }


async def test_a_crash_between_any_two_writes_makes_one_backup(shop: World):
    for after in range(6):
        name = f"c{after}"
        shop.server.fail(Unreachable("cut", sent=False), verb="patch", resource="backups", times=1, after=after % 3)
        shop.backup(name)
        agent, job = await begun(shop, name)
        await shop.stored(str(journal(shop, name)["id"]))
        agent.job(job, state="completed", backup=result(shop, name))
        await shop.until(lambda name=name: phase(shop, name) == "Completed")
        assert [one.starts for one in shop.agents.all.values()].count(0) >= 1
    assert sum(one.starts for one in shop.agents.all.values()) == 6


async def test_nothing_to_do_writes_nothing(shop: World):
    shop.backup()
    await finish(shop)
    await shop.rest(120)
    before = len(shop.server.writes())
    await shop.rest(3000)
    assert len(shop.server.writes()) == before


async def test_an_agent_that_answers_late_is_asked_again(shop: World):
    shop.backup()
    agent, job = await begun(shop)
    agent.errors = [Unavailable("busy"), Unavailable("busy")]
    agent.job(job)
    await finish(shop)
    assert agent.errors == [] and agent.starts == 1
