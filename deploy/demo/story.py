"""The demo's story: a database is born, loaded, backed up, ruined by an accident, and restored to just before it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime, timedelta

from deploy.demo import flights, manifests
from deploy.demo.client import Checksum, Client
from deploy.demo.engines import DemoEngine
from deploy.demo.kubectl import Kubectl, Object, condition, is_ready
from deploy.demo.report import Report, size

NAMESPACE = "yoban-demo"


class Story:
    """One telling, on one cluster, with one engine."""

    def __init__(
        self,
        kubectl: Kubectl,
        bucket: manifests.Bucket,
        report: Report,
        *,
        engine: DemoEngine,
    ) -> None:
        self.kubectl = kubectl.within(NAMESPACE)
        self.bucket = bucket
        self.report = report
        self.engine = engine
        self.client = engine.client

    def tell(self) -> bool:
        """Run all steps. Returns True when every table of the restored Database equals the original."""
        self._store()
        self._database()
        flights_client = self.client(self.kubectl, "flights")
        tables = self._load(flights_client)
        self._backup()
        before = self._go_on(flights_client, tables)
        moment = self._accident(flights_client)
        after = self._restore(moment, [*before])
        return self._compare(before, after)

    def _store(self) -> None:
        with self.report.step("create an ObjectStore (its bucket is made)") as step:
            self.kubectl.apply(manifests.namespace(NAMESPACE))
            self.kubectl.apply(
                manifests.credentials("lab-s3", self.bucket),
                manifests.object_store("nightly", self.bucket, "yoban-demo", "lab-s3", deletionPolicy="Delete"),
                manifests.policy("gold", "nightly"),
            )
            self.kubectl.wait("objectstore", "nightly", is_ready, deadline=60, seen=self._ready_message)
            step.note = "bucket yoban-demo"

    def _database(self) -> None:
        with self.report.step(f"create a {self.engine.title} Database with three instances") as step:
            self.kubectl.apply(
                self.engine.database("flights", instances=3, policy="gold"),
            )
            value = self.kubectl.wait("database", "flights", _complete(3), deadline=420, seen=self._ready_message)
            step.note = f"primary {value['status'].get('primary', '')}"

    def _load(self, client: Client) -> list[flights.Table]:
        with self.report.step("load every flight that left New York in 2013, while the log is archived") as step:
            client.start()
            client.until_it_works(deadline=60)
            tables = flights.load()
            for table in tables:
                self.report.progress(f"{table.name}: {table.rows:,} rows")
                client.create(table)
            step.note = f"{sum(t.rows for t in tables):,} rows, {size(sum(len(t.csv) for t in tables))} of CSV"
        return tables

    def _backup(self) -> None:
        with self.report.step("take a base backup from a replica") as step:
            self.kubectl.apply(manifests.backup("first", "flights"))
            value = self.kubectl.wait("backup", "first", _finished, deadline=300, seen=self._backup_progress)
            status = value["status"]
            if status.get("phase") != "Completed":
                raise RuntimeError(f"the backup failed: {condition(value, 'Ready').get('message', status)}")
            step.note = (
                f"by {status.get('instance')}, {size(float(status.get('bytes', 0)))} in"
                f" {size(float(status.get('storedBytes', 0)))}"
            )

    def _go_on(self, client: Client, tables: list[flights.Table]) -> dict[str, Checksum]:
        with self.report.step("go on writing after the backup") as step:
            client.sql(client.bookings)
            for batch in range(20):
                client.sql(
                    "INSERT INTO bookings (flight, passenger) SELECT flight, concat('passenger ', row_number() OVER ())"
                    f" FROM flights WHERE month = {batch % 12 + 1} LIMIT 500"
                )
            before = {name: client.checksum(name) for name in [*(t.name for t in tables), "bookings"]}
            step.note = f"{before['bookings'].rows:,} bookings"
        return before

    def _accident(self, client: Client) -> datetime:
        with self.report.step("the accident: DELETE FROM flights, and no WHERE") as step:
            moment = datetime.fromisoformat(client.now())
            time.sleep(1)  # the story: somebody reaches for the keyboard
            client.sql("DELETE FROM flights")
            client.sql("INSERT INTO bookings (flight, passenger) VALUES (1, 'a booking after the accident')")
            step.note = f"a second after {moment:%H:%M:%S} UTC; {client.checksum('flights').rows} flights left"
        return moment + timedelta(milliseconds=500)

    def _restore(self, moment: datetime, tables: list[str]) -> dict[str, Checksum]:
        with self.report.step("restore to just before it, into a second Database") as step:
            target: Object = {"type": "time", "value": moment.isoformat()}
            self.kubectl.apply(
                self.engine.restored("rescued", "flights", target, policy="gold"),
            )
            value = self.kubectl.wait("database", "rescued", _complete(1), deadline=420, seen=self._ready_message)
            client = self.client(self.kubectl, "rescued")
            client.start()
            client.until_it_works(deadline=60)
            after = {name: client.checksum(name) for name in tables}
            step.note = f"primary {value['status'].get('primary', '')}"
        return after

    def _compare(self, before: dict[str, Checksum], after: dict[str, Checksum]) -> bool:
        print(f"\n{'table':10} {'rows':>9} {'restored':>9}  checksum")
        same = True
        for name, wanted in before.items():
            got = after[name]
            same &= got == wanted
            print(f"{name:10} {wanted.rows:9,} {got.rows:9,}  {'equal' if got == wanted else 'DIFFERENT'}")
        lost = sum(max(0, wanted.rows - after[name].rows) for name, wanted in before.items())
        print(f"rows lost: {lost}")
        return same

    def _ready_message(self, value: Object) -> None:
        ready = condition(value, "Ready")
        status = value.get("status", {})
        self.report.progress(f"{status.get('phase', '')} {status.get('ready', '')} {ready.get('message', '')}")

    def _backup_progress(self, value: Object) -> None:
        status = value.get("status", {})
        self.report.progress(
            f"{status.get('phase', '')} {status.get('progress', {}).get('text', '')} {status.get('instance', '')}"
        )


def _complete(instances: int) -> Callable[[Object], bool]:
    def complete(value: Object) -> bool:
        return is_ready(value) and value.get("status", {}).get("ready") == f"{instances}/{instances}"

    return complete


def _finished(value: Object) -> bool:
    return value.get("status", {}).get("phase") in ("Completed", "Failed")
