"""The builders: names, services, Pods, StatefulSets, volumes, Secrets, permissions."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any

import msgspec
import pytest
from yoban.errors import InvalidInput
from yoban.model.instance import InstanceDocument, LeaseDocument, StoreDocument
from yoban.reconcilers.database.builders import document as documents
from yoban.reconcilers.database.builders import secrets, statefulset
from yoban.reconcilers.database.builders.blueprint import Blueprint, Placement, Runtime, VolumeSpec
from yoban.reconcilers.database.builders.lease import Asked, Membership, lease, reign
from yoban.reconcilers.database.builders.names import Names
from yoban.reconcilers.database.builders.networkpolicy import network_policy
from yoban.reconcilers.database.builders.pdb import disruption_budget
from yoban.reconcilers.database.builders.podtemplate import TEMPLATE_ANNOTATION, group, passwd, pod_template
from yoban.reconcilers.database.builders.quantity import amount
from yoban.reconcilers.database.builders.rbac import role, role_binding, service_account
from yoban.reconcilers.database.builders.services import services
from yoban.reconcilers.database.builders.volumes import claims, resized


def server_of(template: dict[str, Any]) -> dict[str, Any]:
    container: dict[str, Any] = template["spec"]["containers"][0]
    return container


# -- names


def test_two_databases_never_share_an_authority() -> None:
    assert Names("a-b", "c", "0" * 12).ca != Names("a", "b-c", "1" * 12).ca


def test_names_of_the_longest_database_fit() -> None:
    names = Names("n" * 63, "d" * 40, "0123456789ab")
    assert len(names.pod(99999)) + len("-0123456789") <= 63
    assert all(len(label) <= 63 for label in names.host(99999).split("."))


def test_an_instance_keeps_number_and_host(names: Names) -> None:
    assert names.number("orders-7") == 7
    assert names.number("orders-rw") is None
    assert names.host(7) == "orders-7-0.orders-peers.shop.svc"


# -- services


def test_services_route_by_role(blueprint: Blueprint) -> None:
    by_name = {s["metadata"]["name"]: s["spec"] for s in services(blueprint)}
    assert by_name["orders-rw"]["selector"]["yoban.dev/role"] == "primary"
    assert by_name["orders-ro"]["selector"]["yoban.dev/role"] == "replica"
    assert by_name["orders-r"]["selector"] == {"yoban.dev/database": "orders"}
    peers = by_name["orders-peers"]
    assert peers["clusterIP"] == "None"
    assert peers["publishNotReadyAddresses"]
    assert not any(s.get("publishNotReadyAddresses") for n, s in by_name.items() if n != "orders-peers")


# -- Pods


def test_the_pod_is_restricted(blueprint: Blueprint, runtime: Runtime) -> None:
    spec = pod_template(blueprint, 1, runtime)["spec"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["securityContext"]["runAsUser"] == 70
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert spec["automountServiceAccountToken"] is False


def test_every_mount_has_a_volume_and_every_volume_a_mount(blueprint: Blueprint, runtime: Runtime) -> None:
    for log in (None, VolumeSpec("1Gi")):
        spec = pod_template(replace(blueprint, log=log), 1, runtime)["spec"]
        mounted = {m["name"] for c in (*spec["initContainers"], *spec["containers"]) for m in c["volumeMounts"]}
        assert mounted == {v["name"] for v in spec["volumes"]}
        paths = [m["mountPath"] for m in spec["containers"][0]["volumeMounts"]]
        assert len(paths) == len(set(paths))
        assert ("/var/lib/keeper/log" in paths) is (log is not None)


def test_the_engine_container_cannot_write_the_runtime(blueprint: Blueprint, runtime: Runtime) -> None:
    mounts = {m["mountPath"]: m for m in server_of(pod_template(blueprint, 1, runtime))["volumeMounts"]}
    assert mounts["/opt/yoban"]["readOnly"]
    assert mounts["/etc/yoban/tls"]["readOnly"]
    assert "subPath" not in mounts["/etc/yoban/spec"], "a sub-path would never see an update"


def test_no_secret_reaches_the_environment(blueprint: Blueprint, runtime: Runtime) -> None:
    for entry in server_of(pod_template(blueprint, 1, runtime))["env"]:
        assert "secretKeyRef" not in entry.get("valueFrom", {})


def test_limits_reach_the_agent_as_numbers(blueprint: Blueprint, runtime: Runtime) -> None:
    env = {e["name"]: e.get("value") for e in server_of(pod_template(blueprint, 1, runtime))["env"]}
    assert env["YOBAN_MEMORY"] == str(2**30)
    assert env["YOBAN_CPUS"] == "1.5"
    assert env["YOBAN_PLUGINS"] == "keeper"
    unlimited = replace(blueprint, resources=replace(blueprint.resources, limits={}))
    env = {e["name"]: e.get("value") for e in server_of(pod_template(unlimited, 1, runtime))["env"]}
    assert env["YOBAN_MEMORY"] == "0"
    assert env["YOBAN_CPUS"] == "0"


def test_an_empty_variable_is_left_out(blueprint: Blueprint) -> None:
    env = server_of(pod_template(blueprint, 1, Runtime("i", env={"EMPTY": ""})))["env"]
    assert "EMPTY" not in {e["name"] for e in env}


def test_placement_is_passed_on(blueprint: Blueprint, runtime: Runtime) -> None:
    placement = Placement(
        labels={"team": "a", "yoban.dev/instance": "liar"},
        annotations={"note": "b"},
        node_selector={"disk": "fast"},
        tolerations=({"key": "k", "operator": "Exists"},),
        affinity={"nodeAffinity": {}},
        topology_spread=({"maxSkew": 1},),
        pull_secrets=("pull",),
        pull_policy="Always",
        priority_class="high",
        termination_seconds=30,
    )
    template = pod_template(replace(blueprint, placement=placement), 1, replace(runtime, pull_policy="Never"))
    spec = template["spec"]
    assert template["metadata"]["labels"]["team"] == "a"
    assert template["metadata"]["labels"]["yoban.dev/instance"] == "orders-1", "ours win"
    assert spec["nodeSelector"] == {"disk": "fast"}
    assert spec["tolerations"] == [{"key": "k", "operator": "Exists"}]
    assert spec["affinity"] == {"nodeAffinity": {}}
    assert spec["topologySpreadConstraints"][0]["maxSkew"] == 1
    assert spec["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == {"yoban.dev/database": "orders"}
    assert spec["imagePullSecrets"] == [{"name": "pull"}]
    assert spec["priorityClassName"] == "high"
    assert spec["terminationGracePeriodSeconds"] == 30
    assert server_of(template)["imagePullPolicy"] == "Always"
    assert spec["initContainers"][0]["imagePullPolicy"] == "Never"


def test_instances_are_kept_apart_by_default(blueprint: Blueprint, runtime: Runtime) -> None:
    assert "podAntiAffinity" in pod_template(blueprint, 1, runtime)["spec"]["affinity"]


def test_passwd_and_group_name_the_engines_user(blueprint: Blueprint) -> None:
    assert "keeper:x:70:71:keeper:/var/lib/keeper:/sbin/nologin" in passwd(blueprint)
    assert "keepers:x:71:" in group(blueprint)


# -- StatefulSets and pins


def test_an_operator_upgrade_restarts_nothing(blueprint: Blueprint, runtime: Runtime) -> None:
    live = statefulset.stateful_set(blueprint, 1, runtime)
    newer = Runtime("registry.test/yoban:2")
    kept = statefulset.pinned(blueprint, live, newer, "")
    assert kept == runtime
    assert statefulset.stateful_set(blueprint, 1, kept) == live


@pytest.mark.parametrize(
    "change",
    [{"image": "registry.test/keeper:2.1"}, {"placement": Placement(labels={"a": "b"})}],
    ids=lambda c: next(iter(c)),
)
def test_a_changed_specification_moves_to_the_present_runtime(
    blueprint: Blueprint, runtime: Runtime, change: dict[str, Any]
) -> None:
    live = statefulset.stateful_set(blueprint, 1, runtime)
    newer = Runtime("registry.test/yoban:2")
    assert statefulset.pinned(replace(blueprint, **change), live, newer, "") == newer


def test_more_instances_or_a_greater_volume_move_nothing(blueprint: Blueprint, runtime: Runtime) -> None:
    live = statefulset.stateful_set(blueprint, 1, runtime)
    grown = replace(blueprint, instances=5, data=VolumeSpec("2Gi"), version="3")
    assert statefulset.pinned(grown, live, Runtime("registry.test/yoban:2"), "") == runtime


def test_the_owner_advances_the_runtime_once(blueprint: Blueprint, runtime: Runtime) -> None:
    live = statefulset.stateful_set(blueprint, 1, runtime)
    newer, newest = Runtime("registry.test/yoban:2"), Runtime("registry.test/yoban:3")
    assert statefulset.pinned(blueprint, live, newer, "2026-01-01") == newer
    live = statefulset.stateful_set(blueprint, 1, newer, "2026-01-01")
    assert statefulset.pinned(blueprint, live, newest, "2026-01-01") == newer


def test_an_unknown_or_spoilt_pin_is_replaced(blueprint: Blueprint, runtime: Runtime) -> None:
    assert statefulset.pinned(blueprint, None, runtime, "") == runtime
    live = statefulset.stateful_set(blueprint, 1, runtime)
    for text in ("", "[]", "{", '{"image": "x"}', replace(runtime, revision=99).encode()):
        live["metadata"]["annotations"][statefulset.PIN_ANNOTATION] = text
        assert statefulset.pinned(blueprint, live, Runtime("now"), "") == Runtime("now")


def test_a_pod_is_outdated_by_its_template(blueprint: Blueprint, runtime: Runtime) -> None:
    one = statefulset.stateful_set(blueprint, 1, runtime)
    pod = {"metadata": one["spec"]["template"]["metadata"]}
    assert not statefulset.outdated(pod, one)
    other = statefulset.stateful_set(replace(blueprint, image="registry.test/keeper:2.1"), 1, runtime)
    assert statefulset.outdated(pod, other)
    assert statefulset.outdated({"metadata": {}}, one)
    assert statefulset.template_digest({}) == ""


def test_a_stateful_set_never_restarts_by_itself(blueprint: Blueprint, runtime: Runtime) -> None:
    spec = statefulset.stateful_set(blueprint, 4, runtime)["spec"]
    assert spec["updateStrategy"] == {"type": "OnDelete"}
    assert spec["replicas"] == 1
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"].items() <= labels.items()
    assert "yoban.dev/role" not in labels


def test_equal_inputs_give_equal_objects(blueprint: Blueprint, runtime: Runtime) -> None:
    first = json.dumps(statefulset.stateful_set(blueprint, 1, runtime))
    assert first == json.dumps(statefulset.stateful_set(replace(blueprint), 1, replace(runtime)))


def test_the_template_digest_covers_the_specification(blueprint: Blueprint, runtime: Runtime) -> None:
    one = pod_template(blueprint, 1, runtime)["metadata"]["annotations"][TEMPLATE_ANNOTATION]
    layout = replace(blueprint.layout, writable=(PurePosixPath("/x"),))
    other = pod_template(replace(blueprint, layout=layout), 1, runtime)["metadata"]["annotations"][TEMPLATE_ANNOTATION]
    assert one != other


# -- volumes


def test_claims_have_no_owner_and_carry_the_incarnation(blueprint: Blueprint) -> None:
    found = claims(replace(blueprint, log=VolumeSpec("5Gi", "fast")), 2)
    assert [c["metadata"]["name"] for c in found] == ["orders-2-012345", "orders-2-012345-log"]
    assert all("ownerReferences" not in c["metadata"] for c in found)
    assert [c["metadata"]["labels"]["yoban.dev/volume"] for c in found] == ["data", "log"]
    assert "storageClassName" not in found[0]["spec"]
    assert found[1]["spec"]["storageClassName"] == "fast"


@pytest.mark.parametrize(
    ("want", "have", "result"), [("2Gi", "1Gi", "2Gi"), ("1Gi", "2Gi", "2Gi"), ("1024Mi", "1Gi", "1Gi")]
)
def test_a_claim_grows_and_never_shrinks(blueprint: Blueprint, want: str, have: str, result: str) -> None:
    desired = claims(replace(blueprint, data=VolumeSpec(want, "other")), 1)[0]
    live = {"spec": {"storageClassName": "standard", "resources": {"requests": {"storage": have}}}}
    applied = resized(desired, live)
    assert applied["spec"]["resources"]["requests"]["storage"] == result
    assert applied["spec"]["storageClassName"] == "standard"
    assert "storageClassName" not in resized(desired, {"spec": {}})["spec"]


@pytest.mark.parametrize(
    ("text", "value"), [("500m", "0.5"), ("2Gi", str(2 * 2**30)), ("1e3", "1000"), ("10G", "10000000000"), ("1", "1")]
)
def test_quantities(text: str, value: str) -> None:
    assert amount(text) == amount(value)


@pytest.mark.parametrize("text", ["", "Gi", "1.2.3", "two", "1 Gi", "1gi"])
def test_what_is_no_quantity(text: str) -> None:
    with pytest.raises(InvalidInput, match="no quantity"):
        amount(text)


# -- Secrets


def test_known_passwords_are_kept_and_missing_ones_made(engine: Any) -> None:
    made = iter(["new"])
    found = secrets.passwords(engine.accounts("orders"), {"owner": "old"}, lambda: next(made))
    assert found == {"owner": "old", "replication": "new"}


def test_passwords_are_strong_and_differ() -> None:
    some = {secrets.new_password() for _ in range(100)}
    assert len(some) == 100
    assert all(len(p) >= 43 for p in some)


def test_a_secret_is_read_as_it_was_written(names: Names) -> None:
    secret = secrets.accounts_secret(names, "keeper", {"owner": "pässword"})
    assert secrets.decode(secret) == {"owner": "pässword"}
    assert secrets.decode(None) == {}
    spoilt = {
        "data": {"a": "***", "b": base64.b64encode(b"\xff").decode(), "c": 1, "d": base64.b64encode(b"x").decode()}
    }
    assert secrets.decode(spoilt) == {"d": "x"}


def test_the_connection_secret_points_at_the_primary(names: Names, engine: Any) -> None:
    found = secrets.decode(secrets.connection_secret(names, engine, 7000, {"owner": "pw"}))
    assert found == {
        "host": "orders-rw.shop.svc",
        "port": "7000",
        "user": "app",
        "password": "pw",
        "database": "app",
        "uri": "keeper://app:pw@orders-rw.shop.svc:7000",
    }


def test_a_store_secret_is_there_without_a_store(names: Names) -> None:
    def read(store: StoreDocument | None) -> StoreDocument:
        text = secrets.decode(secrets.store_secret(names, "keeper", names.store, store))["store.json"]
        return msgspec.json.decode(text, type=StoreDocument)

    assert read(None).provider == ""
    store = StoreDocument(provider="memory", bucket="b", credentials={"key": "k"})
    assert read(store) == store


# -- permissions


def test_an_agent_may_touch_its_lease_and_its_pods_only(names: Names) -> None:
    rules = role(names, "keeper", [2, 1])["rules"]
    assert rules[0]["resourceNames"] == ["orders-primary"]
    assert rules[0]["verbs"] == ["get", "update", "patch"]
    assert rules[1]["resourceNames"] == ["orders-1-0", "orders-2-0"]
    assert rules[1]["verbs"] == ["get", "patch"]


def test_no_member_means_no_pod_rule_at_all(names: Names) -> None:
    assert len(role(names, "keeper", [])["rules"]) == 1


def test_the_binding_is_of_the_one_account(names: Names) -> None:
    assert role_binding(names, "keeper")["subjects"][0]["name"] == service_account(names, "keeper")["metadata"]["name"]


# -- budget and network


def test_one_instance_at_a_time(blueprint: Blueprint) -> None:
    assert disruption_budget(blueprint)["spec"]["maxUnavailable"] == 1
    assert disruption_budget(blueprint)["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow"


def test_the_control_api_is_for_operator_and_peers(blueprint: Blueprint) -> None:
    rules = network_policy(blueprint)["spec"]["ingress"]
    control = next(r for r in rules if r["ports"][0]["port"] == 8443)
    operator, peers = control["from"]
    assert operator["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": "yoban-system"}
    assert peers["podSelector"]["matchLabels"] == {"yoban.dev/database": "orders"}
    assert all("from" in r for r in rules if r["ports"][0]["port"] in (7000, 8443))
    bare = network_policy(replace(blueprint, operator_namespace=""))["spec"]["ingress"][2]["from"][0]
    assert "namespaceSelector" not in bare


# -- membership


def test_a_number_is_never_used_again() -> None:
    membership = Membership().add().add().add()
    assert membership.numbers == (1, 2, 3)
    membership = membership.remove(3).add()
    assert membership.numbers == (1, 2, 4)
    assert membership.remove(4).remove(2).remove(1).add().numbers == (5,)


def test_membership_survives_its_annotations() -> None:
    membership = Membership().add().made(1, "uid-1").add().remove(1)
    assert Membership.parse(membership.annotations()) == membership


def test_spoilt_annotations_never_lower_the_number() -> None:
    assert Membership.parse({}) == Membership()
    assert Membership.parse({"yoban.dev/last-number": "x", "yoban.dev/members": '{"7": ""}'}).last == 7
    assert Membership.parse({"yoban.dev/last-number": "9", "yoban.dev/members": "{"}) == Membership(9)
    assert Membership.parse({"yoban.dev/last-number": "9", "yoban.dev/members": '{"x": ""}'}) == Membership(9)


def test_the_operator_writes_nothing_of_the_leases_spec(names: Names) -> None:
    assert "spec" not in lease(names, "keeper", Membership(), Asked())


def test_the_reign_is_what_agents_note() -> None:
    notes = {
        "yoban.dev/initialized": "x",
        "yoban.dev/term": "3",
        "yoban.dev/successor": "y",
        "yoban.dev/last-holder": "",
    }
    assert reign(notes) == {"yoban.dev/initialized": "x", "yoban.dev/term": "3"}


# -- document


def make_document(**changes: Any) -> InstanceDocument:
    base = InstanceDocument(
        generation=1,
        namespace="shop",
        database="orders",
        uid="u",
        incarnation="0123456789ab",
        engine="keeper",
        version="2",
        members=[],
        lease=LeaseDocument(name="orders-primary"),
    )
    return msgspec.structs.replace(base, **changes)


def test_the_revision_rises_exactly_with_the_content() -> None:
    first = documents.revised(make_document(), None, seconds=1000)
    assert first.revision == 1000
    assert documents.revised(make_document(), first, seconds=2000) == first
    second = documents.revised(make_document(founder="orders-1"), first, seconds=1000)
    assert second.revision == 1001
    assert documents.revised(make_document(), second, seconds=5000).revision == 5000


def test_the_revision_does_not_fall_when_the_config_map_was_deleted() -> None:
    last = documents.revised(
        make_document(founder="x"), documents.revised(make_document(), None, seconds=10), seconds=11
    )
    assert documents.revised(make_document(), None, seconds=12).revision > last.revision


def test_a_document_is_read_back(blueprint: Blueprint) -> None:
    document = make_document(members=documents.members(blueprint, (1, 3)), settings={"a": "b"})
    config_map = documents.spec_config_map(blueprint, document, {"note": "x"})
    assert documents.read(config_map) == document
    assert config_map["metadata"]["annotations"] == {"note": "x"}
    assert set(config_map["data"]) == {"document.json", "passwd", "group"}
    assert "annotations" not in documents.spec_config_map(blueprint, document, {})["metadata"]
    assert [m.host for m in document.members] == [blueprint.names.host(1), blueprint.names.host(3)]


@pytest.mark.parametrize("data", [None, {}, {"document.json": "{"}, {"document.json": "{}"}])
def test_a_spoilt_document_reads_as_none(data: dict[str, str] | None) -> None:
    assert documents.read({"data": data}) is None


def test_the_public_bundle(blueprint: Blueprint) -> None:
    assert documents.ca_config_map(blueprint, "PEM")["data"] == {"ca.crt": "PEM"}
