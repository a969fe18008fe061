"""Two replicas of the operator, and the node of the one that leads is cut off: the invariants of its runtime on a cluster.

They are those of the simulation (`tests/simulation`), here told from what the API server was asked to write and what the
world looks like: in a term one acts alone, no deletion is missed, finalizers go after their clean-up, everything converges,
and then nobody writes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from deploy.demo.kubectl import Object, condition
from deploy.lab.audit import Request
from tests.e2e.acts import accepted, by_term, is_lease, strangers
from tests.e2e.leadership import Operators
from tests.e2e.world import Space

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

CHILDREN = "configmap,secret,service,serviceaccount,role,rolebinding,networkpolicy,poddisruptionbudget,statefulset"
RENEWALS = 40
"""Of the leader's Lease, one due every two seconds: for so long nobody may write to a world that has converged."""
FIGURES_EVERY = 60.0
"""Seconds between figures of a Database that move by themselves: its status is not written for them more often."""


@pytest.fixture(scope="module")
def space(make_space: Callable[[str], Space]) -> Iterator[Space]:
    space = make_space("leaders")
    space.store()
    space.policy()
    space.database("shop", 2)
    space.client("shop").sql("CREATE TABLE t (n integer)")
    yield space


def test_node_of_the_leader_cut(space: Space) -> None:
    kubectl, stage = space.kubectl, space.stage
    operators = Operators(kubectl, stage)
    setting, _, value = space.engine.rejected
    client = space.client("shop")
    client.fill("t", 1, 1000)
    pod = operators.both()
    node, mark = pod["spec"]["nodeName"], stage.audit.mark()
    with operators.followed(pod) as reigns:
        reigns.renewed(2, deadline=120)
        bucket = space.store("doomed", deletionPolicy="Delete")  # the first leader's work
        stage.cut(node)
        try:
            # While nobody leads: a clean-up is asked for, a child is taken away, and the specification changes.
            kubectl.delete("objectstore", "doomed", wait=False)
            service = kubectl.get("service", "shop-r")
            kubectl.delete("service", "shop-r")
            space.patch("database", "shop", {"spec": {"settings": {setting: value}}})
            doomed = kubectl.get("objectstore", "doomed")
            assert doomed is not None and doomed["metadata"]["finalizers"] and stage.bucket_exists(bucket)
            second = reigns.another(deadline=120)
            space.store("while-cut")
            kubectl.run("wait", "objectstore", "doomed", "--for=delete", "--timeout=120s", deadline=130)
            assert not stage.bucket_exists(bucket), "the finalizer went before its clean-up"
            assert service is not None
            kubectl.wait(
                "service", "shop-r", lambda v: v["metadata"]["uid"] != service["metadata"]["uid"], deadline=120
            )
            kubectl.wait("node", node, lambda v: condition(v, "Ready").get("status") != "True", deadline=120)
        finally:
            stage.heal(node)
        kubectl.wait("node", node, lambda v: condition(v, "Ready").get("status") == "True", deadline=120)
        operators.both()
        space.ready("shop", 2)
        client.until_it_works(deadline=120)
        assert client.sql("SELECT count(*) FROM t") == "1000"
        for instance in ("shop-1", "shop-2"):
            _until_shown(space, instance, value)
        _figures_settle(space)

        before, still, began = _world(space), stage.audit.mark(), time.monotonic()
        reigns.renewed(RENEWALS, deadline=RENEWALS * 5.0)
        assert _world(space) == before, "writes on a converged world"
        seconds = time.monotonic() - began
        written = [one for one in accepted(stage.audit.since(still)) if not is_lease(one)]
        figures = [one for one in written if _tells_figures(one, space)]
        assert len(figures) <= 1 + seconds / FIGURES_EVERY, figures
        assert [one for one in written if one not in figures] == []
    assert not reigns.overlapped, "the old leader's process still ran when the Lease was another's"
    assert len(reigns.holders) > 1
    assert all(len(holders) == 1 for holders in reigns.holders.values()), reigns.holders
    acts = accepted(stage.audit.since(mark))
    assert strangers(acts) == []
    wrote = by_term(acts)
    assert all(len(pods) == 1 for pods in wrote.values()), wrote
    assert {pod["metadata"]["name"], second} <= {name for pods in wrote.values() for name in pods}, wrote
    released = [one for one in acts if (one.resource, one.verb, one.name) == ("objectstores", "patch", "doomed")]
    assert released[-1].pod == second, "who leads removes the finalizer"


def _until_shown(space: Space, instance: str, value: str) -> None:
    """Wait until a server has the value of the setting: it is brought to it after the specification was seen."""
    end = time.monotonic() + 90
    while (shown := space.on_instance(instance, space.engine.shows).strip()) != value:
        assert time.monotonic() < end, f"{instance} has {shown}, not {value}"
        time.sleep(1)


def _figures_settle(space: Space) -> None:
    """Return when the base backup that a new Database or a change of primary asks for is made, and everything is told."""
    for backup in space.kubectl.list("backup"):
        space.kubectl.wait(
            "backup",
            backup["metadata"]["name"],
            lambda v: v.get("status", {}).get("phase") in ("Completed", "Failed"),
            deadline=240,
        )
    space.kubectl.wait("backuppolicy", "gold", lambda v: condition(v, "Ready").get("status") == "True", deadline=120)
    space.kubectl.wait(
        "database",
        "shop",
        lambda v: (
            all(one["status"] == "True" for one in v["status"]["conditions"]) and "policySatisfied" in v["status"]
        ),
        deadline=120,
    )


def _tells_figures(request: Request, space: Space) -> bool:
    """Whether it is the write of a Database's moving figures; that nothing else moved is seen by `_world`."""
    about = (request.resource, request.namespace, request.name)
    return about == ("databases/status", space.kubectl.namespace, "shop")


def _world(space: Space) -> Mapping[tuple[str, str], Any]:
    """Kind and name -> state of everything that the operator writes to, without what moves by itself or is others' to write.

    Of what has a generation others write the status, so that counts, and the version for all else.
    """
    kubectl = space.kubectl
    found: dict[tuple[str, str], Any] = {}
    for value in kubectl.list(CHILDREN, "yoban.dev/database=shop"):
        meta = value["metadata"]
        found[value["kind"], meta["name"]] = meta.get("generation") or meta["resourceVersion"]
    for value in kubectl.list("pod", "yoban.dev/database=shop"):
        found["Pod", value["metadata"]["name"]] = _pod(value)
    for value in kubectl.list("objectstore,backuppolicy,backup"):
        found[value["kind"], value["metadata"]["name"]] = value["metadata"]["resourceVersion"]
    (database,) = kubectl.list("database")
    found["Database", "shop"] = _still(database)
    return found


def _pod(value: Object) -> Object:
    """What the operator and the agents may write of a Pod, and whether it was restarted."""
    meta, status = value["metadata"], value.get("status", {})
    return {
        **{name: meta.get(name) for name in ("uid", "labels", "annotations", "finalizers", "deletionTimestamp")},
        "spec": value["spec"],
        "restarts": [one["restartCount"] for one in status.get("containerStatuses", [])],
    }


def _still(database: Object) -> Object:
    """A Database without its moving figures: window, RPO, and what of instances and conditions is a figure."""
    meta, status = database["metadata"], dict(database["status"])
    for name in ("window", "rpo"):
        status.pop(name, None)
    moving = ("position", "lagSeconds", "message")
    status["instances"] = [{k: v for k, v in one.items() if k not in moving} for one in status["instances"]]
    status["conditions"] = [{k: v for k, v in one.items() if k != "message"} for one in status["conditions"]]
    still = {"spec": database["spec"], "status": status}
    still |= {name: meta.get(name) for name in ("uid", "generation", "annotations", "labels", "finalizers")}
    copied: Object = json.loads(json.dumps(still))
    return copied
