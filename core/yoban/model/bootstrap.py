"""How a Database's data comes to be: made new, or restored to a moment of another's life."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from yoban.model.fields import DatabaseName, ObjectName, Part, Word, rule, validations

MOMENT = r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}([.][0-9]{1,9})?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
"""An RFC 3339 time; the offset is required."""


class Target(Part):
    """What to restore to."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            rule(
                "(self.type in ['latest', 'immediate']) == (!has(self.value) || self.value == '')",
                "value is needed for the types time, position, transaction and name, and not allowed for others",
            ),
            rule(
                f"self.type != 'time' || !has(self.value) || self.value.matches('{MOMENT}')",
                "a time is written like 2026-03-01T02:59:59Z or 2026-03-01T11:59:59+09:00; the offset is required",
            ),
            rule(
                "!self.exclusive || !(self.type in ['latest', 'immediate', 'name'])",
                "exclusive has a meaning only for the types time, position and transaction",
            ),
        )
    )

    type: Literal["latest", "time", "position", "transaction", "name", "immediate"] = Field(
        default="latest",
        description="Kind of target. latest: everything stored; immediate: the end of the base backup.",
    )
    value: str | None = Field(
        default=None,
        max_length=16384,
        description="The target, read by the engine; a time is RFC 3339 with an offset.",
    )
    exclusive: bool = Field(default=False, description="Stop just before the target instead of just after it.")
    line: Word | None = Field(
        default=None, description="Line of the log to follow. Absent: the ancestors of the newest term."
    )
    backup: str | None = Field(
        default=None,
        max_length=64,
        description="Id of the base backup to start from. Absent: the newest that reaches the target.",
    )
    skip: Annotated[list[Word], Field(max_length=100)] = Field(
        default_factory=list, description="Transactions to leave out, where the engine can."
    )


class Source(Part):
    """Where to restore from: a path in an ObjectStore, or the backups of a Database of this namespace."""

    model_config = ConfigDict(
        json_schema_extra=validations(
            rule("has(self.objectStore) != has(self.database)", "source needs objectStore and path, or database"),
            rule("has(self.objectStore) == has(self.path)", "objectStore and path belong together"),
            rule("!has(self.incarnation) || has(self.database)", "incarnation goes with database"),
        )
    )

    object_store: ObjectName | None = Field(default=None, description="Name of an ObjectStore in the same namespace.")
    path: str | None = Field(
        default=None,
        max_length=300,
        pattern=r"^[a-z0-9][-a-z0-9.]*/[a-z0-9][-a-z0-9.]*/[0-9a-f]{12}$",
        description="Place of the backups in the store: namespace/name/incarnation.",
    )
    database: DatabaseName | None = Field(
        default=None, description="Name of a Database whose policy says where its backups are."
    )
    incarnation: str | None = Field(
        default=None,
        max_length=12,
        pattern=r"^[0-9a-f]{12}$",
        description="An earlier life of that Database's data. Absent: the present one.",
    )


class Restore(Part):
    """From where, and to which moment."""

    source: Source = Field(description="Where the backups are.")
    target: Target = Field(default_factory=lambda: Target(), description="What to restore to. Absent: the latest.")


class Bootstrap(Part):
    """How the data comes to be. Used once, when the Database is made."""

    restore: Restore | None = Field(default=None, description="Restore from backups. Absent: a new, empty database.")
