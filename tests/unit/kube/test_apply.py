"""Rules 3.10: writes of specs and of status."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from yoban.errors import Terminal
from yoban.kube.apply import Applier, prepare
from yoban.kube.client import Client
from yoban.kube.compare import covers, merge_key, project, shape
from yoban.kube.objects import Obj, annotations_of, controller_of, copy
from yoban.kube.resource import CONFIG_MAP, ROLE_BINDING, SECRET, Resource
from yoban.kube.status import StatusWriter, without_times
from yoban.testing.apirequest import Request
from yoban.testing.apiserver import FakeApiServer
from yoban.testing.apistatus import status_answer

WIDGET = Resource("kube.yoban.test", "v1", "widgets", "Widget")


@pytest.fixture
def applier(client: Client) -> Applier:
    return Applier(client, "m")


def desired(**data: str) -> Obj:
    return {"metadata": {"namespace": "ns", "name": "a", "labels": {"app": "x"}}, "data": data}


def cached(server: FakeApiServer, resource: Resource = CONFIG_MAP) -> Obj | None:
    """As an informer has it: without managedFields."""
    obj = server.find(resource, "ns", "a")
    if obj is not None:
        obj["metadata"].pop("managedFields", None)
    return obj


def owner(server: FakeApiServer, namespace: str = "ns") -> Obj:
    server.register(WIDGET)
    return server.put(WIDGET, {"metadata": {"namespace": namespace, "name": "w"}, "spec": {}})


async def test_3_10_apply_is_forced_with_a_fixed_manager_and_no_version(
    server: FakeApiServer, applier: Applier
) -> None:
    server.put(CONFIG_MAP, desired(k="theirs"), manager="somebody")
    server.edit(CONFIG_MAP, "ns", "a", lambda o: o["data"].update(k="drift"))
    await applier.ensure(CONFIG_MAP, desired(k="v"), cached=cached(server))
    request = server.writes()[0]
    assert request.query["force"] == "true"
    assert request.query["fieldManager"] == "m"
    assert "resourceVersion" not in request.body["metadata"]
    assert "managedFields" not in request.body["metadata"]
    assert (cached(server) or {})["data"] == {"k": "v"}


async def test_3_10_a_second_pass_writes_nothing(server: FakeApiServer, applier: Applier, client: Client) -> None:
    parent = owner(server)
    first = await applier.ensure(CONFIG_MAP, desired(k="v"), owner=parent)
    assert first.changed
    server.requests.clear()
    second = await applier.ensure(CONFIG_MAP, desired(k="v"), cached=cached(server), owner=parent)
    assert not second.changed
    restarted = Applier(client, "m")
    assert not (await restarted.ensure(CONFIG_MAP, desired(k="v"), cached=cached(server), owner=parent)).changed
    assert server.requests == []


async def test_3_10_drift_by_others_is_noticed(server: FakeApiServer, applier: Applier) -> None:
    await applier.ensure(CONFIG_MAP, desired(k="v"))
    server.edit(CONFIG_MAP, "ns", "a", lambda o: o["data"].update(k="drift", extra="1"))
    assert (await applier.ensure(CONFIG_MAP, desired(k="v"), cached=cached(server))).changed
    assert (cached(server) or {})["data"] == {"k": "v", "extra": "1"}
    assert not (await applier.ensure(CONFIG_MAP, desired(k="v"), cached=cached(server))).changed


async def test_3_10_a_field_left_out_is_given_up_also_after_a_restart(
    server: FakeApiServer, applier: Applier, client: Client
) -> None:
    await applier.ensure(CONFIG_MAP, desired(k="v", old="1"))
    restarted = Applier(client, "m")
    assert (await restarted.ensure(CONFIG_MAP, desired(k="v"), cached=cached(server))).changed
    assert (cached(server) or {})["data"] == {"k": "v"}
    assert not (await restarted.ensure(CONFIG_MAP, desired(k="v"), cached=cached(server))).changed


async def test_3_10_a_value_that_the_server_writes_otherwise_converges(server: FakeApiServer, applier: Applier) -> None:
    """Get, modify, update hits defaults and normal forms and never converges."""

    def normalize(obj: Obj) -> None:
        if obj.get("data", {}).get("cpu") == "1000m":
            obj["data"]["cpu"] = "1"

    server.register(CONFIG_MAP, status=False, validate=lambda o: normalize(o))
    assert (await applier.ensure(CONFIG_MAP, desired(cpu="1000m"))).changed
    for _ in range(3):
        assert not (await applier.ensure(CONFIG_MAP, desired(cpu="1000m"), cached=cached(server))).changed
    server.edit(CONFIG_MAP, "ns", "a", lambda o: o["data"].update(cpu="2"))
    assert (await applier.ensure(CONFIG_MAP, desired(cpu="1000m"), cached=cached(server))).changed


async def test_3_10_a_cache_that_lags_behind_costs_no_second_write(server: FakeApiServer, applier: Applier) -> None:
    await applier.ensure(CONFIG_MAP, desired(k="1"))
    stale = cached(server)
    assert (await applier.ensure(CONFIG_MAP, desired(k="2"), cached=stale)).changed
    assert not (await applier.ensure(CONFIG_MAP, desired(k="2"), cached=stale)).changed
    assert (await applier.ensure(CONFIG_MAP, desired(k="3"), cached=stale)).changed


async def test_3_10_the_desired_object_is_not_changed(server: FakeApiServer, applier: Applier) -> None:
    wanted = {**desired(k="v"), "status": {"no": "thing"}}
    before = copy(wanted)
    await applier.ensure(CONFIG_MAP, wanted, owner=owner(server))
    assert wanted == before


async def test_3_10_owner_references_are_of_a_controller_in_the_same_namespace(
    server: FakeApiServer, applier: Applier
) -> None:
    parent = owner(server)
    stored = (await applier.ensure(CONFIG_MAP, desired(k="v"), owner=parent)).object
    reference = controller_of(stored)
    assert reference == {
        "apiVersion": "kube.yoban.test/v1",
        "kind": "Widget",
        "name": "w",
        "uid": parent["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    with pytest.raises(Terminal, match="same namespace"):
        await applier.ensure(CONFIG_MAP, desired(k="v"), owner=owner(server, "elsewhere"))


async def test_3_10_what_is_being_deleted_is_applied_again_not_taken_for_good(
    server: FakeApiServer, applier: Applier, client: Client
) -> None:
    wanted = desired(k="v")
    wanted["metadata"]["finalizers"] = ["x.test/y"]
    await applier.ensure(CONFIG_MAP, wanted)
    await client.delete(CONFIG_MAP, "a", "ns")
    assert (await applier.ensure(CONFIG_MAP, wanted, cached=cached(server))).changed


async def test_3_10_no_value_of_a_secret_reaches_metadata(server: FakeApiServer, applier: Applier) -> None:
    wanted: Obj = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"namespace": "ns", "name": "a"},
        "stringData": {"password": "hunter2"},
    }
    stored = (await applier.ensure(SECRET, wanted)).object
    assert stored["data"] == {"password": base64.b64encode(b"hunter2").decode()}
    assert not (await applier.ensure(SECRET, wanted, cached=cached(server, SECRET))).changed
    mark = annotations_of(stored)
    other = prepare({**wanted, "stringData": {"password": "other"}}, annotation=applier.annotation)
    assert annotations_of(other) == mark, "the hash is of names only"
    changed = {**wanted, "stringData": {"password": "other"}}
    assert (await applier.ensure(SECRET, changed, cached=cached(server, SECRET))).changed


async def test_3_10_apply_refuses_an_object_that_was_read(server: FakeApiServer, client: Client) -> None:
    server.put(CONFIG_MAP, desired(k="v"))
    read = await client.get(CONFIG_MAP, "a", "ns")
    with pytest.raises(ValueError, match="fields you own"):
        await client.apply(CONFIG_MAP, read)


async def test_the_memory_of_an_applier_is_bounded(
    applier: Applier, server: FakeApiServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from yoban.kube import apply, status

    monkeypatch.setattr(apply, "_REMEMBERED", 2)
    monkeypatch.setattr(status, "_REMEMBERED", 2)
    writer = StatusWriter(applier._client, "s")
    server.register(WIDGET)
    for name in "abcd":
        await applier.ensure(CONFIG_MAP, {"metadata": {"namespace": "ns", "name": name}})
        obj = server.put(WIDGET, {"metadata": {"namespace": "ns", "name": name}})
        await writer.write(WIDGET, obj, {"phase": name})
    assert len(applier._written) == len(writer._written) == 2
    for key in list(applier._written):
        applier.forget(*key)
    for key in list(writer._written):
        writer.forget(*key)
    assert len(applier._written) == len(writer._written) == 0


# -- status ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def writer(client: Client, server: FakeApiServer) -> StatusWriter:
    server.register(WIDGET)
    server.put(WIDGET, {"metadata": {"namespace": "ns", "name": "a"}, "spec": {}})
    return StatusWriter(client, "s")


def live(server: FakeApiServer) -> Obj:
    obj = cached(server, WIDGET)
    assert obj is not None
    return obj


def ready(time: str) -> dict[str, Any]:
    return {"phase": "Up", "conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": time}]}


async def test_3_10_status_is_written_by_its_own_manager_to_the_subresource(
    server: FakeApiServer, writer: StatusWriter
) -> None:
    assert await writer.write(WIDGET, live(server), ready("t1"))
    request = server.writes()[0]
    assert (request.subresource, request.query["fieldManager"]) == ("status", "s")
    assert live(server)["status"] == ready("t1")


async def test_3_10_status_is_written_only_when_it_changed(server: FakeApiServer, writer: StatusWriter) -> None:
    """Otherwise: update -> watch -> reconcile -> update, for ever (kubevirt/ssp-operator PR 59)."""
    assert await writer.write(WIDGET, live(server), ready("t1"))
    server.requests.clear()
    assert not await writer.write(WIDGET, live(server), ready("t1"))
    assert not await writer.write(WIDGET, live(server), ready("t2")), "a time alone is no change"
    assert server.requests == []
    assert await writer.write(WIDGET, live(server), {**ready("t2"), "phase": "Down"})


async def test_3_10_status_after_a_restart_is_compared_not_remembered(
    server: FakeApiServer, writer: StatusWriter, client: Client
) -> None:
    await writer.write(WIDGET, live(server), {**ready("t1"), "count": 1})
    restarted = StatusWriter(client, "s")
    assert not await restarted.write(WIDGET, live(server), {**ready("t3"), "count": 1})
    assert await restarted.write(WIDGET, live(server), ready("t1")), "a field is given up"
    assert "count" not in live(server)["status"]


async def test_3_10_status_next_to_fields_of_another_manager_converges(
    server: FakeApiServer, writer: StatusWriter, client: Client
) -> None:
    other = StatusWriter(client, "t")
    await other.write(WIDGET, live(server), {"count": 3})
    assert await writer.write(WIDGET, live(server), ready("t1"))
    assert not await writer.write(WIDGET, live(server), ready("t1"))
    assert live(server)["status"]["count"] == 3


async def test_3_10_status_with_a_cache_that_lags_behind_is_written_once(
    server: FakeApiServer, writer: StatusWriter
) -> None:
    stale = live(server)
    assert await writer.write(WIDGET, stale, ready("t1"))
    assert not await writer.write(WIDGET, stale, ready("t1"))


async def test_3_10_status_overwritten_by_somebody_is_written_again(
    server: FakeApiServer, writer: StatusWriter
) -> None:
    await writer.write(WIDGET, live(server), ready("t1"))
    server.edit(WIDGET, "ns", "a", lambda o: o["status"].update(phase="Lie"))
    assert await writer.write(WIDGET, live(server), ready("t1"))
    assert live(server)["status"]["phase"] == "Up"


async def test_3_10_a_failed_status_write_is_not_remembered(server: FakeApiServer, writer: StatusWriter) -> None:
    server.fail(status_answer(403, "Forbidden"), verb="patch")
    stale = live(server)
    with pytest.raises(Exception, match="403"):
        await writer.write(WIDGET, stale, ready("t1"))
    assert await writer.write(WIDGET, stale, ready("t1"))


def test_without_times_keeps_the_rest() -> None:
    assert without_times(ready("t")) == {"phase": "Up", "conditions": [{"type": "Ready", "status": "True"}]}


# -- comparing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("live_value", "wanted", "so"),
    [
        ({"a": 1, "b": 2}, {"a": 1}, True),
        ({"a": 1}, {"a": 2}, False),
        ({}, {"a": {}}, True),
        ({}, {"a": []}, True),
        ({}, {"a": None}, True),
        ({}, {"a": ""}, False),
        (None, {}, True),
        (None, {"a": 1}, False),
        (None, [], True),
        (None, [1], False),
        ([1, 2], [1, 2], True),
        ([1, 2], [2, 1], False),
        ([1, 2, 3], [1, 2], False),
        ({"a": True}, {"a": 1}, False),
        ({"a": 1}, {"a": True}, False),
        ({"env": [{"name": "a", "x": 1}, {"name": "b"}]}, {"env": [{"name": "b"}]}, True),
        ({"env": [{"name": "a", "x": 1}, {"name": "b"}]}, {"env": [{"name": "a", "x": 2}]}, False),
        ([{"name": "a"}], [{"name": "c"}], False),
        ([{"port": 1, "protocol": "TCP"}], [{"port": 1}], True),
        ([{"type": "Ready"}, {"type": "B"}], [{"type": "B"}, {"type": "Ready"}], True),
        ([{"x": 1}, {"x": 2}], [{"x": 2}], False),
        ({"finalizers": ["a", "b"]}, {"finalizers": ["b"]}, True),
        ({"finalizers": ["b", "a"]}, {"finalizers": ["a", "b"]}, True),
        ({"finalizers": ["a"]}, {"finalizers": ["b"]}, False),
        ({"args": ["a", "b"]}, {"args": ["b"]}, False),
        ("1", 1, False),
    ],
)
def test_covers(live_value: Any, wanted: Any, so: bool) -> None:
    assert covers(live_value, wanted) is so


POD_PORTS = {"ports": [{"containerPort": 1, "protocol": "TCP"}, {"containerPort": 2, "protocol": "TCP"}]}
SERVICE_PORTS = {"ports": [{"port": 1, "nodePort": 30001}, {"port": 2}]}


@pytest.mark.parametrize(
    ("live_value", "wanted"),
    [
        (POD_PORTS, {"ports": [{"containerPort": 2}]}),
        (SERVICE_PORTS, {"ports": [{"port": 1}]}),
        ({"conditions": [{"type": "A"}, {"type": "B"}]}, {"conditions": [{"type": "B"}]}),
        ({"containers": [{"name": "a"}, {"name": "proxy"}]}, {"containers": [{"name": "a"}]}),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/a"}, {"name": "v", "mountPath": "/b"}]},
            {"volumeMounts": [{"name": "v", "mountPath": "/a"}]},
        ),
    ],
    ids=lambda value: next(iter(value)),
)
def test_others_may_have_entries_in_lists_that_are_merged_by_a_key(live_value: Any, wanted: Any) -> None:
    assert covers(live_value, wanted)


def rule(*ports: int) -> Obj:
    return {"ports": [{"protocol": "TCP", "port": port} for port in ports], "from": [{"podSelector": {}}]}


@pytest.mark.parametrize(
    ("live_value", "wanted"),
    [
        ({"ingress": [rule(1, 2)]}, {"ingress": [rule(1)]}),
        ({"egress": [rule(1, 2)]}, {"egress": [rule(1)]}),
        ({"ingress": [rule(1), rule(2)]}, {"ingress": [rule(1)]}),
        ({"subjects": [{"name": "a"}, {"name": "b"}]}, {"subjects": [{"name": "a"}]}),
        ({"tolerations": [{"key": "a"}, {"key": "b"}]}, {"tolerations": [{"key": "a"}]}),
    ],
)
def test_bug_what_somebody_added_to_a_list_that_is_ours_as_a_whole_was_no_drift(live_value: Any, wanted: Any) -> None:
    assert covers(wanted, wanted)
    assert not covers(live_value, wanted)


async def test_bug_a_subject_that_somebody_added_to_a_role_binding_stayed(
    server: FakeApiServer, applier: Applier
) -> None:
    """Also when the object's form is remembered, because the server writes a value in another one."""
    server.register(ROLE_BINDING, status=False)
    ours = {"kind": "ServiceAccount", "name": "ours", "namespace": "ns"}
    wanted = {"metadata": {"namespace": "ns", "name": "a"}, "subjects": [ours]}
    await applier.ensure(ROLE_BINDING, wanted)
    assert not (await applier.ensure(ROLE_BINDING, wanted, cached=cached(server, ROLE_BINDING))).changed
    server.edit(ROLE_BINDING, "ns", "a", lambda obj: obj["subjects"].append({**ours, "name": "theirs"}))
    assert (await applier.ensure(ROLE_BINDING, wanted, cached=cached(server, ROLE_BINDING))).changed
    assert (cached(server, ROLE_BINDING) or {})["subjects"] == [ours]
    assert not (await applier.ensure(ROLE_BINDING, wanted, cached=cached(server, ROLE_BINDING))).changed


async def test_what_the_server_itself_adds_to_a_list_is_no_drift_for_ever(
    server: FakeApiServer, applier: Applier
) -> None:
    """A webhook that adds an entry each time: one write, not one each pass."""

    def admit(obj: Obj) -> None:
        if len(obj["subjects"]) == 1:
            obj["subjects"].append({"kind": "Group", "name": "everybody"})

    server.register(ROLE_BINDING, status=False, validate=lambda obj: admit(obj))
    wanted = {"metadata": {"namespace": "ns", "name": "a"}, "subjects": [{"kind": "User", "name": "ours"}]}
    assert (await applier.ensure(ROLE_BINDING, wanted)).changed
    for _ in range(3):
        assert not (await applier.ensure(ROLE_BINDING, wanted, cached=cached(server, ROLE_BINDING))).changed


def test_project_takes_what_is_spoken_of() -> None:
    stored = {
        "a": 1,
        "b": {"c": 2, "d": 3},
        "env": [{"name": "x", "v": 1}, {"name": "y"}],
        "subjects": [{"name": "x"}, {"name": "y"}],
        "finalizers": ["a", "b"],
        "m": [1, 2],
        "n": [{"a": 1, "b": 2}],
    }
    wanted = {
        "b": {"c": 9}, "env": [{"name": "x", "v": 5}], "subjects": [{"name": "x"}], "finalizers": ["b"], "m": [7],
        "n": [{"a": 0}], "gone": 1,
    }  # fmt: skip
    assert project(stored, wanted) == {
        "b": {"c": 2}, "env": [{"name": "x", "v": 1}], "subjects": [{"name": "x"}, {"name": "y"}], "finalizers": ["b"],
        "m": [1, 2], "n": [{"a": 1}],
    }  # fmt: skip


def test_shape_is_of_names_not_of_values() -> None:
    assert shape({"a": 1, "b": [{"name": "x"}]}) == shape({"b": [{"name": "x"}], "a": 2})
    assert shape({"a": 1}) != shape({"a": 1, "b": 2})
    assert shape({"a": [1]}) != shape({"a": [1, 2]})
    assert shape({"a": [{"name": "x"}]}) != shape({"a": [{"name": "y"}]})
    assert merge_key([{"name": "x"}, {"name": "x"}]) is None
    assert merge_key([{"name": ["no"]}]) is None


async def test_3_10_garbage_goes_with_its_owner(server: FakeApiServer, applier: Applier) -> None:
    await applier.ensure(CONFIG_MAP, desired(k="v"), owner=owner(server))
    server.remove(WIDGET, "ns", "w")
    assert server.collect_garbage() == 1
    assert cached(server) is None
    seen: list[Request] = server.writes()
    assert len(seen) == 1
