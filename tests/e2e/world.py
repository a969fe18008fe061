"""What the end-to-end tests stand on: a cluster with the operator installed, and a namespace for each test module.

Waiting follows watches with a deadline; what the world looks like is asked of the cluster, the server and the store.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from deploy.demo import engines, manifests
from deploy.demo.client import Client
from deploy.demo.engines import DemoEngine
from deploy.demo.kubectl import Kubectl, Object, condition, is_ready
from deploy.demo.stage import Stage


@dataclass(frozen=True)
class EngineUnderTest:
    """The small description of an engine that the shared test bodies need, beside what the demo knows of it.

    Attributes:
        demo: name, version, image and client.
        wrong_image: an image of another version, None when there is none here; `wrong_version` is that version.
        rejected: a setting and a value that the server does not take, and a value that it takes at once.
        shows: a query that tells the value of that setting.
        refused: a setting that is ours.
        admin: a program in the server's container that runs one statement as its administrator, statement last.
        errant: statements that write something on a replica alone, "" where a replica takes none by any means.
        purge: a statement that begins a new file of the log, and one that removes all others behind the operator's back;
            none where a server keeps what its replicas need.
        role: statements that make a role `auditor` that may read `ledger`; `holds` is a query that tells "1" when it may.
    """

    demo: DemoEngine
    wrong_image: str | None
    wrong_version: str
    rejected: tuple[str, str, str]
    shows: str
    refused: str
    admin: tuple[str, ...]
    errant: str
    purge: tuple[str, ...]
    role: str
    holds: str

    @property
    def name(self) -> str:
        """Value of `spec.engine`."""
        return self.demo.name


POSTGRES = EngineUnderTest(
    demo=engines.POSTGRES,
    wrong_image="localhost/yoban-lab/postgres:15",
    wrong_version="15",
    rejected=("work_mem", "plenty", "8MB"),
    shows="SHOW work_mem",
    refused="archive_command",
    admin=("psql", "-X", "-q", "-A", "-t", "-h", "/run/yoban", "-U", "postgres", "-d", "app", "-c"),
    errant="",
    purge=(),
    role="CREATE ROLE auditor; GRANT SELECT ON ledger TO auditor",
    holds="SELECT has_table_privilege('auditor', 'ledger', 'select')::int",
)


MYSQL = EngineUnderTest(
    demo=engines.MYSQL,
    wrong_image=None,
    wrong_version="",
    rejected=("max_connections", "plenty", "200"),
    shows="SELECT @@max_connections",
    refused="local_infile",
    admin=("mysql", "--no-defaults", "--socket=/run/yoban/mysqld.sock", "-u", "yoban", "-N", "-B", "-D", "app", "-e"),
    errant="SET GLOBAL super_read_only = OFF; CREATE TABLE errant (n integer); SET GLOBAL super_read_only = ON",
    purge=("FLUSH BINARY LOGS", "PURGE BINARY LOGS BEFORE NOW() + INTERVAL 1 DAY"),
    role="CREATE ROLE auditor; GRANT SELECT ON app.ledger TO auditor",
    holds="SELECT count(*) FROM mysql.tables_priv WHERE user = 'auditor' AND table_name = 'ledger'",
)
ENGINES = (POSTGRES, MYSQL)
"""What the shared test bodies run for."""


def complete(instances: int) -> Callable[[Object], bool]:
    """Return a test: the Database is Ready for its newest generation with so many instances ready, each in its role."""

    def test(value: Object) -> bool:
        status = value.get("status", {})
        # That a Pod is ready is told by the kubelet, its role by its agent: either may be known first.
        roles = [instance["role"] for instance in status.get("instances", []) if instance["role"]]
        return is_ready(value) and status.get("ready") == f"{instances}/{instances}" and len(roles) == instances

    return test


def reason(*reasons: str) -> Callable[[Object], bool]:
    """Return a test: the object is not Ready, for one of these reasons."""

    def test(value: Object) -> bool:
        ready = condition(value, "Ready")
        return ready.get("status") == "False" and ready.get("reason") in reasons

    return test


@dataclass
class Space:
    """A namespace of a test module, with an ObjectStore `store` and a BackupPolicy `gold` when asked for."""

    kubectl: Kubectl
    stage: Stage
    engine: EngineUnderTest
    bucket_name: str

    def store(self, name: str = "store", **more: object) -> str:
        """Make an ObjectStore on a bucket of its own, wait until it is Ready, and return the bucket's name."""
        bucket = f"{self.bucket_name}-{name}"
        self.kubectl.apply(
            manifests.credentials("s3", self.stage.bucket),
            manifests.object_store(name, self.stage.bucket, bucket, "s3", **more),
        )
        self.kubectl.wait("objectstore", name, is_ready, deadline=120)
        return bucket

    def policy(self, name: str = "gold", store: str = "store", **more: object) -> None:
        """Make a BackupPolicy."""
        self.kubectl.apply(manifests.policy(name, store, **more))

    def database(self, name: str, instances: int, *, wait: bool = True, **more: Any) -> Object:
        """Make a Database and wait until all its instances are ready."""
        policy = more.pop("policy", "gold")
        self.kubectl.apply(self.engine.demo.database(name, instances=instances, policy=policy, **more))
        return self.ready(name, instances) if wait else {}

    def ready(self, name: str, instances: int, *, deadline: float = 300) -> Object:
        """Wait until a Database is Ready with so many instances."""
        return self.kubectl.wait("database", name, complete(instances), deadline=deadline)

    def client(self, database: str) -> Client:
        """Return an application's Pod for a Database, started and connected once.

        A Database is Ready when its Service has an endpoint; that every node leads there takes kube-proxy a moment more.
        """
        client = self.engine.demo.client(self.kubectl, database)
        client.start()
        client.until_it_works(deadline=120)
        return client

    def as_admin(self, database: str, sql: str) -> str:
        """Run SQL as the server's administrator, beside the server, and return what it prints."""
        return self.on_instance(self.primary(database), sql)

    def on_instance(self, instance: str, sql: str) -> str:
        """Run SQL as `as_admin` does, on any instance."""
        return self.kubectl.execute(f"{instance}-0", *self.engine.admin, sql, container="server")

    def events(self, reason: str) -> list[str]:
        """Return what events of a reason say."""
        found = self.kubectl.run("get", "events", "--field-selector", f"reason={reason}", "-o", "json")
        return [str(event.get("message", "")) for event in json.loads(found)["items"]]

    def backup(self, name: str, database: str, *, deadline: float = 240) -> Object:
        """Take a base backup and wait for its end; it must complete."""
        self.kubectl.apply(manifests.backup(name, database))
        value = self.kubectl.wait("backup", name, backup_over, deadline=deadline)
        assert value["status"]["phase"] == "Completed", value["status"]
        return value

    def restore(self, name: str, source: str | Object, target: Object, *, wait: bool = True) -> None:
        """Restore a Database into a new one."""
        self.kubectl.apply(self.engine.demo.restored(name, source, target, policy="gold"))
        if wait:
            self.ready(name, 1)

    def primary(self, database: str) -> str:
        """Return the name of the instance that bears the role label of the primary."""
        pods = self.kubectl.list("pod", f"yoban.dev/database={database},yoban.dev/role=primary")
        assert len(pods) == 1, [pod["metadata"]["name"] for pod in pods]
        return str(pods[0]["metadata"]["labels"]["yoban.dev/instance"])

    def pods(self, database: str) -> list[str]:
        """Return the names of a Database's Pods."""
        return sorted(pod["metadata"]["name"] for pod in self.kubectl.list("pod", f"yoban.dev/database={database}"))

    def annotate(self, kind: str, name: str, *annotations: str) -> None:
        """Set annotations."""
        self.kubectl.run("annotate", kind, name, "--overwrite", *annotations)

    def patch(self, kind: str, name: str, change: Object) -> None:
        """Change an object by merge patch."""
        self.kubectl.run("patch", kind, name, "--type=merge", "-p", json.dumps(change))

    def store_down(self) -> None:
        """Stop the lab's object store."""
        self.stage.store_stop()

    def store_up(self) -> None:
        """Start the lab's object store again."""
        self.stage.store_start()

    def describe(self) -> None:
        """Print what a person would look at first, for a failed test's log."""
        for arguments in (
            ("get", "databases,objectstores,backuppolicies,backups", "-o", "wide"),
            ("get", "pods,pvc,leases,statefulsets", "-o", "wide"),
            ("get", "events", "--sort-by=.lastTimestamp"),
        ):
            print(self.kubectl.run(*arguments, check=False), file=sys.stderr)
        for pod in self.kubectl.list("pod", "yoban.dev/database"):
            name = pod["metadata"]["name"]
            print(f"--- {name}\n{self.kubectl.run('logs', name, '--tail=60', check=False)}", file=sys.stderr)
        operator = self.kubectl.within("yoban-system")
        for pod in operator.list("pod"):
            name = pod["metadata"]["name"]
            print(f"--- {name}\n{operator.run('logs', name, '--tail=80', check=False)}", file=sys.stderr)


@contextmanager
def beside(work: Callable[[], None], end: Callable[[], None]) -> Iterator[None]:
    """Do `work` in a thread while the block lasts; `end` makes it return, and what it raised is raised here."""
    with ThreadPoolExecutor(1) as pool:
        working = pool.submit(work)
        try:
            yield
        finally:
            end()
        working.result(timeout=60)


def backup_over(value: Object) -> bool:
    """The Backup has ended, one way or the other."""
    return value.get("status", {}).get("phase") in ("Completed", "Failed")


def names(objects: Sequence[Object]) -> set[str]:
    """Return the names of objects."""
    return {value["metadata"]["name"] for value in objects}
