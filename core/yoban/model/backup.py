"""Backup: one base backup, asked for or found. A view: it can be rebuilt from the repository."""

from __future__ import annotations

from datetime import timedelta
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field

from yoban.model.duration import Duration
from yoban.model.fields import DatabaseName, Part, Position, Text, Time, Word, rule, validations
from yoban.model.resource import Column, Names, Resource, Status

FINALIZER = "yoban.dev/backup"

Phase = Literal["Pending", "Running", "Completed", "Failed"]


class BackupSpec(Part):
    """What is backed up."""

    model_config = ConfigDict(
        json_schema_extra=validations(rule("self == oldSelf", "a Backup cannot be changed: make another"))
    )

    database: DatabaseName = Field(description="Name of a Database in the same namespace.")
    deadline: Duration = Field(default=timedelta(hours=24), description="It has failed when it takes longer.")
    retries: int = Field(default=2, ge=0, le=20, description="How often it is tried again after it failed.")
    id: str | None = Field(
        default=None,
        max_length=64,
        pattern=r"^[A-Za-z0-9-]+$",
        description="Only for data found in the repository: its id there. Set by the operator.",
    )
    incarnation: str | None = Field(
        default=None,
        max_length=12,
        pattern=r"^[0-9a-f]{12}$",
        description="Only for data found in the repository: incarnation of the Database. Set by the operator.",
    )


class BackupProgress(Part):
    """How far it is."""

    done: int = Field(default=0, ge=0, le=2**53, description="Bytes of the data read so far.")
    total: int = Field(default=0, ge=0, le=2**53, description="Bytes of the data in all, as estimated; 0: not known.")
    rate: float = Field(default=0.0, ge=0, le=1e15, description="Bytes a second of late.")
    percent: int = Field(default=0, ge=0, le=100, description="How much of it is done.")
    text: str = Field(default="", max_length=64, description="The same for people: 42% 120 MiB/s.")


class BackupStatus(Status):
    """What became of it."""

    phase: Phase | None = Field(default=None, description="Pending, Running, Completed or Failed.")
    id: str | None = Field(default=None, max_length=64, description="Its id in the repository.")
    incarnation: str | None = Field(default=None, max_length=12, description="Incarnation of the Database.")
    object_store: Word | None = Field(default=None, description="ObjectStore that holds it.")
    instance: Word | None = Field(default=None, description="Instance that it is taken from.")
    attempts: int | None = Field(default=None, ge=0, le=100, description="How often it was started.")
    progress: BackupProgress | None = Field(default=None, description="How far it is.")
    started_at: Time | None = Field(default=None, description="When the present attempt began.")
    begin_time: Time | None = Field(default=None, description="Time at the server when the copy began.")
    end_time: Time | None = Field(default=None, description="From this moment on it can be restored to.")
    begin_position: Position | None = Field(default=None, description="Place of the log when the copy began.")
    end_position: Position | None = Field(default=None, description="Place of the log from which on it is consistent.")
    line: Word | None = Field(default=None, description="Line of the log.")
    bytes: int | None = Field(default=None, ge=0, le=2**53, description="Bytes of the data.")
    stored_bytes: int | None = Field(default=None, ge=0, le=2**53, description="Bytes in the store.")
    size: str | None = Field(default=None, max_length=32, description="Bytes of the data, for people.")
    duration: str | None = Field(default=None, max_length=32, description="How long it took.")
    frozen_seconds: float | None = Field(
        default=None, ge=0, le=1e9, description="How long writes were held back for it, in seconds."
    )
    trace_id: str | None = Field(default=None, max_length=32, description="Id of its trace.")
    message: Text | None = Field(default=None, description="What is going on, or what is wrong.")


class Backup(Resource):
    """One base backup, asked for or found in the repository. Deleting it never removes the backup's data."""

    names: ClassVar[Names] = Names(
        "Backup", "backups", "ybk", "One base backup; deleting the object leaves the data, only retention removes it."
    )
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Database", ".spec.database"),
        Column("Phase", ".status.phase"),
        Column("Progress", ".status.progress.text"),
        Column("Size", ".status.size"),
        Column("Took", ".status.duration"),
        Column("Instance", ".status.instance"),
        Column("End", ".status.endTime", "date", wide=True),
        Column("Position", ".status.endPosition", wide=True),
        Column("Id", ".status.id", wide=True),
        Column("Message", ".status.message", wide=True),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )

    spec: BackupSpec = Field(description="What is backed up. It cannot be changed.")
    status: BackupStatus = Field(default_factory=lambda: BackupStatus(), description="What became of it.")
