"""The commands of docs/operations.md, section by section, in a shell on the lab: each does what the page says it does.

A test brings about what a section is about, runs its blocks in one shell, and sees what became of the Database. Blocks
that begin with `$` are not run: the lab has no registry and no second version of an image.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deploy.demo import manifests
from deploy.demo.client import Client
from deploy.demo.kubectl import KubectlError, Object, condition
from deploy.lab.kubectl import program
from tests.e2e.world import POSTGRES, EngineUnderTest, Space, reason

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operations.md"
DEADLINE = 400.0
"""Seconds for a section; each of its commands has a shorter one."""

pytestmark = [pytest.mark.lab, pytest.mark.timeout(600)]

Read = Callable[[str], str]
"""Runs the blocks of the section with this heading, "" for what stands before the first; returns what they print."""


@pytest.fixture(scope="module")
def engine() -> EngineUnderTest:
    """What the page shows is the same for all engines."""
    return POSTGRES


@pytest.fixture(scope="module")
def orders(make_space: Callable[[str], Space]) -> Iterator[Space]:
    """The Database, ObjectStore and policy of the page."""
    space = make_space("operations")
    space.store("backups")
    space.policy(store="backups")
    space.database("orders", 3)
    yield space
    for volume in space.kubectl.list("pv"):
        spec = volume["spec"]
        if spec.get("claimRef", {}).get("namespace") == space.kubectl.namespace:
            space.patch("pv", volume["metadata"]["name"], {"spec": {"persistentVolumeReclaimPolicy": "Delete"}})


@pytest.fixture(scope="module")
def client(orders: Space) -> Client:
    client = orders.client("orders")
    client.sql("CREATE TABLE notes (n integer)")
    client.fill("notes", 1, 1000)
    return client


@pytest.fixture
def read(orders: Space, tmp_path: Path) -> Read:
    """A shell as the page supposes it: kubectl with the namespace, `kubectl yoban` beside it, an empty folder."""
    config = tmp_path / "kubeconfig"
    shutil.copyfile(orders.stage.kubeconfig, config)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("KUBE")}
    path = f"{Path(sys.executable).parent}:{program().parent}:{environment['PATH']}"
    environment |= {"PATH": path, "KUBECONFIG": str(config)}
    argv = ["kubectl", "config", "set-context", "--current", f"--namespace={orders.kubectl.namespace}"]
    subprocess.run(argv, env=environment, check=True, capture_output=True, timeout=60)

    def run(heading: str) -> str:
        blocks = sections()[heading]
        (tmp_path / "script").write_text("\n".join(("set -euo pipefail", *blocks)))
        transcript = tmp_path / "transcript"
        with transcript.open("w") as output:
            done = subprocess.run(
                ["bash", "-x", "script"], cwd=tmp_path, env=environment, stdin=subprocess.DEVNULL, stdout=output,
                stderr=subprocess.STDOUT, timeout=DEADLINE, check=False,
            )  # fmt: skip
        text = transcript.read_text()
        print(text, file=sys.stderr)
        assert done.returncode == 0, f"{heading}: {text[-1500:]}"
        return text

    return run


def sections() -> dict[str, list[str]]:
    """The blocks of shell of each section by its heading, of those that have any; of what is before the first by ""."""
    found = {}
    for part in re.split(r"^## ", "\n" + PAGE.read_text(), flags=re.MULTILINE):
        heading, _, text = part.partition("\n")
        if blocks := re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
            found[heading] = blocks
    return found


def settled(space: Space) -> Object:
    """Wait until the Database is Ready with three instances, and nothing is told of an earlier switchover."""
    value = space.ready("orders", 3)
    if "switchover" in value["status"]:
        space.kubectl.wait("database", "orders", lambda v: "switchover" not in v["status"], deadline=120)
    return value


def servers(space: Space) -> dict[str, str]:
    """The uids of the Pods by name."""
    found = space.kubectl.list("pod", "yoban.dev/database=orders")
    return {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in found}


def until(holds: Callable[[], bool], *, deadline: float) -> None:
    """Ask again and again until it holds, also where no connection comes about."""
    end = time.monotonic() + deadline
    while True:
        try:
            if holds():
                return
        except KubectlError:
            pass
        assert time.monotonic() < end, "it does not come true"
        time.sleep(0.5)


def node_of(space: Space, pod: str) -> str:
    """The node that a Pod runs on."""
    value = space.kubectl.get("pod", pod)
    assert value is not None
    return str(value["spec"]["nodeName"])


def test_status_and_events(orders: Space, read: Read) -> None:
    printed = read("")
    assert re.search(r"^orders-1 +\S+ +running +yes", printed, re.MULTILINE)
    assert "InstanceCreated" in printed


def test_restart_the_servers(orders: Space, client: Client, read: Read) -> None:
    settled(orders)
    before, primary, started = servers(orders), orders.primary("orders"), client.started()
    read("Restart the servers")
    until(lambda: client.started() > started + 1, deadline=120)
    settled(orders)
    assert servers(orders) == before, "servers are restarted in their Pods"
    assert orders.primary("orders") == primary


def test_certificates(orders: Space, client: Client, read: Read) -> None:
    settled(orders)
    before, started = orders.kubectl.get("secret", "orders-1-tls"), client.started()
    assert before is not None
    printed = read("Certificates")
    assert "notAfter=" in printed
    after = orders.kubectl.get("secret", "orders-1-tls")
    assert after is not None
    assert after["metadata"]["uid"] != before["metadata"]["uid"]
    assert after["data"]["tls.crt"] != before["data"]["tls.crt"]
    assert client.started() == pytest.approx(started, abs=2), "no server was restarted"


def test_upgrade_the_operator(orders: Space, read: Read) -> None:
    settled(orders)
    before = servers(orders)
    printed = read("Upgrade the operator")
    assert printed.count(orders.stage.operator_image) == 3

    def honoured() -> bool:
        found = orders.kubectl.list("statefulset", "yoban.dev/database=orders")
        return all(one["metadata"]["annotations"].get("yoban.dev/update") for one in found)

    until(honoured, deadline=120)
    settled(orders)
    assert servers(orders) == before, "nothing differs, so nothing is replaced"


def test_drain_a_node(orders: Space, client: Client, read: Read) -> None:
    settled(orders)
    primary, before = orders.primary("orders"), servers(orders)
    node = node_of(orders, f"{primary}-0")
    try:
        printed = read("Drain a node")
    finally:
        orders.kubectl.run("uncordon", node)
    assert f"evicting pod {orders.kubectl.namespace}/{primary}-0" in printed
    settled(orders)
    assert orders.primary("orders") != primary
    assert servers(orders)[f"{primary}-0"] != before[f"{primary}-0"]
    assert client.until_it_works("SELECT count(*) FROM notes", deadline=120) == "1000"


def test_a_replica_is_broken(orders: Space, client: Client, read: Read) -> None:
    names = {instance["name"] for instance in settled(orders)["status"]["instances"]}
    primary = orders.primary("orders")
    read("A replica is broken")

    def replaced(value: Object) -> bool:
        return len(names - {instance["name"] for instance in value["status"].get("instances", [])}) == 1

    orders.kubectl.wait("database", "orders", replaced, deadline=120)
    settled(orders)
    assert orders.primary("orders") == primary


def test_the_credentials_of_the_store_have_expired(orders: Space, client: Client, read: Read, tmp_path: Path) -> None:
    settled(orders)
    before, bucket = servers(orders), orders.stage.bucket
    orders.kubectl.apply(
        manifests.credentials("s3", manifests.Bucket(bucket.endpoint, bucket.region, "nobody", "not-at-all"))
    )
    # Somebody looks at them within a minute; at what is annotated, at once.
    orders.annotate("objectstore", "backups", f"yoban.dev/nudge={time.time_ns()}")
    orders.kubectl.wait("objectstore", "backups", reason("CredentialsRejected"), deadline=120)
    orders.annotate("database", "orders", f"yoban.dev/nudge={time.time_ns()}")
    client.fill("notes", 1001, 2000)
    lines = f"accessKeyId={bucket.access_key}\nsecretAccessKey={bucket.secret_key}\n"
    (tmp_path / "new-credentials.env").write_text(lines)
    printed = read("The store's credentials have expired")
    assert bucket.secret_key not in printed
    assert servers(orders) == before, "no Pod is restarted"
    settled(orders)


def test_the_primary_is_lost(orders: Space, client: Client, read: Read) -> None:
    settled(orders)
    lost = orders.primary("orders")
    node = node_of(orders, f"{lost}-0")
    count = client.sql("SELECT count(*) FROM notes")
    orders.kubectl.run("cordon", node)
    try:
        # Its volume is on that node, so it cannot come back: nobody takes over until it is given up.
        orders.kubectl.run("delete", "pod", f"{lost}-0", "--wait=true", "--timeout=120s", deadline=130)

        def silent(value: Object) -> bool:
            phases = {instance["name"]: instance["phase"] for instance in value["status"].get("instances", [])}
            return phases.get(lost) == "unknown" and condition(value, "Ready").get("status") == "False"

        value = orders.kubectl.wait("database", "orders", silent, deadline=120)
        assert value["status"]["primary"] == lost
        printed = read("The primary is lost")
        value = settled(orders)
    finally:
        orders.kubectl.run("uncordon", node)
    assert "persistentvolume/" in printed
    assert [text for text in orders.events("PrimaryLost") if text.startswith(f"the volume of {lost} is gone; ")]
    assert lost not in {instance["name"] for instance in value["status"]["instances"]}
    assert orders.primary("orders") == value["status"]["primary"] != lost
    assert client.until_it_works("SELECT count(*) FROM notes", deadline=120) == count
