from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from yoban.errors import InvalidInput
from yoban.model.backup import Backup, BackupStatus
from yoban.model.backuppolicy import BackupPolicy
from yoban.model.crds import KINDS
from yoban.model.database import Database
from yoban.model.duration import format_duration, parse_duration
from yoban.model.objectstore import ObjectStore

ROOT = Path(__file__).parents[3]


def database(**spec: object) -> dict[str, object]:
    given = {"engine": "toy", "version": "1", "storage": {"size": "1Gi"}} | spec
    return {"metadata": {"name": "orders", "namespace": "shop", "uid": "u"}, "spec": given}


@pytest.mark.parametrize(
    "text, seconds", [("5s", 5), ("90m", 5400), ("1h30m", 5400), ("14d", 1209600), ("250ms", 0.25), ("0s", 0)]
)
def test_durations_are_read(text, seconds):
    assert parse_duration(text) == timedelta(seconds=seconds)


@pytest.mark.parametrize("text", ["", "5", "5 s", "-5s", "1w", "s", "1.5h", None, 5, "40000d", "100000d", "99999999d"])
def test_what_is_no_duration_is_refused(text):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


@given(st.integers(min_value=0, max_value=10**11))
def test_a_duration_that_is_written_is_read_back(milliseconds):
    value = timedelta(milliseconds=milliseconds)
    assert parse_duration(format_duration(value)) == value


def test_defaults_are_those_of_the_schema():
    read = Database.parse(database())
    assert (read.spec.instances, read.spec.deletion_policy, read.spec.durability.mode) == (1, "Retain", "async")
    assert read.key == ("shop", "orders") and not read.deleting and not read.spec.restores
    assert str(read) == "Database shop/orders"
    policy = BackupPolicy.parse({"spec": {"destinations": [{"objectStore": "s3"}], "maximumAge": "24h"}})
    assert policy.spec.rpo == timedelta(seconds=5) and policy.spec.backup_deadline == timedelta(hours=24)


def test_what_a_newer_release_wrote_is_no_error():
    read = Database.parse(database(future={"x": 1}))
    assert read.spec.engine == "toy"


def test_what_cannot_be_read_is_named():
    with pytest.raises(InvalidInput) as caught:
        Database.parse(database(instances="many", engine=7))
    assert caught.value.object == "Database shop/orders"
    assert "spec.instances" in caught.value.cause and "spec.engine" in caught.value.cause


def test_a_bare_number_may_stand_for_a_quantity():
    read = Database.parse(database(resources={"limits": {"cpu": 2, "memory": "1Gi"}}))
    assert read.spec.resources.limits == {"cpu": "2", "memory": "1Gi"}


def test_classes_and_restores_keep_their_names_on_the_wire():
    spec = {
        "storage": {"size": "1Gi", "class": "fast", "log": {"size": "1Gi", "class": "faster"}},
        "bootstrap": {"restore": {"source": {"database": "old"}, "target": {"type": "name", "value": "x"}}},
    }
    read = Database.parse(database(**spec))
    assert read.spec.storage.storage_class == "fast" and read.spec.restores
    assert read.spec.wire()["storage"] == spec["storage"]


def test_models_are_immutable():
    with pytest.raises(ValidationError):
        Database.parse(database()).spec.engine = "other"


@pytest.mark.parametrize(
    "value, skips",
    [(None, False), ("false", False), ("False", False), ("true", True), ("yes", True), ("", True)],
)
def test_the_clean_up_is_skipped_by_any_value_but_false(value, skips):
    annotations = {} if value is None else {"yoban.dev/skip-cleanup": value}
    obj = {"metadata": {"name": "s3", "annotations": annotations}, "spec": {"provider": "s3", "bucket": "b"}}
    assert ObjectStore.parse(obj).skips_cleanup is skips


def test_times_are_utc_on_the_wire():
    status = BackupStatus(end_time=datetime.fromisoformat("2026-03-01T11:00:00+09:00"))
    assert status.wire() == {"endTime": "2026-03-01T02:00:00Z", "conditions": []}
    assert BackupStatus(end_time=datetime(2026, 3, 1)).end_time == datetime(2026, 3, 1, tzinfo=UTC)
    precise = BackupStatus(end_time=datetime(2026, 3, 1, 0, 0, 0, 250000, tzinfo=UTC)).wire()
    assert precise["endTime"] == "2026-03-01T00:00:00.250000Z"


def test_samples_are_what_the_models_read():
    kinds = {kind.names.kind: kind for kind in KINDS}
    seen = set()
    for path in sorted((ROOT / "deploy/samples").glob("*.yaml")):
        for document in yaml.safe_load_all(path.read_text()):
            if document["kind"] in kinds:
                kinds[document["kind"]].parse(document)
                seen.add(document["kind"])
    assert seen == set(kinds)


def test_a_backup_cannot_name_a_longer_database_than_there_can_be():
    with pytest.raises(InvalidInput, match=r"spec\.database"):
        Backup.parse({"spec": {"database": "x" * 41}})
