"""Faults on a real cluster: the operator, agents, nodes and the store fail, and no acknowledged write is lost."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import pytest

from deploy.demo import manifests
from deploy.demo.client import Client
from deploy.demo.kubectl import Kubectl, KubectlError, Object
from tests.e2e.world import Space, backup_over, beside, complete

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


def kill_operator(kubectl: Kubectl) -> None:
    """End all operator Pods at once, without grace."""
    kubectl.within("yoban-system").run("delete", "pod", "--all", "--wait=false", "--grace-period=0", "--force")


class Load:
    """Writes numbers into a table, one commit each; `acknowledged` counts those that the server said yes to.

    A write that gets no answer, since no connection comes about, is tried again as an application would.
    """

    def __init__(self, client: Client, table: str) -> None:
        self.acknowledged = 0
        self._client = client
        self._table = table
        self._over = False
        self._changed = threading.Condition()

    def write(self) -> None:
        """Write until `end` is called."""
        while not self._over:
            try:
                self._client.sql(f"INSERT INTO {self._table} VALUES ({self.acknowledged})")
            except KubectlError:
                continue
            with self._changed:
                self.acknowledged += 1
                self._changed.notify_all()

    def end(self) -> None:
        """Have `write` return after the write that is under way."""
        self._over = True

    def goes_on(self, *, deadline: float) -> None:
        """Return when five more writes were acknowledged; fails when they are not within `deadline` seconds."""
        with self._changed:
            wanted = self.acknowledged + 5
            assert self._changed.wait_for(lambda: self.acknowledged >= wanted, deadline), "writes are not acknowledged"


@contextmanager
def load(client: Client, table: str) -> Iterator[Load]:
    """Write into a new table for as long as the block lasts, and see that everything acknowledged is there."""
    client.sql(f"CREATE TABLE {table} (n integer)")
    load = Load(client, table)
    with beside(load.write, load.end):
        yield load
    assert load.acknowledged > 3, "there was no load"
    # As the writes did, the count tries again where no connection comes about.
    assert client.until_it_works(f"SELECT count(DISTINCT n) FROM {table}", deadline=120) == str(load.acknowledged)


@pytest.fixture(scope="module")
def space(make_space: Callable[[str], Space]) -> Space:
    space = make_space("faults")
    space.store()
    space.policy()
    return space


@pytest.fixture(scope="module")
def steady(space: Space) -> Space:
    """A Database with three instances, made while the operator was killed in the middle of its creation."""
    space.database("steady", 3, wait=False)
    space.kubectl.wait("database", "steady", lambda v: bool(v.get("status", {}).get("instances")), deadline=120)
    kill_operator(space.kubectl)
    space.ready("steady", 3)
    space.client("steady").sql("CREATE TABLE t (n integer)")
    return space


def test_operator_killed_in_the_middle_of_creation(steady: Space) -> None:
    assert len(steady.pods("steady")) == 3
    assert steady.client("steady").sql("SELECT count(*) FROM t") == "0"


def test_agent_killed_and_the_server_goes_on(steady: Space) -> None:
    pod = f"{steady.primary('steady')}-0"
    client = steady.client("steady")
    started = client.started()
    with load(client, "while_killed") as writes:
        killed = steady.stage.signal_process(steady.kubectl, pod, "yoban.agent.main", signal.SIGKILL)
        steady.stage.wait_process_gone(killed, deadline=60)
        steady.ready("steady", 3)
        writes.goes_on(deadline=60)
    client.fill("t", 1, 1000)
    assert client.started() == pytest.approx(started, abs=2), "the server was not restarted"


def test_agent_frozen_is_replaced_and_the_server_goes_on(steady: Space) -> None:
    pod = f"{steady.primary('steady')}-0"
    client = steady.client("steady")
    count, started = client.sql("SELECT count(*) FROM t"), client.started()
    with load(client, "while_frozen") as writes:
        frozen = steady.stage.signal_process(steady.kubectl, pod, "yoban.agent.main", signal.SIGSTOP)
        steady.stage.wait_process_gone(frozen, deadline=60)
        writes.goes_on(deadline=60)
    # The new agent proves its server anew, and until then the Service may have no endpoint.
    steady.ready("steady", 3)
    client.until_it_works(deadline=120)
    assert client.sql("SELECT count(*) FROM t") == count
    assert client.started() == pytest.approx(started, abs=2), "the server was not restarted"


def test_operator_killed_in_the_middle_of_a_switchover(steady: Space) -> None:
    value = steady.ready("steady", 3)
    target = next(i["name"] for i in value["status"]["instances"] if i["role"] == "replica")
    client = steady.client("steady")
    count = client.sql("SELECT count(*) FROM t")
    steady.annotate("database", "steady", f"yoban.dev/switchover={target}")
    kill_operator(steady.kubectl)
    steady.kubectl.wait(
        "database", "steady", lambda v: v["status"].get("primary") == target and complete(3)(v), deadline=240
    )
    client.until_it_works(deadline=120)  # the way of a Service to its new endpoint is kube-proxy's
    assert client.sql("SELECT count(*) FROM t") == count


def test_node_cut_during_a_backup(steady: Space) -> None:
    steady.kubectl.apply(manifests.backup("cut", "steady"))
    value = steady.kubectl.wait("backup", "cut", lambda v: bool(v.get("status", {}).get("instance")), deadline=120)
    pod = steady.kubectl.get("pod", f"{value['status']['instance']}-0")
    assert pod is not None
    node = pod["spec"]["nodeName"]
    steady.stage.cut(node)
    try:
        steady.kubectl.wait("database", "steady", lambda v: not complete(3)(v), deadline=180)
    finally:
        steady.stage.heal(node)
    value = steady.kubectl.wait("backup", "cut", backup_over, deadline=300)
    assert value["status"]["phase"] == "Completed", value["status"]
    steady.ready("steady", 3)


def a_replica(space: Space) -> str:
    """Return the name of a replica of `steady`, when all its instances are ready."""
    value = space.ready("steady", 3)
    return str(next(i["name"] for i in value["status"]["instances"] if i["role"] == "replica"))


@pytest.mark.about("mysql")  # a replica of the other takes no write
def test_an_errant_replica_is_rebuilt_with_an_event_that_says_why(steady: Space) -> None:
    replica = a_replica(steady)
    primary = steady.primary("steady")
    steady.on_instance(replica, steady.engine.errant)
    steady.kubectl.wait("database", "steady", lambda v: not complete(3)(v), deadline=120)
    steady.ready("steady", 3)
    assert steady.primary("steady") == primary
    (why,) = [text for text in steady.events("ReplicaBroken") if text.startswith(f"{replica} ")]
    assert f"transactions that {primary} lacks" in why
    assert "copied anew" in why
    with pytest.raises(KubectlError):
        steady.on_instance(replica, "SELECT count(*) FROM errant")
    client = steady.client("steady")
    assert steady.on_instance(replica, "SELECT count(*) FROM t").strip() == client.sql("SELECT count(*) FROM t")


@pytest.mark.about("mysql")  # a server of the other keeps what its replicas need
def test_a_replica_whose_log_is_gone_is_rebuilt_and_status_and_event_say_why(steady: Space) -> None:
    """Its node takes no Pods while the primary is written and loses, by hand, the log that the replica needs."""
    replica = a_replica(steady)
    primary = steady.primary("steady")
    pod = steady.kubectl.get("pod", f"{replica}-0")
    assert pod is not None
    node, uid = pod["spec"]["nodeName"], pod["metadata"]["uid"]
    client = steady.client("steady")
    steady.kubectl.run("cordon", node)
    try:
        steady.kubectl.run("delete", "pod", f"{replica}-0", "--wait=true", "--timeout=120s", deadline=130)
        client.fill("t", 2001, 2100)
        rotate, purge = steady.engine.purge
        steady.as_admin("steady", rotate)
        written = datetime.fromisoformat(client.now())
        # What is purged is stored: this is no hole in the archive.
        steady.kubectl.wait("database", "steady", lambda v: window_end(v) >= written, deadline=150)
        steady.as_admin("steady", purge)  # by now nobody is sent the file any more, which would keep it
    finally:
        steady.kubectl.run("uncordon", node)
    steady.kubectl.wait("pod", f"{replica}-0", lambda v: v["metadata"]["uid"] != uid, deadline=120)
    why = f"{replica}: {primary} no longer has the log"
    steady.kubectl.wait("database", "steady", lambda v: why in json.dumps(v.get("status", {})), deadline=120)
    steady.ready("steady", 3)
    # One of the same reason was told minutes before, of another replica or another break: this has its own words.
    told = f"{replica} cannot follow: {primary} no longer has the log"
    assert [text for text in steady.events("ReplicaBroken") if text.startswith(told)]
    assert steady.primary("steady") == primary
    assert steady.on_instance(replica, "SELECT count(*) FROM t").strip() == client.sql("SELECT count(*) FROM t")


def window_end(value: Object) -> datetime:
    """Return the end of a Database's recoverable window, a moment long past while it has none."""
    text = str(value.get("status", {}).get("window", {}).get("end", "1970-01-01T00:00:00Z"))
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def test_operator_killed_in_the_middle_of_deletion(steady: Space) -> None:
    steady.kubectl.delete("database", "steady", wait=False)
    kill_operator(steady.kubectl)
    steady.kubectl.run("wait", "database", "steady", "--for=delete", "--timeout=180s", deadline=190)
    assert steady.pods("steady") == []
    assert steady.kubectl.list("pvc", "yoban.dev/database=steady"), "volumes are retained by default"
