"""BackupPolicy: what must hold of a Database's backups and log, not what must be run."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field

from yoban.model.duration import Duration
from yoban.model.fields import ObjectName, Part, Text, Word, rule, validations
from yoban.model.resource import Column, Names, Resource, Status


class Destination(Part):
    """A place where backups and the log go."""

    object_store: ObjectName = Field(description="Name of an ObjectStore in the same namespace.")


class Retention(Part):
    """What is kept. A backup that either rule asks for is kept, with the log that it needs."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            rule("has(self.count) || has(self.window)", "retention needs count, window, or both")
        )
    )

    count: int | None = Field(default=None, ge=1, le=10000, description="Newest base backups that are kept.")
    window: Duration | None = Field(
        default=None, description="How far back every moment must stay restorable, such as 14d."
    )
    grace: Duration = Field(
        default=timedelta(hours=1),
        description="Time between marking what is no longer needed and removing it. Less than 5m is taken for 5m.",
    )


class BackupPolicySpec(Part):
    """What must hold for each Database that refers to this policy."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            rule("has(self.schedule) || has(self.maximumAge)", "a policy needs schedule, maximumAge, or both")
        )
    )

    destinations: Annotated[list[Destination], Field(min_length=1, max_length=1)] = Field(
        description="Where to. Exactly one for now.",
        json_schema_extra={"x-kubernetes-list-type": "atomic"},
    )
    rpo: Duration = Field(
        default=timedelta(seconds=5),
        description="How old the oldest commit that is not stored yet may become, such as 5s (units: ms, s, m, h, d; 1h30m). "
        "The log is stored every third of it, 0.5 to 2 s. The policy counts as broken above three times this, and "
        "above 15 s.",
    )
    schedule: str | None = Field(
        default=None,
        min_length=9,
        max_length=128,
        pattern=r"^\s*\S+(\s+\S+){4}\s*$",
        description="When base backups are due, as cron has it: minute, hour, day, month, weekday. A missed one is made up "
        "for, once.",
    )
    maximum_age: Duration | None = Field(
        default=None,
        description="A base backup is due when the newest is older than this, such as 24h. At least 1m.",
    )
    time_zone: str = Field(
        default="UTC",
        max_length=64,
        pattern=r"^[A-Za-z0-9_+/-]+$",
        description="Time zone of the schedule, such as Asia/Tokyo.",
    )
    retention: Retention | None = Field(default=None, description="What is kept. Absent: nothing is ever removed.")
    backup_deadline: Duration = Field(
        default=timedelta(hours=24),
        description="A base backup that takes longer has failed; another is started. At least 1m.",
    )
    backup_retries: int = Field(default=2, ge=0, le=20, description="How often a failed base backup is tried again.")


class Offender(Part):
    """The Database that is furthest from what the policy asks for."""

    database: Word = Field(description="Its name.")
    reason: Word = Field(default="", description="What is wrong, one CamelCase word.")
    message: Text = Field(default="", description="What is wrong, and what to do.")


class BackupPolicyStatus(Status):
    """Counts and the worst offender only."""

    databases: int | None = Field(default=None, ge=0, le=2**31, description="Databases that refer to this policy.")
    satisfied: int | None = Field(default=None, ge=0, le=2**31, description="Those for which it holds.")
    running: int | None = Field(default=None, ge=0, le=2**31, description="Base backups under way.")
    worst: Offender | None = Field(default=None, description="The Database furthest from it.")


class BackupPolicy(Resource):
    """What must hold of the backups of Databases, not what must be run."""

    names: ClassVar[Names] = Names(
        "BackupPolicy", "backuppolicies", "ybp", "What must hold of the backups and logs of Databases."
    )
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Store", ".spec.destinations[0].objectStore"),
        Column("RPO", ".spec.rpo"),
        Column("Schedule", ".spec.schedule"),
        Column("Maximum age", ".spec.maximumAge"),
        Column("Databases", ".status.databases", "integer"),
        Column("Satisfied", ".status.satisfied", "integer"),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        Column("Worst", ".status.worst.database", wide=True),
        Column("Message", ".status.worst.message", wide=True),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )

    spec: BackupPolicySpec = Field(description="What must hold.")
    status: BackupPolicyStatus = Field(default_factory=lambda: BackupPolicyStatus(), description="Whether it holds.")
