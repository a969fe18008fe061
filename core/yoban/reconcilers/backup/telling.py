"""From what is known of a base backup to the status of its Backup. Pure."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from yoban.domain.summary import Fault, Observation, Truth, size, span
from yoban.model.backup import BackupProgress, BackupStatus
from yoban.model.control import BackupResult, Progress
from yoban.model.fields import POSITION_LENGTH, cut
from yoban.reconcilers.backup.journal import Journal
from yoban.repository import BackupSummary

COMPLETED = "Completed"
KNOWN = (COMPLETED,)


def progress(told: Progress | None) -> BackupProgress | None:
    """Return progress as a status has it."""
    if told is None:
        return None
    percent = min(99, told.done * 100 // told.total) if told.total else 0
    text = f"{percent}%" if told.total else size(told.done)
    if told.rate > 0:
        text += f" {size(told.rate)}/s"
    return BackupProgress(
        done=told.done, total=told.total, rate=round(max(0.0, told.rate), 1), percent=percent, text=text[:64]
    )


def waiting(base: dict[str, Any], reason: str, message: str) -> tuple[BackupStatus, Observation]:
    """Nothing was begun yet."""
    status = BackupStatus(phase="Pending", message=message[:1024], **base)
    return status, Observation(COMPLETED, Truth.FALSE, reason, message)


def running(
    base: dict[str, Any], journal: Journal, told: Progress | None, message: str
) -> tuple[BackupStatus, Observation]:
    """An attempt is under way."""
    status = BackupStatus(
        phase="Running",
        id=journal.id,
        instance=journal.instance,
        attempts=journal.attempt,
        started_at=journal.started,
        progress=progress(told),
        message=message[:1024] or None,
        **base,
    )
    return status, Observation(COMPLETED, Truth.FALSE, "Running", message or f"{journal.instance} makes it")


def failed(base: dict[str, Any], wrong: Fault, journal: Journal | None) -> tuple[BackupStatus, Observation]:
    """It failed for good."""
    about: dict[str, Any] = {}
    if journal is not None:
        about = {"id": journal.id, "instance": journal.instance, "attempts": journal.attempt}
        about["started_at"] = journal.started
    status = BackupStatus(phase="Failed", message=str(wrong)[:1024], **about, **base)
    return status, Observation(COMPLETED, Truth.FALSE, wrong.reason, str(wrong))


def completed(
    base: dict[str, Any], found: BackupSummary | BackupResult, journal: Journal | None
) -> tuple[BackupStatus, Observation]:
    """It is in the repository."""
    begun: datetime = journal.started if journal is not None else found.begin_time
    done = found.completed if isinstance(found, BackupSummary) else found.end_time
    took = (done - begun).total_seconds()
    status = BackupStatus(
        phase="Completed",
        id=found.id,
        instance=(found.instance if isinstance(found, BackupSummary) else "")
        or (journal.instance if journal is not None else "")
        or None,
        attempts=journal.attempt if journal is not None else None,
        started_at=journal.started if journal is not None else None,
        progress=BackupProgress(done=found.bytes, total=found.bytes, percent=100, text="100%"),
        begin_time=found.begin_time,
        end_time=found.end_time,
        begin_position=cut(found.begin_position, POSITION_LENGTH),
        end_position=cut(found.end_position, POSITION_LENGTH),
        line=found.line or None,
        bytes=found.bytes,
        stored_bytes=found.stored_bytes,
        size=size(found.bytes),
        duration=span(max(0.0, took)),
        frozen_seconds=round(found.frozen_seconds, 3),
        **base,
    )
    text = f"restorable from {found.end_time:%Y-%m-%dT%H:%M:%SZ} on"
    return status, Observation(COMPLETED, Truth.TRUE, "Completed", text)
