"""What is known of one Database under a policy, gathered for the decisions. No I/O of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from yoban.domain.compliance import Facts
from yoban.domain.identity import backup_id
from yoban.domain.recoverability import hindrance
from yoban.domain.schedule import Attempts, Cadence, Due, Ended, due, spread
from yoban.domain.views import Shown
from yoban.kube.objects import Obj, ObjectKey, annotations_of, key_of, uid_of
from yoban.model.backuppolicy import BackupPolicySpec
from yoban.model.database import Database
from yoban.reconcilers.backup.journal import Journal, read
from yoban.reconcilers.backuppolicy.keeper import Kept
from yoban.reconcilers.candidates import candidates
from yoban.reconcilers.catalogues import View
from yoban.reconcilers.destination import Destination
from yoban.reconcilers.shared import BY_DATABASE, Shared

SLOT = "yoban.dev/slot"
"""Annotation of a Backup that a policy asked for: the moment for which it is."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One Backup object, as far as decisions need it."""

    obj: Obj
    journal: Journal | None
    found: bool
    slot: datetime | None

    @property
    def running(self) -> bool:
        """It is wanted and has not ended."""
        return not self.found and (self.journal is None or self.journal.outcome in ("", "retry"))

    @property
    def failed(self) -> bool:
        """It ended without success."""
        return self.journal is not None and self.journal.outcome == "failed"

    @property
    def completed(self) -> bool:
        """It ended with a base backup stored."""
        return self.journal is not None and self.journal.outcome == "completed"


def cadence(spec: BackupPolicySpec) -> Cadence:
    """Return what a policy's spec asks for."""
    return Cadence(spec.schedule or "", spec.time_zone, spec.maximum_age)


def standings(shared: Shared, key: ObjectKey) -> list[Standing]:
    """Return the Backup objects of a Database, whoever asked for them: a slot is the Database's, not its policy's."""
    out = []
    for obj in shared.backups.store.by_index(BY_DATABASE, str(key)):
        found = (obj.get("spec") or {}).get("id") is not None
        out.append(Standing(obj, read(obj), found, _slot(obj)))
    return out


def shown(items: Iterable[Standing]) -> list[Shown]:
    """Return which stored base backups the objects stand for."""
    out = []
    for item in items:
        spec = item.obj.get("spec") or {}
        ids = {spec["id"]} if spec.get("id") else set()
        created = _time(item.obj["metadata"].get("creationTimestamp"))
        if created is not None and not ids:
            retries = int(spec.get("retries") or 0)
            uid = uid_of(item.obj)
            ids |= {backup_id(created, uid if number == 1 else f"{uid}/{number}") for number in range(1, retries + 2)}
        if item.journal is not None and item.journal.id:
            ids.add(item.journal.id)
        out.append(Shown(key_of(item.obj).name, frozenset(ids)))
    return out


def attempts(database: Database, view: View, items: Iterable[Standing], now: datetime) -> Attempts:
    """Return what is known of a Database's backups: the repository first, then the objects."""
    items = list(items)
    usable = [item.facts for item in view.found.backups] if view.found is not None else []
    newest = max(usable, key=lambda facts: facts.begin_time, default=None)
    ended: dict[datetime, Ended] = {}
    served, unseen = set(), False
    for item in items:
        if item.slot is None or item.journal is None or not (item.failed or item.completed):
            continue
        known, end = ended.get(item.slot), item.journal.finished or item.journal.started
        ended[item.slot] = Ended(known.count + 1, max(known.last, end)) if known is not None else Ended(1, end)
        if item.completed:
            unseen |= view.catalog is None or view.catalog.taken <= end
            served |= {item.slot for facts in usable if facts.id == item.journal.id}
    return Attempts(
        since=database.metadata.creation_timestamp or now,
        newest_begin=newest.begin_time if newest is not None else None,
        newest_took=newest.end_time - newest.begin_time if newest is not None else timedelta(0),
        broken=view.found is not None and view.found.gap is not None,
        running=unseen or any(item.running for item in items),  # what was not looked at yet may serve
        ended=ended,
        served=frozenset(served),
    )


def need(spec: BackupPolicySpec, database: Database, view: View, items: Iterable[Standing], now: datetime) -> Due:
    """Return whether a base backup of the Database is due."""
    delay = spread(database.metadata.uid)
    return due(cadence(spec), attempts(database, view, items, now), now, delay=delay)


def facts(
    shared: Shared,
    place: Destination,
    view: View | None,
    due_now: Due | None,
    items: Iterable[Standing],
    spec: BackupPolicySpec,
    kept: Kept | None,
) -> Facts:
    """Return what the verdict on a Database is based on."""
    statuses = shared.observatory.statuses(place.key)
    primary = next((item.name for item in candidates(shared.observatory, place.key) if item.primary), "")
    archive = statuses[primary].archive if primary in statuses else None
    failed = [item for item in items if item.failed and due_now is not None and item.slot == due_now.slot]
    words = [item.journal.message for item in failed if item.journal is not None]
    found = view.found if view is not None else None
    return Facts(
        due=due_now,
        rpo=spec.rpo,
        lag=archive.lag_seconds if archive is not None else None,
        failing_since=archive.failing_since if archive is not None else None,
        gap=str(found.gap) if found is not None and found.gap is not None else "",
        lost=hindrance(found) if found is not None and found.lost is not None and found.lost.newest else None,
        store=view.fault if view is not None else None,
        failures=len(failed),
        failure=words[-1] if words else "",
        has_log=place.engine.log_source is not None,
        kept=kept.fault if kept is not None else None,
        kept_since=kept.since if kept is not None else None,
    )


def _slot(obj: Obj) -> datetime | None:
    return _time(annotations_of(obj).get(SLOT))


def _time(text: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return moment.astimezone(UTC) if moment is not None and moment.tzinfo is not None else None
