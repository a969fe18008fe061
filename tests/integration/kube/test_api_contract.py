"""What the fake API server and the real one answer alike: whoever tests against the fake relies on these."""

from __future__ import annotations

from typing import Any

import pytest
from yoban.kube.client import Client
from yoban.kube.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Gone,
    Invalid,
    NotFound,
    Rejected,
    TooLargeResourceVersion,
)
from yoban.kube.objects import Obj, copy
from yoban.kube.resource import CONFIG_MAP, LEASE, Resource
from yoban.kube.watch import WatchStream, error_of

from tests.integration.kube.conftest import WIDGET, widget


async def events(stream: WatchStream, count: int) -> list[tuple[str, Obj]]:
    found: list[tuple[str, Obj]] = []
    while len(found) < count:
        batch = await stream.batch(10)
        assert batch is not None, f"the watch ended after {found}"
        found += [(event.type, event.decode()) for event in batch if event.type != "BOOKMARK"]
    return found


async def test_create_sets_uid_generation_version_and_drops_status(any_client: Client, namespace: str) -> None:
    made = await any_client.create(WIDGET, {**widget(namespace, "a", size=1), "status": {"phase": "Lie"}})
    assert made["metadata"]["uid"]
    assert made["metadata"]["generation"] == 1
    assert made["metadata"]["resourceVersion"]
    assert made["metadata"]["creationTimestamp"]
    assert "status" not in made
    assert await any_client.get(WIDGET, "a", namespace) == made


async def test_create_twice_is_already_exists(any_client: Client, namespace: str) -> None:
    await any_client.create(WIDGET, widget(namespace, "a"))
    with pytest.raises(AlreadyExists):
        await any_client.create(WIDGET, widget(namespace, "a"))


async def test_create_with_a_version_is_rejected(any_client: Client, namespace: str) -> None:
    obj = widget(namespace, "a")
    obj["metadata"]["resourceVersion"] = "5"
    with pytest.raises(ApiError):
        await any_client.create(WIDGET, obj)


async def test_get_what_is_absent_is_not_found(any_client: Client, namespace: str) -> None:
    with pytest.raises(NotFound):
        await any_client.get(WIDGET, "nobody", namespace)
    assert await any_client.find(WIDGET, "nobody", namespace) is None


async def test_unknown_kind_is_not_found(any_client: Client, namespace: str) -> None:
    with pytest.raises(NotFound):
        await any_client.list(Resource("nobody.test", "v1", "things", "Thing"), namespace)


async def test_schema_violation_is_invalid_with_a_cause(any_client: Client, namespace: str) -> None:
    with pytest.raises(Invalid) as caught:
        await any_client.create(WIDGET, widget(namespace, "a", size=101))
    assert caught.value.causes
    assert "spec.size" in caught.value.causes[0][0]


async def test_update_needs_the_present_version(any_client: Client, namespace: str) -> None:
    made = await any_client.create(WIDGET, widget(namespace, "a", size=1))
    changed = copy(made)
    changed["spec"]["size"] = 2
    after = await any_client.update(WIDGET, changed)
    assert after["metadata"]["generation"] == 2
    with pytest.raises(Conflict):
        await any_client.update(WIDGET, changed)
    bare = copy(after)
    del bare["metadata"]["resourceVersion"]
    with pytest.raises(Invalid):
        await any_client.update(WIDGET, bare)


async def test_update_without_a_change_keeps_the_version(any_client: Client, namespace: str) -> None:
    made = await any_client.create(WIDGET, widget(namespace, "a", size=1))
    again = await any_client.update(WIDGET, made)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_update_ignores_status_and_status_ignores_spec(any_client: Client, namespace: str) -> None:
    made = await any_client.create(WIDGET, widget(namespace, "a", size=1))
    after = await any_client.update(WIDGET, {**made, "status": {"phase": "Lie"}})
    assert "status" not in after
    status = await any_client.update(
        WIDGET, {**after, "spec": {"size": 9}, "status": {"phase": "True"}}, subresource="status"
    )
    assert status["spec"] == {"size": 1}
    assert status["status"] == {"phase": "True"}
    assert status["metadata"]["generation"] == 1


async def test_labels_do_not_raise_the_generation(any_client: Client, namespace: str) -> None:
    made = await any_client.create(WIDGET, widget(namespace, "a", size=1))
    after = await any_client.patch(WIDGET, "a", namespace, {"metadata": {"labels": {"a": "b"}}})
    assert after["metadata"]["generation"] == 1
    assert after["metadata"]["resourceVersion"] != made["metadata"]["resourceVersion"]


async def test_merge_patch_sets_removes_and_locks(any_client: Client, namespace: str) -> None:
    made = await any_client.create(WIDGET, widget(namespace, "a", size=1, color="red"))
    version = made["metadata"]["resourceVersion"]
    after = await any_client.patch(
        WIDGET, "a", namespace, {"spec": {"size": 2, "color": None}}, resource_version=version
    )
    assert after["spec"] == {"size": 2}
    with pytest.raises(Conflict):
        await any_client.patch(WIDGET, "a", namespace, {"spec": {"size": 3}}, resource_version=version)


async def test_json_patch_sets_removes_locks_and_tests(any_client: Client, namespace: str) -> None:
    made = await any_client.create(WIDGET, widget(namespace, "a", size=1, tags={"x/y": "1"}))
    version = made["metadata"]["resourceVersion"]
    patch: list[dict[str, Any]] = [
        {"op": "replace", "path": "/spec/size", "value": 2},
        {"op": "remove", "path": "/spec/tags/x~1y"},
        {"op": "add", "path": "/spec/color", "value": "red"},
    ]
    after = await any_client.patch(WIDGET, "a", namespace, patch, resource_version=version)
    assert after["spec"] == {"size": 2, "tags": {}, "color": "red"}
    with pytest.raises(Conflict):
        await any_client.patch(
            WIDGET, "a", namespace, [{"op": "replace", "path": "/spec/size", "value": 3}], resource_version=version
        )
    with pytest.raises(Rejected):
        await any_client.patch(WIDGET, "a", namespace, [{"op": "test", "path": "/spec/size", "value": 7}])


async def test_status_patch_touches_status_only(any_client: Client, namespace: str) -> None:
    await any_client.create(WIDGET, widget(namespace, "a", size=1))
    after = await any_client.patch(
        WIDGET, "a", namespace, {"spec": {"size": 5}, "status": {"phase": "Up"}}, subresource="status"
    )
    assert after["spec"] == {"size": 1}
    assert after["status"] == {"phase": "Up"}


async def test_apply_creates_then_changes_nothing(any_client: Client, namespace: str) -> None:
    first = await any_client.apply(WIDGET, widget(namespace, "a", size=1), field_manager="m")
    second = await any_client.apply(WIDGET, widget(namespace, "a", size=1), field_manager="m")
    assert first["metadata"]["uid"] == second["metadata"]["uid"]
    assert first["metadata"]["resourceVersion"] == second["metadata"]["resourceVersion"]


async def test_apply_removes_what_its_only_owner_leaves_out(any_client: Client, namespace: str) -> None:
    await any_client.apply(WIDGET, widget(namespace, "a", size=1, tags={"a": "1", "b": "2"}), field_manager="m")
    await any_client.apply(WIDGET, widget(namespace, "a", tags={"c": "3"}), field_manager="n")
    after = await any_client.apply(WIDGET, widget(namespace, "a", tags={"b": "2"}), field_manager="m")
    assert after["spec"] == {"tags": {"b": "2", "c": "3"}}


async def test_apply_keeps_what_two_own(any_client: Client, namespace: str) -> None:
    await any_client.apply(WIDGET, widget(namespace, "a", size=1, color="red"), field_manager="m")
    await any_client.apply(WIDGET, widget(namespace, "a", color="red"), field_manager="n")
    after = await any_client.apply(WIDGET, widget(namespace, "a", size=1), field_manager="m")
    assert after["spec"] == {"size": 1, "color": "red"}


async def test_apply_conflicts_unless_forced(any_client: Client, namespace: str) -> None:
    await any_client.apply(WIDGET, widget(namespace, "a", size=1), field_manager="m")
    with pytest.raises(Conflict):
        await any_client.apply(WIDGET, widget(namespace, "a", size=2), field_manager="n", force=False)
    after = await any_client.apply(WIDGET, widget(namespace, "a", size=2), field_manager="n")
    assert after["spec"] == {"size": 2}
    # The field changed hands: leaving it out does not remove it any more.
    after = await any_client.apply(WIDGET, widget(namespace, "a", color="red"), field_manager="m")
    assert after["spec"] == {"size": 2, "color": "red"}


async def test_apply_conflicts_with_what_an_update_wrote(any_client: Client, namespace: str) -> None:
    made = await any_client.apply(WIDGET, widget(namespace, "a", size=1), field_manager="m")
    made["spec"]["size"] = 5
    await any_client.update(WIDGET, made, field_manager="hand")
    with pytest.raises(Conflict):
        await any_client.apply(WIDGET, widget(namespace, "a", size=1), field_manager="m", force=False)
    after = await any_client.apply(WIDGET, widget(namespace, "a", size=1), field_manager="m")
    assert after["spec"] == {"size": 1}


async def test_apply_to_the_status_leaves_the_spec(any_client: Client, namespace: str) -> None:
    made = await any_client.apply(WIDGET, widget(namespace, "a", size=1), field_manager="m")
    uid = made["metadata"]["uid"]
    status = {"metadata": {"namespace": namespace, "name": "a", "uid": uid}, "status": {"phase": "Up", "count": 1}}
    after = await any_client.apply_status(WIDGET, status, field_manager="s")
    assert after["status"] == {"phase": "Up", "count": 1}
    assert after["spec"] == {"size": 1}
    assert after["metadata"]["generation"] == 1
    status["status"] = {"phase": "Up"}
    after = await any_client.apply_status(WIDGET, status, field_manager="s")
    assert after["status"] == {"phase": "Up"}
    again = await any_client.apply_status(WIDGET, status, field_manager="s")
    assert again["metadata"]["resourceVersion"] == after["metadata"]["resourceVersion"]


async def test_apply_of_the_status_of_nobody_is_not_found(any_client: Client, namespace: str) -> None:
    with pytest.raises(NotFound):
        await any_client.apply_status(
            WIDGET, {"metadata": {"namespace": namespace, "name": "a"}, "status": {}}, field_manager="s"
        )


async def test_apply_with_the_uid_of_another_object_is_invalid(any_client: Client, namespace: str) -> None:
    await any_client.apply(WIDGET, widget(namespace, "a"), field_manager="m")
    other = widget(namespace, "a", size=1)
    other["metadata"]["uid"] = "other"
    with pytest.raises(Invalid):
        await any_client.apply(WIDGET, other, field_manager="m")


async def test_apply_to_the_status_locks_by_version(any_client: Client, namespace: str) -> None:
    made = await any_client.apply(WIDGET, widget(namespace, "a"), field_manager="m")
    await any_client.apply(WIDGET, widget(namespace, "a", size=2), field_manager="m")
    version = made["metadata"]["resourceVersion"]
    status = {"metadata": {"namespace": namespace, "name": "a", "resourceVersion": version}, "status": {"phase": "Up"}}
    with pytest.raises(Conflict):
        await any_client.apply_status(WIDGET, status, field_manager="s")


async def test_conditions_of_two_managers_live_side_by_side(any_client: Client, namespace: str) -> None:
    await any_client.apply(WIDGET, widget(namespace, "a"), field_manager="m")
    for manager, kind in (("s", "Ready"), ("t", "Healthy")):
        condition = {"type": kind, "status": "True"}
        await any_client.apply_status(
            WIDGET,
            {"metadata": {"namespace": namespace, "name": "a"}, "status": {"conditions": [condition]}},
            field_manager=manager,
        )
    after = await any_client.apply_status(
        WIDGET,
        {"metadata": {"namespace": namespace, "name": "a"}, "status": {"phase": "Up"}},
        field_manager="s",
    )
    assert [c["type"] for c in after["status"]["conditions"]] == ["Healthy"]


async def test_finalizers_of_two_managers_are_a_set(any_client: Client, namespace: str) -> None:
    obj = widget(namespace, "a")
    for manager in ("m", "n"):
        obj["metadata"]["finalizers"] = [f"yoban.test/{manager}"]
        after = await any_client.apply(WIDGET, obj, field_manager=manager)
    assert sorted(after["metadata"]["finalizers"]) == ["yoban.test/m", "yoban.test/n"]
    obj["metadata"]["finalizers"] = []
    after = await any_client.apply(WIDGET, obj, field_manager="m")
    assert after["metadata"]["finalizers"] == ["yoban.test/n"]
    await any_client.apply(WIDGET, obj, field_manager="n")


async def test_deletion_waits_for_finalizers(any_client: Client, namespace: str) -> None:
    obj = widget(namespace, "a", size=1)
    obj["metadata"]["finalizers"] = ["yoban.test/x"]
    made = await any_client.create(WIDGET, obj)
    assert await any_client.delete(WIDGET, "a", namespace)
    leaving = await any_client.get(WIDGET, "a", namespace)
    assert leaving["metadata"]["deletionTimestamp"]
    assert leaving["metadata"]["generation"] == made["metadata"]["generation"] + 1
    with pytest.raises(Rejected):
        await any_client.patch(WIDGET, "a", namespace, {"metadata": {"finalizers": ["yoban.test/x", "yoban.test/y"]}})
    await any_client.patch(
        WIDGET,
        "a",
        namespace,
        {"metadata": {"finalizers": []}},
        resource_version=leaving["metadata"]["resourceVersion"],
    )
    assert await any_client.find(WIDGET, "a", namespace) is None
    assert not await any_client.delete(WIDGET, "a", namespace)


async def test_delete_preconditions(any_client: Client, namespace: str) -> None:
    made = await any_client.create(WIDGET, widget(namespace, "a", size=1))
    with pytest.raises(Conflict):
        await any_client.delete(WIDGET, "a", namespace, uid="other")
    with pytest.raises(Conflict):
        await any_client.delete(WIDGET, "a", namespace, resource_version="1")
    assert await any_client.delete(WIDGET, "a", namespace, uid=made["metadata"]["uid"])


async def test_list_selects_by_labels_and_fields(any_client: Client, namespace: str) -> None:
    for name, labels in (("a", {"app": "x", "tier": "1"}), ("b", {"app": "x"}), ("c", {"app": "y"})):
        await any_client.create(CONFIG_MAP, {"metadata": {"namespace": namespace, "name": name, "labels": labels}})

    async def names(labels: str | None = None, fields: str | None = None) -> list[str]:
        found = await any_client.list(CONFIG_MAP, namespace, labels=labels, fields=fields)
        assert all(item["kind"] == "ConfigMap" for item in found.items)
        return sorted(item["metadata"]["name"] for item in found.items if item["metadata"]["name"] in "abc")

    assert await names("app=x") == ["a", "b"]
    assert await names("app=x,tier") == ["a"]
    assert await names("app=x,!tier") == ["b"]
    assert await names("app!=x,app") == ["c"]
    assert await names("app in (x, y),tier notin (1)") == ["b", "c"]
    assert await names(fields="metadata.name=b") == ["b"]
    assert await names(fields="metadata.name!=b") == ["a", "c"]


async def test_list_pages_are_one_snapshot_in_size(any_client: Client, namespace: str) -> None:
    for number in range(5):
        await any_client.create(WIDGET, widget(namespace, f"w{number}"))
    first = await any_client.list(WIDGET, namespace, limit=2)
    second = await any_client.list(WIDGET, namespace, limit=2, continue_token=first.continue_token)
    third = await any_client.list(WIDGET, namespace, limit=2, continue_token=second.continue_token)
    assert [i["metadata"]["name"] for page in (first, second, third) for i in page.items] == [f"w{n}" for n in range(5)]
    assert third.continue_token == ""
    assert first.resource_version == second.resource_version


async def test_list_from_the_future_is_too_large(any_client: Client, namespace: str) -> None:
    now = await any_client.list(WIDGET, namespace)
    future = str(int(now.resource_version) + 1_000_000)
    with pytest.raises(TooLargeResourceVersion):
        await any_client.list(WIDGET, namespace, resource_version=future, timeout=20)


async def test_watch_brings_changes_after_the_list_in_order(any_client: Client, namespace: str) -> None:
    await any_client.create(WIDGET, widget(namespace, "old"))
    listed = await any_client.list(WIDGET, namespace)
    assert [item["metadata"]["name"] for item in listed.items] == ["old"]
    async with any_client.watch(
        WIDGET, namespace, resource_version=listed.resource_version, timeout_seconds=60
    ) as stream:
        await any_client.create(WIDGET, widget(namespace, "new", size=1))
        await any_client.patch(WIDGET, "new", namespace, {"spec": {"size": 2}})
        await any_client.delete(WIDGET, "new", namespace)
        found = await events(stream, 3)
    assert [(kind, obj["metadata"]["name"]) for kind, obj in found] == [
        ("ADDED", "new"),
        ("MODIFIED", "new"),
        ("DELETED", "new"),
    ]
    versions = [obj["metadata"]["resourceVersion"] for _, obj in found]
    assert len(set(versions)) == 3, "a deletion has a version of its own"


async def test_watch_with_a_selector_deletes_what_stops_matching(any_client: Client, namespace: str) -> None:
    obj = {"metadata": {"namespace": namespace, "name": "a", "labels": {"app": "x"}}}
    await any_client.create(CONFIG_MAP, obj)
    listed = await any_client.list(CONFIG_MAP, namespace, labels="app=x")
    async with any_client.watch(
        CONFIG_MAP, namespace, labels="app=x", resource_version=listed.resource_version, timeout_seconds=60
    ) as stream:
        await any_client.patch(CONFIG_MAP, "a", namespace, {"metadata": {"labels": {"app": "y"}}})
        await any_client.patch(CONFIG_MAP, "a", namespace, {"metadata": {"labels": {"app": "x"}}})
        found = await events(stream, 2)
    assert [kind for kind, _ in found] == ["DELETED", "ADDED"]


async def test_watch_ends_by_its_timeout(any_client: Client, namespace: str) -> None:
    listed = await any_client.list(WIDGET, namespace)
    async with any_client.watch(
        WIDGET, namespace, resource_version=listed.resource_version, timeout_seconds=1
    ) as stream:
        while (batch := await stream.batch(10)) is not None:
            assert all(event.type == "BOOKMARK" for event in batch)


async def test_watch_from_an_expired_version_is_gone(any_client: Client, namespace: str) -> None:
    if isinstance(any_client.transport, object) and hasattr(any_client.transport, "compact"):
        await any_client.create(WIDGET, widget(namespace, "a"))
        any_client.transport.compact()
    try:
        async with any_client.watch(WIDGET, namespace, resource_version="1", timeout_seconds=60) as stream:
            batch = await stream.batch(10)
        assert batch is not None
        assert batch[0].type == "ERROR"
        error = error_of(batch[0])
    except Gone as raised:
        error = raised
    assert isinstance(error, Gone)


async def test_leases_have_no_status_and_update_by_version(any_client: Client, namespace: str) -> None:
    lease = {"metadata": {"namespace": namespace, "name": "l"}, "spec": {"holderIdentity": "a"}}
    made = await any_client.create(LEASE, lease)
    made["spec"]["holderIdentity"] = "b"
    after = await any_client.update(LEASE, made)
    assert after["spec"]["holderIdentity"] == "b"
    with pytest.raises(Conflict):
        await any_client.update(LEASE, made)


async def test_dry_run_stores_nothing(any_client: Client, namespace: str) -> None:
    await any_client.create(WIDGET, widget(namespace, "a"), dry_run=True)
    await any_client.apply(WIDGET, widget(namespace, "b"), dry_run=True)
    assert (await any_client.list(WIDGET, namespace)).items == []


# -- what the simulation (tests/simulation) relies upon besides ---------------------------------------------------------


async def test_list_from_the_cache_is_of_a_moment_that_can_be_watched_from(any_client: Client, namespace: str) -> None:
    made = await any_client.create(WIDGET, widget(namespace, "a"))
    version = made["metadata"]["resourceVersion"]
    fresh = await any_client.list(WIDGET, namespace, resource_version=version)
    assert [item["metadata"]["name"] for item in fresh.items] == ["a"], "not older than the version asked for"
    cached = await any_client.list(WIDGET, namespace, resource_version="0")
    assert cached.resource_version not in ("", "0")
    async with any_client.watch(
        WIDGET, namespace, resource_version=cached.resource_version, timeout_seconds=60
    ) as stream:
        await any_client.create(WIDGET, widget(namespace, "b"))
        names = [item["metadata"]["name"] for item in cached.items]
        while "b" not in names:
            names += [obj["metadata"]["name"] for _, obj in await events(stream, 1)]
    assert names == ["a", "b"], "nothing is missing between the list and its watch, and nothing comes twice"


async def test_a_watch_from_zero_brings_what_is_there_as_additions(any_client: Client, namespace: str) -> None:
    """What `Client.watch` refuses to ask for: the order of these has nothing to do with their versions."""
    for name in ("b", "a"):
        await any_client.create(WIDGET, widget(namespace, name))
    await any_client.list(WIDGET, namespace)
    target = f"{WIDGET.path(namespace)}?watch=true&resourceVersion=0&timeoutSeconds=5"
    async with any_client.transport.stream(target, deadline=10) as source:
        found = await events(WatchStream(source), 2)
    assert sorted((kind, obj["metadata"]["name"]) for kind, obj in found) == [("ADDED", "a"), ("ADDED", "b")]


async def test_a_deletion_with_finalizers_is_a_change_and_then_a_deletion(any_client: Client, namespace: str) -> None:
    obj = widget(namespace, "a", size=1)
    obj["metadata"]["finalizers"] = ["yoban.test/x", "yoban.test/y"]
    made = await any_client.create(WIDGET, obj)
    async with any_client.watch(
        WIDGET, namespace, resource_version=made["metadata"]["resourceVersion"], timeout_seconds=60
    ) as stream:
        await any_client.delete(WIDGET, "a", namespace)
        leaving = await any_client.get(WIDGET, "a", namespace)
        await any_client.delete(WIDGET, "a", namespace)
        again = await any_client.get(WIDGET, "a", namespace)
        assert again["metadata"]["resourceVersion"] == leaving["metadata"]["resourceVersion"], "asking twice is once"
        version = leaving["metadata"]["resourceVersion"]
        left = await any_client.patch(
            WIDGET, "a", namespace, {"metadata": {"finalizers": ["yoban.test/y"]}}, resource_version=version
        )
        assert left["metadata"]["deletionTimestamp"], "the other's entry still holds it"
        with pytest.raises(Conflict):
            await any_client.patch(WIDGET, "a", namespace, {"metadata": {"finalizers": []}}, resource_version=version)
        await any_client.patch(WIDGET, "a", namespace, {"metadata": {"finalizers": []}})
        found = await events(stream, 3)
    assert [kind for kind, _ in found] == ["MODIFIED", "MODIFIED", "DELETED"]
    assert found[2][1]["metadata"]["deletionTimestamp"]
    assert found[2][1]["metadata"]["uid"] == made["metadata"]["uid"]


async def test_writes_to_what_is_gone_are_not_found(any_client: Client, namespace: str) -> None:
    made = await any_client.create(WIDGET, widget(namespace, "a"))
    await any_client.delete(WIDGET, "a", namespace)
    with pytest.raises(NotFound):
        await any_client.update(WIDGET, made)
    with pytest.raises(NotFound):
        await any_client.patch(
            WIDGET,
            "a",
            namespace,
            {"metadata": {"finalizers": ["yoban.test/x"]}},
            resource_version=made["metadata"]["resourceVersion"],
        )


async def test_a_patch_made_for_the_predecessor_is_a_conflict(any_client: Client, namespace: str) -> None:
    first = await any_client.create(WIDGET, widget(namespace, "a"))
    await any_client.delete(WIDGET, "a", namespace)
    second = await any_client.create(WIDGET, widget(namespace, "a"))
    assert first["metadata"]["uid"] != second["metadata"]["uid"]
    with pytest.raises(Conflict):
        await any_client.patch(
            WIDGET,
            "a",
            namespace,
            {"metadata": {"finalizers": ["yoban.test/x"]}},
            resource_version=first["metadata"]["resourceVersion"],
        )


async def test_a_status_applied_for_the_predecessor_is_taken_by_the_successor(
    any_client: Client, namespace: str
) -> None:
    """So a late write can overwrite a status: a controller has to look again after it wrote."""
    first = await any_client.create(WIDGET, widget(namespace, "a"))
    await any_client.delete(WIDGET, "a", namespace)
    await any_client.create(WIDGET, widget(namespace, "a"))
    metadata = {"namespace": namespace, "name": "a", "uid": first["metadata"]["uid"]}
    after = await any_client.apply_status(WIDGET, {"metadata": metadata, "status": {"phase": "Old"}}, field_manager="s")
    assert after["status"] == {"phase": "Old"}


async def test_an_owner_given_up_by_its_manager_makes_room_for_the_next(any_client: Client, namespace: str) -> None:
    def child(uid: str) -> Obj:
        owner = {"apiVersion": WIDGET.api_version, "kind": "Widget", "name": "w", "uid": uid, "controller": True}
        return {"metadata": {"namespace": namespace, "name": "c", "ownerReferences": [owner]}, "data": {"a": uid}}

    await any_client.apply(CONFIG_MAP, child("one"), field_manager="m")
    after = await any_client.apply(CONFIG_MAP, child("two"), field_manager="m")
    assert [owner["uid"] for owner in after["metadata"]["ownerReferences"]] == ["two"]
    assert after["data"] == {"a": "two"}


async def test_a_lease_is_made_once_and_taken_by_version(any_client: Client, namespace: str) -> None:
    lease = {
        "metadata": {"namespace": namespace, "name": "l", "annotations": {"keep": "1"}},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15, "leaseTransitions": 0},
    }
    made = await any_client.create(LEASE, lease)
    with pytest.raises(AlreadyExists):
        await any_client.create(LEASE, lease)
    first, second = copy(made), copy(made)
    first["spec"].update(holderIdentity="b", leaseTransitions=1)
    second["spec"].update(holderIdentity="c", leaseTransitions=1)
    taken = await any_client.update(LEASE, first)
    with pytest.raises(Conflict):
        await any_client.update(LEASE, second)
    stored = await any_client.get(LEASE, "l", namespace)
    assert stored == taken
    assert stored["spec"]["holderIdentity"] == "b"
    assert stored["metadata"]["annotations"] == {"keep": "1"}
    gone = copy(stored)
    await any_client.delete(LEASE, "l", namespace)
    with pytest.raises(Conflict):  # not a 404, as for other kinds: a Lease may be made by an update
        await any_client.update(LEASE, gone)
