"""A Database's life on a real cluster: born with three instances, its parts come back, it grows, shrinks, changes hands."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import pytest

from deploy.demo.client import Client
from deploy.demo.kubectl import Object
from tests.e2e.world import Space, complete

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def space(make_space: Callable[[str], Space]) -> Space:
    return make_space("life")


@pytest.fixture(scope="module")
def orders(space: Space) -> Space:
    space.store()
    space.policy()
    space.database("orders", 3)
    return space


@pytest.fixture(scope="module")
def client(orders: Space) -> Client:
    client = orders.client("orders")
    client.sql("CREATE TABLE notes (n integer)")
    client.fill("notes", 1, 1)
    return client


def test_born_with_one_primary_and_two_replicas(orders: Space, client: Client) -> None:
    status = orders.kubectl.get("database", "orders")["status"]  # type: ignore[index]
    roles = sorted(instance["role"] for instance in status["instances"])
    assert roles == ["primary", "replica", "replica"]
    assert status["primary"] == orders.primary("orders")
    assert client.sql("SELECT count(*) FROM notes") == "1"


def test_second_pass_writes_nothing(orders: Space) -> None:
    """Everything that the operator owns keeps its resource version while nothing happens."""
    kinds = (
        "services,statefulsets,poddisruptionbudgets,networkpolicies,serviceaccounts,roles,rolebindings,configmaps,pvc"
    )

    def versions() -> dict[str, str]:
        found = json.loads(orders.kubectl.run("get", kinds, "-l", "yoban.dev/database=orders", "-o", "json"))["items"]
        return {f"{o['kind']}/{o['metadata']['name']}": o["metadata"]["resourceVersion"] for o in found}

    before = versions()
    orders.annotate("database", "orders", f"yoban.dev/nudge={time.time_ns()}")
    time.sleep(8)  # nothing is expected to happen: there is no event to wait for
    assert len(before) > 8
    assert versions() == before


@pytest.mark.parametrize(
    "kind",
    ["service", "poddisruptionbudget", "networkpolicy", "serviceaccount", "role", "rolebinding", "configmap", "secret",
     "lease", "statefulset"],
)  # fmt: skip
def test_deleted_children_come_back(orders: Space, client: Client, kind: str) -> None:
    before = {
        o["metadata"]["name"]: o["metadata"]["uid"] for o in orders.kubectl.list(kind, "yoban.dev/database=orders")
    }
    assert before
    before_pods: dict[str, str] = {}
    if kind == "serviceaccount":
        # Its token dies with it, and so the Pods that hold it are replaced.
        pods = orders.kubectl.list("pod", "yoban.dev/database=orders")
        before_pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in pods}
    orders.kubectl.run("delete", kind, "-l", "yoban.dev/database=orders", "--wait=true", "--timeout=60s")
    for what, name, uid in [(kind, *item) for item in before.items()] + [
        ("pod", *item) for item in before_pods.items()
    ]:

        def again(value: Object, uid: str = uid) -> bool:
            return bool(value["metadata"]["uid"] != uid)

        orders.kubectl.wait(what, name, again, deadline=120)
    orders.ready("orders", 3)
    if kind == "secret":
        client.restart()
    client.until_it_works(deadline=150)
    assert int(client.sql("SELECT count(*) FROM notes")) >= 1


def test_switchover_loses_nothing(orders: Space, client: Client) -> None:
    before = orders.primary("orders")
    target = next(
        instance["name"]
        for instance in orders.kubectl.get("database", "orders")["status"]["instances"]  # type: ignore[index]
        if instance["role"] == "replica"
    )
    client.fill("notes", 2, 5001)
    count = client.sql("SELECT count(*) FROM notes")
    orders.annotate("database", "orders", f"yoban.dev/switchover={target}")
    orders.kubectl.wait(
        "database", "orders", lambda v: v["status"].get("primary") == target and complete(3)(v), deadline=180
    )
    assert orders.primary("orders") == target != before
    client.until_it_works(deadline=120)
    assert client.sql("SELECT count(*) FROM notes") == count
    client.fill("notes", 5002, 5002)


def test_scale_to_one_and_back_to_two(orders: Space, client: Client) -> None:
    primary = orders.primary("orders")
    for instances in (1, 3, 2):
        orders.patch("database", "orders", {"spec": {"instances": instances}})
        orders.ready("orders", instances)
        assert orders.primary("orders") == primary, "scaling never moves the primary"
    numbers = [int(pod.split("-")[1]) for pod in orders.pods("orders")]
    assert max(numbers) > 3, f"a number is never used again, but the Pods are {orders.pods('orders')}"


def test_instance_deleted_with_its_volume_comes_back_under_a_new_number(orders: Space, client: Client) -> None:
    value = orders.ready("orders", 2)
    victim = next(i for i in value["status"]["instances"] if i["role"] == "replica")
    claims = orders.kubectl.list("pvc", f"yoban.dev/database=orders,yoban.dev/instance={victim['name']}")
    assert claims
    for claim in claims:
        orders.kubectl.run("delete", "pvc", claim["metadata"]["name"], "--wait=false")
    orders.kubectl.run("delete", "pod", f"{victim['name']}-0", "--wait=false")

    def replaced(value: Object) -> bool:
        present = {instance["name"] for instance in value["status"].get("instances", [])}
        return victim["name"] not in present and complete(2)(value)

    value = orders.kubectl.wait("database", "orders", replaced, deadline=240)
    primary = value["status"]["primary"]
    assert min(i["number"] for i in value["status"]["instances"] if i["name"] != primary) > victim["number"]


def test_all_volumes_deleted_is_data_lost_never_an_empty_database(orders: Space) -> None:
    orders.kubectl.run("delete", "pvc", "-l", "yoban.dev/database=orders", "--wait=false")
    orders.kubectl.run("delete", "pod", "-l", "yoban.dev/database=orders", "--wait=false")

    def lost(value: Object) -> bool:
        ready = {c["type"]: c for c in value["status"].get("conditions", [])}.get("Ready", {})
        return bool(ready.get("reason") == "DataLost")

    value = orders.kubectl.wait("database", "orders", lost, deadline=240)
    ready = next(c for c in value["status"]["conditions"] if c["type"] == "Ready")
    assert "restore" in ready["message"]
