"""Database: one logical server, a primary and its replicas."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field

from yoban.model.bootstrap import Bootstrap
from yoban.model.databasestatus import DatabaseStatus
from yoban.model.fields import (
    DeletionPolicy,
    Free,
    Label,
    ObjectName,
    Part,
    Size,
    Value,
    rule,
    unchanging,
    validations,
)
from yoban.model.pod import PodOptions, Resources
from yoban.model.resource import Column, Names, Resource

FINALIZER = "yoban.dev/database"

_SIZE = (
    rule("isQuantity(self) && quantity(self).isGreaterThan(quantity('0'))", "a size is written like 10Gi"),
    rule(
        "!isQuantity(self) || !isQuantity(oldSelf) || quantity(self).compareTo(quantity(oldSelf)) >= 0",
        "a volume cannot shrink: restore into a new Database instead",
    ),
)


class LogVolume(Part):
    """A volume of its own for the log."""

    model_config = ConfigDict(json_schema_extra=validations(unchanging("class", "storage.log.class")))

    size: Size = Field(
        description="Size of the volume, such as 4Gi. It can grow.", json_schema_extra=validations(*_SIZE)
    )
    storage_class: ObjectName | None = Field(
        default=None, alias="class", description="StorageClass. Absent: the cluster's default."
    )


class Storage(Part):
    """The volumes of each instance."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            unchanging("class", "storage.class"),
            rule("has(self.log) == has(oldSelf.log)", "a log volume can neither be added nor removed"),
        )
    )

    size: Size = Field(
        description="Size of the data volume, such as 10Gi. It can grow where the storage class allows it.",
        json_schema_extra=validations(*_SIZE),
    )
    storage_class: ObjectName | None = Field(
        default=None, alias="class", description="StorageClass. Absent: the cluster's default."
    )
    log: LogVolume | None = Field(default=None, description="A volume of its own for the log. Absent: with the data.")


class DurabilityOptions(Part):
    """When a commit is acknowledged."""

    mode: Literal["async", "synchronous"] = Field(
        default="async", description="synchronous: a commit is confirmed when so many replicas hold it."
    )
    replicas: int = Field(default=1, ge=1, le=9, description="Replicas that must hold a commit, in mode synchronous.")


class BackupReference(Part):
    """How the Database is backed up."""

    policy: ObjectName = Field(description="Name of a BackupPolicy in the same namespace.")


class Tls(Part):
    """Certificates of the servers. They are made and rotated by the operator."""

    additional_names: Annotated[
        list[Annotated[str, Field(max_length=253, pattern=r"^[A-Za-z0-9*]([-A-Za-z0-9.]*[A-Za-z0-9])?$")]],
        Field(max_length=32),
    ] = Field(default_factory=list, description="Further host names that the servers' certificates are good for.")


class DatabaseSpec(Part):
    """What a Database is to be."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            unchanging("engine", "engine"),
            unchanging("bootstrap", "bootstrap"),
            rule("has(self.version) || has(self.image)", "version or image is needed"),
            rule(
                "!has(self.durability) || self.durability.mode != 'synchronous' || "
                "self.durability.replicas < self.instances",
                "durability.replicas must be smaller than instances: the primary is none of them",
            ),
        )
    )

    engine: Label = Field(description="Kind of database server, supplied by a plugin; `yoban plugins` lists them.")
    version: str | None = Field(
        default=None,
        min_length=1,
        max_length=32,
        pattern=r"^[0-9A-Za-z][0-9A-Za-z._-]*$",
        description="Version of the engine. Absent: told from the image's tag.",
    )
    image: str | None = Field(
        default=None,
        min_length=1,
        max_length=512,
        pattern=r"^\S+$",
        description="Image of the engine. Absent: the plugin's for the version.",
    )
    instances: int = Field(default=1, ge=1, le=20, description="How many servers: one primary, the rest replicas.")
    storage: Storage = Field(description="The volumes of each instance.")
    resources: Resources = Field(default_factory=Resources, description="Resources of each server.")
    settings: Annotated[dict[Annotated[str, Field(max_length=128)], Value], Field(max_length=256)] = Field(
        default_factory=dict, description="Settings of the server by name. Some are ours; those are refused by name."
    )
    engine_config: Free = Field(
        default_factory=dict, description="What only this engine has, checked by the plugin's JSON Schema."
    )
    durability: DurabilityOptions = Field(
        default_factory=DurabilityOptions, description="When a commit is acknowledged."
    )
    bootstrap: Bootstrap | None = Field(
        default=None, description="How the data comes to be, once. Absent: a new, empty database."
    )
    backup: BackupReference | None = Field(default=None, description="How it is backed up. Absent: not at all.")
    pod: PodOptions = Field(default_factory=PodOptions, description="Placement and labels of its Pods.")
    tls: Tls = Field(default_factory=Tls, description="Certificates.")
    deletion_policy: DeletionPolicy = Field(
        default="Retain",
        description="Retain: the volumes stay when the Database is deleted, for you to read; no Database takes them up "
        "again, also not one of the same name. Backups stay in any case.",
    )
    paused: bool = Field(
        default=False,
        description="Nothing planned is begun: no scaling, Pod replacement, restart or switchover, and no successor is "
        "named for a primary whose volume is gone. Settings, passwords, certificates, sizes of volumes, backups and "
        "retention go on.",
    )

    @property
    def restores(self) -> bool:
        """Its data comes from backups."""
        return self.bootstrap is not None and self.bootstrap.restore is not None


class Database(Resource):
    """A database server: a primary, its replicas, their log and backups."""

    names: ClassVar[Names] = Names("Database", "databases", "ydb", "A database server: a primary and its replicas.")
    columns: ClassVar[tuple[Column, ...]] = (
        Column("Engine", ".spec.engine"),
        Column("Version", ".status.version"),
        Column("Phase", ".status.phase"),
        Column("Instances", ".status.ready"),
        Column("Primary", ".status.primary"),
        Column("Ready", '.status.conditions[?(@.type=="Ready")].status'),
        Column("Reason", '.status.conditions[?(@.type=="Ready")].reason'),
        Column("Lag", ".status.lag"),
        Column("RPO", ".status.rpo"),
        Column("Last backup", ".status.lastBackup", "date"),
        Column("Restorable from", ".status.window.start", wide=True),
        Column("Restorable to", ".status.window.end", wide=True),
        Column("Policy", ".status.policySatisfied", "boolean", wide=True),
        Column("Message", '.status.conditions[?(@.type=="Ready")].message', wide=True),
        Column("Age", ".metadata.creationTimestamp", "date"),
    )
    rules: ClassVar[tuple[dict[str, Any], ...]] = (
        rule("self.metadata.name.size() <= 40", "the name of a Database has at most 40 characters"),
        rule(
            "self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$')",
            "the name of a Database begins with a letter and has only lower case letters, digits and '-'",
        ),
    )

    spec: DatabaseSpec = Field(description="What it is to be.")
    status: DatabaseStatus = Field(default_factory=DatabaseStatus, description="What it is now.")
