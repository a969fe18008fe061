from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from yoban.domain.compliance import Verdict
from yoban.errors import AccessDenied
from yoban.kube.errors import Unreachable
from yoban.kube.objects import ObjectKey
from yoban.model.control import ArchiveState, BackupResult, LeaseState, Problem
from yoban.model.database import Database
from yoban.reconcilers.backuppolicy import reconcile
from yoban.reconcilers.destination import Destination
from yoban.reconcilers.kinds import BACKUP, BACKUP_POLICY, DATABASE
from yoban.reconcilers.shared import Shared
from yoban.repository.layout import Layout
from yoban.testing.memory_store import MemoryStore

from tests.unit.reconcilers.watch.world import NS, World, primary, replica

ORDERS = ObjectKey(NS, "orders")


@pytest.fixture
async def shop(world: World) -> World:
    """A Database, ready, that nobody has backed up yet; agents finish backups at once unless told otherwise."""
    world.store()
    world.database()
    world.observe(n1=primary(("orders-2",)), n2=replica())
    return world


def asked(world: World) -> list[str]:
    """Names of the Backups that policies asked for."""
    return sorted(one["metadata"]["name"] for one in world.backups() if not one["spec"].get("id"))


def verdict(world: World, name: str = "orders") -> Verdict | None:
    return world.shared.verdicts.get(ObjectKey(NS, name))


def run_of(world: World, name: str) -> dict[str, object]:
    obj = world.find(BACKUP, name)
    return dict(json.loads(((obj or {"metadata": {}})["metadata"].get("annotations") or {}).get("yoban.dev/run", "{}")))


async def serve(world: World, name: str, **stored: object) -> None:
    """The agents make the backup: it is stored and its job done."""
    run = await world.until(lambda: run_of(world, name))
    obj = world.find(BACKUP, name)
    assert obj is not None
    attempt = run.get("attempt", 1)
    job = obj["metadata"]["uid"] if attempt == 1 else f"{obj['metadata']['uid']}-{attempt}"
    agent = world.agent(str(run["instance"]))
    await world.until(lambda: job in agent.requests)
    await world.stored(str(run["id"]), **stored)
    now = world.clock.now()
    agent.job(
        job,
        state="completed",
        backup=BackupResult(
            id=str(run["id"]),
            line="",
            begin_position="1",
            end_position="2",
            begin_time=now,
            end_time=now,
            bytes=1,
            stored_bytes=1,
            frozen_seconds=0.0,
        ),
    )
    await world.until(lambda: world.status(BACKUP, name).get("phase") == "Completed")


async def fail(world: World, name: str) -> None:
    """The backup fails for good."""
    obj = await world.until(lambda: world.find(BACKUP, name))
    job = obj["metadata"]["uid"]
    agent = await world.until(lambda: next((one for one in world.agents.all.values() if job in one.requests), None))
    agent.job(job, state="failed", problem=Problem(reason="PageDamaged", message="block 7 is bad"))
    await world.until(lambda: world.status(BACKUP, name).get("phase") == "Failed")


async def test_the_first_backup_is_asked_for_at_once(shop: World):
    shop.policy()
    await shop.until(lambda: len(asked(shop)) == 1)
    (name,) = asked(shop)
    made = shop.find(BACKUP, name)
    assert made["spec"] == {"database": "orders", "deadline": "1d", "retries": 2}
    assert made["metadata"]["labels"] == {"yoban.dev/database": "orders", "yoban.dev/policy": "nightly"}
    await shop.until(lambda: shop.status(BACKUP_POLICY, "nightly").get("running") == 1)
    await serve(shop, name)
    await shop.until(lambda: shop.condition(BACKUP_POLICY, "nightly")[:2] == ("True", "Satisfied"))
    assert shop.status(BACKUP_POLICY, "nightly")["satisfied"] == 1
    await shop.rest(3600)
    assert asked(shop) == [name]


async def test_a_maximum_age_is_kept_true(shop: World):
    shop.policy(maximumAge="1h")
    for count in (1, 2, 3):
        await shop.until(lambda count=count: len(asked(shop)) == count, 2 * 3600)
        newest = max(asked(shop))
        await serve(shop, newest)
    assert verdict(shop).satisfied is True


async def test_nights_that_were_missed_are_made_up_for_once(shop: World):
    shop.policy(maximumAge=None, schedule="0 2 * * *")
    await serve(shop, (await shop.until(lambda: asked(shop)))[0])
    await shop.stop()
    await shop.rest(4 * 86400)
    await shop.start()
    shop.observe(n1=primary(("orders-2",)), n2=replica())
    await shop.until(lambda: len(asked(shop)) == 2)
    newest = max(asked(shop))
    assert newest == "orders-20260104-020000"
    await serve(shop, newest)
    await shop.rest(3600)
    assert len(asked(shop)) == 2


async def test_after_a_restart_nothing_is_asked_for_twice(shop: World):
    shop.policy()
    await serve(shop, (await shop.until(lambda: asked(shop)))[0])
    for _ in range(3):
        await shop.restart()
        shop.observe(n1=primary(("orders-2",)), n2=replica())
        await shop.rest(120)
    assert len(asked(shop)) == 1


async def test_nothing_is_asked_for_while_the_store_cannot_be_read(shop: World):
    shop.cloud.stop()
    shop.policy()
    await shop.until(lambda: verdict(shop) is not None and verdict(shop).reason == "Unavailable")
    await shop.rest(300)
    assert asked(shop) == []
    assert shop.condition(BACKUP_POLICY, "nightly")[1] == "Unavailable"
    shop.cloud.start()
    await shop.until(lambda: asked(shop))


async def test_nothing_is_asked_for_while_no_primary_is_ready(shop: World):
    shop.agent("orders-1").say(ready=False, lease=LeaseState())
    shop.policy()
    await shop.until(lambda: verdict(shop) is not None and verdict(shop).reason == "BackupOverdue")
    await shop.rest(300)
    assert asked(shop) == []
    shop.agent("orders-1").say(ready=True, lease=LeaseState(held=True))
    await shop.until(lambda: asked(shop))


async def test_failure_32_a_backup_that_failed_does_not_end_the_schedule(shop: World):
    shop.policy()
    (first,) = await shop.until(lambda: asked(shop))
    await fail(shop, first)
    await shop.until(lambda: verdict(shop).reason == "BackupFailed")
    assert "block 7 is bad" in verdict(shop).message
    assert shop.status(BACKUP_POLICY, "nightly")["worst"]["database"] == "orders"
    await shop.until(lambda: len(asked(shop)) == 2, 600)
    second = next(name for name in asked(shop) if name != first)
    assert second == f"{first}-2"
    started = shop.clock.monotonic()
    await fail(shop, second)
    await shop.until(lambda: len(asked(shop)) == 3, 3600)
    assert shop.clock.monotonic() - started > 500
    await serve(shop, f"{first}-3")
    await shop.until(lambda: verdict(shop).satisfied is True)


async def test_bug_another_policy_never_asked_for_a_backup_because_a_failed_one_had_the_name(shop: World):
    shop.policy()
    (first,) = await shop.until(lambda: asked(shop))
    await fail(shop, first)
    shop.policy("other")
    shop.server.edit(DATABASE, NS, "orders", lambda obj: obj["spec"]["backup"].update(policy="other"))
    await shop.until(lambda: verdict(shop).reason == "BackupFailed")
    await shop.until(lambda: asked(shop) == [first, f"{first}-2"], 600)
    assert shop.find(BACKUP, f"{first}-2")["metadata"]["labels"]["yoban.dev/policy"] == "other"
    await serve(shop, f"{first}-2")
    await shop.until(lambda: verdict(shop).satisfied is True)


async def test_another_store_gets_a_backup_although_one_in_the_old_store_has_the_name(shop: World):
    shop.policy()
    (first,) = await shop.until(lambda: asked(shop))
    await serve(shop, first)
    await shop.bucket("elsewhere").bucket.create()
    shop.store("elsewhere", bucket="elsewhere")
    shop.policy("other", destinations=[{"objectStore": "elsewhere"}])
    shop.server.edit(DATABASE, NS, "orders", lambda obj: obj["spec"]["backup"].update(policy="other"))
    await shop.until(lambda: len(asked(shop)) == 2, 600)


async def test_bug_a_stored_backup_that_cannot_be_used_ended_all_backups(shop: World):
    shop.server.edit(DATABASE, NS, "orders", lambda obj: obj["spec"].update(engine="counting"))
    shop.policy()
    (first,) = await shop.until(lambda: asked(shop))
    without_log = {"line": "1", "begin_line": "1", "first_segment": "1-0000", "last_segment": "1-0001"}
    await serve(shop, first, segment_bytes=100, **without_log)
    ended = shop.clock.monotonic()
    await shop.until(lambda: asked(shop) == [first, f"{first}-2"], 900)
    assert shop.clock.monotonic() - ended > 290
    for number in (0, 1):
        await shop.bucket().put(Layout(shop.path()).segment("1", f"1-000{number}"), b"x")
    await serve(shop, f"{first}-2", segment_bytes=100, **without_log)
    await shop.rest(7200)
    assert asked(shop) == [first, f"{first}-2"]


async def test_a_backup_that_no_listing_can_have_shown_yet_is_waited_for(shop: World, monkeypatch: pytest.MonkeyPatch):
    shop.policy()
    (first,) = await shop.until(lambda: asked(shop))
    monkeypatch.setattr(shop.shared.catalogues, "_period", 7200.0)
    monkeypatch.setattr(shop.shared.catalogues, "demand", lambda key: None)
    await shop.rest(60)
    await serve(shop, first)
    await shop.rest(3600)
    assert asked(shop) == [first]


async def test_bug_an_attempt_that_was_deleted_left_its_number_to_one_that_is_there(shop: World):
    shop.policy()
    (first,) = await shop.until(lambda: asked(shop))
    await fail(shop, first)
    await shop.until(lambda: shop.find(BACKUP, f"{first}-2"), 600)
    await fail(shop, f"{first}-2")
    await shop.delete(BACKUP, first)
    await shop.until(lambda: shop.find(BACKUP, f"{first}-3"), 3600)
    assert asked(shop) == [f"{first}-2", f"{first}-3"]


async def test_bug_a_backup_that_cannot_be_read_ended_all_scheduled_ones(shop: World):
    shop.backup("b", deadline="40000d")
    shop.policy()
    await shop.until(lambda: len(asked(shop)) == 2)
    await serve(shop, max(asked(shop)))


async def test_bug_an_error_that_nobody_expected_stopped_the_policy_for_all_its_databases(
    shop: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    found = reconcile.destination

    async def broken(shared: Shared, database: Database) -> Destination:
        if database.metadata.name == "apples":
            raise ValueError("secret=hunter2")
        return await found(shared, database)

    monkeypatch.setattr(reconcile, "destination", broken)
    shop.database("apples")
    shop.policy()
    await serve(shop, (await shop.until(lambda: asked(shop)))[0])
    await shop.until(lambda: shop.status(BACKUP_POLICY, "nightly").get("satisfied") == 1)
    assert verdict(shop, "apples").reason == "InternalError"
    assert "unexpected ValueError" in shop.condition(BACKUP_POLICY, "nightly")[2]
    assert "hunter2" not in str(shop.status(BACKUP_POLICY, "nightly"))
    assert any(one.exc_info and "shop/apples" in one.message for one in caplog.records)


@pytest.mark.parametrize(
    "spec, reason", [({"maximumAge": "5s"}, "MaximumAgeTooShort"), ({"backupDeadline": "0s"}, "DeadlineTooShort")]
)
async def test_bug_times_that_no_backup_can_keep_were_accepted(shop: World, spec, reason):
    shop.policy(**spec)
    await shop.until(lambda: shop.condition(BACKUP_POLICY, "nightly")[1] == reason)
    assert "1m" in shop.condition(BACKUP_POLICY, "nightly")[2]
    await shop.rest(600)
    assert asked(shop) == []


async def test_each_backup_is_the_root_of_its_own_trace(shop: World):
    from opentelemetry import trace
    from opentelemetry.sdk.trace import TracerProvider

    provider = TracerProvider()
    tracer = provider.get_tracer("test")
    before = reconcile._tracer
    reconcile._tracer = tracer
    try:
        shop.policy()
        (name,) = await shop.until(lambda: asked(shop))
    finally:
        reconcile._tracer = before
    parent = shop.find(BACKUP, name)["metadata"]["annotations"]["yoban.dev/traceparent"]
    assert parent.startswith("00-")
    run = await shop.until(lambda: run_of(shop, name))
    agent = shop.agent(str(run["instance"]))
    await shop.until(lambda: agent.requests)
    assert next(iter(agent.requests.values())).traceparent.split("-")[1] == parent.split("-")[1]
    assert trace.get_current_span().get_span_context().is_valid is False


async def test_found_backups_get_objects_and_lose_them(shop: World):
    shop.policy(maximumAge="365d")
    await shop.stored("20251201T000000Z-aaaaaa", minutes_ago=100)
    await shop.stored("20251202T000000Z-bbbbbb", minutes_ago=50)
    await shop.until(lambda: len(shop.backups()) == 2)
    names = [one["metadata"]["name"] for one in shop.backups()]
    assert "orders-20251201t000000z-aaaaaa" in names
    await shop.until(lambda: all(shop.status(BACKUP, name).get("phase") == "Completed" for name in names))
    assert shop.status(BACKUP, names[0])["incarnation"] == shop.path().rpartition("/")[2]
    shop.lose("20251201T000000Z-aaaaaa")
    await shop.until(lambda: shop.find(BACKUP, "orders-20251201t000000z-aaaaaa") is None, 600)
    await shop.delete(BACKUP, "orders-20251202t000000z-bbbbbb")
    await shop.until(lambda: shop.find(BACKUP, "orders-20251202t000000z-bbbbbb") is None)
    await shop.until(lambda: shop.find(BACKUP, "orders-20251202t000000z-bbbbbb") is not None, 120)


async def test_retention_removes_in_two_steps_and_the_objects_follow(shop: World):
    shop.policy(maximumAge="365d", retention={"count": 2, "grace": "10m"})
    for day in range(4):
        await shop.stored(f"2025120{day + 1}T000000Z-aaaaaa", minutes_ago=600 - day * 100)
    await shop.until(lambda: len(shop.backups()) == 4)
    layout = Layout(shop.path())
    expired = await shop.until(lambda: shop.bucket().keys(layout.expired("x")[:-1]), 1200)
    assert len(expired) == 2
    assert shop.bucket().raw(layout.manifest("20251201T000000Z-aaaaaa"))
    await shop.until(lambda: len(shop.backups()) == 2, 3600)
    assert sorted(one["spec"]["id"] for one in shop.backups()) == [
        "20251203T000000Z-aaaaaa",
        "20251204T000000Z-aaaaaa",
    ]


async def test_without_retention_nothing_is_ever_removed(shop: World):
    shop.policy(maximumAge="365d")
    for day in range(4):
        await shop.stored(f"2025120{day + 1}T000000Z-aaaaaa", minutes_ago=600 - day * 100)
    await shop.until(lambda: len(shop.backups()) == 4)
    await shop.rest(4 * 3600)
    assert len(shop.backups()) == 4


async def test_retention_that_fails_is_repeated(shop: World):
    shop.policy(maximumAge="365d", retention={"count": 1, "grace": "5m"})
    for day in range(2):
        await shop.stored(f"2025120{day + 1}T000000Z-aaaaaa", minutes_ago=600 - day * 100)
    await shop.until(lambda: len(shop.backups()) == 2)
    shop.cloud.stop()
    await shop.rest(3600)
    shop.cloud.start()
    await shop.until(lambda: len(shop.backups()) == 1, 3600)


async def test_bug_retention_that_failed_was_only_logged(shop: World, monkeypatch: pytest.MonkeyPatch):
    """The store answers, and lets nothing be removed: it fills up until somebody looks."""
    shop.policy(maximumAge="365d", retention={"count": 1, "grace": "5m"})
    delete = MemoryStore.delete

    async def denied(self: MemoryStore, keys: Sequence[str]) -> None:
        raise AccessDenied("the key may not delete", fix="allow s3:DeleteObject")

    monkeypatch.setattr(MemoryStore, "delete", denied)
    for day in range(2):
        await shop.stored(f"2025120{day + 1}T000000Z-aaaaaa", minutes_ago=600 - day * 100)
    await shop.until(lambda: shop.condition(BACKUP_POLICY, "nightly")[1] == "RetentionFailing", 3600)
    assert "allow s3:DeleteObject" in shop.condition(BACKUP_POLICY, "nightly")[2]
    since = verdict(shop).since
    await shop.rest(1800)
    assert verdict(shop).since == since
    monkeypatch.setattr(MemoryStore, "delete", delete)
    await shop.until(lambda: shop.condition(BACKUP_POLICY, "nightly")[1] == "Satisfied", 600)
    await shop.until(lambda: len(shop.backups()) == 1, 600)


async def test_retention_that_may_remove_nothing_says_why(shop: World):
    shop.policy(maximumAge="365d", retention={"count": 1, "grace": "5m"})
    await shop.stored("20251201T000000Z-aaaaaa", minutes_ago=600)
    await shop.mark(shop.clock.now(), position=500)  # of a reign that has no record
    await shop.until(lambda: shop.condition(BACKUP_POLICY, "nightly")[1] == "RetentionFailing", 3600)
    assert "the record of term 1 is missing" in shop.condition(BACKUP_POLICY, "nightly")[2]


@pytest.mark.parametrize(
    "spec, reason, words",
    [
        ({"schedule": "61 2 * * *"}, "InvalidSchedule", "0 2 * * *"),
        ({"schedule": "0 2 * * *", "timeZone": "Mars/Olympus"}, "InvalidTimeZone", "Asia/Tokyo"),
        ({"destinations": []}, "InvalidSpec", "destinations"),
        ({"rpo": "soon"}, "InvalidSpec", "30s"),
    ],
)
async def test_wrong_policies_say_so(world: World, spec, reason, words):
    world.policy(**spec)
    await world.until(lambda: world.condition(BACKUP_POLICY, "nightly")[1] == reason)
    assert words in world.condition(BACKUP_POLICY, "nightly")[2]


async def test_a_policy_that_nobody_names_is_unused(world: World):
    world.policy()
    await world.until(lambda: world.condition(BACKUP_POLICY, "nightly")[1] == "Unused")


async def test_the_worst_offender_is_named_and_the_others_go_on(shop: World):
    shop.database("other", engine="abacus")
    shop.policy()
    await serve(shop, (await shop.until(lambda: asked(shop)))[0])
    await shop.until(lambda: shop.status(BACKUP_POLICY, "nightly").get("satisfied") == 1)
    status = shop.status(BACKUP_POLICY, "nightly")
    assert (status["databases"], status["worst"]["database"], status["worst"]["reason"]) == (
        2,
        "other",
        "EngineUnknown",
    )
    assert shop.condition(BACKUP_POLICY, "nightly")[0] == "False"


async def test_a_late_log_is_told_without_figures_that_move(shop: World):
    shop.server.edit(DATABASE, NS, "orders", lambda obj: obj["spec"].update(engine="counting"))
    shop.policy(rpo="5s")
    await shop.stored("20251201T000000Z-aaaaaa", minutes_ago=10, segment_bytes=100)
    await shop.until(lambda: verdict(shop) is not None and verdict(shop).satisfied is True)
    agent = shop.agent("orders-1")
    agent.say(archive=ArchiveState(active=True, lag_seconds=14.0))
    await shop.rest(5)
    assert verdict(shop).satisfied is True
    agent.say(archive=ArchiveState(active=True, lag_seconds=16.0))
    await shop.until(lambda: verdict(shop).reason == "LogBehind")
    assert "16s behind, 5.0s is asked for" in verdict(shop).message
    await shop.until(lambda: shop.condition(BACKUP_POLICY, "nightly")[1] == "LogBehind")
    before = len(shop.server.writes())
    for lag in range(20, 40):
        agent.say(archive=ArchiveState(active=True, lag_seconds=float(lag)))
        await shop.rest(3)
    assert len(shop.server.writes()) == before
    since = shop.clock.now()
    agent.say(archive=ArchiveState(active=True, lag_seconds=50.0, failing_since=since))
    await shop.until(lambda: verdict(shop).reason == "ArchiveFailing")
    assert verdict(shop).since == since


async def test_failure_1_a_gap_is_told_and_another_backup_asked_for(shop: World):
    shop.server.edit(DATABASE, NS, "orders", lambda obj: obj["spec"].update(engine="counting"))
    bucket, layout = shop.bucket(), Layout(shop.path())
    given = {"line": "1", "begin_line": "1", "first_segment": "1-0000", "last_segment": "1-0001", "segment_bytes": 100}
    await shop.stored("20251201T000000Z-aaaaaa", minutes_ago=10, **given)
    for number in (0, 1, 3, 4):
        await bucket.put(layout.segment("1", f"1-000{number}"), b"x")
    await shop.mark(shop.clock.now(), position=500)
    shop.policy(maximumAge="365d")
    await shop.until(lambda: verdict(shop) is not None and verdict(shop).reason == "LogGap")
    assert "log/1/1-0002" in verdict(shop).message
    await shop.until(lambda: len(asked(shop)) == 1)
    view = shop.shared.catalogues.look(
        ORDERS, await shop.shared.stores.document(NS, "s3"), shop.path(), shop.registry.engine("counting")
    )
    assert view is not None and view.window is not None
    assert view.newest_backup == view.window.end


async def test_verdicts_go_with_the_policy(shop: World):
    heard: list[ObjectKey] = []
    shop.shared.verdicts.subscribe(heard.append)
    shop.policy()
    await shop.until(lambda: verdict(shop) is not None)
    await shop.delete(BACKUP_POLICY, "nightly")
    await shop.until(lambda: verdict(shop) is None)
    assert ORDERS in heard


async def test_a_database_that_is_going_is_not_backed_up(shop: World):
    shop.server.edit(DATABASE, NS, "orders", lambda obj: obj["metadata"].update(finalizers=["yoban.dev/database"]))
    await shop.delete(DATABASE, "orders")
    shop.policy()
    await shop.rest(300)
    assert asked(shop) == []


async def test_a_crash_between_any_two_writes_makes_one_backup(shop: World):
    shop.policy(maximumAge="365d")
    for after in range(3):
        shop.server.fail(Unreachable("cut", sent=after == 1), verb="create", resource="backups", times=1, after=0)
    (name,) = await shop.until(lambda: asked(shop))
    await serve(shop, name)
    assert asked(shop) == [name]


async def test_nothing_to_do_writes_nothing(shop: World):
    shop.policy(maximumAge="365d", retention={"count": 3})
    await serve(shop, (await shop.until(lambda: asked(shop)))[0])
    await shop.rest(120)
    before = len(shop.server.writes())
    await shop.rest(2 * 3600)
    assert [one.resource for one in shop.server.writes()[before:]] == []


async def test_statuses_of_agents_that_fall_silent_are_left_out(shop: World):
    shop.policy()
    assert set(shop.shared.observatory.statuses(ORDERS)) <= {"orders-1", "orders-2"}
    await shop.until(lambda: len(shop.shared.observatory.statuses(ORDERS)) == 2)
    shop.agent("orders-2").up = False
    shop.agent("orders-2").say()
    await shop.until(lambda: set(shop.shared.observatory.statuses(ORDERS)) == {"orders-1"}, 60)
    assert "cannot be reached" in shop.shared.observatory.errors(ORDERS)["orders-2"]
    shop.agent("orders-2").up = True
    await shop.until(lambda: len(shop.shared.observatory.statuses(ORDERS)) == 2, 30)
