"""Every rule of the schemas against the real API server: what it accepts, and what it refuses with which words."""

from __future__ import annotations

import copy
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[3]
COUNT = itertools.count(1)


def new(kind: str, spec: dict[str, Any], name: str = "") -> dict[str, Any]:
    name = name or f"{kind.lower()}-{next(COUNT)}"
    return {
        "apiVersion": "yoban.dev/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def database(**spec: Any) -> dict[str, Any]:
    given = {"engine": "toy", "version": "1", "storage": {"size": "1Gi"}} | spec
    return {key: value for key, value in given.items() if value is not None}


def store(**spec: Any) -> dict[str, Any]:
    return {"provider": "s3", "bucket": "backups"} | spec


def policy(**spec: Any) -> dict[str, Any]:
    given = {"destinations": [{"objectStore": "s3"}], "maximumAge": "24h"} | spec
    return {key: value for key, value in given.items() if value is not None}


def restore(**target: Any) -> dict[str, Any]:
    wish = {"target": target} if target else {}
    return {"restore": {"source": {"database": "old"}} | wish}


def source(**place: Any) -> dict[str, Any]:
    return {"restore": {"source": place}}


PATH = "shop/orders/0123456789ab"

PAIRS: list[tuple[str, dict[str, Any], dict[str, Any], str]] = [
    # kind, accepted, refused, words of the refusal
    ("Database", database(version=None, image="x:1"), database(version=None), "version or image is needed"),
    ("Database", database(instances=20), database(instances=21), "less than or equal to 20"),
    ("Database", database(instances=1), database(instances=0), "greater than or equal to 1"),
    ("Database", database(engine="my-engine"), database(engine="My_Engine"), "spec.engine"),
    ("Database", database(), database(engine=None), "spec.engine: Required value"),
    ("Database", database(), database(storage=None), "spec.storage: Required value"),
    (
        "Database",
        database(storage={"size": "500Mi"}),
        database(storage={"size": "lots"}),
        "a size is written like 10Gi",
    ),
    ("Database", database(), database(storage={"size": "0"}), "a size is written like 10Gi"),
    ("Database", database(), database(storage={"size": "-1Gi"}), "a size is written like 10Gi"),
    (
        "Database",
        database(storage={"size": "1Gi", "log": {"size": "1Gi"}}),
        database(storage={"size": "1Gi", "log": {"size": "much"}}),
        "a size is written like 10Gi",
    ),
    (
        "Database",
        database(instances=3, durability={"mode": "synchronous", "replicas": 2}),
        database(instances=3, durability={"mode": "synchronous", "replicas": 3}),
        "durability.replicas must be smaller than instances",
    ),
    (
        "Database",
        database(instances=1, durability={"mode": "async"}),
        database(durability={"mode": "synchronous"}),
        "durability.replicas must be smaller than instances",
    ),
    ("Database", database(), database(durability={"mode": "hopeful"}), "Unsupported value"),
    (
        "Database",
        database(resources={"requests": {"memory": "2Gi", "cpu": 1}, "limits": {"memory": "2048Mi", "cpu": "1000m"}}),
        database(resources={"requests": {"memory": "4Gi"}, "limits": {"memory": "2Gi"}}),
        "no request may be greater than the limit",
    ),
    (
        "Database",
        database(resources={"requests": {"cpu": 3, "memory": "1Gi"}, "limits": {"memory": 2147483648}}),
        database(resources={"requests": {"cpu": 3}, "limits": {"cpu": "2500m"}}),
        "no request may be greater than the limit",
    ),
    (
        "Database",
        database(resources={"limits": {"memory": "0"}}),
        database(resources={"limits": {"memory": "-1Gi"}}),
        "none is negative",
    ),
    (
        "Database",
        database(resources={"requests": {"cpu": "100m"}}),
        database(resources={"requests": {"cpu": -1}}),
        "none is negative",
    ),
    (
        "Database",
        database(resources={"requests": {"memory": "1.5Gi"}}),
        database(resources={"requests": {"memory": "1 GB"}, "limits": {"memory": "1Gi"}}),
        "an amount is written like 500m or 2Gi",
    ),
    (
        "Database",
        database(bootstrap=source(objectStore="s3", path=PATH)),
        database(bootstrap=source(objectStore="s3")),
        "objectStore and path belong together",
    ),
    (
        "Database",
        database(bootstrap=source(database="old", incarnation="0123456789ab")),
        database(bootstrap=source(objectStore="s3", path=PATH, incarnation="0123456789ab")),
        "incarnation goes with database",
    ),
    ("Database", database(bootstrap=source(database="old")), database(bootstrap=source()), "source needs objectStore"),
    (
        "Database",
        database(bootstrap=source(database="old")),
        database(bootstrap=source(objectStore="s3", path=PATH, database="old")),
        "source needs objectStore and path, or database",
    ),
    (
        "Database",
        database(bootstrap=source(objectStore="s3", path=PATH)),
        database(bootstrap=source(objectStore="s3", path="../etc")),
        "spec.bootstrap.restore.source.path",
    ),
    (
        "Database",
        database(bootstrap=restore(type="name", value="release")),
        database(bootstrap=restore(type="name")),
        "value is needed",
    ),
    (
        "Database",
        database(bootstrap=restore(type="immediate")),
        database(bootstrap=restore(type="latest", value="x")),
        "value is needed",
    ),
    (
        "Database",
        database(bootstrap=restore(type="time", value="2026-03-01T11:59:59.5+09:00")),
        database(bootstrap=restore(type="time", value="2026-03-01T11:59:59")),
        "the offset is required",
    ),
    (
        "Database",
        database(bootstrap=restore(type="time", value="2026-03-01T02:59:59Z")),
        database(bootstrap=restore(type="time", value="yesterday")),
        "the offset is required",
    ),
    (
        "Database",
        database(bootstrap=restore(type="transaction", value="7", exclusive=True)),
        database(bootstrap=restore(type="immediate", exclusive=True)),
        "exclusive has a meaning only",
    ),
    ("Database", database(), database(settings={"x": "y" * 5000}), "Too long"),
    ("Database", database(settings={"x": "on and off"}), database(settings={"x": 1}), "must be of type string"),
    ("Database", database(engineConfig={"any": {"thing": [1]}}), database(engineConfig="x"), "must be of type object"),
    (
        "Database",
        database(tls={"additionalNames": ["db.example.com", "*.example.com"]}),
        database(tls={"additionalNames": ["a b"]}),
        "spec.tls.additionalNames",
    ),
    ("ObjectStore", store(bucket="a-b.c"), store(bucket="-a"), "spec.bucket"),
    ("ObjectStore", store(bucket="/mnt/backups"), store(bucket=".a"), "spec.bucket"),
    ("ObjectStore", store(bucket="/mnt/backups"), store(bucket="//mnt"), "bucket must not contain"),
    ("ObjectStore", store(), store(bucket="a..b"), "bucket must not contain"),
    ("ObjectStore", store(prefix="team/a"), store(prefix="/team"), "spec.prefix"),
    ("ObjectStore", store(), store(prefix="a/../b"), "prefix must not contain"),
    ("ObjectStore", store(endpoint="https://s3.example.com:9000/x"), store(endpoint="s3.example.com"), "spec.endpoint"),
    ("ObjectStore", store(endpoint="http://10.0.0.1"), store(endpoint="https://a?b"), "spec.endpoint"),
    ("ObjectStore", store(caBundle="-----BEGIN CERTIFICATE-----\nx"), store(caBundle="x"), "PEM certificates"),
    (
        "ObjectStore",
        store(create=True, deletionPolicy="Delete"),
        store(deletionPolicy="Delete"),
        "only for a bucket that the operator made",
    ),
    ("ObjectStore", store(credentials={"secret": "s"}), store(credentials={}), "spec.credentials.secret: Required"),
    (
        "BackupPolicy",
        policy(schedule="0 2 * * *", maximumAge=None),
        policy(maximumAge=None),
        "needs schedule, maximumAge",
    ),
    ("BackupPolicy", policy(schedule="*/5 * * * 1-5"), policy(schedule="daily"), "spec.schedule"),
    ("BackupPolicy", policy(), policy(destinations=[]), "spec.destinations"),
    (
        "BackupPolicy",
        policy(),
        policy(destinations=[{"objectStore": "a"}, {"objectStore": "b"}]),
        "spec.destinations: Too many",
    ),
    ("BackupPolicy", policy(rpo="250ms"), policy(rpo="5"), "spec.rpo"),
    ("BackupPolicy", policy(maximumAge="1d12h"), policy(maximumAge="1w"), "spec.maximumAge"),
    ("BackupPolicy", policy(timeZone="Asia/Tokyo"), policy(timeZone="Asia Tokyo"), "spec.timeZone"),
    ("BackupPolicy", policy(retention={"count": 3}), policy(retention={}), "retention needs count, window, or both"),
    ("BackupPolicy", policy(retention={"window": "14d"}), policy(retention={"count": 0}), "greater than or equal to 1"),
    ("Backup", {"database": "orders"}, {}, "spec.database: Required value"),
    ("Backup", {"database": "x" * 40}, {"database": "x" * 41}, "Too long"),
    ("Backup", {"database": "orders", "deadline": "2h"}, {"database": "orders", "deadline": "soon"}, "spec.deadline"),
]


@pytest.mark.parametrize("kind, accepted, refused, words", PAIRS)
def test_a_rule_accepts_and_refuses(apply, kind, accepted, refused, words):
    assert apply(new(kind, accepted)) == ""
    answer = apply(new(kind, refused))
    assert words in answer, answer or "it was accepted"


CHANGES: list[tuple[str, dict[str, Any], dict[str, Any], dict[str, Any], str]] = [
    # kind, at first, a change that is fine, one that is not, words of the refusal
    ("Database", database(), database(instances=2), database(engine="other"), "engine cannot be changed"),
    (
        "Database",
        database(),
        database(storage={"size": "2048Mi"}),
        database(storage={"size": "1023Mi"}),
        "a volume cannot shrink",
    ),
    (
        "Database",
        database(storage={"size": "1Gi", "class": "fast"}),
        database(storage={"size": "2Gi", "class": "fast"}),
        database(storage={"size": "1Gi", "class": "slow"}),
        "storage.class cannot be changed",
    ),
    (
        "Database",
        database(storage={"size": "1Gi", "class": "fast"}),
        database(storage={"size": "1Gi", "class": "fast"}, paused=True),
        database(storage={"size": "1Gi"}),
        "storage.class cannot be changed",
    ),
    (
        "Database",
        database(storage={"size": "1Gi", "log": {"size": "2Gi"}}),
        database(storage={"size": "1Gi", "log": {"size": "3Gi"}}),
        database(storage={"size": "1Gi", "log": {"size": "1Gi"}}),
        "a volume cannot shrink",
    ),
    (
        "Database",
        database(storage={"size": "1Gi", "log": {"size": "2Gi", "class": "fast"}}),
        database(storage={"size": "1Gi", "log": {"size": "2Gi", "class": "fast"}}, paused=True),
        database(storage={"size": "1Gi", "log": {"size": "2Gi", "class": "slow"}}),
        "storage.log.class cannot be changed",
    ),
    (
        "Database",
        database(),
        database(paused=True),
        database(storage={"size": "1Gi", "log": {"size": "1Gi"}}),
        "a log volume can neither be added nor removed",
    ),
    (
        "Database",
        database(bootstrap=restore()),
        database(bootstrap=restore(), version="2"),
        database(bootstrap=restore(type="immediate")),
        "bootstrap cannot be changed",
    ),
    ("Database", database(), database(), database(bootstrap=restore()), "bootstrap cannot be changed"),
    ("ObjectStore", store(), store(endpoint="https://b.example"), store(bucket="other"), "bucket cannot be changed"),
    ("ObjectStore", store(), store(region="eu"), store(provider="other"), "provider cannot be changed"),
    ("ObjectStore", store(prefix="a"), store(prefix="a", region="eu"), store(prefix="b"), "prefix cannot be changed"),
    ("ObjectStore", store(), store(), store(prefix="b"), "prefix cannot be changed"),
    ("Backup", {"database": "a"}, {"database": "a"}, {"database": "b"}, "a Backup cannot be changed"),
    ("Backup", {"database": "a"}, {"database": "a"}, {"database": "a", "retries": 5}, "a Backup cannot be changed"),
]


@pytest.mark.parametrize("kind, first, fine, wrong, words", CHANGES)
def test_a_change_is_accepted_or_refused(apply, kind, first, fine, wrong, words):
    obj = new(kind, first)
    assert apply(obj) == ""
    assert apply({**copy.deepcopy(obj), "spec": fine}) == ""
    answer = apply({**obj, "spec": wrong})
    assert words in answer, answer or "it was accepted"


@pytest.mark.parametrize(
    "name, words",
    [
        ("a" * 40, ""),
        ("a" * 41, "at most 40 characters"),
        ("orders", ""),
        ("1orders", "begins with a letter"),
        ("orders.eu", "begins with a letter and has only"),
    ],
)
def test_names_of_databases(apply, name, words):
    answer = apply(new("Database", database(), name))
    assert (words in answer) if words else answer == ""


def test_defaults_are_filled_in(api, apply):
    assert apply(new("Database", database(), "defaulted")) == ""
    found = yaml.safe_load(api.kubectl("get", "database", "defaulted", "-o", "yaml"))["spec"]
    assert (found["instances"], found["deletionPolicy"], found["paused"]) == (1, "Retain", False)
    assert apply(new("BackupPolicy", policy(), "defaulted")) == ""
    found = yaml.safe_load(api.kubectl("get", "backuppolicy", "defaulted", "-o", "yaml"))["spec"]
    assert (found["rpo"], found["timeZone"], found["backupDeadline"]) == ("5s", "UTC", "1d")


def test_unknown_fields_are_refused_by_kubectl(apply):
    answer = apply(new("Database", database(instance=3)), "--validate=strict")
    assert 'unknown field "spec.instance"' in answer


def test_a_namespace_of_a_reference_is_no_field(apply):
    answer = apply(new("Database", database(backup={"policy": "p", "namespace": "x"})), "--validate=strict")
    assert 'unknown field "spec.backup.namespace"' in answer


@pytest.mark.parametrize("path", sorted((ROOT / "deploy/samples").glob("*.yaml")), ids=lambda path: path.stem)
def test_samples_are_accepted(api, apply, path):
    api.kubectl("create", "namespace", f"sample-{path.stem}")
    for document in yaml.safe_load_all(path.read_text()):
        document["metadata"]["namespace"] = f"sample-{path.stem}"
        assert apply(document, "--validate=strict") == ""


def test_statuses_as_reconcilers_write_them_are_accepted(api, apply):
    from datetime import UTC, datetime

    from yoban.model.backup import BackupProgress, BackupStatus
    from yoban.model.backuppolicy import BackupPolicyStatus, Offender
    from yoban.model.databasestatus import DatabaseStatus, InstanceStatus, WindowStatus
    from yoban.model.objectstore import CleanUp, ObjectStoreStatus
    from yoban.model.resource import Condition

    now = datetime(2026, 3, 1, 0, 0, 0, 250000, tzinfo=UTC)
    ready = Condition(type="Ready", status="True", reason="AllReady", last_transition_time=now, observed_generation=1)
    statuses = {
        "Database": DatabaseStatus(
            phase="Running",
            ready="2/3",
            instances=[InstanceStatus(name="a-1", number=1, lag_seconds=0.5)],
            window=WindowStatus(start=now, end=now, last_commit=now),
            conditions=[ready],
        ),
        "ObjectStore": ObjectStoreStatus(users=1, cleanup=CleanUp(removed=3, state="Emptying"), conditions=[ready]),
        "BackupPolicy": BackupPolicyStatus(databases=1, worst=Offender(database="a"), conditions=[ready]),
        "Backup": BackupStatus(phase="Running", progress=BackupProgress(done=1, rate=1.5), conditions=[ready]),
    }
    specs = {"Database": database(), "ObjectStore": store(), "BackupPolicy": policy(), "Backup": {"database": "a"}}
    for kind, status in statuses.items():
        obj = new(kind, specs[kind])
        assert apply(obj) == ""
        told = {key: obj[key] for key in ("apiVersion", "kind", "metadata")} | {"status": status.wire()}
        assert apply(told, "--server-side", "--subresource=status", "--field-manager=test", "--validate=strict") == ""
        found = yaml.safe_load(api.kubectl("get", kind, obj["metadata"]["name"], "-o", "yaml"))["status"]
        assert found == status.wire()


def test_lists_are_worth_reading(api, apply):
    apply(new("Database", database(), "listed"))
    shown = [
        "NAME",
        "ENGINE",
        "VERSION",
        "PHASE",
        "INSTANCES",
        "PRIMARY",
        "READY",
        "REASON",
        "LAG",
        "RPO",
        "LAST BACKUP",
    ]
    assert re.split(r"  +", api.kubectl("get", "ydb").splitlines()[0].strip()) == [*shown, "AGE"]
    wide = [*shown, "RESTORABLE FROM", "RESTORABLE TO", "POLICY", "MESSAGE", "AGE"]
    assert re.split(r"  +", api.kubectl("get", "ydb", "-o", "wide").splitlines()[0].strip()) == wide
    assert "listed" in api.kubectl("get", "yoban")
    for short in ("yos", "ybp", "ybk"):
        assert "error" not in api.kubectl("get", short)
