"""Status of a Database: what was observed of it. Nothing is ever decided by it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from yoban.model.fields import Part, Position, Text, Time, Word
from yoban.model.resource import Status

Phase = Literal[
    "Pending", "Creating", "Restoring", "Running", "Degraded", "Switching", "Updating", "Failed", "Deleting"
]


class InstanceStatus(Part):
    """One instance as last seen."""

    name: Word = Field(description="Its name.")
    number: int = Field(ge=1, le=2**31, description="Its number, never used again.")
    role: Word = Field(default="", description="What it is now: primary, replica, recovery, or empty.")
    phase: Word = Field(default="", description="What its agent is doing.")
    ready: bool = Field(default=False, description="Really usable in its role.")
    position: Position = Field(default="", description="Its place in the log.")
    lag_seconds: float | None = Field(default=None, ge=0, le=1e12, description="How far behind it is, in seconds.")
    message: Text = Field(default="", description="What its agent says.")


class WindowStatus(Part):
    """What can be restored now, proven from what is in the object store."""

    start: Time = Field(description="Earliest moment.")
    end: Time = Field(description="Latest moment up to which every acknowledged commit is stored.")
    last_commit: Time | None = Field(default=None, description="Time of the last commit stored.")


class PluginStatus(Part):
    """The plugin in charge."""

    name: Word = Field(description="Its distribution.")
    version: Word = Field(default="", description="Its version.")


class RestoredStatus(Part):
    """Where the restore ended that the Database came from."""

    backup: Word = Field(description="Id of the base backup that it began with.")
    line: Word = Field(default="", description="Line of the log that was replayed.")
    position: Position = Field(default="", description="Place in the log that was reached.")
    last_commit: Time | None = Field(default=None, description="Time of the last commit that was replayed.")


class SwitchoverStatus(Part):
    """The last planned change of primary."""

    id: Word = Field(description="Value of the annotation that asked for it.")
    state: Word = Field(default="", description="running, done or failed.")
    message: Text = Field(default="", description="What happened.")


class DatabaseStatus(Status):
    """What was observed of a Database."""

    phase: Phase | None = Field(default=None, description="In one word.")
    primary: Word | None = Field(default=None, description="Instance that holds the Lease.")
    ready: str | None = Field(default=None, max_length=16, description="Instances ready of those wanted, such as 2/3.")
    instances: Annotated[list[InstanceStatus], Field(max_length=64)] = Field(
        default_factory=list,
        description="Each instance.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]},
    )
    version: Word | None = Field(default=None, description="Version that the primary reports, or the one asked for.")
    image: Annotated[str, Field(max_length=512)] | None = Field(default=None, description="Image of the engine.")
    incarnation: str | None = Field(default=None, max_length=12, description="Id of this life of the data.")
    path: str | None = Field(default=None, max_length=300, description="Place of its backups in the store.")
    restored: RestoredStatus | None = Field(default=None, description="Where the restore ended that it came from.")
    window: WindowStatus | None = Field(default=None, description="What can be restored now.")
    lag: str | None = Field(
        default=None, max_length=32, description="How far the replica that is furthest behind is behind the primary."
    )
    rpo: str | None = Field(default=None, max_length=32, description="Age of the oldest commit not yet stored.")
    policy_satisfied: bool | None = Field(default=None, description="Its BackupPolicy holds.")
    policy_since: Time | None = Field(default=None, description="Since when it holds, or does not.")
    last_backup: Time | None = Field(default=None, description="End of the newest base backup.")
    plugin: PluginStatus | None = Field(default=None, description="The plugin in charge.")
    restart: Word | None = Field(default=None, description="Value of the restart request last carried out.")
    switchover: SwitchoverStatus | None = Field(default=None, description="The last planned change of primary.")
