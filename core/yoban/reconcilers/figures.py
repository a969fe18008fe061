"""Databases and their backups as gauges of the operator.

Guarantees to read only caches: a scrape asks neither the API server nor agents nor stores. What is not known is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime

from opentelemetry.metrics import CallbackOptions, Meter, Observation, get_meter

from yoban.kube.clock import parse_rfc3339
from yoban.kube.objects import Obj, conditions_of, name_of, namespace_of

Objects = Callable[[], Sequence[Obj]]


def observe(databases: Objects, backups: Objects, meter: Meter | None = None) -> None:
    """Add the gauges to the meter. Called once a process.

    Args:
        databases, backups: return the objects that the caches hold; called on a scrape's thread.
        meter: the process's own by default.
    """
    meter = meter or get_meter("yoban.reconcilers")

    def gauge(name: str, unit: str, description: str, read: Callable[[], Iterable[Observation]]) -> None:
        def callback(_: CallbackOptions) -> Iterable[Observation]:
            return read()

        meter.create_observable_gauge(name, [callback], unit=unit, description=description)

    def each(value: Callable[[Obj], float | None]) -> Callable[[], Iterable[Observation]]:
        def read() -> Iterable[Observation]:
            for database in databases():
                found = value(database)
                if found is not None:
                    yield Observation(found, _labels(database, name_of(database)))

        return read

    def newest(value: Callable[[Obj], float | None]) -> Callable[[], Iterable[Observation]]:
        def read() -> Iterable[Observation]:
            # Backups outlive their Database, on purpose; nobody is to be woken for one that is gone.
            there = {(namespace_of(database) or "", name_of(database)) for database in databases()}
            for (namespace, database), backup in sorted(newest_backups(backups()).items()):
                found = value(backup)
                if found is not None and (namespace, database) in there:
                    yield Observation(found, _labels(backup, database))

        return read

    gauge("yoban.database.ready", "1", "1 while the condition Ready is True.", each(_ready))
    gauge("yoban.database.instances", "1", "Instances wanted.", each(_wanted))
    gauge("yoban.database.instances.ready", "1", "Instances really usable.", each(_usable))
    gauge("yoban.database.policy.satisfied", "1", "1 while its BackupPolicy holds.", each(_satisfied))
    gauge("yoban.database.window.age", "s", "Age of the latest moment that can be restored.", each(_window_age))
    gauge("yoban.backup.age", "s", "Time since the newest completed base backup ended.", newest(_backup_age))
    gauge("yoban.backup.size", "By", "Data in the newest completed base backup.", newest(_size("bytes")))
    gauge("yoban.backup.stored", "By", "What it takes in the store.", newest(_size("storedBytes")))
    gauge("yoban.backup.frozen", "s", "How long writes were held back for it.", newest(_size("frozenSeconds")))


def newest_backups(backups: Iterable[Obj]) -> dict[tuple[str, str], Obj]:
    """Return the completed backup that ended last, by namespace and name of its Database."""
    found: dict[tuple[str, str], Obj] = {}
    for backup in backups:
        status = backup.get("status") or {}
        if status.get("phase") != "Completed" or not status.get("endTime"):
            continue
        key = (namespace_of(backup) or "", str((backup.get("spec") or {}).get("database", "")))
        if key not in found or _time(status["endTime"]) > _time(found[key]["status"]["endTime"]):
            found[key] = backup
    return found


def _labels(obj: Obj, database: str) -> dict[str, str]:
    return {"namespace": namespace_of(obj) or "", "database": database}


def _ready(database: Obj) -> float:
    return float(any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions_of(database)))


def _wanted(database: Obj) -> float:
    return float((database.get("spec") or {}).get("instances", 1))


def _usable(database: Obj) -> float:
    return float(sum(1 for one in (database.get("status") or {}).get("instances") or () if one.get("ready")))


def _satisfied(database: Obj) -> float | None:
    held = (database.get("status") or {}).get("policySatisfied")
    return None if held is None else float(held)


def _window_age(database: Obj) -> float | None:
    window = (database.get("status") or {}).get("window")
    return _age(window["end"]) if window else None


def _backup_age(backup: Obj) -> float:
    return _age(backup["status"]["endTime"])


def _size(field: str) -> Callable[[Obj], float | None]:
    def read(backup: Obj) -> float | None:
        value = backup["status"].get(field)
        return None if value is None else float(value)

    return read


def _time(text: str) -> datetime:
    return parse_rfc3339(text)


def _age(text: str) -> float:
    return max(0.0, (datetime.now(UTC) - _time(text)).total_seconds())
